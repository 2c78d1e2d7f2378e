//! Keeps the owner of this gateway's pods alive for as long as the gateway lives.

use rand_core::CryptoRng;
use toehold_core::{Store, Timer, Timestamp};

use super::Parts;
use crate::backend::{BackendError, PodBackend, Preconditions};
use crate::name::OwnerName;
use crate::owner::{LAPSE, deadline_seconds};
use crate::pod::{OwnerReference, owner_manifest};

/// What became of the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It lives for another [`LAPSE`].
    Held(OwnerReference),
    /// It is gone, and the cluster collects its pods: every connection on them ends. Make another before taking new ones.
    Lost(OwnerReference),
    /// The cluster does not answer; it lives on for what is left of [`LAPSE`].
    Unknown,
}

/// The owner of this gateway's pods. Call [`Keeper::beat`] every [`INTERVAL`](crate::owner::INTERVAL).
#[derive(Debug)]
pub struct Keeper {
    namespace: String,
    owner: OwnerReference,
    asked_at: Timestamp,
    /// When it was extended last, by our clock.
    last: Timestamp,
    heartbeat: u64,
}

impl Keeper {
    /// Creates the owner. One whose creation was not answered ends by itself.
    ///
    /// # Errors
    /// As [`PodBackend::create_owner`].
    pub async fn create<B: PodBackend, S: Store, T: Timer, R: CryptoRng + ?Sized>(
        parts: Parts<'_, B, S, T>,
        namespace: &str,
        rng: &mut R,
    ) -> Result<Self, BackendError> {
        let name = OwnerName::generate(rng);
        let asked_at = parts.timer.now();
        let manifest = owner_manifest(name, namespace, LAPSE.as_secs(), 0);
        let doing = || format!("creating the owner {name}");
        let owner = parts.ask(doing, parts.backend.create_owner(namespace, &manifest)).await?;
        let owner = OwnerReference { name, uid: owner.uid };
        Ok(Self { namespace: namespace.to_owned(), owner, asked_at, last: asked_at, heartbeat: 0 })
    }

    /// The owner, for the records of pods.
    pub fn owner(&self) -> &OwnerReference {
        &self.owner
    }

    /// Extends the owner.
    ///
    /// # Errors
    /// [`BackendError::Refused`] where the cluster refuses and the owner is still there; say it to the operator and go on.
    pub async fn beat<B: PodBackend, S: Store, T: Timer>(
        &mut self,
        parts: Parts<'_, B, S, T>,
    ) -> Result<OwnerState, BackendError> {
        let OwnerReference { name, uid } = &self.owner;
        self.heartbeat = self.heartbeat.saturating_add(1);
        let now = parts.timer.now();
        // A clock that was put back takes nothing from what has passed: the deadline counts from the Job's start by the cluster's clock.
        self.asked_at = self.asked_at.saturating_sub(self.last.saturating_since(now));
        self.last = now;
        let seconds = deadline_seconds(self.asked_at, now);
        let doing = || format!("extending the owner {name}");
        let call = parts.backend.extend_owner(&self.namespace, *name, uid, seconds, self.heartbeat);
        match parts.ask(doing, call).await {
            Ok(Some(_)) => Ok(OwnerState::Held(self.owner.clone())),
            Ok(None) => Ok(OwnerState::Lost(self.owner.clone())),
            Err(BackendError::Unanswered { .. }) => Ok(OwnerState::Unknown),
            Err(error) if error.refusal().is_some_and(crate::kubernetes::ApiFailure::is_passing) => Ok(OwnerState::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Deletes the owner at the end of a drain: what is still there of its pods goes with it.
    ///
    /// # Errors
    /// As [`PodBackend::delete_owner`]; it ends by itself then.
    pub async fn release<B: PodBackend, S: Store, T: Timer>(self, parts: Parts<'_, B, S, T>) -> Result<(), BackendError> {
        let OwnerReference { name, uid } = self.owner;
        let preconditions = Preconditions { uid, resource_version: None };
        let doing = || format!("deleting the owner {name}");
        parts.ask(doing, parts.backend.delete_owner(&self.namespace, name, &preconditions)).await.map(|_| ())
    }
}
