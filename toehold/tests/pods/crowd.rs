//! Many at once, and some whose pods fail: nothing is left, and everybody was told why.
//!
//! `TOEHOLD_CONNECTIONS` says how many (60 where it is not set; `cargo xtask chaos --of pods` takes more).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64ct::Encoding as _;
use russh::ChannelMsg;
use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use serde_json::json;
use tokio::sync::{Barrier, Semaphore};

use crate::gateway::{Pods, file_of, is_alive, path};
use crate::raw::Anybody;
use crate::support::eventually;

/// Of a hundred, how many pods fail.
const FAILING: usize = 5;
/// How many are on their way in at the same time.
const AT_ONCE: usize = 50;

fn connections() -> usize {
    std::env::var("TOEHOLD_CONNECTIONS").ok().map_or(60, |text| text.parse().unwrap())
}

/// How one of them fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// A file that belongs to the login cannot be written.
    NoFile,
    /// Somebody kills the pod's first process.
    Killed,
    /// Somebody removes the pod.
    Removed,
}

impl Fate {
    fn of(number: usize) -> Self {
        let every = 100 / FAILING;
        match (number % every, number / every % 3) {
            (0, 0) => Self::NoFile,
            (0, 1) => Self::Killed,
            (0, _) => Self::Removed,
            _ => Self::Good,
        }
    }

    fn user(self) -> &'static str {
        if self == Self::NoFile { "no-file" } else { "good" }
    }
}

/// What came of one.
#[derive(Debug, Default)]
struct End {
    stdout: String,
    stderr: String,
    status: Option<u32>,
}

struct Crowd {
    address: std::net::SocketAddr,
    key: Arc<PrivateKey>,
    coming: Semaphore,
}

impl Crowd {
    async fn log_in(&self, user: &str) -> Handle<Anybody> {
        let mut handle = client::connect(Arc::default(), self.address, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&self.key), None);
        assert!(handle.authenticate_publickey(user, key).await.unwrap().success());
        handle
    }

    /// Runs until it is told to end, or is ended; the name of its pod goes to `name`.
    async fn one(&self, fate: Fate, all_are_in: &Barrier, name: impl FnOnce(String)) -> End {
        let coming = self.coming.acquire().await.unwrap();
        let handle = self.log_in(fate.user()).await;
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, "echo $TOEHOLD_POD; cat; echo bye").await.unwrap();
        let (mut end, mut name, mut coming) = (End::default(), Some(name), Some(coming));
        let mut is_in = false;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => end.stdout.push_str(std::str::from_utf8(&data).unwrap()),
                ChannelMsg::ExtendedData { data, .. } => end.stderr.push_str(std::str::from_utf8(&data).unwrap()),
                ChannelMsg::ExitStatus { exit_status } => end.status = Some(exit_status),
                _ => {}
            }
            if !is_in && (end.stdout.ends_with('\n') || end.status.is_some()) {
                is_in = true;
                drop(coming.take());
                if let Some(name) = name.take() {
                    name(end.stdout.trim().to_owned());
                }
                all_are_in.wait().await;
                if fate == Fate::Good {
                    channel.eof().await.unwrap();
                }
            }
        }
        end
    }
}

/// A gateway whose command gives everybody a file, and somebody one that cannot be.
fn start() -> Pods {
    let toehold = Pods::prepared();
    let script = file_of(&toehold, "who");
    fs::write(&script, "#!/bin/sh\nexec cat \"${0%/*}/$1.json\"\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let line = fs::read_to_string(file_of(&toehold, "key.pub")).unwrap();
    for (user, place) in [("good", "~/.token"), ("no-file", "/proc/none/token")] {
        let content = base64ct::Base64::encode_string(b"x");
        let document = json!({ "keys": [line.trim()], "files": [{ "path": place, "content": content }] });
        fs::write(file_of(&toehold, &format!("{user}.json")), document.to_string()).unwrap();
    }
    let command = format!("{} %u", path(&script));
    let many = [
        "--max-strangers-per-source",
        "512",
        "--max-connections-per-principal",
        "2000",
        "--connections-per-minute",
        "1000000",
        "--requests-per-minute",
        "1000000",
    ];
    Pods::by(
        toehold,
        &[
            &["--authorized-keys-command", &command, "--login-timeout", "10m", "--authorized-keys-command-timeout", "5m"],
            &many[..],
        ]
        .concat(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_everybody_whose_pod_fails_is_told_why_and_nothing_is_left() {
    let count = connections();
    let pods = Arc::new(start());
    let key = Arc::new(PrivateKey::from_openssh(fs::read(pods.file("key")).unwrap()).unwrap());
    let crowd = Arc::new(Crowd { address: pods.address, key, coming: Semaphore::new(AT_ONCE) });
    let (all_are_in, told) = (Arc::new(Barrier::new(count)), Arc::new(AtomicUsize::new(0)));
    let all: Vec<_> = (0..count)
        .map(|number| {
            let (crowd, pods, all_are_in, told) =
                (Arc::clone(&crowd), Arc::clone(&pods), Arc::clone(&all_are_in), Arc::clone(&told));
            tokio::spawn(async move {
                let fate = Fate::of(number);
                let end = crowd.one(fate, &all_are_in, |name| spoil(&pods, fate, name)).await;
                told.fetch_add(1, Ordering::Relaxed);
                (fate, end)
            })
        })
        .collect();
    let mut failed = 0;
    for one in all {
        let (fate, end) = tokio::time::timeout(Duration::from_secs(600), one).await.expect("everybody is told").unwrap();
        let words = match fate {
            Fate::Good => {
                assert_eq!((end.status, end.stderr.as_str()), (Some(0), ""), "{end:?}");
                assert!(end.stdout.starts_with("toehold-") && end.stdout.ends_with("\nbye\n"), "{end:?}");
                continue;
            }
            Fate::NoFile => "the file /proc/none/token, which belongs to the login",
            Fate::Killed | Fate::Removed => "it was ended: the pod",
        };
        failed += 1;
        assert!(end.stderr.contains(words) && end.status == Some(255), "{fate:?}: {end:?}");
    }
    assert_eq!((failed, told.load(Ordering::Relaxed)), (count.div_ceil(100 / FAILING), count));
    tokio::task::spawn_blocking(move || {
        pods.waits_until_empty();
        let store = crate::support::store::keys(&pods.toehold);
        assert!(!store.iter().any(|key| key.starts_with("pod/")), "{store:?}");
    })
    .await
    .unwrap();
}

/// Sees to it that a pod fails that is to.
fn spoil(pods: &Arc<Pods>, fate: Fate, name: String) {
    let directory = pods.toehold.state().join("pods").join(&name);
    match fate {
        Fate::Good | Fate::NoFile => {}
        Fate::Killed => {
            let noted = fs::read_to_string(directory.join("first-process")).unwrap();
            let first = rustix::process::Pid::from_raw(noted.split(' ').next().unwrap().parse().unwrap()).unwrap();
            rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
        }
        Fate::Removed => {
            let pods = Arc::clone(pods);
            std::thread::spawn(move || drop(pods.toehold.run(["pods", "rm", "--backend", "local", &name])));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_gateway_that_is_killed_under_a_hundred_leaves_no_pod_where_another_lives() {
    const COUNT: usize = 100;
    let pods = start();
    let other = Pods::beside(&pods, &["--metrics", "127.0.0.1:0"]);
    let key = Arc::new(PrivateKey::from_openssh(fs::read(pods.file("key")).unwrap()).unwrap());
    let crowd = Crowd { address: pods.address, key: Arc::clone(&key), coming: Semaphore::new(AT_ONCE) };
    let (mut held, mut processes) = (Vec::new(), Vec::new());
    for _ in 0..COUNT {
        let handle = crowd.log_in("good").await;
        let mut channel = handle.channel_open_session().await.unwrap();
        channel.exec(true, "(setsid sleep 600 & echo $!); exec sleep 600").await.unwrap();
        let number = loop {
            if let ChannelMsg::Data { data } = channel.wait().await.unwrap() {
                break String::from_utf8(data.to_vec()).unwrap().trim().parse::<i32>().unwrap();
            }
        };
        processes.push(number);
        held.push((handle, channel));
    }
    // Somebody of the other's goes on.
    let theirs = Crowd { address: other.address, key, coming: Semaphore::new(AT_ONCE) };
    let handle = theirs.log_in("good").await;
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.exec(true, "echo begun; cat; echo bye").await.unwrap();
    crate::raw::until_output(&mut channel, b"begun\n").await;
    assert_eq!(pods.ground.directories(&pods.toehold), COUNT + 1);
    let toehold = pods.kill();
    tokio::task::spawn_blocking(move || {
        eventually("the end of every process", || !processes.iter().any(|number| is_alive(*number)));
        // The other clears away what is left, and keeps its own.
        let left = || fs::read_dir(toehold.state().join("pods")).unwrap().count();
        eventually("the end of the other gateway's pods", || left() == 1);
        eventually("the end of its records", || {
            crate::support::store::keys(&toehold).iter().filter(|key| key.starts_with("pod/")).count() == 1
        });
        assert!(other.counted("toehold_pods_reaped_total") >= 1);
        drop(held);
        (other, toehold)
    })
    .await
    .map(|kept| async move {
        channel.eof().await.unwrap();
        crate::raw::until_output(&mut channel, b"bye\n").await;
        drop(kept);
    })
    .unwrap()
    .await;
}
