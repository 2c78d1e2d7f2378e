//! What becomes of one pod, as whoever watches it is told.

use std::time::Duration;

use toehold_podrun::backend::{BackendError, PodChange, PodWatch};
use tokio::sync::watch;

use super::pod::Standing;
use super::{LocalPods, failed};

/// How often a pod of another gateway is looked for that is to go.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of one pod.
#[derive(Debug)]
pub struct LocalWatch {
    pods: LocalPods,
    name: String,
    standing: Option<watch::Receiver<Standing>>,
    said: Option<PodChange>,
    is_end_said: bool,
}

impl LocalWatch {
    pub(super) fn of(pods: &LocalPods, name: &str) -> Self {
        let standing = pods.running().get(name).map(|pod| pod.standing());
        Self { pods: pods.clone(), name: name.to_owned(), standing, said: None, is_end_said: false }
    }
}

impl PodWatch for LocalWatch {
    async fn changed(&mut self) -> Result<PodChange, BackendError> {
        if self.said.is_none() {
            let now = self.pods.read(&self.name).map_err(failed("watching a pod"))?;
            let change = now.map_or(PodChange::Gone, PodChange::State);
            self.said = Some(change.clone());
            return Ok(change);
        }
        if self.said == Some(PodChange::Gone) {
            std::future::pending::<()>().await;
        }
        match &mut self.standing {
            Some(standing) => {
                // What has ended it is said first, then that it is gone.
                let is_said = self.is_end_said;
                let wanted = |now: &Standing| *now == Standing::Gone || (!is_said && *now != Standing::Running);
                match standing.wait_for(wanted).await.map(|standing| *standing) {
                    Ok(Standing::Gone) => {}
                    Ok(_) => {
                        self.is_end_said = true;
                        if let Some(now) = self.pods.read(&self.name).map_err(failed("watching a pod"))? {
                            return Ok(PodChange::State(now));
                        }
                    }
                    Err(_) => std::future::pending::<()>().await,
                }
            }
            None => {
                while self.pods.read(&self.name).map_err(failed("watching a pod"))?.is_some() {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        self.said = Some(PodChange::Gone);
        Ok(PodChange::Gone)
    }
}
