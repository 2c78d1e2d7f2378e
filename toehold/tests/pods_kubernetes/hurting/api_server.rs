//! The API server stands still, dies and comes back, in the middle.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster_support::hurt;
use crate::gateway::{Pods, Session};
use crate::ground::Ground;
use crate::support::{Done, eventually};

/// Answers are waited for two seconds.
fn hasty() -> Value {
    json!({ "connection": { "timeout": "2s" }, "timeout": "6s" })
}

fn begun(pods: &Pods, options: &[&str], line: &str) -> Session {
    let mut command = pods.ssh_with(options, line);
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    session
}

/// `ContainerSSH`: "API server stopped before the connection: 60 s, closed; a pod appears when it resumes, and stays".
#[test]
fn one_that_stands_still_before_a_connection_is_told_of_and_leaves_no_pod_when_it_goes_on() {
    let pods = Pods::on_ground(Ground::alone(), &hasty(), &[]);
    pods.run("true").ends(0);
    hurt("stop kube-apiserver");
    let begun = Instant::now();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("the cluster does not answer"), "{done:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    hurt("continue kube-apiserver");
    // What it was asked for may be carried out now.
    pods.waits_until_empty();
    pods.run("true").ends(0);
    pods.waits_until_empty();
}

/// `ContainerSSH`: "API server killed in a session: the session ends at once with exit 0; the pod stays".
#[test]
fn a_command_that_loses_it_ends_with_the_reason_and_an_idle_connection_goes_on() {
    let pods = Pods::on_ground(Ground::alone(), &hasty(), &[]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let options = ["-o", socket.as_str(), "-o", "ControlMaster=auto", "-o", "ControlPersist=yes"];
    let name = Done::of(pods.ssh_with(&options, "echo $HOSTNAME").output().unwrap()).ends(0).stdout;
    for how in ["kill kube-apiserver", "stop kube-apiserver"] {
        let session = begun(&pods, &options, "echo begun; sleep 600");
        let with_input = begun(&pods, &options, "echo begun; cat");
        hurt(how);
        let lost = Instant::now();
        for session in [session, with_input] {
            let done = session.ends();
            assert!(done.code != 0, "{done:?}");
            assert!(done.stderr.contains("the connection to the pod is lost"), "{how}: {done:?}");
        }
        assert!(lost.elapsed() < Duration::from_secs(30), "{how}: {:?}", lost.elapsed());
        // Meanwhile nothing can be begun, and that is said.
        let done = Done::of(pods.ssh_with(&options, "true").output().unwrap()).ends(255);
        assert!(done.stderr.contains("the cluster does not answer"), "{how}: {done:?}");
        hurt(if how.starts_with("kill") { "start kube-apiserver" } else { "continue kube-apiserver" });
        // The connection has lived on, and so has its pod.
        eventually("a new channel", || {
            let done = Done::of(pods.ssh_with(&options, "echo $HOSTNAME").output().unwrap());
            done.code == 0 && done.stdout == name
        });
    }
    pods.ssh_with(&["-o", &socket, "-O", "exit"], "").status().unwrap();
    pods.waits_until_empty();
}

/// Who sends more than a process takes is not taken for a server that stands still.
#[test]
fn input_that_nobody_takes_is_no_sign_of_its_death() {
    let pods = Pods::on_ground(Ground::alone(), &hasty(), &[]);
    let mut session = begun(&pods, &[], "echo begun; sleep 12; wc -c");
    let mut stdin = session.child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        // Far more than any buffer on the way holds.
        (0..6_000).all(|_| std::io::Write::write_all(&mut stdin, &[b'x'; 16_384]).is_ok())
    });
    assert_eq!(session.line(), (6_000 * 16_384).to_string());
    assert!(writing.join().unwrap());
    session.ends().ends(0);
    // But where it does stand still, it ends all the same.
    let mut session = begun(&pods, &[], "echo begun; sleep 600");
    let mut stdin = session.child.stdin.take().unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let writing = std::thread::spawn(move || {
        while std::io::Write::write_all(&mut stdin, &[b'x'; 16_384]).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Until everything on the way is full.
    let mut before = 0;
    eventually("the input stands still", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = written.load(Ordering::Relaxed);
        let stands_still = now > 0 && now == before;
        before = now;
        stands_still
    });
    hurt("stop kube-apiserver");
    let done = session.ends();
    assert!(done.code != 0 && done.stderr.contains("the connection to the pod is lost"), "{done:?}");
    hurt("continue kube-apiserver");
    writing.join().unwrap();
    pods.waits_until_empty();
}

/// Connections that are there when it comes back go on, and their pods were never in danger.
#[test]
fn a_restart_ends_no_connection() {
    let pods = Pods::on_ground(Ground::alone(), &hasty(), &["--keep-alive", "1s"]);
    let sockets: Vec<String> =
        (0..3).map(|number| format!("ControlPath={}", pods.file(&format!("mux{number}")).display())).collect();
    let options = |socket: &'_ str| {
        [
            "-o".to_owned(),
            socket.to_owned(),
            "-o".to_owned(),
            "ControlMaster=auto".to_owned(),
            "-o".to_owned(),
            "ControlPersist=yes".to_owned(),
        ]
    };
    let run = |socket: &str, line: &str| {
        let options = options(socket);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Done::of(pods.ssh_with(&options, line).output().unwrap())
    };
    let names: Vec<String> = sockets.iter().map(|socket| run(socket, "echo $HOSTNAME").ends(0).stdout).collect();
    hurt("kill kube-apiserver");
    hurt("start kube-apiserver");
    for (socket, name) in sockets.iter().zip(&names) {
        eventually("a new channel", || {
            let done = run(socket, "echo $HOSTNAME");
            done.code == 0 && done.stdout == *name
        });
    }
    assert_eq!(pods.ground.pods().len(), 3);
    for socket in &sockets {
        pods.ssh_with(&["-o", socket, "-O", "exit"], "").status().unwrap();
    }
    pods.waits_until_empty();
}
