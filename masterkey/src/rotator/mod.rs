//! The driver: leads a rotation through its phases, over the traits of `toehold-core`.

mod fleet;
mod host_run;
mod journal;
mod keys;
mod lead;
mod members;
mod settle;
mod shared;
mod stage;
mod status;

use rand_core::CryptoRng;
use toehold_core::{AuditSink, Connector, Store, Timer};

use crate::error::RotationError;
use crate::observer::Observer;
use crate::outcome::Outcome;
use crate::request::{Pace, RotationRequest, TakeUp};
use crate::vault::KeyVault;

/// Leads rotations over a store, a connector, a timer, an audit log and a vault.
///
/// All of them may be shared with other users, also on other machines: every write says what it replaces. Any of the futures
/// can be dropped at any time; [`Rotator::resume`] and [`Rotator::roll_back`] go on from what the hosts then have.
#[derive(Debug)]
pub struct Rotator<S, C, T, A, V> {
    /// Where records are kept.
    pub store: S,
    /// Makes the connections.
    pub connector: C,
    /// Tells the time and waits.
    pub timer: T,
    /// Takes what an auditor will ask about.
    pub audit: A,
    /// Seals and opens the private halves.
    pub vault: V,
    /// Times and bounds.
    pub pace: Pace,
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Makes a new master key and leads every host to it.
    ///
    /// The new private half is in the store, sealed, before the first host learns of the key.
    ///
    /// # Errors
    /// [`RotationError::AlreadyOpen`] where another rotation is, [`RotationError::NoHosts`] where no host could prove a new key;
    /// otherwise where none could begin. [`RotationError::Unfinished`] where it has begun and the store failed under way:
    /// [`Rotator::resume`] or [`Rotator::roll_back`] takes it up.
    pub async fn rotate<R: CryptoRng + Send, O: Observer>(
        &self,
        request: RotationRequest,
        rng: &mut R,
        observer: &O,
    ) -> Result<Outcome, RotationError> {
        let lead = self.begin(request, rng).await?;
        self.run(lead, rng, observer).await
    }

    /// Takes up the rotation that is open and goes on in its direction.
    ///
    /// # Errors
    /// [`RotationError::NoneOpen`], [`RotationError::BeingLed`]; otherwise as for [`Rotator::rotate`].
    pub async fn resume<R: CryptoRng + Send, O: Observer>(
        &self,
        by: TakeUp,
        rng: &mut R,
        observer: &O,
    ) -> Result<Outcome, RotationError> {
        let lead = self.take_up(by, false, rng).await?;
        self.run(lead, rng, observer).await
    }

    /// Takes up the rotation that is open and leads every host back to the old key, from whatever phase.
    ///
    /// # Errors
    /// As for [`Rotator::resume`].
    pub async fn roll_back<R: CryptoRng + Send, O: Observer>(
        &self,
        by: TakeUp,
        rng: &mut R,
        observer: &O,
    ) -> Result<Outcome, RotationError> {
        let lead = self.take_up(by, true, rng).await?;
        self.run(lead, rng, observer).await
    }
}
