//! Somebody who looks at the world after every single call, and says when an invariant does not hold.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use toehold_core::testing::World;
use toehold_core::{HostRecord, Key, PublicKey, Revision, SessionId, Stored};
use toehold_session::{AccountClaim, Evidence, SessionRecord, Status};

use super::{Lab, colleague, holds, master_key};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs a process call by call until it ends or stalls, with a look at the world after each.
pub fn watched<T>(world: &World, watch: &mut Watch, process: impl Future<Output = T>) -> Option<T> {
    stepped(world, process, |calls| watch.look(&|| format!("after {}", world.faults().describe(calls.saturating_sub(1)))))
}

/// Runs a process call by call; `between` is told how many calls were made.
pub fn stepped<T>(world: &World, process: impl Future<Output = T>, mut between: impl FnMut(usize)) -> Option<T> {
    world.faults().take_turns(true);
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut context = Context::from_waker(&waker);
    let mut process = pin!(process);
    while flag.0.swap(false, Ordering::AcqRel) {
        let polled = process.as_mut().poll(&mut context);
        between(world.faults().calls());
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
    }
    None
}

/// Says when, if it has to be said.
pub type When<'a> = &'a dyn Fn() -> String;

struct Lazy<'a>(When<'a>);

impl fmt::Display for Lazy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0())
    }
}

/// What was seen of a world so far.
#[derive(Debug)]
pub struct Watch {
    lab: Lab,
    /// The managed keys that the host did not have before.
    managed: Vec<PublicKey>,
    file: Vec<u8>,
    revisions: BTreeMap<Key, Revision>,
    sessions: BTreeMap<SessionId, SessionRecord>,
    claim: Option<AccountClaim>,
    host: Option<HostRecord>,
    /// Every value that was ever in the store.
    pub values: Vec<(Key, Vec<u8>)>,
    /// Every content that `authorized_keys` ever had.
    pub files: Vec<Vec<u8>>,
}

impl Watch {
    pub fn new(lab: &Lab) -> Self {
        let managed = [master_key(), colleague()].into_iter().filter(|key| !holds(&lab.foreign, key)).collect();
        Self {
            lab: lab.clone(),
            managed,
            file: lab.foreign.clone(),
            revisions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            claim: None,
            host: None,
            values: Vec::new(),
            files: Vec::new(),
        }
    }

    pub fn sessions(&self) -> impl Iterator<Item = &SessionRecord> {
        self.sessions.values()
    }

    /// Looks at the store and at the host.
    pub fn look(&mut self, when: When<'_>) {
        self.look_at_store(when);
        let file = self.lab.file();
        if file != self.file {
            self.look_at_file(&file, when);
            self.files.push(file.clone());
            self.file = file;
        }
    }

    fn look_at_store(&mut self, when: When<'_>) {
        let entries = self.lab.world.memory().entries();
        let claim = format!("claim/{}", self.lab.account);
        if !entries.iter().any(|entry| entry.key.as_str() == claim) {
            self.claim = None;
        }
        for entry in entries {
            if self.revisions.get(&entry.key) == Some(&entry.revision) {
                continue;
            }
            self.revisions.insert(entry.key.clone(), entry.revision);
            self.values.push((entry.key.clone(), entry.value.clone()));
            let name = entry.key.as_str();
            if name.starts_with("session/") {
                let record = Stored::<SessionRecord>::decode(&entry).unwrap().body;
                self.look_at_session(&record, when);
                self.sessions.insert(record.id, record);
            } else if name == claim {
                self.claim = Some(Stored::<AccountClaim>::decode(&entry).unwrap().body);
            } else if name == format!("host/{}", self.lab.account) {
                self.host = Some(Stored::<HostRecord>::decode(&entry).unwrap().body);
            }
        }
    }

    fn look_at_session(&self, record: &SessionRecord, when: When<'_>) {
        let when = Lazy(when);
        match self.sessions.get(&record.id) {
            None => assert_eq!(record.status, Status::Active, "{when}: a session begins as {}", record.status),
            Some(before) => {
                let legal = before.status.may_become(record.status);
                assert!(legal, "{when}: from {} to {}", before.status, record.status);
                assert!(record.attempt >= before.attempt, "{when}: the attempt goes back");
            }
        }
        if record.status.is_open() {
            assert_eq!(record.closed, None, "{when}");
            return;
        }
        // seen_gone
        let closed = record.closed.unwrap_or_else(|| panic!("{when}: closed without evidence"));
        assert!(!self.lab.lets_in(&record.temporary_key), "{when}: closed while its key can log in ({:?})", closed.evidence);
        if closed.evidence == Evidence::SeenGone {
            assert!(!self.lab.holds(&record.temporary_key), "{when}: said to be seen gone, and is there");
        }
        if closed.evidence != Evidence::NeverShown && self.lab.holds(&record.temporary_key) {
            let known = self.claim.as_ref().is_some_and(|claim| claim.dead.iter().any(|dead| dead.session == record.id));
            assert!(known, "{when}: closed with its dead line on the host, and nobody knows of that ({:?})", closed.evidence);
        }
        let sealed = (&record.sealed_temporary_key, &record.sealed_proof_secret);
        assert_eq!(sealed, (&None, &None), "{when}: what was sealed outlives the session");
        if record.status == Status::Completed {
            assert_eq!(closed.evidence, Evidence::SeenGone, "{when}");
            assert!(self.lab.lets_in(&master_key()), "{when}: completed, and the master key cannot log in");
        }
    }

    fn look_at_file(&self, file: &[u8], when: When<'_>) {
        let when = Lazy(when);
        // foreign_bytes
        let ours: Vec<&PublicKey> =
            self.managed.iter().chain(self.sessions.values().map(|session| &session.temporary_key)).collect();
        let is_ours = |line: &&[u8]| ours.iter().any(|key| holds(line, key));
        let foreign = file.split_inclusive(|byte| *byte == b'\n').filter(|line| !is_ours(line)).collect::<Vec<_>>().concat();
        let terminated = [self.lab.foreign.as_slice(), b"\n"].concat();
        let unterminated = self.lab.foreign.last().is_some_and(|last| *last != b'\n');
        assert!(
            foreign == self.lab.foreign || (unterminated && foreign == terminated),
            "{when}: foreign bytes are changed: {:?}",
            String::from_utf8_lossy(&foreign)
        );
        for line in file.split_inclusive(|byte| *byte == b'\n').filter(is_ours) {
            assert_eq!(ours.iter().filter(|key| holds(line, key)).count(), 1, "{when}: two keys on one line");
        }
        let present: Vec<&PublicKey> = self.managed.iter().filter(|key| holds(file, key)).collect();
        if present.is_empty() {
            return;
        }
        // journal_first
        for key in present.iter().filter(|key| !holds(&self.file, key)) {
            let claim = self.claim.as_ref().unwrap_or_else(|| panic!("{when}: a managed line came without a claim"));
            assert!(
                claim.adding.iter().any(|added| added.line.public_key == **key),
                "{when}: a managed line came before its journal"
            );
            let session = &self.sessions[&claim.session];
            assert!(matches!(session.status, Status::Committing | Status::Orphaned), "{when}: {}", session.status);
        }
        // anchored
        let logins = self.lab.world.fleet().logins(&self.lab.account);
        let temporary = self.sessions.values().map(|session| session.temporary_key.clone());
        let anchor =
            temporary.chain([master_key()]).find(|key| self.lab.lets_in(key) && logins.iter().any(|(login, _)| login == key));
        assert!(anchor.is_some(), "{when}: managed lines, and no key that has logged in is authorized");
    }

    /// How a run that ended, or all that were, left the world; to be called when nothing is under way.
    pub fn check_end(&mut self, when: &str) {
        self.look(&|| when.to_owned());
        let open: Vec<SessionRecord> = self.sessions.values().filter(|session| session.status.is_open()).cloned().collect();
        for record in self.sessions.values() {
            let Some(closed) = record.closed else { continue };
            match (record.status, closed.evidence) {
                (Status::Completed, _) => self.check_managed(when),
                // as_it_was
                (_, Evidence::SeenGone) if self.sessions.len() == 1 => {
                    assert_eq!(self.lab.tree(), self.lab.before, "{when}: seen gone, and the host is not as it was");
                }
                (_, Evidence::Refused | Evidence::NeverShown) if self.sessions.len() == 1 => {
                    // A line that has ended may have stayed; then it is remembered.
                    let file = self.lab.file();
                    let dead = |line: &&[u8]| holds(line, &record.temporary_key);
                    let (dead, rest): (Vec<&[u8]>, Vec<&[u8]>) = file.split_inclusive(|byte| *byte == b'\n').partition(dead);
                    let mut rest = rest.concat();
                    if !dead.is_empty() && self.lab.foreign.last().is_some_and(|last| *last != b'\n') {
                        rest.pop();
                    }
                    assert_eq!(text(&rest), text(&self.lab.foreign), "{when}: refused, and the file is not as it was");
                    let known = self.claim.as_ref().is_some_and(|claim| claim.dead.iter().any(|dead| dead.session == record.id));
                    assert!(dead.is_empty() || known, "{when}: a dead line that nobody knows of");
                }
                _ => {}
            }
        }
        if let Some(claim) = &self.claim {
            let held = open.iter().any(|session| session.id == claim.session);
            assert!(
                held || claim.adding.iter().all(|added| !holds(&self.file, &added.line.public_key)) || self.host.is_some(),
                "{when}: {claim:?}"
            );
        }
        // Whatever managed line is there, somebody answers for it.
        if self.managed.iter().any(|key| holds(&self.file, key)) {
            assert!(self.host.is_some() || self.claim.is_some(), "{when}: managed lines that nobody knows of");
        }
    }

    fn check_managed(&self, when: &str) {
        let host = self.host.as_ref().unwrap_or_else(|| panic!("{when}: completed, and the host is not on record"));
        assert_eq!(host.route.account, self.lab.account);
        for key in [master_key(), colleague()] {
            assert!(holds(&self.file, &key), "{when}: completed, and a managed line is missing");
        }
        let ours = self.lab.names().into_iter().filter(|name| name.contains("toehold")).collect::<Vec<_>>();
        assert!(ours.is_empty(), "{when}: completed, and {ours:?} stayed");
        let known = self.revisions.keys().any(|key| key.as_str().starts_with("knownhost/"));
        assert!(known, "{when}: completed, and the host key is not on record");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
