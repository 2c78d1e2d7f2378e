//! Accounts that have one file between them (R9): a second name of a host, or a home directory that several hosts share. What one of
//! them finds out about a key holds for that one alone, and a line that one of them writes is every one's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use toehold_core::{
    Account, AuditSink, ConnectError, Connector, HostPhase, HostProgress, HostSession as _, Key, Login, Store, Stored, Timer,
};
use toehold_keygen::replacement::{KeyFile, inspect};

use super::Rotator;
use super::keys::Keys;
use super::members::Member;
use crate::change::{Change, other_writer};
use crate::error::RotationError;
use crate::host::{ARRIVING, Goal, LEAVING};
use crate::host_files::{NoPass, Others};
use crate::observe::Files;
use crate::observer::{Observer, Progress};
use crate::vault::KeyVault;
use crate::wait::within;

/// What the accounts of a run know of each other.
#[derive(Debug, Default)]
pub(super) struct SharedFiles(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The accounts that the run has to do with.
    of_the_run: BTreeSet<Account>,
    /// Those that have the file of another one.
    same_file_as: BTreeMap<Account, Account>,
    /// Those on which the arriving key has logged in, by a line without an end.
    proven: BTreeSet<Account>,
    /// Those that refuse it.
    refusing: BTreeSet<Account>,
}

impl Known {
    /// The others that have this account's file.
    fn others<'a>(&'a self, account: &'a Account) -> BTreeSet<&'a Account> {
        let mut group = BTreeSet::from([account]);
        loop {
            let linked = |(one, other): &(&Account, &Account)| group.contains(one) != group.contains(other);
            let Some((one, other)) = self.same_file_as.iter().find(linked) else { break };
            group.extend([one, other]);
        }
        group.remove(account);
        group.retain(|other| self.of_the_run.contains(*other));
        group
    }
}

impl SharedFiles {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in which accounts there are by now, and on which of them the arriving key is still known to be proven.
    pub(super) fn refresh<'a>(&self, accounts: impl Iterator<Item = (&'a Account, bool)>) {
        let mut known = self.known();
        known.of_the_run.clear();
        let mut proven = BTreeSet::new();
        for (account, reached) in accounts {
            if reached && known.proven.contains(account) {
                proven.insert(account.clone());
            }
            known.of_the_run.insert(account.clone());
        }
        known.proven = proven;
    }

    /// What an earlier run has found out.
    pub(super) fn remember(&self, account: Account, other: Account) {
        self.known().same_file_as.entry(account).or_insert(other);
    }

    /// Whose file this account has, as far as was found out.
    pub(super) fn same_file_as(&self, account: &Account) -> Option<Account> {
        self.known().same_file_as.get(account).cloned()
    }

    /// Whether anybody shares a file.
    pub(super) fn is_empty(&self) -> bool {
        self.known().same_file_as.is_empty()
    }

    /// The others that have this account's file.
    pub(super) fn others(&self, account: &Account) -> Vec<Account> {
        self.known().others(account).into_iter().cloned().collect()
    }

    /// The arriving key has logged in there, by a line without an end.
    pub(super) fn proven(&self, account: &Account) {
        let mut known = self.known();
        known.refusing.remove(account);
        known.proven.insert(account.clone());
    }

    /// The host refuses the arriving key.
    pub(super) fn refuses(&self, account: &Account) {
        self.known().refusing.insert(account.clone());
    }

    /// The account has put the arriving key's line into its file itself: whoever has proven that key before has another file.
    pub(super) fn has_added(&self, account: &Account) {
        let known = &mut *self.known();
        let proven = &known.proven;
        known
            .same_file_as
            .retain(|one, other| !(one == account && proven.contains(other) || other == account && proven.contains(one)));
    }

    /// Whether the host refuses it.
    fn is_refused_by(&self, account: &Account) -> bool {
        self.known().refusing.contains(account)
    }

    /// Another key arrives.
    pub(super) fn turn_back(&self) {
        let mut known = self.known();
        known.proven.clear();
        known.refusing.clear();
    }
}

/// One account's view of the others.
pub(super) struct OthersOf<'a> {
    pub(super) account: &'a Account,
    pub(super) shared: &'a SharedFiles,
}

impl Others for OthersOf<'_> {
    fn found(&self, other: Account) {
        let mut known = self.shared.known();
        if known.of_the_run.contains(&other) {
            known.same_file_as.insert(self.account.clone(), other);
        }
    }

    fn objection(&self, change: Change) -> Option<String> {
        let known = self.shared.known();
        let others = known.others(self.account);
        let says = |other: &Account, what: &str| format!("it has the same authorized_keys as {other}, {what}");
        match change {
            Change::Add { .. } | Change::Extend | Change::Promote => None,
            // Who has not refused the key may rely on its line.
            Change::Delete(ARRIVING) => {
                let other = others.into_iter().find(|other| !known.refusing.contains(*other))?;
                Some(says(other, "which may rely on the line"))
            }
            Change::Delete(_) | Change::Expire(_) => {
                let other = others.into_iter().find(|other| !known.proven.contains(*other))?;
                Some(says(other, "on which the key that is to stay has not logged in"))
            }
        }
    }
}

impl<S: Store, C: Connector, T: Timer, A: AuditSink, V: KeyVault> Rotator<S, C, T, A, V> {
    /// Takes in which accounts have one file, as rotation `number` and the healing after it have found out.
    pub(super) async fn remember_shared_files(&self, number: u64, shared: &SharedFiles) -> Result<(), RotationError> {
        for entry in self.store.list(&Key::new(["rotation", &number.to_string()])?).await? {
            let Ok(account) = entry.key.name().parse::<Account>() else { continue };
            if let Some(other) = Stored::<HostProgress>::decode(&entry)?.body.same_file_as {
                shared.remember(account, other);
            }
        }
        Ok(())
    }

    /// Looks once more at the hosts that refuse the arriving key and have no line of it any more: one of those that were led on since
    /// may have put it into the same file.
    pub(super) async fn look_again(&self, keys: &Keys, shared: &SharedFiles, members: &BTreeMap<Account, Member>) {
        let refusing = members.iter().filter(|(account, member)| member.failed.is_some() && shared.is_refused_by(account));
        let mut looks = refusing.map(|(account, member)| async move {
            let limit = self.timer.sleep_until(self.timer.now().saturating_add(self.pace.timeout));
            let files = within(self.look(keys, member), limit).await.flatten()?;
            let other = other_writer(&files, keys.public().first()?, account)?;
            OthersOf { account, shared }.found(other);
            Some(())
        });
        let mut running: FuturesUnordered<_> = looks.by_ref().take(self.pace.concurrency.max(1)).collect();
        while running.next().await.is_some() {
            running.extend(looks.next());
        }
    }

    /// The host's files, over a login with whichever key it takes; `None` where there is none to be had.
    async fn look(&self, keys: &Keys, member: &Member) -> Option<Files> {
        let host_key = self.host_key(member).await.ok()?;
        for identity in (LEAVING..keys.len()).filter_map(|key| keys.identity(key)) {
            let login = Login { route: &member.host.route, identity, host_key: &host_key, query: None };
            match self.connector.log_in(&login).await {
                Ok(mut session) => {
                    let seen = inspect(session.files(), member.host.home.as_deref().unwrap_or(".")).await;
                    session.close().await;
                    let seen = seen.ok()?;
                    let document = |file| seen.document(file).cloned();
                    let first = document(KeyFile::AuthorizedKeys).unwrap_or_default();
                    return Some(Files { first, second: document(KeyFile::AuthorizedKeys2) });
                }
                Err(ConnectError::KeyRefused { .. }) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Where one of those that have a file in common could not be taken along, neither can the others: what it needs stays in the
    /// file. Which those are, and why.
    pub(super) async fn fail_together<O: Observer>(
        &self,
        members: &mut BTreeMap<Account, Member>,
        shared: &SharedFiles,
        observer: &O,
    ) -> Vec<(Account, String)> {
        let mut failed = Vec::new();
        if shared.is_empty() {
            return failed;
        }
        for (account, member) in members.iter().filter(|(_, member)| member.reached.is_none()) {
            let Some(why) = &member.failed else { continue };
            let reason = format!("it has the same authorized_keys as {account}, which cannot be taken along: {why}");
            failed.extend(shared.others(account).into_iter().map(|other| (other, reason.clone())));
        }
        failed.retain(|(account, reason)| {
            let member =
                members.get_mut(account).filter(|member| member.failed.is_none() && member.reached != Some(Goal::Remove));
            member.is_some_and(|member| member.failed.replace(reason.clone()).is_none())
        });
        for (account, reason) in &failed {
            let Some(member) = members.get_mut(account) else { continue };
            member.journal.same_file_as(shared.same_file_as(account));
            let note = member.journal.note(&self.store, &self.timer, HostPhase::Quarantined, Some(reason));
            if let Ok(Err(NoPass::Store(why))) | Err(why) = self.answered(note).await {
                observer.progress(Progress::Warning(format!("{account}: its progress is not on record: {why}")));
            }
            let (account, reason) = (account.clone(), reason.clone());
            observer.progress(Progress::HostFailed { account, reason, took: std::time::Duration::ZERO });
        }
        failed
    }

    /// Writes down which accounts have one file, as far as that is not on record yet: whoever goes on past the barrier has to know.
    pub(super) async fn write_shared_files(&self, members: &mut BTreeMap<Account, Member>) -> Result<(), String> {
        for (account, member) in members.iter_mut().filter(|(_, member)| member.journal.owes_same_file()) {
            let phase = member.journal.phase();
            let note = member.journal.note(&self.store, &self.timer, phase, member.failed.as_deref());
            match self.answered(note).await {
                // Whether somebody else has the lead by now, the next write tells.
                Ok(Ok(()) | Err(NoPass::Fenced)) => {}
                Ok(Err(NoPass::Store(why))) | Err(why) => return Err(format!("{account}: its progress is not on record: {why}")),
            }
        }
        Ok(())
    }
}
