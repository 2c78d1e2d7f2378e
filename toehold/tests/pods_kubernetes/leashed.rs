//! What runs in a pod that stays ends with its client, whenever that leaves, and whoever dies.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use serde_json::{Value, json};

use crate::gateway::{Pods, Session};
use crate::ground::Ground;
use crate::many::at_once;
use crate::raw::Anybody;
use crate::support::eventually;

/// Over which time clients leave, so that each moment of a start is hit by one of them.
const SPREAD: Duration = Duration::from_millis(300);

/// How many come at once: more of them where more are asked for, as by `cargo xtask chaos`.
fn clients() -> u32 {
    u32::try_from(at_once() / 2).unwrap()
}

fn persistent() -> Value {
    json!({ "pod": { "mode": "persistent", "createMissingPods": true } })
}

/// How many processes of this program are in the only pod, beside what it began with and what looks.
fn running(ground: &Ground, program: &str) -> usize {
    let look =
        format!("for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -c '^{program}'; done | grep -c 1; true");
    ground.namespace().kubectl(["exec", &ground.pod(), "--", "/bin/sh", "-c", &look]).text().trim().parse().unwrap()
}

/// What a client left behind is gone, and so is every shell that was to start it.
fn nothing_runs(ground: &Ground) {
    eventually("the end of what was begun", || {
        running(ground, "sleep 654") == 0
            && running(ground, "/bin/sh -c stty -echo") == 0
            && running(ground, "/bin/sh -c trap") == 0
    });
}

async fn asks_and_leaves(address: std::net::SocketAddr, key: &Arc<PrivateKey>, with_terminal: bool, after: Duration) {
    let mut handle = client::connect(Arc::default(), address, Anybody).await.unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::clone(key), None);
    assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
    let channel = handle.channel_open_session().await.unwrap();
    if with_terminal {
        channel.request_pty(true, "dumb", 80, 24, 0, 0, &[]).await.unwrap();
    }
    channel.exec(true, "trap '' HUP; sleep 654; sleep 654").await.unwrap();
    tokio::time::sleep(after).await;
    // Without a farewell.
    drop(handle);
}

/// Between the start of a process and the moment when the gateway knows of it nobody could end it.
#[tokio::test(flavor = "multi_thread")]
async fn p1_whenever_a_client_leaves_nothing_of_it_goes_on_in_a_pod_that_stays() {
    let pods = tokio::task::spawn_blocking(|| {
        let pods = Pods::configured(&persistent(), &[]);
        pods.run("true").ends(0);
        pods
    })
    .await
    .unwrap();
    let key = Arc::new(PrivateKey::from_openssh(std::fs::read(pods.file("key")).unwrap()).unwrap());
    let (address, ground) = (pods.address, pods.ground.clone());
    for with_terminal in [false, true] {
        let all: Vec<_> = (0..clients())
            .map(|number| {
                let key = Arc::clone(&key);
                tokio::spawn(async move {
                    asks_and_leaves(address, &key, with_terminal, SPREAD * number / clients()).await;
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
    }
    tokio::task::spawn_blocking(move || {
        // The gateway is done with them when it can do something for others.
        pods.run("true").ends(0);
        nothing_runs(&ground);
        drop(pods);
    })
    .await
    .unwrap();
}

/// Nor where it is the gateway that goes, at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn p1_whenever_a_gateway_is_killed_nothing_goes_on_in_a_pod_that_stays() {
    let mut pods = tokio::task::spawn_blocking(|| Pods::configured(&persistent(), &[])).await.unwrap();
    let ground = pods.ground.clone();
    for after in [0, 50, 120] {
        pods = tokio::task::spawn_blocking(move || {
            pods.run("true").ends(0);
            pods
        })
        .await
        .unwrap();
        let key = Arc::new(PrivateKey::from_openssh(std::fs::read(pods.file("key")).unwrap()).unwrap());
        let address = pods.address;
        // Several, a few milliseconds apart, so that each moment of a start is hit.
        let all: Vec<_> = (0..clients())
            .map(|number| {
                let key = Arc::clone(&key);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(u64::from(number) * 8)).await;
                    let mut handle = client::connect(Arc::default(), address, Anybody).await.ok()?;
                    let key = PrivateKeyWithHashAlg::new(key, None);
                    handle.authenticate_publickey("anybody", key).await.ok()?;
                    let channel = handle.channel_open_session().await.ok()?;
                    channel.exec(true, "trap '' HUP; sleep 654; sleep 654").await.ok()?;
                    Some((handle, channel))
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100 + after)).await;
        pods = tokio::task::spawn_blocking(move || pods.again(&persistent(), &[])).await.unwrap();
        for one in all {
            drop(one.await.unwrap());
        }
        let ground = ground.clone();
        tokio::task::spawn_blocking(move || nothing_runs(&ground)).await.unwrap();
    }
    tokio::task::spawn_blocking(move || drop(pods)).await.unwrap();
}

/// Where it was to be run without a shell, it is run by one all the same, for the sake of its end.
#[test]
fn p1_a_line_that_is_split_ends_with_its_client_in_a_pod_that_stays() {
    let mut config = persistent();
    config["pod"]["splitPathCommands"] = json!(true);
    let pods = Pods::configured(&config, &[]);
    assert_eq!(pods.run("/bin/echo a; /bin/echo b").ends(0).stdout, "a; /bin/echo b\n");
    let mut session = Session::start({
        let mut command = pods.ssh("/bin/sh -c echo${IFS}begun;exec${IFS}sleep${IFS}654");
        command.stdin(Stdio::piped());
        command
    });
    assert_eq!(session.line(), "begun");
    assert_eq!(running(&pods.ground, "sleep 654"), 1);
    drop(session);
    nothing_runs(&pods.ground);
}

/// Without any shell nothing can be ended from outside: there it is the end of its input that tells a process that its client has gone.
#[test]
fn in_an_image_without_a_shell_what_ends_with_its_input_ends_with_its_client() {
    let ground = Ground::new();
    let mut config = Ground::image(&ground.cluster().images.no_shell);
    config["pod"]["idleCommand"] = json!(["/bin/sleep", "3600"]);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    config["pod"]["mode"] = json!("persistent");
    config["pod"]["createMissingPods"] = json!(true);
    let pods = Pods::on_ground(ground, &config, &[]);
    let mut session = Session::start({
        let mut command = pods.ssh("/bin/cat -");
        command.stdin(Stdio::piped());
        command
    });
    std::io::Write::write_all(session.child.stdin.as_mut().unwrap(), b"through\n").unwrap();
    assert_eq!(session.line(), "through");
    // The pod's own numbers, one by one, since nothing there knows how to list them.
    let look = (2..100).map(|number| format!(" /proc/{number}/cmdline")).collect::<String>();
    let runs = || pods.run(&format!("/bin/cat{look}")).stdout.contains("/bin/cat\0-\0");
    assert!(runs());
    drop(session);
    eventually("its end", || !runs());
}
