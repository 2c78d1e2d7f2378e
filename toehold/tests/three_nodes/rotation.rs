//! Both operators renew the master key at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use toehold_core::Identity;

use crate::faults::{Fault, Weather, is_fair, patience, until};
use crate::site::{Person, Site};
use crate::support::Done;
use crate::support::running::Running;

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
    let rotate = rotate.as_slice();
    std::thread::scope(|scope| {
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
        weather.strikes(ground, fault);
        if fault == Fault::Cut {
            // The one who led goes no further, although she reaches every host; nor does she when she asks for it.
            let refused = scope.spawn(|| anna.run(RESUME));
            // The right half takes the lead, and comes to the end.
            let mut tries = 0;
            until("the right half takes over", || {
                tries += 1;
                let taken = ben.run(RESUME);
                is_fair(&taken);
                taken.code == 0 || taken.stderr.contains("no rotation is open")
            });
            let refused = refused.join().unwrap();
            is_fair(&refused);
            assert_ne!(refused.code, 0, "a rotation is said to be done that the store knows nothing of: {}", refused.stdout);
            println!("{fault:?}: the right half took over at try {tries}");
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
            weather.clears(ground);
        }
    });
    comes_to_an_end([ben, anna]);
    let now = ben.current();
    // A host that is slow on a busy machine has the rotation taken back: then it is done once more, in peace.
    if old.iter().any(|old| old.public_key() == now.public_key()) {
        println!("{fault:?}: it was taken back");
        ben.run(rotate.iter().copied()).ends(0);
    }
    println!("{fault:?}: {} hosts rotated in {:.1} s", hosts.len(), begun.elapsed().as_secs_f64());
    let current = site.operators[0].current();
    assert!(old.iter().all(|old| old.public_key() != current.public_key()), "the key was renewed");
    site.is_managed(&old);
    for operator in &site.operators {
        assert_eq!(operator.held().iter().map(Identity::public_key).collect::<Vec<_>>(), [current.public_key()]);
    }
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
