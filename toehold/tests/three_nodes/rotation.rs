//! Both operators renew the master key at once. What they have begun comes to its end while the fault is there, if need be by a resumption,
//! and no other rotation is begun.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use toehold_core::{Identity, PublicKey};

use crate::faults::{Fault, Weather, is_fair, patience, until};
use crate::site::{Person, Site};
use crate::support::fleet::{lets_in, lines_of};
use crate::support::running::{Running, publics};
use crate::support::{Done, RealSshd};

/// Goes on with a rotation, whoever leads it.
const RESUME: [&str; 5] = ["--json", "key", "rotate", "--resume", "--take-over"];

pub fn under(site: &mut Site, fault: Fault) {
    let begun = Instant::now();
    site.ground.prepare(fault);
    let old = site.operators[1].held();
    let Site { ground, operators: [anna, ben], hosts, size, .. } = site;
    let (weather, done) = (&Weather::default(), &AtomicUsize::new(0));
    // Few at a time in a small fleet, so that there is a middle.
    let at_once = if size.hosts > 20 { "16" } else { "1" };
    let mut rotate = vec!["--json", "key", "rotate", "--grace", "0s", "--concurrency", at_once, "--timeout", "120s"];
    rotate.extend(["--connect-timeout", "60s", "--login-timeout", "60s", "--request-timeout", "60s"]);
    // A host that is slow on a busy machine is owed then, and the rotation is not taken back for its sake.
    rotate.extend(["--on-unreachable", "defer"]);
    let rotate = rotate.as_slice();
    let begun_key = std::thread::scope(|scope| {
        // Whoever will be cut off is the first to begin, and leads.
        let mut first = anna.network.enter(|| Running::start(&anna.toehold, rotate));
        if fault == Fault::Cut {
            assert!(first.until(|event| event["event"] == "host_begun").is_some(), "{:?}", first.ends());
        }
        let second = ben.network.enter(|| Running::start(&ben.toehold, rotate));
        let of_both = [(first, "anna"), (second, "ben")].map(|(running, who)| scope.spawn(move || ends(running, who, done)));
        let wanted = hosts.len().div_ceil(3);
        until("the first hosts have the new key", || {
            done.load(Ordering::SeqCst) >= wanted || of_both.iter().all(ScopedJoinHandle::is_finished)
        });
        assert!(done.load(Ordering::SeqCst) >= wanted, "both have ended before there was a fault");
        weather.strikes(ground, fault);
        let begun_key = is_on_record(ben);
        nobody_is_locked_out(ben, hosts, "the fault has come");
        if fault == Fault::Cut {
            // The one who led goes no further, although she reaches every host; nor does she when she asks for it.
            let refused = scope.spawn(|| anna.run(RESUME));
            // The right half takes the lead, and comes to the end.
            let tries = is_resumed_to_its_end(ben);
            let refused = refused.join().unwrap();
            is_fair(&refused);
            assert_ne!(refused.code, 0, "a rotation is said to be done that the store knows nothing of: {}", refused.stdout);
            println!("{fault:?}: the right half took over at try {tries}");
            assert_eq!(*ben.current().public_key(), begun_key, "what was begun is done, with the left half away");
            // She is still at it when the network is whole again, perhaps.
            weather.clears(ground);
        }
        let [anna_ends, ben_ends] = of_both.map(|end| end.join().unwrap());
        for (end, who) in [(&anna_ends, "Anna"), (&ben_ends, "Ben")] {
            println!("{fault:?}: {who}'s rotation ended with {}: {}", end.code, end.said());
            is_fair(end);
        }
        if fault == Fault::Cut {
            assert_ne!(anna_ends.code, 0, "she led no more: {}", anna_ends.stdout);
        } else {
            // What neither of them has done is done with the server away.
            nobody_is_locked_out(ben, hosts, "both have ended");
            println!("{fault:?}: it was done at resumption {}", is_resumed_to_its_end(ben));
            assert_eq!(*ben.current().public_key(), begun_key, "what was begun is done, with a server away");
            weather.clears(ground);
        }
        begun_key
    });
    nobody_is_locked_out(ben, hosts, "the fault is over");
    comes_to_an_end([ben, anna]);
    println!("{fault:?}: {} hosts rotated in {:.1} s", hosts.len(), begun.elapsed().as_secs_f64());
    let current = site.operators[0].current();
    assert!(old.iter().all(|old| old.public_key() != current.public_key()), "the key was renewed");
    assert_eq!(*current.public_key(), begun_key, "by the rotation that was begun before the fault");
    site.is_managed(&old);
    for operator in &site.operators {
        assert_eq!(operator.held().iter().map(Identity::public_key).collect::<Vec<_>>(), [current.public_key()]);
    }
}

/// The key that hosts are being led to, as the journal says, which can be read whatever has happened; or that they have been led to.
fn is_on_record(operator: &Person) -> PublicKey {
    let mut read = None;
    until("the journal is read", || {
        let status = operator.run(["--json", "key", "status"]);
        is_fair(&status);
        read = (status.code != 1).then(|| status.json());
        read.is_some()
    });
    let status = read.unwrap_or_default();
    let key = if status["rotation"].is_null() { &status["public_key"] } else { &status["rotation"]["new"] };
    key.as_str().unwrap().parse().unwrap()
}

/// Goes on with what is open until it is done, however often that takes; how often it took.
fn is_resumed_to_its_end(operator: &Person) -> usize {
    let mut tries = 0;
    until("it is resumed to its end", || {
        tries += 1;
        let taken = operator.run(RESUME);
        is_fair(&taken);
        taken.code == 0 || taken.stderr.contains("no rotation is open")
    });
    tries
}

/// R1: every host lets in, through a line that has no end, a key that the store holds. Whoever is at work on them may have been on the way
/// from one key to the other between two looks at a host, but not time and again.
fn nobody_is_locked_out(operator: &Person, hosts: &[RealSshd], when: &str) {
    const LOOKS: usize = 3;
    let mut left: Vec<&RealSshd> = hosts.iter().collect();
    for _ in 0..LOOKS {
        let held = operator.held();
        let all = publics(&held);
        for identity in &held {
            let let_in = lets_in(&left, identity);
            let mut let_in = let_in.iter();
            left.retain(|host| {
                let is_for_good = || lines_of(host, &all).contains(&(identity.public_key().clone(), false));
                !(*let_in.next().unwrap() && is_for_good())
            });
        }
        if left.is_empty() {
            return;
        }
    }
    let files: Vec<String> = left
        .iter()
        .map(|host| format!("{}: {}", host.account(), String::from_utf8_lossy(&std::fs::read(host.authorized_keys()).unwrap())))
        .collect();
    panic!("{when}: no key of ours is for good on {}", files.join("\n"));
}

/// Counts the hosts that are done, and waits for the end.
fn ends(mut running: Running, who: &str, done: &AtomicUsize) -> Done {
    while let Some(event) = running.until(|event| event["event"] == "host_done") {
        done.fetch_add(1, Ordering::SeqCst);
        assert!(event["account"].is_string(), "{who}: {event}");
    }
    let (code, said) = running.ends();
    Done { code, stdout: String::new(), stderr: said }
}

/// What was left is done by whoever comes, with the commands that the program names.
fn comes_to_an_end(operators: [&Person; 2]) {
    let begun = Instant::now();
    for operator in operators.iter().cycle() {
        let status = operator.run(["--json", "key", "status"]);
        if status.code == 0 && status.json()["held"].as_array().unwrap().is_empty() {
            return;
        }
        for command in [&RESUME[..], &["--json", "key", "settle"]] {
            is_fair(&operator.run(command.iter().copied()));
        }
        assert!(begun.elapsed() < patience(), "{} {}", status.stdout, status.stderr);
    }
}
