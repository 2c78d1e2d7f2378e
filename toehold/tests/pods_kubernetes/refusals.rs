//! What cannot be had is said in words, and soon; nothing is left of it.

use std::process::Stdio;
use std::time::{Duration, Instant};

use russh::{ChannelMsg, Sig};
use serde_json::json;

use crate::gateway::{Pods, fed};
use crate::ground::Ground;
use crate::raw::{Client, until_output};
use crate::support::{Done, eventually};
use crate::way::Way;

/// Far below the minute of silence, and far above what it takes.
const SOON: Duration = Duration::from_secs(30);

/// A connection that gets no pod, and why.
#[track_caller]
fn refused(pods: &Pods, words: &str) {
    let begun = Instant::now();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains(words), "{done:?}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    pods.waits_until_empty();
}

/// `ContainerSSH`: "the image cannot be pulled, or nothing can schedule the pod: 60 s of silence, no reason; the pod stays".
#[test]
fn an_image_that_cannot_be_pulled_is_said_to_be_one() {
    let pods = Pods::configured(&Ground::image("localhost:1/none"), &[]);
    refused(&pods, "the image cannot be pulled");
}

/// The same row, for some of those who come to one gateway: whoever sees to clusters may let some have another image than others.
#[test]
fn of_those_who_come_at_once_who_gets_no_image_is_told_and_the_others_get_their_pods() {
    const UNLUCKY: [usize; 2] = [3, 7];
    let ground = Ground::new();
    let image = ground.cluster().images.busybox.clone();
    // As long as the other name: the length of a request stays what its head says.
    let none = format!("{:x<1$}", "localhost:1/", image.len());
    assert_eq!(none.len(), image.len());
    let way = Way::rewriting_some(&ground, "\"toehold.local/user\":\"unlucky\"", &[(&image, &none)]);
    let pods = Pods::on_ground(ground.clone(), &json!({ "connection": way.connection(&ground) }), &[]);
    let children: Vec<_> = (0..10)
        .map(|number| {
            let mut command = pods.client("ssh");
            let user = if UNLUCKY.contains(&number) { "unlucky" } else { "lucky" };
            command.args(["-l", user, "127.0.0.1", &format!("echo {number}; exit {number}")]).spawn().unwrap()
        })
        .collect();
    for (number, child) in children.into_iter().enumerate() {
        let done = Done::of(child.wait_with_output().unwrap());
        if UNLUCKY.contains(&number) {
            assert!(done.code == 255 && done.stderr.contains("the image cannot be pulled"), "{number}: {done:?}");
        } else {
            assert_eq!((done.code, done.stdout), (i32::try_from(number).unwrap(), format!("{number}\n")), "{}", done.stderr);
        }
    }
    pods.waits_until_empty();
}

/// The same row: nothing can schedule the pod.
#[test]
fn a_pod_that_no_node_can_take_is_said_to_be_one() {
    let mut config = json!({});
    config["pod"]["podSpec"]["nodeSelector"] = json!({ "no-such-label": "here" });
    let pods = Pods::configured(&config, &[]);
    refused(&pods, "no node can take the pod");
}

/// `ContainerSSH`: "quota, forbidden, a user name that makes an invalid label: the same 60 s: permanent refusals are tried again".
#[test]
fn a_quota_that_is_used_up_is_said_to_be() {
    let pods = Pods::start();
    let quota = ["create", "quota", "none", "--hard=pods=0"];
    pods.ground.namespace().kubectl(quota).text();
    // The quota holds once its controller has counted.
    eventually("the quota", || {
        let quota = pods.ground.namespace().kubectl(["get", "quota", "none"]).json();
        quota.pointer("/status/hard/pods").is_some_and(|pods| pods == "0")
    });
    refused(&pods, "the quota does not allow another pod");
}

/// The same row: the gateway's rights were taken away while it ran.
#[test]
fn what_the_gateway_may_not_do_is_said() {
    let pods = Pods::start();
    pods.run("true").ends(0);
    pods.waits_until_empty();
    let deleted = ["delete", "rolebinding", "toehold-pods"];
    pods.ground.namespace().kubectl(deleted).text();
    let mut seen = None;
    eventually("the refusal", || {
        let begun = Instant::now();
        let done = pods.run("true");
        let is_it = done.code == 255 && done.stderr.contains("the gateway is not allowed to do this in the cluster");
        seen = is_it.then(|| begun.elapsed());
        is_it
    });
    assert!(seen.unwrap() < SOON, "{seen:?}");
}

/// The same row: any user name makes valid labels, and the full name stands beside them.
#[test]
fn any_user_name_gets_a_pod() {
    let pods = Pods::start();
    for user in ["bad user!", "josé", "trail-", "a.b", "UPPER", "x/../y"] {
        let mut command = pods.client("ssh");
        command.args(["-l", user, "127.0.0.1", "echo here; cat"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        eventually("its pod", || pods.list().iter().any(|pod| pod["user"] == user));
        drop(child.stdin.take());
        let done = Done::of(child.wait_with_output().unwrap()).ends(0);
        assert_eq!(done.stdout, "here\n", "{user}");
    }
    pods.waits_until_empty();
}

#[test]
fn a_specification_that_is_not_valid_is_said_not_to_be() {
    let mut config = json!({});
    config["pod"]["podSpec"]["hostname"] = json!("No Host Name");
    let pods = Pods::configured(&config, &[]);
    refused(&pods, "the pod's specification is not valid");
}

/// A pod whose first process has failed is not ready, whatever its phase says.
#[test]
fn a_first_process_that_ends_is_no_pod() {
    let pods = Pods::configured(&json!({ "pod": { "idleCommand": ["/bin/false"] } }), &[]);
    // It may have been ready for a moment.
    let done = pods.run("true").ends(255);
    let words = ["the pod's first process has ended with exit code 1", "it cannot be run in the pod"];
    assert!(words.iter().any(|words| done.stderr.contains(words)), "{done:?}");
    let pods = pods.again(&json!({ "pod": { "idleCommand": ["/bin/nosuch"] } }), &[]);
    refused(&pods, "the pod's first process cannot be started");
}

fn without_a_shell(pods: &Pods, line: &str) -> Done {
    Done::of(pods.ssh_with(&["-T"], line).output().unwrap())
}

/// `ContainerSSH`: "`/bin/nosuch`, a missing sftp-server: 61 s of silence, then 137; exit 0; scp hangs, says nothing". The first is
/// among the commands that run on any ground.
#[test]
fn what_an_image_lacks_is_said() {
    let pods = Pods::start();
    let begun = Instant::now();
    for program in ["sftp", "scp"] {
        let mut command = pods.client(program);
        if program == "sftp" {
            command.args(["-b", "/dev/null", "anybody@127.0.0.1"]);
        } else {
            command.args(["/etc/hostname", "anybody@127.0.0.1:/here"]);
        }
        let done = Done::of(command.output().unwrap());
        assert_ne!(done.code, 0, "{done:?}");
        assert!(done.stderr.contains("/usr/lib/openssh/sftp-server"), "{done:?}");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    pods.waits_until_empty();
}

/// A gateway whose pods have no shell.
fn no_shell() -> Pods {
    let ground = Ground::new();
    let mut config = Ground::image(&ground.cluster().images.no_shell);
    config["pod"]["idleCommand"] = json!(["/bin/sleep", "3600"]);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    Pods::on_ground(ground, &config, &[])
}

#[test]
fn an_image_without_a_shell_runs_what_needs_none_and_says_what_does() {
    let pods = no_shell();
    let done = without_a_shell(&pods, "/bin/echo done").ends(0);
    assert_eq!(done.stdout, "done\n");
    assert_eq!(fed(pods.ssh("/bin/cat"), b"through"), b"through");
    without_a_shell(&pods, "/bin/false").ends(1);
    let done = without_a_shell(&pods, "/bin/nosuch").ends(127);
    assert!(done.stderr.contains("/bin/nosuch: there is no such command in the image"), "{done:?}");
    let done = without_a_shell(&pods, "").ends(255);
    assert!(done.stderr.contains("the image has no shell"), "{done:?}");
    let done = without_a_shell(&pods, "/bin/echo a; /bin/echo b").ends(255);
    assert!(done.stderr.contains("the command line needs one") && done.stdout.is_empty(), "{done:?}");
    pods.waits_until_empty();
}

/// A signal that cannot be sent is said not to be, and only once; what runs goes on.
#[tokio::test]
async fn a_signal_that_no_shell_can_send_is_said_not_to_be_sent() {
    let pods = tokio::task::spawn_blocking(no_shell).await.unwrap();
    let client = Client::log_in(&pods).await;
    let mut channel = client.open().await;
    channel.exec(true, "/bin/cat").await.unwrap();
    channel.data_bytes("here\n").await.unwrap();
    until_output(&mut channel, b"here\n").await;
    for _ in 0..3 {
        channel.signal(Sig::TERM).await.unwrap();
    }
    channel.data_bytes("still here\n").await.unwrap();
    channel.eof().await.unwrap();
    let (mut out, mut err, mut status) = (String::new(), String::new(), None);
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => out.push_str(std::str::from_utf8(&data).unwrap()),
            ChannelMsg::ExtendedData { data, .. } => err.push_str(std::str::from_utf8(&data).unwrap()),
            ChannelMsg::ExitStatus { exit_status } => status = Some(exit_status),
            _ => {}
        }
    }
    assert_eq!((out.as_str(), status), ("still here\n", Some(0)));
    assert_eq!(err.matches("the signal TERM cannot be sent").count(), 1, "{err}");
    client.handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    tokio::task::spawn_blocking(move || pods.waits_until_empty()).await.unwrap();
}
