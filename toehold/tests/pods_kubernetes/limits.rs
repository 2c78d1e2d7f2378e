//! How long connections and pods may last, and how much a pod may use: what the configuration says reaches whoever holds it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateway::{Pods, Session, file_of, path};
use crate::support::{Done, eventually};

/// A command that has begun, and ends with its input.
fn waiting(pods: &Pods, options: &[&str]) -> Session {
    let mut command = pods.ssh_with(options, "echo begun; cat");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    session
}

/// Ended in the middle, and why.
#[track_caller]
fn ended(limits: &Value, words: &str) -> Duration {
    let pods = Pods::configured(&json!({ "limits": limits }), &[]);
    let mut command = pods.ssh("echo begun; sleep 600");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    let begun = Instant::now();
    let done = session.ends();
    assert!(done.code == 255 && done.stderr.contains(words), "{done:?}");
    let after = begun.elapsed();
    pods.waits_until_empty();
    after
}

/// Held by the node, whether or not the gateway lives: that stands in the pod from its creation on.
#[test]
fn p1_the_total_limit_is_the_clusters() {
    let pods = Pods::configured(&json!({ "limits": { "total": "10s" } }), &[]);
    let mut session = Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(session.line(), "begun");
    let pod = &pods.ground.pods()[0];
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 10, "{pod}");
    let ground = pods.ground.clone();
    // The gateway stands still: nobody of us sees to it.
    pods.signal(rustix::process::Signal::STOP);
    eventually("its end by the node", || {
        let pod = &ground.pods()[0];
        pod["status"]["phase"] == "Failed" && pod["status"]["reason"] == "DeadlineExceeded"
    });
    pods.signal(rustix::process::Signal::CONT);
    let done = session.ends();
    assert!(done.code == 255 && done.stderr.contains("it was ended:"), "{done:?}");
    pods.waits_until_empty();
}

#[test]
fn a_connection_has_its_time_and_an_idle_one_less() {
    let after = ended(&json!({ "session": "4s" }), "the connection has reached its time limit");
    assert!(after < Duration::from_secs(20), "{after:?}");
    let after = ended(&json!({ "idle": "3s" }), "the connection was idle for too long");
    assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&after), "{after:?}");
    // Who is at work is not idle.
    let pods = Pods::configured(&json!({ "limits": { "idle": "3s" } }), &[]);
    let done = pods.run("for i in 1 2 3 4 5 6 7; do echo $i; sleep 1; done").ends(0);
    assert_eq!(done.stdout.lines().count(), 7);
}

/// What a pod may use is its specification's to say, and goes to the cluster as it is.
#[test]
fn a_pods_resources_are_those_of_its_specification() {
    let mut config = json!({});
    config["pod"]["podSpec"]["containers"] = json!([{
        "name": "shell",
        "image": "",
        "resources": { "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "10m", "memory": "16Mi" } },
        "securityContext": { "runAsUser": 1234, "runAsGroup": 1234 },
    }]);
    let ground = crate::ground::Ground::new();
    config["pod"]["podSpec"]["containers"][0]["image"] = json!(ground.cluster().images.busybox);
    let pods = Pods::on_ground(ground, &config, &[]);
    let mut session = Session::start(pods.ssh("id -u; sleep 600"));
    assert_eq!(session.line(), "1234");
    let pod = &pods.ground.pods()[0];
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!((&resources["limits"]["memory"], &resources["limits"]["cpu"]), (&json!("64Mi"), &json!("500m")), "{pod}");
    assert_eq!(pod["status"]["qosClass"], "Burstable", "{pod}");
    drop(session);
    // More than a node has is no pod, and that is said.
    config["pod"]["podSpec"]["containers"][0]["resources"] = json!({ "requests": { "memory": "64Ti" } });
    let greedy = pods.another(&config, &[]);
    let done = greedy.run("true").ends(255);
    assert!(done.stderr.contains("no node can take the pod"), "{done:?}");
    pods.waits_until_empty();
}

/// Which of a pod's containers it is that people come to is said by its number; the others are there beside it.
#[test]
fn of_several_containers_the_one_that_is_named_is_come_to() {
    let ground = crate::ground::Ground::new();
    let image = &ground.cluster().images.busybox;
    let container = |name: &str, more: Value| {
        let mut container = json!({ "name": name, "image": image, "env": [{ "name": "WHICH", "value": name }] });
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container
    };
    let beside = container("beside", json!({ "command": ["sleep", "600"] }));
    let ends_at_once = container("ends", json!({ "command": ["true"] }));
    let mut config = json!({});
    config["pod"]["podSpec"]["restartPolicy"] = json!("Never");
    config["pod"]["podSpec"]["containers"] = json!([beside, container("shell", json!({})), ends_at_once]);
    config["pod"]["consoleContainerNumber"] = json!(1);
    let pods = Pods::on_ground(ground.clone(), &config, &[]);
    let mut session = Session::start(pods.ssh("echo $WHICH; sleep 600"));
    assert_eq!(session.line(), "shell");
    // One that has ended is not the one that people are in.
    eventually("the end of another container", || {
        let statuses = &ground.pods()[0]["status"]["containerStatuses"];
        statuses.as_array().unwrap().iter().any(|status| !status["state"]["terminated"].is_null())
    });
    assert!(session.child.try_wait().unwrap().is_none());
    drop(session);
    pods.waits_until_empty();
    // A number that is none is said at the start, by its field.
    config["pod"]["consoleContainerNumber"] = json!(3);
    let toehold = Pods::prepared();
    let which = ground.options(&toehold, &config);
    let keys = path(&file_of(&toehold, "authorized_keys"));
    let arguments = ["pods", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", &keys];
    let done = toehold.run(arguments.into_iter().chain(which.iter().map(String::as_str)));
    assert!(done.code != 0 && done.stderr.contains("consoleContainerNumber"), "{done:?}");
}

/// What takes more memory than it may is killed by the node, alone: the client is told the code, and the next command works.
#[test]
fn who_takes_more_memory_than_the_pod_may_have_is_told_that_it_was_killed() {
    let ground = crate::ground::Ground::new();
    let mut config = json!({});
    config["pod"]["podSpec"]["containers"] = json!([{
        "name": "shell",
        "image": ground.cluster().images.busybox,
        "resources": { "limits": { "memory": "48Mi" }, "requests": { "memory": "16Mi" } },
    }]);
    let pods = Pods::on_ground(ground, &config, &[]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master = waiting(&pods, &["-M", "-o", &socket]);
    let beside = |line: &str| Done::of(pods.ssh_with(&["-o", &socket], line).output().unwrap());
    // A line without an end, which is kept whole.
    assert_eq!(beside("tail /dev/zero >/dev/null; echo $?").ends(0).stdout, "137\n");
    // SIGKILL, of which OpenSSH's client makes this, and nothing is said of a lost connection.
    let done = beside("exec tail /dev/zero >/dev/null").ends(255);
    assert!(!done.stderr.contains("lost"), "{done:?}");
    beside("exit 4").ends(4);
    drop(master.child.stdin.take());
    master.ends().ends(0);
    pods.waits_until_empty();
}

#[test]
fn a_channel_that_is_one_too_many_is_refused_and_the_others_go_on() {
    let pods = Pods::with(&["--max-channels", "2"]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master = waiting(&pods, &["-M", "-o", &socket]);
    let mut second = waiting(&pods, &["-o", &socket]);
    // OpenSSH's client opens a connection of its own then, beside which it says why.
    let is_refused = || {
        let done = Done::of(pods.ssh_with(&["-o", &socket], "true").output().unwrap());
        done.stderr.contains("Session open refused by peer")
    };
    assert!(is_refused());
    drop(second.child.stdin.take());
    second.ends().ends(0);
    eventually("a place", || !is_refused());
    drop(master.child.stdin.take());
    master.ends().ends(0);
    pods.waits_until_empty();
}
