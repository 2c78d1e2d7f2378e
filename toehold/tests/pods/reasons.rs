//! Whoever is ended is told why, on standard error and by an exit status that is not 0, whatever a pod lasts as long as.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::gateway::{Pods, Session, file_of};
use crate::support::Done;

const MODES: [&str; 3] = ["connection", "session", "persistent"];

fn with(mode: &str, limits: &str, options: &[&str]) -> Pods {
    let toehold = Pods::prepared();
    let config = file_of(&toehold, "config.yaml");
    let creates = mode == "persistent";
    fs::write(&config, format!("pod: {{mode: {mode}, createMissingPods: {creates}}}\nlimits: {{{limits}}}\n")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    Pods::at(toehold, &[&["--config", config.as_str()], options].concat())
}

/// Something that runs until it is ended, and has said so.
fn running(command: Command) -> Session {
    let mut session = Session::start(command);
    assert_eq!(session.line().trim_end(), "begun");
    session
}

fn told(done: &Done, words: &str, context: &str) {
    assert_eq!(done.code, 255, "{context}: {done:?}");
    assert!(done.stderr.contains("it was ended: ") && done.stderr.contains(words), "{context}: {done:?}");
}

#[test]
fn a_pod_that_is_removed_under_a_command_or_a_shell() {
    for mode in MODES {
        let pods = with(mode, "", &[]);
        let command = running(pods.ssh("echo begun; sleep 600"));
        let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
        pods.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(0);
        told(&command.ends(), "the pod", mode);
        // Its shell, and one that the end reaches on a terminal.
        let on_terminal = running(pods.ssh_with(&["-tt"], "stty -echo; echo begun; sleep 600"));
        let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
        pods.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(0);
        told(&on_terminal.ends(), "the pod", mode);
        pods.waits_until_empty();
    }
}

#[test]
fn p1_a_connection_that_lasts_too_long() {
    for mode in MODES {
        let pods = with(mode, "session: 2s", &[]);
        told(&running(pods.ssh("echo begun; sleep 600")).ends(), "the connection has reached its time limit", mode);
    }
}

#[test]
fn p1_a_connection_on_which_nobody_works_for_too_long() {
    for mode in MODES {
        // A client that only says that it is still there does no work.
        let pods = with(mode, "idle: 3s", &["--keep-alive", "1s"]);
        let busy = "echo begun; for n in 1 2 3 4 5 6; do sleep 1; echo $n; done; exec sleep 600";
        let done = running(pods.ssh(busy)).ends();
        told(&done, "the connection was idle for too long", mode);
        assert_eq!(done.stdout, "1\n2\n3\n4\n5\n6\n", "{mode}: who works is not idle");
    }
}

#[test]
fn p1_a_pod_that_lasts_too_long() {
    for mode in MODES {
        let pods = with(mode, "total: 3s", &[]);
        told(&running(pods.ssh("echo begun; sleep 600")).ends(), "the pod has reached its time limit", mode);
        if mode == "persistent" {
            // It stays until somebody comes for whom it is made anew, and that is for another test.
            let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
            pods.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(0);
        }
        pods.waits_until_empty();
        pods.run("exit 5").ends(5);
    }
}

#[test]
fn what_kills_a_process_in_a_pod_that_lives_on_is_told_as_it_is() {
    let pods = with("persistent", "", &[]);
    let done = Done::of(pods.ssh_with(&["-v"], "kill -KILL $$").output().unwrap()).ends(255);
    assert!(done.stderr.contains("rtype exit-signal") && !done.stderr.contains("it was ended"), "{done:?}");
}

#[test]
fn a_pod_that_stays_locks_nobody_out_once_it_is_over() {
    let pods = with("persistent", "total: 8s", &[]);
    let over = |pods: &Pods| told(&running(pods.ssh("echo begun; sleep 600")).ends(), "the pod has reached its time limit", "");
    over(&pods);
    let (name, first) = (pods.list()[0]["name"].clone(), pods.list()[0]["uid"].clone());
    // All who come at once get one and the same.
    let children: Vec<_> =
        (0..4).map(|_| pods.ssh("echo $TOEHOLD_POD_UID; cat file; echo kept >> file").spawn().unwrap()).collect();
    let done: Vec<_> = children.into_iter().map(|child| Done::of(child.wait_with_output().unwrap()).ends(0)).collect();
    let second = done[0].stdout.lines().next().unwrap().to_owned();
    assert!(done.iter().all(|done| done.stdout.starts_with(&second)) && first != second.as_str(), "{done:?}");
    assert_eq!((pods.list().len(), &pods.list()[0]["name"]), (1, &name));
    // Also after a gateway's death.
    over(&pods);
    let config =
        |creates: bool| json!({ "pod": { "mode": "persistent", "createMissingPods": creates }, "limits": { "total": "8s" } });
    let pods = pods.again(&config(false), &[]);
    let done = pods.run("true").ends(255);
    let todo = format!("toehold pods rm {}", name.as_str().unwrap());
    assert!(done.stderr.contains("the pod has reached its time limit") && done.stderr.contains(&todo), "{done:?}");
    let pods = pods.again(&config(true), &[]);
    let third = pods.run("echo $TOEHOLD_POD_UID; exit 5").ends(5).stdout;
    assert_ne!(third.trim(), second);
    pods.about(["rm", name.as_str().unwrap()]).ends(0);
    pods.waits_until_empty();
}
