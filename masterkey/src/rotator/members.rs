//! The hosts that a run has to do with, and how far each of them has come.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use toehold_core::{Account, HostPhase, HostRecord, KeyRole, PublicKey, RotationRecord, Settled, Stored};

use super::journal::HostJournal;
use super::shared::SharedFiles;
use crate::fleet::View;
use crate::host::{Goal, HostMachine};
use crate::outcome::HostOutcome;

/// One host.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) host: HostRecord,
    pub(super) journal: HostJournal,
    /// What is known of it; `None` before the first run over it.
    pub(super) machine: Option<HostMachine>,
    /// How far it has come in the direction of the rotation.
    pub(super) reached: Option<Goal>,
    /// Why no further.
    pub(super) failed: Option<String>,
    pub(super) canary: bool,
    /// Whether something of ours may lie beside its files.
    pub(super) litter: bool,
    /// Whether nothing of an earlier rotation can still be on its way to it.
    pub(super) quiet: bool,
    pub(super) took: Duration,
}

impl Member {
    /// One of which nothing is known in this run.
    pub(super) fn waiting(host: HostRecord, journal: HostJournal) -> Self {
        Self {
            host,
            journal,
            machine: None,
            reached: None,
            failed: None,
            canary: false,
            litter: false,
            quiet: false,
            took: Duration::ZERO,
        }
    }

    pub(super) fn outcome(&self) -> HostOutcome {
        HostOutcome {
            account: self.host.route.account.clone(),
            label: self.host.label.clone(),
            phase: self.phase(),
            reason: self.failed.clone(),
            took: self.took,
        }
    }

    pub(super) fn phase(&self) -> HostPhase {
        let touched = self.journal.phase() > HostPhase::Begun;
        match (&self.failed, self.reached) {
            (Some(_), _) => HostPhase::Quarantined,
            (None, None) if touched => HostPhase::Touched,
            (None, None) => HostPhase::Untouched,
            (None, Some(Goal::Prepare)) => HostPhase::Proven,
            (None, Some(Goal::Soften)) => HostPhase::Softened,
            (None, Some(Goal::Remove)) if !touched => HostPhase::Untouched,
            (None, Some(Goal::Remove)) => HostPhase::Settled,
        }
    }

    /// Whether it still has to be led there.
    pub(super) fn lacks(&self, goal: Goal) -> bool {
        self.failed.is_none() && self.reached.is_none_or(|reached| reached < goal)
    }
}

/// All of them, by account.
#[derive(Debug, Default)]
pub(super) struct Members(pub(super) BTreeMap<Account, Member>);

impl Members {
    /// Takes in what a fresh list of hosts says: those that came, and those that went.
    pub(super) fn refresh(&mut self, hosts: Vec<Stored<HostRecord>>, record: &RotationRecord, toward: &PublicKey, fresh: bool) {
        let mut known = std::mem::take(&mut self.0);
        for host in hosts {
            let host = host.body;
            let account = host.route.account.clone();
            let new = |host: HostRecord, journal| Member {
                canary: record.policy.canary.as_deref().is_some_and(|canary| is_canary(&host, canary)),
                quiet: is_settled(&host, record.old.fingerprint(), record.number.saturating_sub(1)),
                ..Member::waiting(host, journal)
            };
            let member = match known.remove(&account) {
                None => new(host, HostJournal::new(record.number, account.clone(), record.fence, toward.clone(), fresh)),
                Some(member) if member.host.session == host.session => Member { host, ..member },
                // It came in once more, with whichever key that session had: what is known of it is of before (R11).
                Some(member) => Member { took: member.took, ..new(host, member.journal) },
            };
            self.0.insert(account, member);
        }
    }

    /// What the rules of the fleet are asked with.
    pub(super) fn view(&self, record: &RotationRecord) -> View {
        self.tally().view(record)
    }

    /// How far how many of them are.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.0.values().for_each(|member| tally.add(member));
        tally
    }

    /// The next hosts to be led to `goal`: those that go first alone, then so many at a time.
    pub(super) fn wave(&self, goal: Goal, size: Option<u32>) -> Vec<Account> {
        let lacking = |first: bool| {
            self.0.iter().filter(move |(_, member)| member.lacks(goal) && (!first || member.canary)).map(|(account, _)| account)
        };
        let first: Vec<Account> = lacking(true).cloned().collect();
        if goal == Goal::Prepare && !first.is_empty() {
            return first;
        }
        let size = size.filter(|_| goal == Goal::Prepare).map_or(usize::MAX, |size| size.max(1) as usize);
        lacking(false).take(size).cloned().collect()
    }

    /// Of those that have their file in common with others, the ones on which the arriving key is still to be proven.
    pub(super) fn unproven_of(&self, shared: &SharedFiles) -> Vec<Account> {
        if shared.is_empty() {
            return Vec::new();
        }
        let waits = |(account, member): &(&Account, &Member)| member.lacks(Goal::Prepare) && !shared.others(account).is_empty();
        self.0.iter().filter(waits).map(|(account, _)| account.clone()).collect()
    }

    /// Everything counts anew in the other direction.
    pub(super) fn turn_back(&mut self, toward: &PublicKey) {
        for member in self.0.values_mut() {
            member.machine = member.machine.take().map(|machine| machine.turned_back(Goal::Prepare));
            member.journal.head_for(toward);
            member.reached = None;
            member.failed = None;
        }
    }
}

/// How far how many hosts are. Kept as they come and go: to count all of them after each would cost a large fleet more than all
/// the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    hosts: u32,
    failed: u32,
    canaries_failed: u32,
    proven: u32,
    to_prepare: u32,
    to_soften: u32,
    to_remove: u32,
}

impl Tally {
    /// A host as it now is.
    pub(super) fn add(&mut self, member: &Member) {
        self.count(member, u32::saturating_add);
    }

    /// A host as it was when it was added.
    pub(super) fn remove(&mut self, member: &Member) {
        self.count(member, u32::saturating_sub);
    }

    fn count(&mut self, member: &Member, change: impl Fn(u32, u32) -> u32) {
        let failed = member.failed.is_some();
        for (count, counts) in [
            (&mut self.hosts, true),
            (&mut self.failed, failed),
            (&mut self.canaries_failed, member.canary && failed),
            (&mut self.proven, member.reached.is_some() && !failed),
            (&mut self.to_prepare, member.lacks(Goal::Prepare)),
            (&mut self.to_soften, member.lacks(Goal::Soften)),
            (&mut self.to_remove, member.lacks(Goal::Remove)),
        ] {
            *count = change(*count, u32::from(counts));
        }
    }

    /// What the rules of the fleet are asked with.
    pub(super) fn view(&self, record: &RotationRecord) -> View {
        View {
            hosts: self.hosts,
            failed: self.failed,
            canary_failed: self.canaries_failed > 0,
            proven: self.proven,
            to_prepare: self.to_prepare,
            to_soften: self.to_soften,
            to_remove: self.to_remove,
            ..View::of(record.phase, &record.policy)
        }
    }
}

/// Whether the host is labelled so, or tagged `name` or `name=value`.
pub(super) fn is_canary(host: &HostRecord, canary: &str) -> bool {
    host.label.as_deref() == Some(canary)
        || match canary.split_once('=') {
            Some((name, value)) => host.tags.get(name).is_some_and(|found| found == value),
            None => host.tags.contains_key(canary),
        }
}

/// Whether a host was seen to hold `current` alone since rotation `generation` ended, or was brought in with it before any did.
pub(super) fn is_settled(host: &HostRecord, current: toehold_core::Fingerprint, generation: u64) -> bool {
    match host.settled {
        Some(Settled { generation: settled, fingerprint }) => settled >= generation && fingerprint == current,
        // Nothing was written there also of a host that came in with a key that was not current by then.
        None => {
            let mut masters = host.keys.iter().filter(|key| key.role == KeyRole::Master);
            generation == 0 && masters.any(|key| key.public_key.fingerprint() == current)
        }
    }
}

/// A name of the account for locks and staged files: 64 bits of the hash of its text, in hex.
pub(super) fn tag(account: &Account) -> String {
    Sha256::digest(account.to_string().as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
