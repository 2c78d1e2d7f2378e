//! SIGINT and SIGTERM: the operator wants out.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether SIGINT or SIGTERM has come. What is under way is finished or undone then; a second signal changes nothing.
#[derive(Clone, Debug)]
pub struct Signals {
    came: watch::Receiver<bool>,
}

impl Signals {
    /// Listens from now on, within a tokio runtime.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let (sender, came) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if sender.send(true).is_err() {
                    return;
                }
            }
        });
        Ok(Self { came })
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        *self.came.borrow()
    }

    /// Ends when one comes, or has come.
    pub async fn wait(&mut self) {
        if self.came.wait_for(|came| *came).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
