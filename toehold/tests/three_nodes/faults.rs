//! What happens in the middle of the work, and when it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::network::Halves;
use crate::server::{self, Cluster};
use crate::site::BUCKET;
use crate::size::Size;
use crate::support::Done;
use crate::support::fleet::wait;

/// How long it may take until everything is done that has to be done.
pub fn patience() -> Duration {
    Duration::from_secs(if Size::of_environment().is_large() { 1_200 } else { 180 })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A server is killed that does not lead the store.
    Follower,
    /// The server is killed that does.
    Leader,
    /// The first server is cut off from the two others.
    Cut,
}

/// The servers, and what is between them.
#[derive(Debug)]
pub struct Ground {
    pub cluster: Cluster,
    pub halves: Option<Halves>,
    killed: Option<usize>,
    is_cut: bool,
}

impl Ground {
    pub fn new(cluster: Cluster, halves: Option<Halves>) -> Self {
        Self { cluster, halves, killed: None, is_cut: false }
    }

    /// A server that is there, on the side of the test.
    fn witness(&self) -> usize {
        (0..3).rev().find(|number| self.killed != Some(*number)).expect("two of three are there")
    }

    /// Before the work begins.
    pub fn prepare(&self, fault: Fault) {
        wait(self.cluster.await_current(BUCKET, self.witness()));
        if fault == Fault::Cut {
            // Before 2.9.21, and so with Debian's 2.9.10, a server that led while it was cut off keeps what nobody else agreed to (`cut.rs`), and
            // no client has one store any more. With those a server of the right half leads.
            self.is_led_by(if server::version() >= [2, 9, 21] { 0 } else { 2 });
        }
    }

    /// Lets this server lead the store.
    pub fn is_led_by(&self, leader: usize) {
        wait(self.cluster.lead_by(BUCKET, leader, self.witness()));
    }

    /// Does this where the test is, on the right side.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.halves.as_ref().expect("there are two halves").right.enter(work)
    }

    /// The fault begins.
    pub fn strike(&mut self, fault: Fault) {
        let leader = wait(self.cluster.await_leader(BUCKET, self.witness()));
        println!("{fault:?}: server {leader} leads");
        match fault {
            Fault::Follower => self.kill((leader + 1) % 3),
            Fault::Leader => self.kill(leader),
            Fault::Cut => {
                self.halves.as_ref().expect("there are two halves").cut();
                self.is_cut = true;
            }
        }
    }

    fn kill(&mut self, number: usize) {
        self.cluster.servers[number].kill();
        self.killed = Some(number);
    }

    /// The fault ends, and the servers are three again.
    pub fn heal(&mut self) {
        if let Some(number) = self.killed.take() {
            self.cluster.servers[number].up();
        }
        if std::mem::take(&mut self.is_cut) {
            self.halves.as_ref().expect("there are two halves").mend();
        }
        wait(self.cluster.await_current(BUCKET, self.witness()));
    }
}

/// What the workers are told of the fault.
#[derive(Debug, Default)]
pub struct Weather {
    struck: AtomicBool,
    cut: AtomicBool,
}

impl Weather {
    pub fn strikes(&self, ground: &mut Ground, fault: Fault) {
        ground.strike(fault);
        self.cut.store(fault == Fault::Cut, Ordering::SeqCst);
        self.struck.store(true, Ordering::SeqCst);
    }

    pub fn clears(&self, ground: &mut Ground) {
        self.cut.store(false, Ordering::SeqCst);
        ground.heal();
    }

    /// Whether it has come, over by now or not.
    pub fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < patience(), "{what}: not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command did what was asked, or says what is not done and why; it did not break.
#[track_caller]
pub fn is_fair(done: &Done) {
    let Done { code, stdout, stderr } = done;
    assert!(matches!(code, 0 | 1 | 3), "exit code {code}: {stdout} {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(*code == 0 || !stderr.trim().is_empty(), "exit code {code} without a word: {stdout}");
}

impl Done {
    /// Its last words.
    pub fn said(&self) -> String {
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('{')).collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }
}
