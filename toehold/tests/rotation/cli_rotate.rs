//! The master key of a real fleet, renewed.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::support;
use crate::support::fleet::lets_in;
use crate::support::running::publics;
use crate::support::{Fleet, RealAgent, Toehold};

#[test]
fn a_fleet_ends_with_exactly_the_new_key_and_everybody_elses_lines() {
    let fleet = Fleet::new(5);
    let old = fleet.current();
    let done = fleet.rotate(&["--grace", "0s"]).ends(0);
    let new = fleet.current();
    assert_ne!(new.public_key(), old.public_key());
    fleet.is_settled(&fleet.all(), &[&old], "after the rotation");
    fleet.foreign_lines_are_kept(&publics([&old, &new]));
    fleet.owes_nothing("after the rotation");

    let events = done.lines();
    let phases: Vec<&str> =
        events.iter().filter(|event| event["event"] == "phase").map(|event| event["phase"].as_str().unwrap()).collect();
    let seen: BTreeSet<&str> = phases.iter().copied().collect();
    for phase in ["installing", "switching", "retiring"] {
        assert!(seen.contains(phase), "{phases:?}");
    }
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["owed"]), (&"done".into(), &0.into()), "{last}");
    assert_eq!(last["hosts"].as_array().unwrap().len(), 5);

    // And again, with every kind of key.
    for algorithm in ["rsa-2048", "ecdsa-p384", "ed25519"] {
        let before = fleet.current();
        fleet.rotate(&["--grace", "0s", "--algorithm", algorithm]).ends(0);
        fleet.is_settled(&fleet.all(), &[&before, &old], algorithm);
        fleet.owes_nothing(algorithm);
    }
}

#[test]
fn a_hundred_hosts() {
    let begun = Instant::now();
    let fleet = Fleet::new(100);
    let old = fleet.current();
    println!("100 hosts are up after {:?}", begun.elapsed());
    let begun = Instant::now();
    let done = fleet.toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    println!("100 hosts are rotated in {:?}", begun.elapsed());
    // Of so many the slowest alone are named, as all of them are well.
    let slowest: Vec<&str> = done.stdout.lines().filter_map(|line| line.strip_prefix("slowest: ")).collect();
    assert_eq!(slowest.len(), 1, "{}", done.stdout);
    let named: Vec<(&str, f64)> = slowest[0]
        .split(", ")
        .map(|host| {
            let (account, took) = host.strip_suffix(" s").unwrap().split_once(' ').unwrap();
            (account, took.parse().unwrap())
        })
        .collect();
    let accounts: BTreeSet<String> = fleet.accounts().iter().map(ToString::to_string).collect();
    assert!(named.len() == 5 && named.iter().all(|(account, _)| accounts.contains(*account)), "{}", slowest[0]);
    assert!(named.is_sorted_by(|(_, one), (_, other)| one >= other), "{}", slowest[0]);
    let new = fleet.current();
    fleet.is_settled(&fleet.all(), &[&old], "a hundred hosts");
    fleet.foreign_lines_are_kept(&publics([&old, &new]));
    fleet.owes_nothing("a hundred hosts");
}

#[test]
fn within_the_grace_both_keys_log_in_and_it_can_be_taken_back() {
    let fleet = Fleet::new(3);
    let old = fleet.current();
    let open = fleet.rotate(&["--grace", "1h", "--no-wait"]).ends(3);
    assert!(open.stderr.contains("--rollback"), "{}", open.stderr);
    let new = fleet.current();
    assert_ne!(new.public_key(), old.public_key());
    let keys = publics([&old, &new]);
    for host in &fleet.hosts {
        let mut lines = support::fleet::lines_of(host, &keys);
        lines.sort_by_key(|(_, ends)| *ends);
        assert_eq!(lines, [(new.public_key().clone(), false), (old.public_key().clone(), true)], "the soft revoke");
    }
    assert_eq!(fleet.lets_in(&old), [true; 3]);
    assert_eq!(fleet.lets_in(&new), [true; 3]);
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
    assert!(status["rotation"]["retire_at"].is_string(), "{status}");
    // A second one is refused, with who holds the first and since when.
    let refused = fleet.rotate(&["--grace", "0s"]).ends(1);
    assert!(refused.stderr.contains("is open") && refused.stderr.contains(" since "), "{}", refused.stderr);

    fleet.rotate(&["--rollback", "--take-over"]).ends(0);
    assert_eq!(fleet.current().public_key(), old.public_key());
    fleet.is_settled(&fleet.all(), &[&new], "taken back within the grace");
    fleet.foreign_lines_are_kept(&keys);
    fleet.owes_nothing("taken back within the grace");
}

#[test]
fn after_the_grace_the_old_key_is_removed_and_seen_refused() {
    let fleet = Fleet::new(3);
    let old = fleet.current();
    let done = fleet.rotate(&["--grace", "3s"]).ends(0);
    assert!(done.lines().iter().any(|event| event["event"] == "grace"), "{}", done.stdout);
    fleet.is_settled(&fleet.all(), &[&old], "after the grace");
    fleet.owes_nothing("after the grace");
}

#[test]
fn options_of_our_line_are_carried_over() {
    let options = "from=\"127.0.0.0/8\",restrict,command=\"internal-sftp\"";
    let fleet = Fleet::new(2);
    let old = fleet.current();
    for host in &fleet.hosts {
        host.authorize(fleet.file(&format!("{options} {} toehold-master\n", old.public_key())));
    }
    fleet.rotate(&["--grace", "0s"]).ends(0);
    let new = fleet.current();
    fleet.is_settled(&fleet.all(), &[&old], "an SFTP-only key");
    for host in &fleet.hosts {
        let text = String::from_utf8_lossy(&std::fs::read(host.authorized_keys()).unwrap()).into_owned();
        let line = text.lines().find(|line| line.contains(&new.public_key().base64())).unwrap();
        assert!(line.starts_with(options), "{line}");
        assert!(line.contains(" toehold-master"), "{line}");
    }
    fleet.foreign_lines_are_kept(&publics([&old, &new]));
}

#[test]
fn r9_both_copies_go_where_the_key_stands_in_both_files() {
    let fleet = Fleet::new(2);
    let old = fleet.current();
    for host in &fleet.hosts {
        let second = host.home().join(".ssh/authorized_keys2");
        support::server::write_private(&second, format!("{} toehold-master\n", old.public_key()));
    }
    fleet.rotate(&["--grace", "0s"]).ends(0);
    let new = fleet.current();
    let hosts: Vec<_> = fleet.hosts.iter().collect();
    assert_eq!(lets_in(&hosts, &old), [false; 2], "a plain copy in the other file still logs in");
    assert_eq!(lets_in(&hosts, &new), [true; 2]);
    fleet.owes_nothing("both files");
}

#[test]
fn the_canary_goes_first_and_a_dry_run_changes_nothing() {
    let fleet = Fleet::new(5);
    let old = fleet.current();
    let before: Vec<Vec<u8>> = fleet.hosts.iter().map(|host| std::fs::read(host.authorized_keys()).unwrap()).collect();
    let plan = fleet.rotate(&["--canary", "host-3", "--wave", "2", "--dry-run"]).ends(0).json();
    let waves: Vec<usize> = plan["waves"].as_array().unwrap().iter().map(|wave| wave.as_array().unwrap().len()).collect();
    assert_eq!(waves, [1, 2, 2], "{plan}");
    assert_eq!(plan["waves"][0][0], fleet.hosts[3].account().to_string());
    let after: Vec<Vec<u8>> = fleet.hosts.iter().map(|host| std::fs::read(host.authorized_keys()).unwrap()).collect();
    assert_eq!(before, after);
    let unknown = fleet.rotate(&["--canary", "nobody", "--grace", "0s"]).ends(1);
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);
    assert_eq!(fleet.current().public_key(), old.public_key());

    let done = fleet.rotate(&["--canary", "host-3", "--wave", "2", "--grace", "0s"]).ends(0);
    let first = done.lines().into_iter().find(|event| event["event"] == "host_begun").unwrap();
    assert_eq!(first["account"], fleet.hosts[3].account().to_string());
    fleet.is_settled(&fleet.all(), &[&old], "in waves");
}

#[test]
fn r10_the_agent_gets_the_new_key_and_loses_the_old_one_while_both_are_sealed() {
    let fleet = Fleet::new(2);
    let agent = RealAgent::start();
    let run = |arguments: &[&str]| {
        let mut command = fleet.toehold.command(arguments.iter().copied());
        command.env("SSH_AUTH_SOCK", agent.socket()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Toehold::wait(command.spawn().unwrap())
    };
    run(&["key", "load"]).ends(0);
    let old = fleet.current();
    run(&["--use-agent", "key", "rotate", "--grace", "0s"]).ends(0);
    assert_eq!(agent.keys(), [fleet.toehold.master_key()]);
    assert_ne!(fleet.toehold.master_key(), old.public_key().to_string());
    run(&["--use-agent", "host", "check"]).ends(0);
    // The sealed one logs in without the agent.
    fleet.is_settled(&fleet.all(), &[&old], "through the agent");
    fleet.owes_nothing("through the agent");
}
