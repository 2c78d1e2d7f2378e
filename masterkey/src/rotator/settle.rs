//! Healing hosts that earlier rotations had to leave behind.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand_core::CryptoRng;
use toehold_core::{AuditEvent, AuditSink, Connector, HostPhase, HostRecord, Store, Stored, Timer};

use super::Rotator;
use super::host_run::{Errand, SharedRng};
use super::journal::HostJournal;
use super::members::{Member, is_settled};
use crate::error::{RotationError, describe};
use crate::host::Goal;
use crate::observer::{Observer, Progress};
use crate::outcome::SettleOutcome;
use crate::request::DEFAULT_PROVISIONAL;
use crate::vault::KeyVault;

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Leads every host that is not settled to the current key alone, with whichever older key it still takes, and lets go of
    /// the private halves that no host can need any more.
    ///
    /// # Errors
    /// [`RotationError::AlreadyOpen`] while a rotation is open: it heals the hosts that it reaches by itself. Otherwise as the
    /// store and the vault say.
    pub async fn settle<R: CryptoRng + Send, O: Observer>(
        &self,
        rng: &mut R,
        observer: &O,
    ) -> Result<SettleOutcome, RotationError> {
        let (current, open) = self.open_rotation().await?;
        if let Some(open) = open {
            return Err(super::lead::already_open(&open.body));
        }
        let (fingerprint, number) = (current.body.fingerprint, current.body.generation);
        let keys = self.open_keys(fingerprint, None, |why| observer.progress(Progress::Warning(why))).await?;
        let rng = SharedRng(Mutex::new(rng));
        let errand = Errand {
            number,
            public: keys.public(),
            keys: &keys,
            goal: Goal::Remove,
            grace: Duration::ZERO,
            provisional: DEFAULT_PROVISIONAL,
            fresh: false,
            touched_only: false,
            rng: &rng,
            observer,
        };
        let Some(arriving) = errand.public.first().cloned() else { return Err(RotationError::NoMasterKey) };
        let (mut managed, mut waiting) = (0, Vec::new());
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            let host = host?.body;
            managed += 1;
            // One that a later rotation than the last we know of has settled meanwhile holds a key that we do not know.
            let is_later = host.settled.is_some_and(|settled| settled.generation > number);
            if !is_later && !is_settled(&host, fingerprint, number) {
                waiting.push(host);
            }
        }
        let mut waiting = waiting.into_iter();
        let mut running = FuturesUnordered::new();
        let mut hosts = Vec::new();
        loop {
            while running.len() < self.pace.concurrency.max(1) && !observer.is_leaving() {
                let Some(host) = waiting.next() else { break };
                let journal = HostJournal::healing(number, host.route.account.clone(), arriving.clone());
                running.push(self.heal(&errand, Member::waiting(host, journal)));
            }
            let Some(member) = running.next().await else { break };
            let healed = member.phase() == HostPhase::Settled;
            let what = if healed { "rotation.host_healed" } else { "rotation.host_owed" };
            let mut event = AuditEvent::new(self.timer.now(), what, member.host.route.account.to_string())
                .with("phase", member.phase().name())
                .with("key", fingerprint.to_string());
            if let Some(reason) = &member.failed {
                event = event.with("reason", reason.clone());
            }
            if let Err(error) = self.audit.record(event).await {
                observer.progress(Progress::Warning(format!("not on the audit record: {}", describe(&error))));
            }
            hosts.push(member.outcome());
        }
        // The operator wanted out before their turn came.
        for host in waiting.by_ref() {
            let journal = HostJournal::healing(number, host.route.account.clone(), arriving.clone());
            hosts.push(Member { failed: Some("not begun: interrupted".to_owned()), ..Member::waiting(host, journal) }.outcome());
        }
        hosts.sort_by(|one, other| one.account.cmp(&other.account));
        // A rotation that began meanwhile names the current key and a new one, which is not retired.
        let warn = |why| observer.progress(Progress::Warning(why));
        let dropped = self.drop_unneeded(&[fingerprint], warn).await?;
        Ok(SettleOutcome { managed, hosts, dropped })
    }

    async fn heal<R: CryptoRng + Send, O: Observer>(&self, errand: &Errand<'_, '_, R, O>, mut member: Member) -> Member {
        // Another healing that took the host over has it, or a rotation that has begun meanwhile.
        if self.lead_host(errand, &mut member).await == super::host_run::HostVerdict::Fenced {
            member.failed = Some("a rotation that has begun meanwhile, or another settling, has taken the host up".to_owned());
        }
        member
    }
}
