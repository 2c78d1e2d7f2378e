//! Somebody's key on a real host for a limited time, which the host's sshd ends.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::Fleet;
use crate::support::keys::{Key, key};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use toehold::adapters::system_clock::SystemClock;
use toehold_core::{Clock as _, Timestamp};

/// A fleet of one host, and somebody's key with its file.
struct Lab {
    fleet: Fleet,
    bob: Key,
    directory: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { fleet: Fleet::new(1), bob: key("ed25519"), directory: tempfile::tempdir().unwrap() };
        std::fs::write(lab.key_file(), format!("{} bob@laptop\n", lab.bob.public_key)).unwrap();
        lab
    }

    fn key_file(&self) -> String {
        self.directory.path().join("bob.pub").to_str().unwrap().to_owned()
    }

    fn account(&self) -> String {
        self.fleet.hosts[0].account().to_string()
    }

    fn run(&self, arguments: &[&str]) -> support::Done {
        self.fleet.toehold.run(arguments.iter().copied())
    }

    fn grant(&self, lifetime: &str, more: &[&str]) -> Value {
        let (account, file) = (self.account(), self.key_file());
        let mut arguments = vec!["--json", "grant", &account, "--key", &file, "--for", lifetime];
        arguments.extend(more);
        self.run(&arguments).ends(0).json()
    }

    fn listed(&self) -> Vec<Value> {
        let done = self.run(&["--json", "grant", "ls"]);
        let grants = done.json()["grants"].as_array().unwrap().clone();
        // What should be gone and was not seen gone is owed, and the exit code says so.
        let owed = grants.iter().filter(|grant| grant["owed"] == true).count();
        assert_eq!(done.json()["owed"], owed);
        done.ends(if owed > 0 { 3 } else { 0 });
        grants
    }

    fn bob_gets_in(&self) -> bool {
        self.fleet.lets_in(&self.bob.identity)[0]
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.file()).into_owned()
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.fleet.hosts[0].authorized_keys()).unwrap()
    }
}

#[test]
fn holds_grant_recorded_a_granted_key_logs_in_and_is_refused_by_sshd_after_its_end() {
    let lab = Lab::new();
    let before = lab.file();
    // A machine that is so busy that a grant is over before anybody can use it gets a longer one.
    let used = ["8s", "40s", "200s"].into_iter().find_map(|lifetime| {
        let granted = lab.grant(lifetime, &["--option", "restrict", "--from", "127.0.0.0/8"]);
        let end: Timestamp = serde_json::from_value(granted["expires_at"].clone()).unwrap();
        let gets_in = lab.bob_gets_in();
        if SystemClock.now() > end {
            lab.run(&["grant", "sweep"]).ends(0);
            return None;
        }
        assert_eq!((&granted["accepted"], &granted["status"], &granted["owed"]), (&true.into(), &"live".into(), &false.into()));
        assert!(gets_in, "{granted}");
        Some(end)
    });
    let end = used.expect("no grant that could be used before its end");
    let line = lab.text().lines().last().unwrap().to_owned();
    assert!(line.starts_with("restrict,from=\"127.0.0.0/8\",expiry-time=\"") && line.ends_with("bob@laptop"), "{line}");

    // No process of ours is alive: sshd alone ends it.
    let begun = Instant::now();
    while lab.bob_gets_in() {
        assert!(begun.elapsed() < Duration::from_secs(300), "sshd does not end it: {line}");
    }
    assert!(SystemClock.now() > end, "it was over before its end: {line}");
    let listed = lab.listed();
    assert_eq!((listed.len(), &listed[0]["owed"]), (1, &true.into()));
    let found = lab.run(&["--json", "host", "check"]).ends(3).json();
    assert!(found["hosts"][0]["findings"][0].as_str().unwrap().contains("has ended and is still on line"), "{found}");

    let swept = lab.run(&["--json", "grant", "sweep"]).ends(0).json();
    assert_eq!(swept["swept"][0]["ended"], true, "{swept}");
    assert_eq!(lab.file(), before);
    assert!(lab.listed().is_empty());
    lab.run(&["host", "check"]).ends(0);
}

#[test]
fn holds_grant_recorded_revoking_ends_one_grant_and_no_other() {
    let lab = Lab::new();
    let before = lab.file();
    let first = lab.grant("1h", &[]);
    let second = lab.grant("2h", &[]);
    assert_eq!(second["other_lines"], 1);
    lab.run(&["host", "check"]).ends(0);
    lab.run(&["grant", "revoke", first["id"].as_str().unwrap()]).ends(0);
    assert!(lab.bob_gets_in(), "the other grant of the same key lives");
    lab.run(&["grant", "revoke", second["id"].as_str().unwrap()]).ends(0);
    assert!(!lab.bob_gets_in());
    assert_eq!(lab.file(), before);
    let gone = lab.run(&["grant", "revoke", first["id"].as_str().unwrap()]).ends(1);
    assert!(gone.stderr.contains("there is no grant"), "{}", gone.stderr);
}

#[test]
fn a_rotation_leaves_grants_alone_and_a_grant_goes_on_after_it() {
    let lab = Lab::new();
    let granted = lab.grant("1h", &[]);
    let line = lab.text().lines().find(|line| line.contains("toehold-grant:")).unwrap().to_owned();
    lab.fleet.rotate(&["--grace", "0s"]).ends(0);
    assert!(lab.text().lines().any(|other| other == line), "the rotation has touched the grant");
    assert!(lab.bob_gets_in());
    // Over the new master key.
    lab.run(&["grant", "revoke", granted["id"].as_str().unwrap()]).ends(0);
    assert!(!lab.bob_gets_in());
}

#[test]
fn seen_gone_a_host_that_is_away_keeps_its_grant_on_the_list() {
    let mut lab = Lab::new();
    let id = lab.grant("1h", &[])["id"].as_str().unwrap().to_owned();
    lab.fleet.hosts[0].go_away();
    let failed = lab.run(&["--json", "grant", "revoke", &id]).ends(3).json();
    assert!(failed["error"].as_str().unwrap().contains("cannot be reached"), "{failed}");
    assert!(failed["hint"].as_str().unwrap().contains("noted"), "{failed}");
    let listed = lab.listed();
    assert_eq!((&listed[0]["status"], &listed[0]["owed"]), (&"ending".into(), &true.into()), "{listed:?}");
    lab.run(&["grant", "revoke", "--forget", &id]).ends(1);
    lab.run(&["grant", "sweep"]).ends(3);
    lab.fleet.hosts[0].come_back();
    let found = lab.run(&["--json", "host", "check"]).ends(3).json();
    assert!(found["hosts"][0]["findings"][0].as_str().unwrap().contains("was revoked and lets its key in until"), "{found}");
    lab.run(&["grant", "sweep"]).ends(0);
    assert!(!lab.bob_gets_in() && lab.listed().is_empty());
}

#[test]
fn what_is_granted_goes_with_the_host() {
    let lab = Lab::new();
    lab.grant("1h", &[]);
    let account = lab.account();
    lab.run(&["host", "rm", &account]).ends(0);
    assert!(!lab.bob_gets_in() && lab.listed().is_empty());
    assert!(!lab.text().contains("toehold"));
}

#[test]
fn what_cannot_be_granted_is_refused_in_words() {
    let lab = Lab::new();
    let (account, file, before) = (lab.account(), lab.key_file(), lab.file());
    let master = lab.directory.path().join("master.pub").to_str().unwrap().to_owned();
    std::fs::write(&master, lab.fleet.toehold.master_key()).unwrap();
    for (arguments, code, wanted) in [
        (vec!["grant", &account, "--key", &master, "--for", "1h"], 1, "master key, which cannot be granted"),
        (vec!["grant", "root@elsewhere", "--key", &file, "--for", "1h"], 1, "is not managed"),
        (vec!["grant", &account, "--key", &file, "--for", "0s"], 2, "not for 0 s"),
        (vec!["grant", &account, "--key", &file, "--for", "1h", "--option", "cert-authority"], 2, "cannot have the option"),
        (vec!["grant", &account, "--key", &file], 2, "--for"),
    ] {
        let done = lab.run(&arguments).ends(code);
        assert!(done.stderr.contains(wanted), "{}", done.stderr);
    }
    assert_eq!(lab.file(), before);
    assert!(lab.listed().is_empty());
}

/// What holds the lock of a host's file is not dropped where it stands: everybody else would have to wait until the lock is stale.
#[test]
fn one_writer_a_grant_that_is_interrupted_in_the_middle_leaves_no_lock_behind() {
    let lab = Lab::new();
    let (account, file) = (lab.account(), lab.key_file());
    let host = &lab.fleet.hosts[0];
    let directory = host.authorized_keys().parent().unwrap().to_owned();
    let ours = || {
        let names = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("toehold")).collect::<Vec<_>>()
    };
    for grants in 1.. {
        let mut command = lab.fleet.toehold.command(["grant", &account, "--key", &file, "--for", "1h"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        // The moment is short: nothing sleeps in between.
        let begun = Instant::now();
        while ours().is_empty() && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not come to its work");
        }
        host.suspend();
        let in_the_middle = !ours().is_empty();
        if in_the_middle {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
            let first = said.next().unwrap().unwrap();
            assert!(first.contains("Interrupted: "), "{first}");
        }
        host.resume();
        said.for_each(drop);
        child.wait().unwrap();
        if in_the_middle {
            assert_eq!(lab.listed().len(), grants);
            break;
        }
        assert!(grants < 20, "it is always done before it is stopped");
    }
    assert_eq!(ours(), [""; 0]);
}
