//! Somebody who looks at the world after every single call, and says when an invariant does not hold. Written against the
//! bytes of the files and the simulated sshd, not against the crate's own reading of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use toehold_core::testing::World;
use toehold_core::{Account, Clock as _, PublicKey, Timestamp};

use super::{Lab, holds};

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs a process call by call until it ends or stalls, with a look at the world after each.
pub fn watched<T>(world: &World, watch: &mut Watch, process: impl Future<Output = T>) -> Option<T> {
    stepped(world, process, |calls| {
        let last = world.faults().describe(calls.saturating_sub(1));
        watch.keys_changed |= last.contains("masterkey/");
        watch.look(&|| format!("after {last}"));
    })
}

/// Runs a process call by call; `between` is told how many calls were made. Time passes only while the process waits: a call
/// that takes its turn is no reason for a time limit to pass.
pub fn stepped<T>(world: &World, process: impl Future<Output = T>, mut between: impl FnMut(usize)) -> Option<T> {
    world.faults().take_turns(true);
    world.clock().set_auto_advance(false);
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    let mut context = Context::from_waker(&waker);
    let mut process = pin!(process);
    let mut calls = usize::MAX;
    let mut waited = 0;
    loop {
        if !flag.0.swap(false, Ordering::AcqRel) {
            if world.faults().crashed() || world.clock().sleepers() == 0 || waited > LONGEST_WAIT {
                world.clock().set_auto_advance(true);
                return None;
            }
            world.clock().advance(Duration::from_secs(1));
            waited += 1;
            continue;
        }
        waited = 0;
        let polled = process.as_mut().poll(&mut context);
        if std::mem::replace(&mut calls, world.faults().calls()) != world.faults().calls() {
            between(world.faults().calls());
        }
        assert!(world.faults().calls() < MOST_CALLS, "it does not end:\n{}", last_calls(world));
        if let Poll::Ready(output) = polled {
            world.clock().set_auto_advance(true);
            return Some(output);
        }
    }
}

/// Calls after which a run of the few hosts here is one that goes round in circles.
const MOST_CALLS: usize = 10_000;

fn last_calls(world: &World) -> String {
    let calls = world.faults().calls();
    (calls.saturating_sub(80)..calls).map(|call| world.faults().describe(call)).collect::<Vec<_>>().join("\n")
}

/// Seconds without a call after which nothing will come any more.
const LONGEST_WAIT: u32 = 10_000;

pub type When<'a> = &'a dyn Fn() -> String;

/// What was seen of one host.
#[derive(Debug)]
struct HostSeen {
    foreign: Vec<u8>,
    file: Vec<u8>,
    logins: usize,
    /// Lines without an end that were in the file when their key logged in, and are still as they were then.
    proven: BTreeSet<Vec<u8>>,
    /// Whether it was manageable when it was last looked at.
    anchored: bool,
}

/// What was seen of a world so far.
#[derive(Debug)]
pub struct Watch {
    lab: Lab,
    hosts: BTreeMap<Account, HostSeen>,
    /// Every master key that ever was in the store.
    keys: Vec<PublicKey>,
    current: PublicKey,
    held: Vec<PublicKey>,
    /// Whether the store's keys may have changed since the last look.
    pub keys_changed: bool,
    now: Timestamp,
}

impl Watch {
    /// What is there now is taken for proven: the hosts were managed before.
    pub fn new(lab: &Lab) -> Self {
        let keys: Vec<PublicKey> = lab.keys().into_iter().map(|key| key.public_key).collect();
        let mut hosts = BTreeMap::new();
        for account in &lab.accounts {
            let file = lab.file(account);
            let foreign = foreign(&file, &keys);
            let proven: BTreeSet<Vec<u8>> = lines(&file, &keys).filter(|line| !has_end(line)).map(<[u8]>::to_vec).collect();
            let logins = lab.world.fleet().logins(account).len();
            hosts.insert(account.clone(), HostSeen { foreign, file, logins, proven, anchored: true });
        }
        let current = lab.current();
        Self { now: lab.world.clock().now(), lab: lab.clone(), hosts, held: keys.clone(), keys, current, keys_changed: false }
    }

    /// Looks at the store and at the hosts.
    pub fn look(&mut self, when: When<'_>) {
        let now = self.lab.world.clock().now();
        let something = now != self.now || self.keys_changed;
        self.now = now;
        if something {
            self.held = self.lab.keys().into_iter().map(|key| key.public_key).collect();
            self.keys_changed = false;
        }
        for key in &self.held {
            if !self.keys.contains(key) {
                self.keys.push(key.clone());
            }
        }
        let current = if something { self.lab.current() } else { self.current.clone() };
        let held = &self.held;
        for (account, seen) in &mut self.hosts {
            let file = self.lab.file(account);
            let logins = self.lab.world.fleet().logins(account);
            if !something && file == seen.file && logins.len() == seen.logins {
                continue;
            }
            let new_logins: Vec<PublicKey> = logins.iter().skip(seen.logins).map(|(key, _)| key.clone()).collect();
            // What a login between two looks was made with: the file before it, which is the file after it but for one call.
            for key in &new_logins {
                let with: Vec<Vec<u8>> =
                    lines(&seen.file, std::slice::from_ref(key)).filter(|line| !has_end(line)).map(<[u8]>::to_vec).collect();
                seen.proven.extend(with);
            }
            seen.logins = logins.len();
            if file != seen.file {
                let changed: Vec<&PublicKey> = self
                    .keys
                    .iter()
                    .filter(|key| {
                        let key = std::slice::from_ref(*key);
                        !lines(&file, key).eq(lines(&seen.file, key))
                    })
                    .collect();
                assert!(changed.len() <= 1, "{}: {account}: one write changed several keys", when());
                assert_eq!(
                    String::from_utf8_lossy(&foreign(&file, &self.keys)),
                    String::from_utf8_lossy(&seen.foreign),
                    "{}: {account}: foreign bytes are changed",
                    when()
                );
                seen.file.clone_from(&file);
            }
            seen.proven.retain(|proven| lines(&file, &self.keys).any(|line| line == proven));
            // A key that the store holds, on a line without an end that has logged in with these very bytes.
            let anchored = held.iter().any(|key| {
                self.lab.lets_in(account, key)
                    && lines(&file, std::slice::from_ref(key)).any(|line| !has_end(line) && seen.proven.contains(line))
            });
            assert!(
                anchored || !seen.anchored,
                "{}: {account} is not anchored:\n{}",
                when(),
                lines(&file, &self.keys).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n")
            );
            seen.anchored = anchored;
        }
        if current != self.current {
            let proven =
                self.hosts.keys().any(|account| self.lab.world.fleet().logins(account).iter().any(|(key, _)| *key == current));
            assert!(proven || self.hosts.is_empty(), "{}: a key is called current that no host has proven", when());
            self.current = current;
        }
    }

    /// A host that comes under management while somebody watches.
    pub fn take_in(&mut self, account: &Account) {
        let file = self.lab.file(account);
        let foreign = foreign(&file, &self.keys);
        let proven = lines(&file, &self.keys).filter(|line| !has_end(line)).map(<[u8]>::to_vec).collect();
        let logins = self.lab.world.fleet().logins(account).len();
        self.hosts.insert(account.clone(), HostSeen { foreign, file, logins, proven, anchored: true });
        self.lab.accounts.push(account.clone());
    }
}

fn lines<'a>(file: &'a [u8], keys: &'a [PublicKey]) -> impl Iterator<Item = &'a [u8]> {
    file.split(|byte| *byte == b'\n').filter(move |line| keys.iter().any(|key| holds(line, key)))
}

fn foreign(file: &[u8], keys: &[PublicKey]) -> Vec<u8> {
    let theirs = file.split(|byte| *byte == b'\n').filter(|line| !keys.iter().any(|key| holds(line, key)));
    theirs.collect::<Vec<_>>().join(&b'\n')
}

fn has_end(line: &[u8]) -> bool {
    line.windows(12).any(|window| window == b"expiry-time=")
}

/// A process that can be left standing between two calls.
pub struct Standing<'a, T>(Pin<Box<dyn Future<Output = T> + 'a>>);

impl<'a, T> Standing<'a, T> {
    /// Starts nothing yet.
    pub fn new(process: impl Future<Output = T> + 'a) -> Self {
        Self(Box::pin(process))
    }

    /// Runs until so many calls were made; the next one waits for its turn.
    pub fn run_to(&mut self, world: &World, calls: usize) -> Option<T> {
        world.faults().take_turns(true);
        world.clock().set_auto_advance(false);
        let waker = Waker::from(Arc::new(Flag(AtomicBool::new(true))));
        while world.faults().calls() < calls {
            if let Poll::Ready(output) = self.0.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Some(output);
            }
        }
        None
    }

    /// As [`run_to`](Self::run_to), with a look after each call.
    pub fn run_watched_to(&mut self, world: &World, watch: &mut Watch, calls: usize) -> Option<T> {
        let until =
            poll_fn(
                |context| {
                    if world.faults().calls() >= calls { Poll::Ready(None) } else { self.0.as_mut().poll(context).map(Some) }
                },
            );
        watched(world, watch, until).flatten()
    }

    /// Runs to its end, with a look after each call.
    pub fn run_on(self, world: &World, watch: &mut Watch) -> Option<T> {
        watched(world, watch, self.0)
    }
}
