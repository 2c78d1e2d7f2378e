//! What a rotation does not call done, and how that is said: nothing to rotate, hosts that are owed, a store that fails.

use crate::support;
use crate::support::running::{QUICK, Running, arguments};
use crate::support::{Fleet, Toehold};
use rustix::process::Signal;

#[test]
fn proven_current_a_fleet_without_hosts_is_not_rotated_and_that_is_said_in_words() {
    let toehold = Toehold::new();
    let key = toehold.master_key();
    for more in [&["--grace", "1h"][..], &["--on-unreachable", "defer"], &["--dry-run"]] {
        let done = toehold.run([&["key", "rotate"], more].concat()).ends(1);
        assert!(done.stderr.contains("no host is managed") && done.stderr.contains("host add"), "{}", done.stderr);
        assert_eq!(done.stdout, "");
    }
    let done = toehold.run(["--json", "key", "rotate"]).ends(1).json();
    assert_eq!((&done["exit_code"], done["error"].as_str().unwrap().contains("no host")), (&1.into(), true), "{done}");
    assert_eq!(toehold.master_key(), key);

    let settled = toehold.run(["key", "settle"]).ends(0);
    assert_eq!(settled.stdout, "No host is managed, so none is owed.\n");
    assert_eq!(toehold.run(["--json", "key", "settle"]).ends(0).json()["managed"], 0);
    let status = toehold.run(["key", "status"]).ends(0).stdout;
    assert_eq!(status.lines().count(), 3, "{status}");
    assert!(
        status.starts_with("Master key SHA256:") && status.contains("\nNo host is managed.\nThere is no recovery copy"),
        "{status}"
    );
    let back = toehold.run(["key", "rotate", "--rollback"]).ends(1);
    assert!(back.stderr.contains("no rotation is open"), "{}", back.stderr);
}

#[test]
fn a_rotation_whose_last_host_was_removed_can_be_taken_back() {
    let fleet = Fleet::new(1);
    let old = fleet.current();
    fleet.rotate(&["--grace", "1h", "--no-wait"]).ends(3);
    fleet.toehold.run(["host", "rm", &fleet.hosts[0].account().to_string()]).ends(0);
    let done = fleet.toehold.run(["key", "rotate", "--rollback", "--take-over"]).ends(0);
    assert!(done.stdout.contains("no host is managed") && !done.stdout.starts_with('\n'), "{}", done.stdout);
    assert_eq!(fleet.current().public_key(), old.public_key());
    fleet.toehold.run(["key", "status"]).ends(0);
}

#[test]
fn r7_a_rollback_over_a_host_that_an_earlier_rotation_has_left_behind_says_so() {
    let mut fleet = Fleet::new(2);
    fleet.hosts[1].go_away();
    let account = fleet.hosts[1].account().to_string();
    let defer = ["--grace", "0s", "--on-unreachable", "defer", "--concurrency", "1"];
    let first = fleet.toehold.run(arguments(&defer)).ends(3);
    assert!(first.stderr.contains(&account), "{}", first.stderr);
    let middle = fleet.current();
    // The next one dies before the new key is current.
    let mut running = Running::start(&fleet.toehold, &arguments(&defer));
    running.until(|event| Running::is_phase(event, "installing")).unwrap();
    running.signal(Signal::KILL);
    running.ends();
    let back = fleet.toehold.run(arguments(&["--rollback", "--take-over"])).ends(3);
    assert!(back.stderr.contains("rolled back") && back.stderr.contains(&account), "{}", back.stderr);
    assert!(back.stderr.contains("key settle"), "{}", back.stderr);
    assert_eq!(back.json()["owed"], 1);
    assert_eq!(fleet.current().public_key(), middle.public_key());
    fleet.hosts[1].come_back();
    fleet.toehold.run([&["key", "settle"], QUICK.as_slice()].concat()).ends(0);
    fleet.is_settled(&fleet.all(), &[], "healed");
    fleet.owes_nothing("healed");
}

#[test]
fn a_store_that_fails_in_the_middle_of_a_rotation_leaves_it_open_and_says_how_to_go_on() {
    let fleet = Fleet::new(3);
    let old = fleet.current();
    let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--concurrency", "1"]));
    running.until(|event| event["event"] == "host_begun").unwrap();
    // Somebody holds the store for longer than anybody waits for it.
    let database = support::store::open(&fleet.toehold);
    database.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (code, said) = running.ends();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("rotation 1 is not finished"), "{said}");
    assert!(said.contains("--resume") && said.contains("--rollback"), "{said}");
    database.execute_batch("ROLLBACK").unwrap();
    fleet.is_anchored(&fleet.all(), "the store has failed");
    fleet.toehold.run(arguments(&["--resume", "--take-over"])).ends(0);
    fleet.is_settled(&fleet.all(), &[&old], "gone on");
    fleet.owes_nothing("gone on");
}
