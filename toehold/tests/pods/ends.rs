//! Whatever ends, nothing is left: clients that die or freeze, gateways that are killed or told to stop.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::gateway::{Pods, Session, is_alive};
use crate::support::eventually;

/// Starts processes of three kinds, and prints their numbers: the command itself, one in its group, one that has left its session and
/// lost its parents.
const THREE: &str = "sleep 600 & echo $!; setsid sh -c 'echo $$ > daemon; (sleep 600 & echo $! > child); exec sleep 600' & \
                     while ! [ -s daemon ] || ! [ -s child ]; do sleep 0.01; done; cat daemon child; trap '' HUP; echo $$; wait; sleep 600";

fn three(pods: &Pods) -> (Session, Vec<i32>) {
    let mut session = Session::start(pods.ssh(THREE));
    let numbers: Vec<i32> = (0..4).map(|_| session.number()).collect();
    assert!(numbers.iter().all(|number| is_alive(*number)), "{numbers:?}");
    (session, numbers)
}

fn gone(numbers: &[i32]) {
    eventually("the end of every process", || !numbers.iter().any(|number| is_alive(*number)));
}

/// That of the only pod.
fn first_process(pods: &Pods) -> Pid {
    let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
    let noted = fs::read_to_string(pods.toehold.state().join("pods").join(name).join("first-process")).unwrap();
    Pid::from_raw(noted.split(' ').next().unwrap().parse().unwrap()).unwrap()
}

#[test]
fn a_client_that_dies_takes_its_pod_along() {
    let pods = Pods::start();
    let (session, numbers) = three(&pods);
    session.signal(Signal::KILL);
    gone(&numbers);
    pods.waits_until_empty();
}

#[test]
fn a_client_that_freezes_is_given_up() {
    let pods = Pods::with(&["--keep-alive", "1s"]);
    let (session, numbers) = three(&pods);
    // It is alive for as long as it answers, however silent it is.
    let mut quiet = pods.ssh("echo here; read word; echo still here");
    quiet.stdin(Stdio::piped());
    let mut quiet = Session::start(quiet);
    assert_eq!(quiet.line(), "here");
    session.signal(Signal::STOP);
    gone(&numbers);
    // One that is flooded and takes nothing as well.
    let mut flooded = Session::start(pods.ssh("echo $$; cat /dev/zero"));
    let number = flooded.number();
    flooded.signal(Signal::STOP);
    gone(&[number]);
    std::io::Write::write_all(&mut quiet.child.stdin.take().unwrap(), b"word\n").unwrap();
    assert_eq!(quiet.line(), "still here");
    drop((session, flooded, quiet));
    pods.waits_until_empty();
}

#[test]
fn p5_a_gateway_that_is_killed_takes_its_pods_along_with_nobody_else_alive() {
    let pods = Pods::start();
    let (first, mut numbers) = three(&pods);
    let (second, more) = three(&pods);
    numbers.extend(more);
    let toehold = pods.kill();
    gone(&numbers);
    drop((first, second));
    // What is left is files, and the next start takes them away; so does `pods gc`.
    assert!(fs::read_dir(toehold.state().join("pods")).unwrap().count() > 0);
    let done = toehold.run(["--json", "pods", "gc", "--backend", "local"]).ends(0);
    assert_eq!((done.json()["pods"].as_array().unwrap().len(), done.json()["records"].as_u64()), (2, Some(2)), "{done:?}");
    let pods = Pods::at(toehold, &[]);
    pods.waits_until_empty();
    let (_session, numbers) = three(&pods);
    let pods = Pods::at(pods.kill(), &[]);
    gone(&numbers);
    pods.waits_until_empty();
}

#[test]
fn p5_whoever_kills_the_first_process_of_a_pod_ends_the_pod() {
    let pods = Pods::start();
    let (session, numbers) = three(&pods);
    kill_process(first_process(&pods), Signal::KILL).unwrap();
    gone(&numbers);
    let done = session.ends();
    assert_eq!(done.code, 255, "{done:?}");
    assert!(done.stderr.contains("the pod"), "{done:?}");
    pods.waits_until_empty();
}

#[test]
fn p5_a_first_process_that_somebody_has_stopped_holds_no_end_up() {
    let pods = Pods::start();
    let (session, numbers) = three(&pods);
    let first = first_process(&pods);
    kill_process(first, Signal::STOP).unwrap();
    session.signal(Signal::KILL);
    gone(&numbers);
    pods.waits_until_empty();
}

#[test]
fn a_pod_that_is_removed_ends_the_connection_with_words() {
    let pods = Pods::start();
    let (session, numbers) = three(&pods);
    let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
    pods.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(0);
    let done = session.ends();
    assert_eq!(done.code, 255, "{done:?}");
    assert!(done.stderr.contains("the pod"), "{done:?}");
    gone(&numbers);
    pods.waits_until_empty();
    pods.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(1);
}

#[test]
fn told_to_stop_it_lets_sessions_end_and_takes_nobody_new() {
    let pods = Pods::start();
    let mut command = pods.ssh("echo begun; read word; echo $word; exit 6");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    pods.signal(Signal::TERM);
    eventually("the end of listening", || std::net::TcpStream::connect(pods.address).is_err());
    std::io::Write::write_all(&mut session.child.stdin.take().unwrap(), b"in peace\n").unwrap();
    let done = session.ends();
    assert_eq!((done.code, done.stdout.as_str()), (6, "in peace\n"), "{done:?}");
    let (done, toehold) = pods.ends();
    assert_eq!((done.code, done.json()["event"].as_str()), (0, Some("stopped")), "{done:?}");
    assert_eq!(fs::read_dir(toehold.state().join("pods")).unwrap().count(), 0);
}

#[test]
fn what_does_not_end_in_time_is_ended_with_words() {
    let pods = Pods::with(&["--drain", "1s"]);
    let (session, numbers) = three(&pods);
    pods.signal(Signal::TERM);
    let done = session.ends();
    assert_eq!(done.code, 255, "{done:?}");
    assert!(done.stderr.contains("the gateway is stopping"), "{done:?}");
    gone(&numbers);
    let (ended, _) = pods.ends();
    assert_eq!(ended.code, 0, "{ended:?}");
}

/// As under sshd(8): what a command has left behind and let go of is nobody's any more. What its client still waits for is.
#[test]
fn in_a_pod_that_stays_only_what_a_command_has_let_go_of_outlives_its_client() {
    let pods = Pods::configured(&serde_json::json!({ "pod": { "mode": "persistent", "createMissingPods": true } }), &[]);
    let left: i32 = pods.run("sleep 600 >/dev/null 2>&1 & echo $!").ends(0).stdout.trim().parse().unwrap();
    // The command is over, and its client hears what it has left in the background.
    let mut heard = Session::start(pods.ssh("sleep 600 & echo $!; exit 0"));
    let mut working = Session::start(pods.ssh("sleep 600 >/dev/null 2>&1 & echo $!; echo $$; wait"));
    let numbers = [heard.number(), working.number(), working.number()];
    assert!(numbers.iter().all(|number| is_alive(*number)), "{numbers:?}");
    drop((heard, working));
    gone(&numbers);
    assert!(is_alive(left));
    let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
    pods.about(["rm", &name]).ends(0);
    gone(&[left]);
    pods.waits_until_empty();
}

/// What would be recorded from then on, nobody would ever see: pods could stay behind.
#[test]
fn a_gateway_whose_store_is_moved_away_takes_nobody_new_and_ends_with_words() {
    for removed in [false, true] {
        let pods = Pods::with(&["--metrics", "127.0.0.1:0"]);
        let mut command = pods.ssh("echo begun; read word; echo $word; exit 6");
        command.stdin(Stdio::piped());
        let mut session = Session::start(command);
        assert_eq!(session.line(), "begun");
        assert_eq!(pods.told("/readyz").0, 200);
        let (state, away) = (pods.toehold.state().join("state.db"), pods.toehold.state().join("away"));
        if removed {
            fs::remove_file(&state).unwrap();
        } else {
            fs::rename(&state, &away).unwrap();
        }
        eventually("the end of listening", || std::net::TcpStream::connect(pods.address).is_err());
        eventually("it says that it is not ready", || pods.told("/readyz").0 == 503);
        std::io::Write::write_all(&mut session.child.stdin.take().unwrap(), b"in peace\n").unwrap();
        let done = session.ends();
        assert_eq!((done.code, done.stdout.as_str()), (6, "in peace\n"), "{done:?}");
        let (done, toehold) = pods.ends();
        let said = done.json();
        assert_eq!((done.code, said["exit_code"].as_u64()), (1, Some(1)), "{done:?}");
        assert!(said["error"].as_str().unwrap().contains("moved, removed or replaced"), "{said}");
        assert_eq!(fs::read_dir(toehold.state().join("pods")).unwrap().count(), 0);
        if !removed {
            // Put back, nothing is lost, and the record of the pod that has gone is cleared away.
            fs::rename(&away, &state).unwrap();
            let pods = Pods::at(toehold, &[]);
            pods.waits_until_empty();
            let log = pods.toehold.run(["--json", "audit", "ls"]).ends(0).stdout;
            assert!(log.contains("echo begun"), "{log}");
        }
    }
}

#[test]
fn time_limits_end_a_connection_with_words() {
    let pods = Pods::configured(&serde_json::json!({ "limits": { "session": "2s" } }), &[]);
    let (session, numbers) = three(&pods);
    let done = session.ends();
    assert_eq!(done.code, 255, "{done:?}");
    assert!(done.stderr.contains("time limit"), "{done:?}");
    gone(&numbers);
    pods.waits_until_empty();
}
