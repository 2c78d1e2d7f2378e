//! The processes behind the API server stand still, die and come back under a gateway that lives: an idle connection lives on, what runs goes
//! on or ends with the reason, whoever comes meanwhile is served or told why not, and nothing is left.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster_support::hurt;
use crate::gateway::{Pods, Session};
use crate::ground::Ground;
use crate::support::{Done, eventually};

const LOST: &str = "the connection to the pod is lost, and how the command ended is not known";

/// How long it is so for at least.
const FOR: Duration = Duration::from_secs(4);

/// What becomes of a command that runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Running {
    GoesOn,
    IsLost,
}

/// What becomes of somebody who comes meanwhile.
#[derive(Clone, Copy, Debug)]
enum Newcomer {
    IsServed,
    IsTold(&'static str),
}

fn begun(pods: &Pods, options: &[&str]) -> Session {
    let mut command = pods.ssh_with(options, "echo begun; read word; echo $word; exit 7");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    session
}

fn survives(component: &str, [begins, ends]: [&str; 2], running: Running, newcomer: Newcomer) {
    let mut config = json!({ "connection": { "timeout": "2s" }, "timeout": "10s" });
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    let pods = Pods::on_ground(Ground::alone(), &config, &[]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let options = ["-o", socket.as_str(), "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"];
    let on_it = |line: &str| Done::of(pods.ssh_with(&options, line).output().unwrap());
    let name = on_it("echo $HOSTNAME").ends(0).stdout;
    let mut sessions = [begun(&pods, &options), begun(&pods, &[])];
    let since = Instant::now();
    hurt(&format!("{begins} {component}"));
    let done = pods.run("echo served");
    match newcomer {
        Newcomer::IsServed => assert_eq!((done.code, done.stdout.as_str()), (0, "served\n"), "{done:?}"),
        Newcomer::IsTold(why) => assert!(done.code == 255 && done.stderr.contains(why), "{done:?}"),
    }
    std::thread::sleep(FOR.saturating_sub(since.elapsed()));
    hurt(&format!("{ends} {component}"));
    for session in &mut sessions {
        // One that has ended takes nothing any more.
        let _ = session.child.stdin.take().unwrap().write_all(b"still here\n");
    }
    for session in sessions {
        let done = session.ends();
        match running {
            Running::GoesOn => assert_eq!((done.code, done.stdout.as_str()), (7, "still here\n"), "{done:?}"),
            Running::IsLost => assert!(done.code == 255 && done.stderr.contains(LOST), "{done:?}"),
        }
    }
    // The connection has lived on, and so has its pod.
    eventually("a new channel", || {
        let done = on_it("echo $HOSTNAME");
        done.code == 0 && done.stdout == name
    });
    pods.ssh_with(&["-o", &socket, "-O", "exit"], "").status().unwrap();
    pods.waits_until_empty();
    pods.run("true").ends(0);
    pods.waits_until_empty();
}

const STANDS_STILL: [&str; 2] = ["stop", "continue"];
const DIES: [&str; 2] = ["kill", "start"];

/// A stream into a pod does not go through it.
#[test]
fn etcd_stands_still() {
    survives("etcd", STANDS_STILL, Running::GoesOn, Newcomer::IsTold("the cluster does not answer"));
}

#[test]
fn etcd_dies_and_comes_back() {
    survives("etcd", DIES, Running::GoesOn, Newcomer::IsTold("the cluster"));
}

/// Every stream goes through it, and a silence as long as this one is borne by nobody.
#[test]
fn the_kubelet_dies_and_comes_back() {
    survives("kubelet", DIES, Running::IsLost, Newcomer::IsTold("no pod was ready within 10 s"));
}

#[test]
fn the_kubelet_stands_still() {
    survives("kubelet", STANDS_STILL, Running::IsLost, Newcomer::IsTold("no pod was ready within 10 s"));
}

#[test]
fn the_scheduler_stands_still() {
    survives("kube-scheduler", STANDS_STILL, Running::GoesOn, Newcomer::IsTold("no pod was ready within 10 s"));
}

#[test]
fn the_scheduler_dies_and_comes_back() {
    survives("kube-scheduler", DIES, Running::GoesOn, Newcomer::IsTold("no pod was ready within 10 s"));
}

#[test]
fn the_controller_manager_dies_and_comes_back() {
    survives("kube-controller-manager", DIES, Running::GoesOn, Newcomer::IsServed);
}
