//! Many at once.
//!
//! `TOEHOLD_CONNECTIONS_AT_ONCE` says how many (12 where it is not set; `cargo xtask chaos --of pods-kubernetes` takes more, and
//! `TOEHOLD_CONNECTIONS` in all).

use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use russh::{Channel, ChannelMsg};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Pods, Session};
use crate::ground::Ground;
use crate::raw::Anybody;
use crate::support::{Toehold, eventually, store};

/// Of these connections one gets an image that cannot be pulled.
const FAILING: usize = 20;

/// What a gateway is told that is to be filled.
const MANY: [&str; 8] = [
    "--max-connections-per-principal",
    "5000",
    "--max-strangers-per-source",
    "512",
    "--login-timeout",
    "10m",
    "--requests-per-minute",
    "1000000",
];

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap())
}

pub(crate) fn at_once() -> usize {
    number("TOEHOLD_CONNECTIONS_AT_ONCE", 12)
}

/// Pods that end at once and want next to nothing of the node.
fn small(image: Option<&str>) -> Value {
    let mut config = image.map_or_else(|| json!({}), Ground::image);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    config["timeout"] = json!("10m");
    config
}

struct Crowd {
    key: Arc<PrivateKey>,
}

impl Crowd {
    fn of(pods: &Pods) -> Self {
        Self { key: Arc::new(PrivateKey::from_openssh(fs::read(pods.file("key")).unwrap()).unwrap()) }
    }

    async fn log_in(&self, address: std::net::SocketAddr) -> Handle<Anybody> {
        let mut handle = client::connect(Arc::default(), address, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
        handle
    }

    async fn run(&self, address: std::net::SocketAddr, line: &str) -> (Handle<Anybody>, Channel<client::Msg>) {
        let handle = self.log_in(address).await;
        let channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, line).await.unwrap();
        (handle, channel)
    }
}

/// What came of a command.
#[derive(Debug, Default)]
struct End {
    stdout: String,
    stderr: String,
    status: Option<u32>,
}

async fn end(channel: &mut Channel<client::Msg>) -> End {
    let mut end = End::default();
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => end.stdout.push_str(std::str::from_utf8(&data).unwrap()),
            ChannelMsg::ExtendedData { data, .. } => end.stderr.push_str(std::str::from_utf8(&data).unwrap()),
            ChannelMsg::ExitStatus { exit_status } => end.status = Some(exit_status),
            _ => {}
        }
    }
    end
}

/// One in twenty gets an image that cannot be pulled: that one is told so, all others get what they came for, and nothing is left.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_of_which_some_fail_leave_nothing_and_everybody_is_told_why() {
    let (at_once, count) = (at_once(), number("TOEHOLD_CONNECTIONS", at_once()));
    let (pods, failing) = tokio::task::spawn_blocking(|| {
        let pods = Pods::configured(&small(None), &MANY);
        let failing = pods.another(&small(Some("localhost:1/none")), &MANY);
        (pods, failing)
    })
    .await
    .unwrap();
    let crowds = Arc::new([Crowd::of(&pods), Crowd::of(&failing)]);
    let addresses = [pods.address, failing.address];
    let places = Arc::new(Semaphore::new(at_once));
    let all: Vec<_> = (0..count)
        .map(|number| {
            let (crowds, places) = (Arc::clone(&crowds), Arc::clone(&places));
            tokio::spawn(async move {
                let _place = places.acquire().await.unwrap();
                let fails = number.is_multiple_of(FAILING);
                let line = format!("echo {number}; exit {}", number % 100);
                let (handle, mut channel) = crowds[usize::from(fails)].run(addresses[usize::from(fails)], &line).await;
                let end = end(&mut channel).await;
                drop(handle);
                (number, fails, end)
            })
        })
        .collect();
    for one in all {
        let (number, fails, end) =
            tokio::time::timeout(Duration::from_secs(3_000), one).await.expect("everybody is told").unwrap();
        if fails {
            assert!(end.status == Some(255) && end.stderr.contains("the image cannot be pulled"), "{number}: {end:?}");
        } else {
            assert_eq!(
                (end.status, end.stdout),
                (Some(u32::try_from(number % 100).unwrap()), format!("{number}\n")),
                "{}",
                end.stderr
            );
        }
    }
    tokio::task::spawn_blocking(move || {
        pods.waits_until_empty();
        failing.waits_until_empty();
        drop((pods, failing));
    })
    .await
    .unwrap();
}

/// `ContainerSSH`: "the gateway is killed with 10 connections: 10 pods still run a minute later".
#[tokio::test(flavor = "multi_thread")]
async fn p2_a_gateway_that_is_killed_under_many_leaves_no_pod_a_minute_later_where_another_lives() {
    let count = at_once();
    let (pods, other) = tokio::task::spawn_blocking(|| {
        let pods = Pods::configured(&small(None), &MANY);
        let other = pods.another(&small(None), &[]);
        (pods, other)
    })
    .await
    .unwrap();
    let (crowd, address) = (Arc::new(Crowd::of(&pods)), pods.address);
    let coming: Vec<_> = (0..count)
        .map(|_| {
            let crowd = Arc::clone(&crowd);
            tokio::spawn(async move {
                let (handle, mut channel) = crowd.run(address, "echo begun; sleep 6000").await;
                crate::raw::until_output(&mut channel, b"begun\n").await;
                (handle, channel)
            })
        })
        .collect();
    let mut held = Vec::new();
    for one in coming {
        held.push(one.await.unwrap());
    }
    tokio::task::spawn_blocking(move || {
        let mut living = Session::start({
            let mut command = other.ssh("echo begun; cat; exit 6");
            command.stdin(Stdio::piped());
            command
        });
        assert_eq!(living.line(), "begun");
        assert_eq!(other.ground.pods().len(), count + 1);
        let killed = Instant::now();
        let toehold = pods.kill();
        eventually("the end of the pods of the one that was killed", || other.ground.pods().len() == 1);
        let within = killed.elapsed();
        assert!(count > 100 || within < Duration::from_secs(60), "{within:?}");
        drop(living.child.stdin.take());
        living.ends().ends(6);
        other.waits_until_empty();
        drop(toehold);
    })
    .await
    .unwrap();
    drop(held);
}

/// Somebody comes and stays for as long as there is a gateway.
async fn comes(key: Arc<PrivateKey>, address: std::net::SocketAddr) -> Option<()> {
    let mut handle = client::connect(Arc::default(), address, Anybody).await.ok()?;
    handle.authenticate_publickey("anybody", PrivateKeyWithHashAlg::new(key, None)).await.ok()?;
    let mut channel = handle.channel_open_session().await.ok()?;
    channel.exec(true, "sleep 6000").await.ok()?;
    while channel.wait().await.is_some() {}
    Some(())
}

fn records(toehold: &Toehold) -> usize {
    store::keys(toehold).iter().filter(|key| key.starts_with("pod/")).count()
}

/// At moments at which some pods are only recorded, some asked for, some there and some ready: one that comes back with what it knew clears
/// all of that away, and so does another one, by what the cluster knows.
#[tokio::test(flavor = "multi_thread")]
async fn p2_a_gateway_that_is_killed_while_pods_are_made_leaves_neither_pod_nor_record() {
    const ROUNDS: usize = 4;
    let (mut pods, other) = tokio::task::spawn_blocking(|| {
        let pods = Pods::configured(&small(None), &MANY);
        let other = pods.another(&small(None), &[]);
        (pods, other)
    })
    .await
    .unwrap();
    let ground = pods.ground.clone();
    let (mut recorded, mut left) = (0, None);
    for round in 1..=ROUNDS {
        let (key, address) = (Crowd::of(&pods).key, pods.address);
        let all: Vec<_> = (0..10)
            .map(|_| {
                let (key, when) = (Arc::clone(&key), Duration::from_millis(getrandom::u64().unwrap() % 500));
                tokio::spawn(async move {
                    tokio::time::sleep(when).await;
                    // Whoever comes late finds nobody.
                    comes(key, address).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(250 + getrandom::u64().unwrap() % 750)).await;
        let toehold = tokio::task::spawn_blocking(|| pods.kill()).await.unwrap();
        recorded += records(&toehold);
        for one in all {
            one.await.unwrap();
        }
        if round == ROUNDS {
            left = Some(toehold);
            break;
        }
        let ground = ground.clone();
        pods = tokio::task::spawn_blocking(|| Pods::on(toehold, ground, &small(None), &MANY)).await.unwrap();
    }
    assert!(recorded > 0, "no moment was one at which a pod was being made");
    tokio::task::spawn_blocking(move || {
        let killed = Instant::now();
        eventually("the end of the pods of the one that was killed", || ground.pods().is_empty());
        let owners = || ground.namespace().kubectl(["get", "jobs"]).json()["items"].as_array().unwrap().len();
        eventually("the end of their owners", || owners() == 1);
        assert!(killed.elapsed() < Duration::from_secs(60), "{:?}", killed.elapsed());
        other.run("true").ends(0);
        other.waits_until_empty();
        // Its records are its own: gone when it is there again.
        let again = Pods::on(left.unwrap(), ground.clone(), &small(None), &[]);
        eventually("the end of the records", || records(&again.toehold) == 0);
        again.run("true").ends(0);
        again.waits_until_empty();
    })
    .await
    .unwrap();
}
