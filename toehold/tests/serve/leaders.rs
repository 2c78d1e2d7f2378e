//! Two processes on one store: one does what one has to do, and the other when that one is gone.

use crate::serve_support::Serve;
use crate::support::{Toehold, eventually, store};

const ALONE: [&str; 4] = ["sessions", "grants", "owed", "store-gc"];

fn leases(toehold: &Toehold) -> Vec<String> {
    store::keys(toehold).into_iter().filter(|key| key.starts_with("lease/")).collect()
}

#[test]
fn killed_the_leader_is_followed_by_the_other() {
    let toehold = Toehold::new();
    let first = Serve::start(&toehold, &["--no-gateway"]);
    for task in ALONE {
        first.task_is(task, "running");
    }
    let second = Serve::start(&toehold, &["--no-gateway"]);
    for task in ALONE {
        second.task_is(task, "standby");
    }
    // Both are as they should be.
    first.is_ready();
    second.is_ready();
    assert!(second.get("/metrics").body.contains("toehold_serve_task_standby{task=\"sessions\"} 1"));
    assert!(second.get("/").body.contains("has the lease"));
    first.kill();
    for task in ALONE {
        second.task_is(task, "running");
    }
    // A third one that comes finds it led.
    let third = Serve::start(&toehold, &["--no-gateway"]);
    for task in ALONE {
        third.task_is(task, "standby");
    }
    for task in ALONE {
        assert_eq!(second.state_of(task).as_deref(), Some("running"));
    }
    toehold.run(["store", "check"]).ends(0);
}

#[test]
fn told_to_stop_it_gives_back_what_it_has() {
    let toehold = Toehold::new();
    // So long that nobody could wait for its end.
    let first = Serve::start(&toehold, &["--no-gateway", "--lease", "1h"]);
    for task in ALONE {
        first.task_is(task, "running");
    }
    assert_eq!(leases(&toehold).len(), ALONE.len());
    assert_eq!(first.stop().code, 0);
    assert_eq!(leases(&toehold), Vec::<String>::new());
    let second = Serve::start(&toehold, &["--no-gateway"]);
    for task in ALONE {
        second.task_is(task, "running");
    }
}

/// Held up for longer than its lease, it finds another one at its work, and leaves it to it.
#[test]
fn n5_one_that_was_held_up_comes_back_to_find_itself_followed() {
    use rustix::process::Signal;
    let toehold = Toehold::new();
    let first = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    first.task_is("store-gc", "running");
    let second = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    second.task_is("store-gc", "standby");
    first.signal(Signal::STOP);
    second.task_is("store-gc", "running");
    first.signal(Signal::CONT);
    first.task_is("store-gc", "standby");
    eventually("both are ready", || [&first, &second].iter().all(|serve| serve.get("/readyz").status == 200));
    assert_eq!(second.state_of("store-gc").as_deref(), Some("running"));
}
