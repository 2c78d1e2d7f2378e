//! SIGKILL at random moments of `key rotate` on a fleet of 10, then `--resume`, `--rollback`, or nothing but the clock; after each
//! every invariant is read off the real files and by real logins.
//!
//! `TOEHOLD_KILLS` says how often (6 where it is not set), `TOEHOLD_SEED` repeats a run.
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

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant, SystemTime};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use serde_json::json;
use support::{Done, Fleet};
use toehold_core::{Identity, PublicKey, Timestamp};
use toehold_keygen::ExpiryTime;

const HOSTS: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Resume,
    RollBack,
    Nothing,
}

struct Trials {
    fleet: Fleet,
    /// Every master key that there ever was, by its fingerprint.
    keys: BTreeMap<String, Identity>,
    longest: Duration,
}

impl Trials {
    fn arguments(then: Then) -> Vec<&'static str> {
        let mut arguments = vec!["--json", "key", "rotate"];
        match then {
            // Short ends, so that the clock has something to do while somebody watches.
            Then::Nothing => arguments.extend(["--grace", "4s", "--provisional-for", "5s"]),
            _ => arguments.extend(["--grace", "0s"]),
        }
        arguments
    }

    fn remember(&mut self) {
        for held in self.fleet.held() {
            self.keys.insert(held.public_key().fingerprint().to_string(), held);
        }
    }

    fn publics(&self) -> Vec<PublicKey> {
        self.keys.values().map(|key| key.public_key().clone()).collect()
    }

    /// Runs a rotation; kills it after `after`, or lets it end. How long it ran, and whether it was killed.
    fn rotate(&self, then: Then, after: Option<Duration>) -> (Duration, bool) {
        self.run(&Self::arguments(then), after)
    }

    /// The same for any command.
    fn run(&self, arguments: &[&str], after: Option<Duration>) -> (Duration, bool) {
        let begun = Instant::now();
        let mut child = self.fleet.toehold.spawn(arguments.iter().copied());
        // Its events would fill the pipe.
        let mut events = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || std::io::copy(&mut events, &mut std::io::sink()));
        if let Some(after) = after {
            // The moment is what this test is about; nothing is waited for.
            std::thread::sleep(after.saturating_sub(begun.elapsed()));
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        let took = begun.elapsed();
        reader.join().unwrap().unwrap();
        (took, status.signal().is_some())
    }

    /// Runs what leads on after a kill. A lock file whose writer was killed before it had its name in it is respected for half a minute.
    fn lead_on(&self, arguments: &[&str]) -> Done {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let done = self.fleet.toehold.run(arguments.iter().copied());
            let is_locked = [&done.stdout, &done.stderr].iter().any(|text| text.contains("is held by somebody unknown"));
            if done.code == 0 || !is_locked || Instant::now() > deadline {
                return done;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// What must hold at any moment.
    fn check_always(&mut self, when: &str) {
        self.remember();
        let held: Vec<PublicKey> = self.fleet.held().iter().map(|held| held.public_key().clone()).collect();
        let publics = self.publics();
        for host in &self.fleet.hosts {
            let file = std::fs::read(host.authorized_keys()).unwrap();
            let text = String::from_utf8_lossy(&file).into_owned();
            for line in text.lines().filter(|line| line.contains("toehold-master")) {
                // R10: no key is on a host whose private half the store does not hold.
                assert!(held.iter().any(|key| line.contains(&key.base64())), "{when}: nobody holds this one: {line}");
            }
        }
        self.fleet.is_anchored(&self.fleet.all(), when);
        self.fleet.foreign_lines_are_kept(&publics);
        // No key is called current that no host has proven: it logs in wherever it counts.
        let current = self.fleet.current();
        assert_eq!(self.fleet.lets_in(&current), vec![true; HOSTS], "{when}: the current key");
    }

    /// Nothing but the clock: until the last end in any file has passed, every host stays open to us.
    fn let_the_clock_run(&mut self, when: &str) {
        loop {
            let all = self.fleet.all();
            self.fleet.is_anchored(&all, when);
            let now = Timestamp::from_unix_seconds(
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap(),
            );
            if self.last_end().is_none_or(|end| end < now) {
                break;
            }
        }
        self.check_always(when);
    }

    /// The last end that a line of ours has on any host.
    fn last_end(&self) -> Option<Timestamp> {
        let mut last = None;
        for host in &self.fleet.hosts {
            let file = std::fs::read(host.authorized_keys()).unwrap();
            for line in String::from_utf8_lossy(&file).lines().filter(|line| line.contains("toehold-master")) {
                let Some(text) = line.split("expiry-time=\"").nth(1).and_then(|rest| rest.split('"').next()) else { continue };
                // The servers of these tests run in UTC.
                last = last.max(Some(text.parse::<ExpiryTime>().unwrap().instant(0)));
            }
        }
        last
    }

    /// Everything at rest with exactly one key, after whatever was left to do.
    fn check_settled(&mut self, when: &str) {
        let settled = self.lead_on(&["--json", "key", "settle"]);
        assert_eq!(settled.code, 0, "{when}: {} {}", settled.stdout, settled.stderr);
        let current = self.fleet.current().public_key().clone();
        let gone: Vec<&Identity> = self.keys.values().filter(|key| *key.public_key() != current).collect();
        // The oldest are refused for good; the last few are asked again.
        let gone = &gone[gone.len().saturating_sub(3)..];
        self.fleet.is_settled(&self.fleet.all(), gone, when);
        self.fleet.foreign_lines_are_kept(&self.publics());
        let status = self.fleet.toehold.run(["--json", "key", "status"]);
        assert_eq!(status.code, 0, "{when}: {} {}", status.stdout, status.stderr);
        assert_eq!(status.json()["held"], json!([]), "{when}: keys that no host needs");
        assert_eq!(self.fleet.held().len(), 1, "{when}: a key that no rotation knows of");
        self.fleet.toehold.run(["host", "check"]).ends(0);
    }
}

/// How often, and at which moments.
fn plan() -> (usize, u64, ChaCha20Rng) {
    let kills: usize = std::env::var("TOEHOLD_KILLS").map_or(6, |text| text.parse().expect("TOEHOLD_KILLS is a number"));
    let seed = std::env::var("TOEHOLD_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |text| text.parse().expect("TOEHOLD_SEED is a number"),
    );
    println!("TOEHOLD_SEED={seed} TOEHOLD_KILLS={kills}");
    (kills, seed, ChaCha20Rng::seed_from_u64(seed))
}

#[test]
fn r1_anchored_foreign_bytes_over_sigkill_of_a_rotation() {
    let (kills, seed, mut rng) = plan();
    let mut trials = Trials { fleet: Fleet::new(HOSTS), keys: BTreeMap::new(), longest: Duration::ZERO };
    trials.remember();
    // Once to its end, to know how long that takes.
    let (took, killed) = trials.rotate(Then::Resume, None);
    assert!(!killed);
    trials.longest = took;
    trials.check_always("undisturbed");
    trials.check_settled("undisturbed");

    let (mut was_killed, mut taken_up, mut back) = (0, 0, 0);
    for trial in 0..kills {
        let then = [Then::Resume, Then::RollBack, Then::Nothing][trial % 3];
        // Long enough for the grace as well.
        let within = trials.longest + if then == Then::Nothing { Duration::from_secs(2) } else { Duration::ZERO };
        let after = within.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX));
        let when = format!("TOEHOLD_SEED={seed}, trial {trial}, SIGKILL after {after:?} of {within:?}, then {then:?}");
        println!("{when}");
        let old = trials.fleet.current();
        was_killed += usize::from(trials.rotate(then, Some(after)).1);
        trials.check_always(&when);
        if then == Then::Nothing {
            trials.let_the_clock_run(&when);
        }
        let way = if then == Then::RollBack { "--rollback" } else { "--resume" };
        let done = trials.lead_on(&["--json", "key", "rotate", way, "--take-over"]);
        let none = done.stderr.contains("no rotation is open");
        assert!(done.code == 0 || none, "{when}: {} {}", done.stdout, done.stderr);
        taken_up += usize::from(!none);
        if then == Then::RollBack && !none {
            assert_eq!(trials.fleet.current().public_key(), old.public_key(), "{when}: not taken back");
            back += 1;
        }
        trials.check_always(&format!("{when}, led on"));
        trials.check_settled(&when);
    }
    println!("{was_killed} killed, {taken_up} taken up, {back} of them taken back");
    assert!(kills < 20 || was_killed > kills / 2, "the moments are off: only {was_killed} of {kills} were killed");
}

/// The ways on and back are cut off as well, and so is the healing of hosts that were left behind.
#[test]
fn r1_anchored_foreign_bytes_over_sigkill_of_a_rollback_a_resumption_and_a_settling() {
    let (kills, seed, mut rng) = plan();
    let mut trials = Trials { fleet: Fleet::new(HOSTS), keys: BTreeMap::new(), longest: Duration::ZERO };
    trials.remember();
    trials.longest = trials.rotate(Then::Resume, None).0;
    let mut at_random = |within: Duration| within.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX));
    let mut was_killed = 0;
    // Half as many: each of them is two runs.
    for trial in 0..kills.div_ceil(2) {
        let (long, short) = (at_random(trials.longest), at_random(trials.longest / 2));
        let all = trials.fleet.all();
        let (way, cut_off): (&str, &[&str]) = match trial % 3 {
            0 => {
                trials.fleet.toehold.run(["--json", "key", "rotate", "--grace", "1h", "--no-wait"]).ends(3);
                ("a rollback in the grace", &["--json", "key", "rotate", "--rollback"])
            }
            1 => {
                trials.rotate(Then::Resume, Some(long));
                ("a resumption", &["--json", "key", "rotate", "--resume", "--take-over"])
            }
            _ => {
                for host in &mut trials.fleet.hosts[..3] {
                    host.go_away();
                }
                let defer = ["--json", "key", "rotate", "--grace", "0s", "--on-unreachable", "defer"];
                trials.fleet.toehold.run(defer).ends(3);
                for host in &mut trials.fleet.hosts[..3] {
                    host.come_back();
                }
                ("a healing", &["--json", "key", "settle"])
            }
        };
        let when = format!("TOEHOLD_SEED={seed}, trial {trial}, {way} killed after {short:?}");
        println!("{when}");
        was_killed += usize::from(trials.run(cut_off, Some(short)).1);
        trials.remember();
        trials.fleet.is_anchored(&all, &when);
        trials.fleet.foreign_lines_are_kept(&trials.publics());
        if trial % 3 != 2 {
            let done = trials.lead_on(&["--json", "key", "rotate", "--resume", "--take-over"]);
            assert!(done.code == 0 || done.stderr.contains("no rotation is open"), "{when}: {} {}", done.stdout, done.stderr);
        }
        trials.check_settled(&when);
        trials.check_always(&when);
    }
    println!("{was_killed} killed");
}
