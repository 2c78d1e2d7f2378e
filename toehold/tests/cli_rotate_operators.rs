//! Several at once: operators who renew one master key, one who is interrupted, one who brings in a host meanwhile.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod support;

use std::process::Child;

use rustix::process::Signal;
use support::fleet::lines_of;
use support::running::{QUICK, Running, arguments, publics};
use support::{Done, Fleet, RealSshd, Toehold};

fn settle(fleet: &Fleet) -> Done {
    fleet.toehold.run([&["--json", "key", "settle"], QUICK.as_slice()].concat())
}

#[test]
fn two_renewals_at_once_are_one_and_a_refusal() {
    let fleet = Fleet::new(5);
    let old = fleet.current();
    for round in 0..3 {
        let before = fleet.current();
        let children: Vec<Child> = (0..3).map(|_| fleet.toehold.spawn(arguments(&["--grace", "0s"]))).collect();
        let done: Vec<Done> = children.into_iter().map(Toehold::wait).collect();
        let won: Vec<&Done> = done.iter().filter(|done| done.code == 0).collect();
        assert!(!won.is_empty(), "{done:?}");
        for lost in done.iter().filter(|done| done.code != 0) {
            assert!(lost.stderr.contains("is open"), "round {round}: {}", lost.stderr);
        }
        fleet.is_settled(&fleet.all(), &[&before, &old], "two at once");
        fleet.owes_nothing("two at once");
    }
}

#[test]
fn r8_a_leader_who_was_taken_over_is_fenced_off() {
    let fleet = Fleet::new(5);
    let old = fleet.current();
    let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--concurrency", "1"]));
    running.until(|event| event["event"] == "host_step").unwrap();
    running.stop(&fleet.toehold);
    // Its leader wrote just now: nobody else goes on without saying so.
    let polite = fleet.toehold.run(arguments(&["--resume"])).ends(1);
    assert!(polite.stderr.contains("--take-over"), "{}", polite.stderr);
    fleet.toehold.run(arguments(&["--resume", "--take-over"])).ends(0);
    let before: Vec<Vec<u8>> = fleet.hosts.iter().map(|host| std::fs::read(host.authorized_keys()).unwrap()).collect();
    running.signal(Signal::CONT);
    let (code, said) = running.ends();
    assert_ne!(code, 0, "{said}");
    let after: Vec<Vec<u8>> = fleet.hosts.iter().map(|host| std::fs::read(host.authorized_keys()).unwrap()).collect();
    assert_eq!(before, after, "a late write of a fenced leader: {said}");
    fleet.is_settled(&fleet.all(), &[&old], "taken over");
    fleet.owes_nothing("taken over");
}

#[test]
fn r11_a_host_that_comes_in_while_a_rotation_runs_ends_with_the_key_of_that_phase() {
    let fleet = Fleet::new(4);
    let old = fleet.current();
    let late = RealSshd::start();
    let (account, home) = (late.account().to_string(), late.home());
    let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--concurrency", "1"]));
    running.until(|event| event["event"] == "host_begun").unwrap();
    let added = fleet.toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"]);
    let (code, said) = running.ends();
    assert_eq!(added.code, 0, "{}", added.stderr);
    assert!(matches!(code, 0 | 3), "{code}: {said}");
    settle(&fleet).ends(0);
    let new = fleet.current();
    assert_eq!(support::fleet::lets_in(&[&late], &new), [true]);
    assert_eq!(support::fleet::lets_in(&[&late], &old), [false]);
    assert_eq!(lines_of(&late, &publics([&old, &new])), [(new.public_key().clone(), false)]);
    fleet.is_settled(&fleet.all(), &[&old], "with a host that came late");
    fleet.owes_nothing("with a host that came late");
}

#[test]
fn an_interrupted_rotation_stops_at_a_safe_point_and_says_how_to_go_on() {
    for back in [false, true] {
        let fleet = Fleet::new(6);
        let old = fleet.current();
        let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--concurrency", "1"]));
        running.until(|event| event["event"] == "host_done").unwrap();
        running.signal(if back { Signal::TERM } else { Signal::INT });
        let (code, said) = running.ends();
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("--resume") && said.contains("--rollback"), "{said}");
        fleet.is_anchored(&fleet.all(), "interrupted");
        let more = if back { ["--rollback", "--take-over"] } else { ["--resume", "--take-over"] };
        fleet.toehold.run(arguments(&more)).ends(0);
        let gone = if back { Vec::new() } else { vec![&old] };
        fleet.is_settled(&fleet.all(), &gone, "gone on");
        assert_eq!(fleet.current().public_key() == old.public_key(), back);
        fleet.owes_nothing("gone on");
    }
}
