//! A fault of the program, here of what decides who is let in, ends one connection and no other.

use std::sync::Arc;

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg};
use toehold::adapters::local_pods::LocalPods;
use toehold::adapters::sqlite::SqliteStore;
use toehold::cli::Signals;
use toehold::gateway::LimitOptions;
use toehold::pods::authentication::AuthenticationError;
use toehold::pods::{Admission, Applicant, Authenticator, ServeOptions, serve};
use toehold_podrun::config::Config;
use tokio::sync::oneshot;

use crate::raw::Anybody;

struct Faulty;

impl Authenticator for Faulty {
    async fn admit(&self, applicant: Applicant<'_>) -> Result<Option<Admission>, AuthenticationError> {
        assert!(applicant.user != "panic", "on purpose");
        let principal = applicant.user.to_owned();
        let admission = Admission { principal, command: None, terminal: true, metadata: Arc::default() };
        Ok((applicant.user == "good").then_some(admission))
    }
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_no_other() {
    let directory = crate::support::server::directory("panics");
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let options = ServeOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        metrics: Some("127.0.0.1:0".parse().unwrap()),
        limits: LimitOptions::default(),
        channels: 10,
        keep_alive: std::time::Duration::from_secs(15),
        keep_alive_count: 3,
        drain: std::time::Duration::ZERO,
        audit_writer: None,
    };
    // No pod is made for a connection: this process's own program is none that can be a pod's first.
    let settings = Config::parse("pod: {mode: session}").unwrap().validate().unwrap();
    let (pods, store) = (LocalPods::open(directory.path()).unwrap(), SqliteStore::create(directory.path()).unwrap());
    let (announced, announcement) = oneshot::channel();
    let announce = |announcement| drop(announced.send(announcement));
    let signals = Signals::listen().unwrap();
    let path = directory.path().to_owned();
    let serving =
        tokio::spawn(async move { serve(options, settings, pods, Faulty, store, &path, announce, signals).await.unwrap() });
    let announcement = announcement.await.unwrap();

    let key = crate::support::keys::ssh_keygen(&directory.path().join("key"), &["-t", "ed25519"]);
    assert_eq!(key.algorithm(), "ssh-ed25519");
    let key = Arc::new(PrivateKey::from_openssh(std::fs::read(directory.path().join("key")).unwrap()).unwrap());
    let log_in = async |user: &'static str| {
        let mut handle = client::connect(Arc::default(), announcement.listening, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::clone(&key), None);
        let answer = handle.authenticate_publickey(user, key).await;
        (handle, answer.map(|answer| answer.success()))
    };
    let (good, answer) = log_in("good").await;
    assert!(answer.unwrap());
    // russh's client does not tell an answer from an end.
    let (ended, answer) = log_in("panic").await;
    assert!(!answer.unwrap_or(false) && ended.is_closed());
    assert!(!log_in("other").await.1.unwrap());
    // Whoever was there before goes on.
    good.channel_open_session().await.unwrap();
    let metrics = announcement.metrics.unwrap();
    let told = async || {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut tcp = tokio::net::TcpStream::connect(metrics).await.unwrap();
        tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        text
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !told().await.contains("toehold_pods_panics_total 1\n") {
        assert!(std::time::Instant::now() < deadline, "the panic is not counted");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    serving.abort();
}
