//! R11: hosts that are brought in, or brought in once more, while the master key of a real fleet is renewed.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support;
use crate::support::fleet::{lets_in, lines_of};
use crate::support::running::{Running, publics};
use crate::support::{Fleet, RealSshd, Toehold};
use serde_json::Value;

/// A rotation that gives up no host while the test lasts, one host after the other.
fn patient(grace: &str) -> Vec<&str> {
    let limits = ["--connect-timeout", "300s", "--login-timeout", "300s", "--request-timeout", "300s", "--timeout", "300s"];
    [&["--json", "key", "rotate", "--grace", grace, "--concurrency", "1"][..], &limits].concat()
}

/// The host that is worked on last.
fn last(fleet: &Fleet) -> usize {
    fleet.all().into_iter().max_by_key(|number| fleet.hosts[*number].account()).unwrap()
}

fn phase(fleet: &Fleet) -> String {
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
    status["rotation"]["phase"].as_str().unwrap().to_owned()
}

/// The host has the current key, and of the rotation's keys no other.
fn has_exactly_the_current_key(fleet: &Fleet, host: &RealSshd, keys: &[&toehold_core::Identity]) {
    let current = fleet.current();
    assert_eq!(lines_of(host, &publics(keys.iter().copied())), [(current.public_key().clone(), false)]);
    assert_eq!(lets_in(&[host], &current), [true]);
}

#[test]
fn r11_a_host_that_comes_in_has_exactly_the_keys_of_the_phase_and_in_the_end_exactly_the_new_one() {
    for wanted in ["installing", "switching", "retiring"] {
        let fleet = Fleet::new(3);
        let (old, late) = (fleet.current(), RealSshd::start());
        let hangs = last(&fleet);
        if wanted == "installing" {
            // With a host that does not answer the phase lasts.
            fleet.hosts[hangs].suspend();
        }
        let grace = if wanted == "retiring" { "30s" } else { "0s" };
        let barrier = support::store::open(&fleet.toehold);
        if wanted == "switching" {
            // The barrier is one write: the store refuses it, and the leader stands still before it.
            barrier
                .execute_batch(
                    "CREATE TRIGGER barrier BEFORE UPDATE ON entry WHEN old.key = 'masterkey/current'
                     BEGIN SELECT RAISE(ABORT, 'not now'); END",
                )
                .unwrap();
        }
        let mut running = Some(Running::start(&fleet.toehold, &patient(grace)));
        match (wanted, &mut running) {
            ("installing", Some(running)) => drop(running.until(|event| event["event"] == "host_begun").unwrap()),
            ("retiring", Some(running)) => drop(running.until(|event| event["event"] == "grace").unwrap()),
            (_, running) => {
                let (code, said) = running.take().unwrap().ends();
                assert_eq!(code, 3, "{said}");
                barrier.execute_batch("DROP TRIGGER barrier").unwrap();
            }
        }
        let (current, in_phase) = (fleet.current(), phase(&fleet));
        assert_eq!(in_phase, wanted);
        assert_eq!(current.public_key() == old.public_key(), wanted != "retiring");
        let (account, home) = (late.account().to_string(), late.home());
        fleet.toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"]).ends(0);
        let held = fleet.held();
        assert_eq!(held.len(), 2, "{in_phase}");
        has_exactly_the_current_key(&fleet, &late, &held.iter().collect::<Vec<_>>());
        if wanted == "installing" {
            fleet.hosts[hangs].resume();
        }
        let resume = ["--json", "key", "rotate", "--resume", "--take-over"];
        let (code, said) = running.unwrap_or_else(|| Running::start(&fleet.toehold, &resume)).ends();
        assert_eq!(code, 0, "{wanted}: {said}");
        assert_ne!(fleet.current().public_key(), old.public_key());
        has_exactly_the_current_key(&fleet, &late, &held.iter().collect::<Vec<_>>());
        assert_eq!(lets_in(&[&late], &old), [false], "{wanted}");
        fleet.is_settled(&fleet.all(), &[&old], wanted);
        fleet.owes_nothing(wanted);
    }
}

/// Begun before the rotation, with the key that was current then, and pasted when that is being retired.
#[test]
fn r11_a_host_that_is_brought_in_again_with_the_old_key_is_led_on_once_more() {
    let fleet = Fleet::new(3);
    let old = fleet.current();
    let hangs = last(&fleet);
    let again = fleet.all().into_iter().min_by_key(|number| fleet.hosts[*number].account()).unwrap();
    let host = &fleet.hosts[again];
    let (account, home) = (host.account().to_string(), host.home());
    let mut child = fleet
        .toehold
        .command(["--json", "host", "add", &account, "--home", home.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = loop {
        let event: Value = serde_json::from_str(&events.next().expect("it has shown no line").unwrap()).unwrap();
        if event["event"] == "command" {
            break event["command"].as_str().unwrap().to_owned();
        }
    };
    let mut running = Running::start(&fleet.toehold, &patient("0s"));
    running.until(|event| Running::is_phase(event, "proving")).unwrap();
    fleet.hosts[hangs].suspend();
    running.until(|event| event["event"] == "host_done" && event["phase"] == "settled" && event["account"] == account).unwrap();
    assert_eq!(phase(&fleet), "retiring");
    assert_eq!(lets_in(&[host], &old), [false], "it was settled");
    assert!(Command::new("sh").args(["-c", &line]).output().unwrap().status.success());
    events.for_each(drop);
    let added = Toehold::wait(child);
    assert_eq!(added.code, 0, "{}", added.stderr);
    assert_eq!(lets_in(&[host], &old), [true], "the session has put its key there");
    fleet.hosts[hangs].resume();
    let (code, said) = running.ends();
    assert_eq!(code, 0, "{said}");
    fleet.is_settled(&fleet.all(), &[&old], "brought in again");
    fleet.owes_nothing("brought in again");
}
