//! What all connections share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use russh::server;
use toehold_podrun::backend::PodBackend;
use toehold_podrun::config::Settings;
use toehold_podrun::driver::Parts;
use toehold_podrun::pod::OwnerReference;
use tokio::sync::watch;

use super::ServeOptions;
use super::metrics::{Counter, Metrics};
use crate::adapters::system_clock::SystemClock;
use crate::gateway::limits::Limits;
use crate::on_record::{NotRecorded, Recorder};
use crate::shared::AnyStore;

/// A backend that connections can share.
pub trait SharedBackend: PodBackend<Input: 'static, Output: 'static, Watch: 'static> + Clone + 'static {}

impl<B: PodBackend<Input: 'static, Output: 'static, Watch: 'static> + Clone + 'static> SharedBackend for B {}

/// Whether the gateway is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopping {
    /// No.
    No,
    /// Who is idle goes; who works has a while.
    Soon,
    /// Everybody goes.
    Now,
}

pub(super) struct Hub<B, A> {
    pub(super) backend: B,
    pub(super) store: AnyStore,
    pub(super) settings: Settings,
    pub(super) spec_digest: String,
    pub(super) authenticator: A,
    pub(super) options: ServeOptions,
    pub(super) ssh: Arc<server::Config>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    /// How many bytes of clients wait for processes, over all connections.
    pub(super) waiting: Arc<AtomicUsize>,
    /// The owner of this gateway's pods, while there is one.
    pub(super) owner: watch::Sender<Option<OwnerReference>>,
    pub(super) stopping: watch::Sender<Stopping>,
    /// How many pods are there or on their way.
    pub(super) pods: watch::Sender<usize>,
    pub(super) audit: Recorder,
    pub(super) backend_answers: AtomicBool,
}

impl<B: PodBackend, A> Hub<B, A> {
    pub(super) fn parts(&self) -> Parts<'_, B, AnyStore, SystemClock> {
        let call_timeout = self.settings.cluster.call_timeout;
        Parts { backend: &self.backend, store: &self.store, timer: &SystemClock, call_timeout }
    }

    pub(super) fn is_ready(&self) -> bool {
        let stopping = *self.stopping.borrow() != Stopping::No;
        !stopping && self.owner.borrow().is_some() && self.backend_answers.load(Ordering::Relaxed)
    }

    /// Counts what could not be put on record.
    pub(super) fn noted<T>(&self, recorded: Result<T, NotRecorded>) -> Result<T, NotRecorded> {
        recorded.inspect_err(|_| self.metrics.count(Counter::AuditFailed))
    }
}

/// How long is waited for the end of pods when everybody has gone.
pub(super) const LAST_PODS: Duration = Duration::from_secs(20);

/// Counts a pod for as long as it is held.
pub(super) struct OnePod(watch::Sender<usize>);

impl OnePod {
    pub(super) fn count(pods: &watch::Sender<usize>) -> Self {
        pods.send_modify(|pods| *pods += 1);
        Self(pods.clone())
    }
}

impl Drop for OnePod {
    fn drop(&mut self) {
        self.0.send_modify(|pods| *pods = pods.saturating_sub(1));
    }
}
