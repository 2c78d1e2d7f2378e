//! Several at once: operators who renew one master key, one who waits for hosts, one who is interrupted.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::running::{Running, arguments};
use crate::support::{Done, Fleet, Toehold};
use rustix::process::Signal;
use toehold_core::Timestamp;

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

/// Nobody takes the lead from somebody who waits for a host.
#[test]
fn a_leader_whose_hosts_hang_says_that_it_is_alive() {
    let fleet = Fleet::new(2);
    let old = fleet.current();
    for host in &fleet.hosts {
        host.suspend();
    }
    let limits = ["--connect-timeout", "300s", "--login-timeout", "300s", "--request-timeout", "300s", "--timeout", "300s"];
    let arguments: Vec<&str> = [&["--json", "key", "rotate", "--grace", "0s"][..], &limits].concat();
    let mut running = Running::start(&fleet.toehold, &arguments);
    running.until(|event| event["event"] == "host_begun").unwrap();
    let seen = || {
        let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
        let text = |member: &str| status["rotation"][member].as_str().unwrap().to_owned();
        (text("seen_at").parse::<Timestamp>().unwrap(), text("phase"))
    };
    let (first, patience) = (seen().0, Instant::now());
    loop {
        let (at, phase) = seen();
        assert_eq!(phase, "installing");
        // Twice: the lead would be free to be taken a minute after the first write.
        if at.saturating_since(first) >= Duration::from_secs(39) {
            break;
        }
        assert!(patience.elapsed() < Duration::from_secs(120), "its leader has been silent since {at}");
        std::thread::park_timeout(Duration::from_millis(200));
    }
    let polite = fleet.toehold.run(["key", "rotate", "--resume"]).ends(1);
    assert!(polite.stderr.contains("--take-over"), "{}", polite.stderr);
    for host in &fleet.hosts {
        host.resume();
    }
    let (code, said) = running.ends();
    assert_eq!(code, 0, "{said}");
    fleet.is_settled(&fleet.all(), &[&old], "it has waited");
    fleet.owes_nothing("it has waited");
}

#[test]
fn a_grace_is_left_at_once_when_a_signal_comes() {
    let fleet = Fleet::new(1);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "1h"]));
        running.until(|event| event["event"] == "grace").unwrap();
        let begun = Instant::now();
        running.signal(signal);
        let (code, said) = running.ends();
        // It was up to twenty seconds; the rest is room for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        println!("left {:?} after the signal", begun.elapsed());
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("--resume") && said.contains("--rollback"), "{said}");
        // It said that it left: nobody has to take over.
        fleet.toehold.run(["key", "rotate", "--rollback"]).ends(0);
    }
    fleet.owes_nothing("left in the grace");
}

#[test]
fn a_way_back_that_was_cut_off_and_is_resumed_ends_well() {
    let fleet = Fleet::new(4);
    let old = fleet.current();
    fleet.toehold.run(arguments(&["--grace", "1h", "--no-wait"])).ends(3);
    let mut back = Running::start(&fleet.toehold, &arguments(&["--rollback", "--concurrency", "1"]));
    back.until(|event| event["event"] == "host_done").unwrap();
    back.signal(Signal::KILL);
    back.ends();
    let resumed = fleet.toehold.run(arguments(&["--resume", "--take-over"])).ends(0);
    assert_eq!(resumed.json()["event"], "rolled_back");
    assert_eq!(fleet.current().public_key(), old.public_key());
    fleet.owes_nothing("resumed on the way back");
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
