//! Whatever ends, no pod is left: clients that die or freeze, gateways that are killed or told to stop, pods that somebody deletes.

use std::io::Write as _;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::gateway::{Pods, Session};
use crate::support::eventually;

fn begun(pods: &Pods) -> Session {
    let mut command = pods.ssh("echo begun; read word; echo $word; exit 6");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    session
}

fn owners(pods: &Pods) -> usize {
    pods.ground.namespace().kubectl(["get", "jobs"]).json()["items"].as_array().unwrap().len()
}

/// `ContainerSSH`: "a client freezes without FIN: the pod stays (no keep-alive by default)".
#[test]
fn a_client_that_dies_or_freezes_takes_its_pod_along() {
    let pods = Pods::with(&["--keep-alive", "1s"]);
    let (dying, freezing, mut quiet) = (begun(&pods), begun(&pods), begun(&pods));
    assert_eq!(pods.list().len(), 3);
    dying.signal(Signal::KILL);
    freezing.signal(Signal::STOP);
    eventually("the end of two pods", || pods.ground.pods().len() == 1);
    quiet.child.stdin.take().unwrap().write_all(b"still here\n").unwrap();
    assert_eq!(quiet.line(), "still here");
    quiet.ends().ends(6);
    pods.waits_until_empty();
    drop((dying, freezing));
}

/// `ContainerSSH`: "the pod is deleted under a running command; a channel opened after that: 137 without a word; 255 without a word".
#[test]
fn a_pod_that_somebody_deletes_ends_the_connection_with_words() {
    let pods = Pods::start();
    for how in [&["--wait=false"][..], &["--wait=false", "--grace-period=0", "--force"]] {
        let session = begun(&pods);
        let name = pods.ground.pod();
        pods.ground.namespace().kubectl(["delete", "pod", &name].into_iter().chain(how.iter().copied())).text();
        let done = session.ends();
        assert_eq!(done.code, 255, "{done:?}");
        assert!(done.stderr.contains("the pod is being deleted") || done.stderr.contains("the pod was deleted"), "{done:?}");
        // Whoever comes next gets another.
        assert_ne!(pods.run("echo $HOSTNAME").ends(0).stdout.trim(), name);
        pods.waits_until_empty();
    }
    let session = begun(&pods);
    let name = pods.ground.pod();
    assert_eq!(pods.about(["rm", &name]).ends(0).json()["removed"], name.as_str());
    assert!(session.ends().stderr.contains("the pod"));
    pods.about(["rm", &name]).ends(1);
}

/// `ContainerSSH`: "the gateway is killed with 10 connections: 10 pods still run a minute later".
#[test]
fn p2_another_gateway_collects_the_pods_of_one_that_was_killed() {
    let pods = Pods::start();
    let sessions: Vec<_> = (0..10).map(|_| begun(&pods)).collect();
    let other = pods.another(&json!({}), &[]);
    let mut living = begun(&other);
    assert_eq!((pods.ground.pods().len(), owners(&pods)), (11, 2));
    let toehold = pods.kill();
    eventually("the end of ten pods", || other.ground.pods().len() == 1 && owners(&other) == 1);
    drop((sessions, toehold));
    living.child.stdin.take().unwrap().write_all(b"lives\n").unwrap();
    assert_eq!(living.line(), "lives");
    living.ends().ends(6);
    other.waits_until_empty();
}

/// The same row, with nobody left: by hand, or by the cluster alone.
#[test]
fn p1_with_no_gateway_alive_the_cluster_collects_them_scheduled_or_not() {
    let pods = Pods::start();
    let sessions: Vec<_> = (0..2).map(|_| begun(&pods)).collect();
    let mut nowhere = json!({ "timeout": "10m" });
    nowhere["pod"]["podSpec"]["nodeSelector"] = json!({ "no-such-label": "here" });
    let other = pods.another(&nowhere, &[]);
    let mut pending = other.ssh("true").spawn().unwrap();
    eventually("three pods", || pods.ground.pods().len() == 3);
    let ground = pods.ground.clone();
    let namespace = ground.namespace();
    drop((pods.kill(), other.kill()));
    pending.wait().unwrap();
    drop(sessions);
    assert_eq!(ground.pods().len(), 3);
    // The ten minutes that an owner lasts are over: nobody has extended it.
    for job in namespace.kubectl(["get", "jobs"]).json()["items"].as_array().unwrap() {
        // Ten minutes from the last time on, counted from its start.
        let deadline = job["spec"]["activeDeadlineSeconds"].as_u64().unwrap();
        assert!((600..700).contains(&deadline), "{job}");
        let name = job["metadata"]["name"].as_str().unwrap();
        namespace.kubectl(["patch", "job", name, "--type=merge", "--patch", r#"{"spec":{"activeDeadlineSeconds":1}}"#]).text();
    }
    eventually("the end of all pods", || ground.pods().is_empty());
}

#[test]
fn p1_gc_collects_what_a_gateway_has_left_and_nothing_of_one_that_lives() {
    let pods = Pods::start();
    let living = begun(&pods);
    let dead = pods.another(&json!({}), &[]);
    let left = begun(&dead);
    assert_eq!(pods.ground.pods().len(), 2);
    let which = dead.ground.clone();
    let toehold = dead.kill();
    drop(left);
    let options = which.options(&toehold, &json!({}));
    let done = toehold.run(["--json", "pods", "gc"].into_iter().chain(options.iter().map(String::as_str))).ends(0);
    // The gateway that lives may have been faster.
    assert!(done.json()["pods"].as_array().unwrap().len() <= 1 && done.json()["records"] == 1, "{done:?}");
    assert_eq!((which.pods().len(), owners(&pods)), (1, 1));
    drop(living);
    pods.waits_until_empty();
}

/// `ContainerSSH`: "SIGTERM with open sessions: cut after 20 s".
#[test]
fn told_to_stop_it_lets_sessions_end_and_leaves_nothing() {
    let pods = Pods::start();
    let mut session = begun(&pods);
    pods.signal(Signal::TERM);
    eventually("the end of listening", || std::net::TcpStream::connect(pods.address).is_err());
    session.child.stdin.take().unwrap().write_all(b"in peace\n").unwrap();
    assert_eq!(session.line(), "in peace");
    session.ends().ends(6);
    let ground = pods.ground.clone();
    pods.ends().0.ends(0);
    eventually("nothing left", || {
        let all = ground.namespace().kubectl(["get", "pods,jobs"]).json();
        all["items"].as_array().unwrap().is_empty()
    });
}
