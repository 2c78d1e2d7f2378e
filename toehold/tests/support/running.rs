//! A `key rotate` whose events are read as they come.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use toehold_core::{Identity, PublicKey};

use super::cli::Toehold;

/// Limits that make a host that hangs known for one while the test lasts.
pub const QUICK: [&str; 6] = ["--connect-timeout", "2s", "--login-timeout", "6s", "--request-timeout", "6s"];

pub fn publics<'a>(identities: impl IntoIterator<Item = &'a Identity>) -> Vec<PublicKey> {
    identities.into_iter().map(|identity| identity.public_key().clone()).collect()
}

/// `key rotate` with quick limits, no grace and JSON.
pub fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["--json", "key", "rotate"];
    arguments.extend(QUICK);
    arguments.extend(["--timeout", "10s"]);
    arguments.extend(more);
    arguments
}

/// A rotation that has begun, whose events are read as they come.
#[derive(Debug)]
pub struct Running {
    child: Child,
    events: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Running {
    pub fn start(toehold: &Toehold, arguments: &[&str]) -> Self {
        let mut command = toehold.command(arguments.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, events }
    }

    /// Waits for an event that this is true of; what it was, or `None` where it ended without one.
    pub fn until(&mut self, wanted: impl Fn(&serde_json::Value) -> bool) -> Option<serde_json::Value> {
        for line in self.events.by_ref() {
            let event: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if wanted(&event) {
                return Some(event);
            }
        }
        None
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it where it is, but not while it holds the store's lock, which would stop everybody.
    pub fn stop(&self, toehold: &Toehold) {
        let database = super::store::open(toehold);
        database.busy_timeout(std::time::Duration::ZERO).unwrap();
        loop {
            self.signal(Signal::STOP);
            let stat = format!("/proc/{}/stat", self.child.id());
            while !std::fs::read_to_string(&stat).unwrap().rsplit(')').next().unwrap().starts_with(" T") {
                std::thread::yield_now();
            }
            if database.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok() {
                return;
            }
            self.signal(Signal::CONT);
        }
    }

    pub fn ends(mut self) -> (i32, String) {
        let mut rest = String::new();
        for line in self.events.by_ref() {
            rest.push_str(&line.unwrap());
            rest.push('\n');
        }
        let output = self.child.wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), rest + &String::from_utf8_lossy(&output.stderr))
    }

    /// Whether this says that the fleet has come to this phase.
    pub fn is_phase(event: &serde_json::Value, phase: &str) -> bool {
        event["event"] == "phase" && event["phase"] == phase
    }
}
