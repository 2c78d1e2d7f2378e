//! Healing hosts that earlier rotations had to leave behind.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand_core::CryptoRng;
use toehold_core::{Account, AuditEvent, AuditSink, Connector, HostPhase, HostRecord, Store, Stored, Timer};

use super::Rotator;
use super::host_run::{Errand, SharedRng};
use super::journal::HostJournal;
use super::members::{Member, is_settled};
use super::shared::SharedFiles;
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
        let shared = SharedFiles::default();
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
            maybe_proven: true,
            shared: &shared,
            rng: &rng,
            observer,
        };
        let Some(arriving) = errand.public.first().cloned() else { return Err(RotationError::NoMasterKey) };
        let (mut managed, mut members) = (0, BTreeMap::new());
        for host in Stored::<HostRecord>::list(&self.store, &HostRecord::prefix()).await? {
            let host = host?.body;
            managed += 1;
            // One that a later rotation than the last we know of has settled meanwhile holds a key that we do not know.
            let is_later = host.settled.is_some_and(|settled| settled.generation > number);
            if !is_later && !is_settled(&host, fingerprint, number) {
                let account = host.route.account.clone();
                let journal = HostJournal::healing(number, account.clone(), arriving.clone());
                members.insert(account, Member::waiting(host, journal));
            }
        }
        if members.len() > 1 {
            // Any of them may have its file in common with another one, and nothing goes from there before both have proven the key.
            self.remember_shared_files(number, &shared).await?;
            shared.refresh(members.keys().map(|account| (account, false)));
            let prepare = Errand { goal: Goal::Prepare, public: errand.public.clone(), ..errand };
            self.heal_all(&prepare, &mut members).await;
            self.look_again(&keys, &shared, &members).await;
            for (account, _) in self.fail_together(&mut members, &shared, observer).await {
                if let Some(member) = members.get(&account) {
                    self.audit_healing(member, &errand).await;
                }
            }
        }
        self.heal_all(&errand, &mut members).await;
        let mut hosts = Vec::new();
        for member in members.values_mut() {
            // The operator wanted out before its turn came.
            if member.lacks(Goal::Remove) {
                member.failed = Some("not begun: interrupted".to_owned());
            }
            hosts.push(member.outcome());
        }
        // A rotation that began meanwhile names the current key and a new one, which is not retired.
        let warn = |why| observer.progress(Progress::Warning(why));
        let dropped = self.drop_unneeded(&[fingerprint], warn).await?;
        Ok(SettleOutcome { managed, hosts, dropped })
    }

    /// Leads all of them that have not failed, as many at once as may be, until the operator wants out.
    async fn heal_all<R: CryptoRng + Send, O: Observer>(
        &self,
        errand: &Errand<'_, '_, R, O>,
        members: &mut BTreeMap<Account, Member>,
    ) {
        let waiting: Vec<Account> =
            members.iter().filter(|(_, member)| member.lacks(errand.goal)).map(|(account, _)| account.clone()).collect();
        let mut waiting = waiting.into_iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < self.pace.concurrency.max(1) && !errand.observer.is_leaving() {
                let Some((account, member)) = waiting.next().and_then(|account| members.remove_entry(&account)) else { break };
                running.push(async move { (account, self.heal(errand, member).await) });
            }
            let Some((account, member)) = running.next().await else { break };
            if member.failed.is_some() || errand.goal == Goal::Remove {
                self.audit_healing(&member, errand).await;
            }
            members.insert(account, member);
        }
    }

    /// What became of one host, for an auditor.
    async fn audit_healing<R, O: Observer>(&self, member: &Member, errand: &Errand<'_, '_, R, O>) {
        let key = errand.public.first().map(|key| key.fingerprint().to_string()).unwrap_or_default();
        let what = if member.phase() == HostPhase::Settled { "rotation.host_healed" } else { "rotation.host_owed" };
        let mut event = AuditEvent::new(self.timer.now(), what, member.host.route.account.to_string())
            .with("phase", member.phase().name())
            .with("key", key);
        if let Some(reason) = &member.failed {
            event = event.with("reason", reason.clone());
        }
        if let Err(error) = self.audit.record(event).await {
            errand.observer.progress(Progress::Warning(format!("not on the audit record: {}", describe(&error))));
        }
    }

    async fn heal<R: CryptoRng + Send, O: Observer>(&self, errand: &Errand<'_, '_, R, O>, mut member: Member) -> Member {
        // Another healing that took the host over has it, or a rotation that has begun meanwhile.
        if self.lead_host(errand, &mut member).await == super::host_run::HostVerdict::Fenced {
            member.failed = Some("a rotation that has begun meanwhile, or another settling, has taken the host up".to_owned());
        }
        member
    }
}
