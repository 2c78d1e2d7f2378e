//! The periodic renewer as a foreground service, over a real fleet.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::support;
use crate::support::Fleet;
use crate::support::fleet::wait;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use toehold::state::{NoPassphrase, State};
use toehold_core::{Stored, Timestamp};
use toehold_masterkey::renewal::RenewalSchedule;

/// The schedule as the store has it.
fn schedule(fleet: &Fleet) -> Option<RenewalSchedule> {
    wait(async {
        let state = State::open(&fleet.toehold.state(), NoPassphrase).unwrap();
        let stored = Stored::read(state.store(), &RenewalSchedule::key("master-key").unwrap()).await.unwrap();
        stored.map(|stored| stored.body)
    })
}

/// Puts the schedule there as a process of a month ago has left it.
fn is_due(fleet: &Fleet) {
    wait(async {
        let state = State::open(&fleet.toehold.state(), NoPassphrase).unwrap();
        let key = RenewalSchedule::key("master-key").unwrap();
        let (interval, due_at) = (30 * 86_400, Timestamp::from_unix_seconds(1_700_000_000));
        let due =
            RenewalSchedule { interval, due_at, retry_at: None, failures: 0, reason: None, from: None, claim: None, last: None };
        match Stored::<RenewalSchedule>::read(state.store(), &key).await.unwrap() {
            None => drop(Stored::create(state.store(), key, due).await.unwrap()),
            Some(mut stored) => {
                stored.body = due;
                stored.save(state.store()).await.unwrap();
            }
        }
    });
}

/// A renewer under way, and what it says.
struct Renewer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Renewer {
    fn start(fleet: &Fleet, more: &[&str]) -> Self {
        let mut arguments = vec!["--json", "key", "renew", "--every", "30d", "--grace", "0s"];
        arguments.extend(more);
        let mut child = fleet.toehold.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next event of this kind.
    fn says(&mut self, event: &str) -> Value {
        for line in &mut self.lines {
            let document: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if document["event"] == event {
                return document;
            }
        }
        panic!("it ended and never said {event}");
    }

    fn stops(self) -> Option<i32> {
        self.ends_by(Signal::TERM)
    }

    fn ends_by(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        self.lines.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_renewal_that_was_missed_takes_place_once_and_the_next_is_an_interval_away() {
    let fleet = Fleet::new(2);
    let old = fleet.current();
    is_due(&fleet);
    let mut renewer = Renewer::start(&fleet, &[]);
    let took_place = renewer.says("renewed");
    renewer.says("waiting");
    assert_eq!(renewer.stops(), Some(0));
    let new = fleet.current();
    assert_eq!(took_place["key"], new.public_key().fingerprint().to_string());
    // Nobody is there to be asked: that a copy does not have this key stands where it is told, and where it can be asked for.
    let advice = took_place["advice"].as_str().unwrap_or_default();
    assert!(advice.contains("no recovery copy"), "{took_place}");
    assert_eq!(fleet.toehold.run(["--json", "key", "status"]).ends(0).json()["advice"], advice);
    assert!(fleet.toehold.run(["key", "status"]).ends(0).stdout.contains(advice));
    fleet.is_settled(&fleet.all(), &[&old], "after the renewal");

    // Started again, there is nothing to be done.
    let mut renewer = Renewer::start(&fleet, &[]);
    let waiting = renewer.says("waiting");
    assert_eq!(waiting["until"], took_place["due_at"]);
    assert_eq!(renewer.stops(), Some(0));
    assert_eq!(fleet.current().public_key(), new.public_key());
}

#[test]
fn a_renewal_that_fails_is_told_and_the_renewer_lives_on() {
    let mut fleet = Fleet::new(2);
    let old = fleet.current();
    is_due(&fleet);
    fleet.hosts[1].go_away();
    let mut renewer = Renewer::start(&fleet, &[]);
    let failed = renewer.says("failed");
    assert!(failed["reason"].as_str().unwrap().contains("rolled back"), "{failed}");
    renewer.says("waiting");
    assert_eq!(renewer.stops(), Some(3));
    let noted = schedule(&fleet).unwrap();
    assert_eq!((noted.failures, noted.last), (1, None));
    assert_eq!(fleet.current().public_key(), old.public_key());

    // What is due stays due.
    fleet.hosts[1].come_back();
    is_due(&fleet);
    let mut renewer = Renewer::start(&fleet, &[]);
    renewer.says("renewed");
    assert_eq!(renewer.stops(), Some(0));
    fleet.is_settled(&fleet.all(), &[&old], "after the second try");
}

#[test]
fn a_signal_while_owed_hosts_are_still_being_settled_begins_no_rotation() {
    let mut fleet = Fleet::new(2);
    fleet.hosts[1].go_away();
    fleet.rotate(&["--grace", "0s", "--on-unreachable", "defer"]).ends(3);
    fleet.hosts[1].come_back();
    fleet.hosts[1].suspend();
    let current = fleet.current();
    is_due(&fleet);
    let mut renewer = Renewer::start(&fleet, &[]);
    assert_eq!(renewer.says("host_begun")["account"], fleet.hosts[1].account().to_string());
    kill_process(Pid::from_child(&renewer.child), Signal::TERM).unwrap();
    fleet.hosts[1].resume();
    let failed = renewer.says("failed");
    assert!(failed["reason"].as_str().unwrap().contains("interrupted before it was begun"), "{failed}");
    renewer.lines.by_ref().for_each(drop);
    assert_eq!(renewer.child.wait().unwrap().code(), Some(3));
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(0).json();
    assert_eq!((&status["rotation"], &status["generation"]), (&Value::Null, &1.into()), "{status}");
    assert_eq!(fleet.current().public_key(), current.public_key());
}

/// Lets the times pass for which another process leaves alone what a dead one had taken.
fn time_passes(fleet: &Fleet) {
    let long_ago = "2026-01-01T00:00:00Z";
    support::store::change(&fleet.toehold, "renewal/master-key", |schedule| {
        if !schedule["claim"].is_null() {
            schedule["claim"]["until"] = long_ago.into();
        }
        if !schedule["retry_at"].is_null() {
            schedule["retry_at"] = long_ago.into();
        }
    });
    support::store::change(&fleet.toehold, "rotation/1", |rotation| rotation["seen_at"] = long_ago.into());
}

#[test]
fn a_renewal_that_a_signal_has_ended_or_killed_is_finished_by_the_next_process_and_not_doubled() {
    for signal in [Signal::KILL, Signal::TERM] {
        let fleet = Fleet::new(3);
        let old = fleet.current();
        is_due(&fleet);
        let mut renewer = Renewer::start(&fleet, &["--concurrency", "1"]);
        renewer.says("host_step");
        let ended = renewer.ends_by(signal);
        assert_eq!(ended, (signal == Signal::TERM).then_some(3), "what is due was not done");
        let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
        assert_eq!(status["rotation"]["number"], 1, "{status}");
        fleet.is_anchored(&fleet.all(), "in the middle of a renewal");
        let new = status["rotation"]["new"].as_str().unwrap().to_owned();

        // While the other one may be alive it is left alone.
        let mut renewer = Renewer::start(&fleet, &[]);
        let first = renewer.says(if signal == Signal::KILL { "elsewhere" } else { "waiting" });
        assert!(first.is_object());
        assert_eq!(renewer.stops(), Some(0));
        time_passes(&fleet);
        let mut renewer = Renewer::start(&fleet, &[]);
        renewer.says("renewed");
        renewer.says("waiting");
        assert_eq!(renewer.stops(), Some(0));
        assert_eq!(fleet.toehold.master_key(), new, "another rotation was begun");
        fleet.is_settled(&fleet.all(), &[&old], "finished by the next process");
        let status = fleet.toehold.run(["--json", "key", "status"]).ends(0).json();
        assert_eq!(status["generation"], 1, "{status}");
        fleet.owes_nothing("finished by the next process");
    }
}
