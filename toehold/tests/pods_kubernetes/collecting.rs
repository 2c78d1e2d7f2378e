//! `pods gc`, and whoever has enough of it; `serve --collect-pods`, which does the same all the time.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::gateway::{Pods, Session};
use crate::serve_support::Serve;
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

/// By an operations host, where no other gateway lives that would see to it.
#[test]
fn p2_serve_collects_what_a_gateway_has_left_that_was_killed() {
    let pods = Pods::start();
    let mut left = Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(left.line(), "begun");
    let ground = pods.ground.clone();
    let dead = pods.kill();
    let options = ground.options(&dead, &json!({}));
    assert_eq!(ground.pods().len(), 1);
    let value = |name: &str| options[options.iter().position(|option| option == name).unwrap() + 1].as_str();
    let at = ["--pods-config", value("--config"), "--kubeconfig", value("--kubeconfig")];
    let toehold = Toehold::new();
    let more: Vec<&str> = ["--no-hosts", "--no-gateway", "--collect-pods"].into_iter().chain(at).collect();
    let serve = Serve::start(&toehold, &more);
    serve.task_is("pods", "running");
    eventually("the end of the pod that was left", || ground.pods().is_empty());
    eventually("the end of its owner", || {
        ground.namespace().kubectl(["get", "jobs"]).json()["items"].as_array().unwrap().is_empty()
    });
    assert_eq!(serve.stop().code, 0);
}
