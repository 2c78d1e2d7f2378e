//! A pod a session, and pods that stay.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::gateway::{Pods, Session};
use crate::support::{Done, eventually};

fn session() -> Value {
    json!({ "pod": { "mode": "session" } })
}

fn persistent() -> Value {
    json!({ "pod": { "mode": "persistent", "createMissingPods": true } })
}

/// `ContainerSSH`: "a quick command in session mode: its output is lost: 0 of 9 `echo hello` arrive"; "a client dies in session mode;
/// any session that ends: the pod stays for ever".
#[test]
fn a_quick_commands_output_arrives_from_a_pod_of_its_own() {
    let pods = Pods::configured(&session(), &[]);
    for _ in 0..9 {
        assert_eq!(pods.run("echo hello").ends(0).stdout, "hello\n");
    }
    pods.waits_until_empty();
    let mut dying = Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(dying.line(), "begun");
    drop(dying);
    pods.waits_until_empty();
}

/// `ContainerSSH`: "exit codes over one `ControlMaster`: lost in 11 of 30 (persistent), 20 of 20 (session)"; "`SetEnv`: lost in connection
/// and persistent mode".
#[test]
fn exit_codes_and_environment_arrive_over_one_connection() {
    for config in [session(), persistent()] {
        let pods = Pods::configured(&config, &["--max-channels", "20"]);
        let socket = format!("ControlPath={}", pods.file("mux").display());
        let mut master = Session::start({
            let mut command = pods.ssh_with(&["-M", "-o", &socket, "-o", "SendEnv=WORD"], "echo begun; cat");
            command.stdin(Stdio::piped());
            command
        });
        assert_eq!(master.line(), "begun");
        for round in 0..3 {
            let channels: Vec<_> = (1..6)
                .map(|number| {
                    let line = format!("echo \"$WORD\"; exit {}", number + round);
                    // Beside a master, `SetEnv` is not sent, and what is there is.
                    let mut command = pods.ssh_with(&["-o", &socket, "-o", "SendEnv=WORD"], &line);
                    command.env("WORD", "said it's so").spawn().unwrap()
                })
                .collect();
            for (number, channel) in (1..6).zip(channels) {
                let done = Done::of(channel.wait_with_output().unwrap()).ends(number + round);
                assert_eq!(done.stdout, "said it's so\n");
            }
        }
        drop(master.child.stdin.take());
        master.ends().ends(0);
        if config == session() {
            pods.waits_until_empty();
        }
    }
}

/// `ContainerSSH`: "killed by a signal; a signal sent by the client; a client that leaves: 137 without exit-signal; not delivered; the
/// command runs on in a persistent pod". The first two are among what holds on any ground.
#[test]
fn what_runs_in_a_pod_that_stays_ends_with_its_client() {
    let pods = Pods::configured(&persistent(), &[]);
    let mut session = Session::start(pods.ssh("trap '' HUP; echo $$; sleep 600; sleep 600"));
    let number = session.number();
    assert!(pods.ground.is_alive(number));
    drop(session);
    eventually("its end", || !pods.ground.is_alive(number));
    // A gateway that dies takes it along as well.
    let mut session = Session::start(pods.ssh("trap '' HUP; echo $$; sleep 600; sleep 600"));
    let number = session.number();
    let pods = pods.again(&persistent(), &[]);
    eventually("its end", || !pods.ground.is_alive(number));
    let name = pods.ground.pod();
    // `/bin/nosuch` is 127 here too, and what cannot be had of a pod that is not there is said.
    pods.run("/bin/nosuch").ends(127);
    assert_eq!(pods.about(["rm", &name]).ends(0).json()["removed"], name.as_str());
    let pods = pods.again(&json!({ "pod": { "mode": "persistent" } }), &[]);
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("there is no pod"), "{done:?}");
}

/// A pod that stays is its principal's own, and nobody makes two of it.
#[test]
fn two_connections_at_once_make_one_pod() {
    let pods = Pods::configured(&persistent(), &[]);
    let children: Vec<_> = (0..4).map(|_| pods.ssh("echo $HOSTNAME").spawn().unwrap()).collect();
    let names: Vec<String> =
        children.into_iter().map(|child| Done::of(child.wait_with_output().unwrap()).ends(0).stdout).collect();
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    assert_eq!(pods.ground.pods().len(), 1);
}

/// Its principal was locked out until an operator had removed it.
#[test]
fn a_pod_that_stays_and_is_over_is_made_anew_once() {
    let mut config = persistent();
    config["limits"] = json!({ "total": "30s" });
    let pods = Pods::configured(&config, &[]);
    let done = pods.run("echo begun; sleep 600").ends(255);
    // It may still be ending when the next come.
    assert!(done.stderr.contains("it was ended: the pod"), "{done:?}");
    let first = pods.list()[0]["uid"].clone();
    let children: Vec<_> = (0..4).map(|_| pods.ssh("echo $HOSTNAME").spawn().unwrap()).collect();
    for child in children {
        Done::of(child.wait_with_output().unwrap()).ends(0);
    }
    let left = pods.list();
    assert!(left.len() == 1 && left[0]["uid"] != first, "{left:?}");
    // One that somebody is deleting is waited for, and another made.
    let name = left[0]["name"].as_str().unwrap().to_owned();
    pods.ground.namespace().kubectl(["delete", "pod", &name, "--wait=false"]).text();
    pods.run("exit 5").ends(5);
    assert!(pods.list().iter().all(|pod| pod["uid"] != left[0]["uid"]));
}
