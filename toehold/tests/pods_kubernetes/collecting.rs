//! `pods gc`, and whoever has enough of it.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::gateway::{Pods, Session};
use crate::support::{Toehold, eventually};

/// It looks for half a minute, in which nobody could stop it.
#[test]
fn gc_that_is_interrupted_ends_at_once_and_has_taken_nothing() {
    let pods = Pods::start();
    let mut left = Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(left.line(), "begun");
    let ground = pods.ground.clone();
    let toehold = pods.kill();
    let which = ground.options(&toehold, &json!({}));
    for signal in [Signal::INT, Signal::TERM] {
        let words = ["pods", "gc"].into_iter().chain(which.iter().map(String::as_str));
        let mut child = toehold.spawn(words);
        // It says that it looks when it does.
        let mut said = [0; 8];
        std::io::Read::read_exact(child.stderr.as_mut().unwrap(), &mut said).unwrap();
        let told = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let done = Toehold::wait(child).ends(1);
        assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
        assert!(done.stderr.contains("interrupted; nothing was changed"), "{done:?}");
        assert_eq!(ground.pods().len(), 1);
    }
    // Run again it does what it was to do.
    let words = ["--json", "pods", "gc"].into_iter().chain(which.iter().map(String::as_str));
    let done = toehold.run(words).ends(0);
    assert_eq!(done.json()["pods"].as_array().unwrap().len(), 1, "{done:?}");
    eventually("nothing left", || ground.pods().is_empty());
}
