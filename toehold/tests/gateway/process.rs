//! How the process behaves: its end, its metrics, its health.

use toehold::adapters::grpc::health_v1::HealthCheckRequest;
use toehold::adapters::grpc::health_v1::health_client::HealthClient;
use toehold::adapters::sqlite::SqliteStore;
use toehold_core::{Expect, Key, Store as _};
use toehold_joinproto::v3::FreshIdentity;
use tokio::time::timeout;

use crate::join_support::gateway::{
    Dial, Gateway, PATIENCE, Session, Talk, eventually, identity, join, join_with, line, origin, rng,
};
use crate::support::Toehold;

#[tokio::test]
async fn told_to_stop_it_says_goodbye_and_ends_with_0() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let joined = join(&dial, &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let connection = dial.connect().await.unwrap();
    let mut session = Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    assert_eq!(session.next().await.unwrap_err().code(), tonic::Code::Unavailable);
    let done = stopping.await.unwrap();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(done.json()["event"], "stopped");
    assert!(dial.connect().await.is_err());
}

/// A machine that is removed in the store that is there now would still be let in, and one that joins here would not be known there.
#[tokio::test]
async fn a_gateway_whose_store_is_moved_away_lets_nobody_in_and_ends_with_words() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    drop(dial.connect_in_time().await);
    std::fs::rename(toehold.state().join("state.db"), toehold.state().join("away")).unwrap();
    let done = tokio::task::spawn_blocking(move || gateway.ends());
    let done = timeout(PATIENCE, done).await.expect("it goes on").unwrap();
    assert_eq!(done.code, 1, "{done:?}");
    let said = done.json();
    assert!(said["error"].as_str().unwrap().contains("moved, removed or replaced"), "{said}");
    assert!(dial.connect().await.is_err());
}

#[tokio::test]
async fn metrics_and_health_are_told_on_loopback() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0"]);
    let dial = Dial::to(gateway.address);
    join(&dial, &line(&toehold, gateway.address, &[]), &FreshIdentity::generate(&mut rng()).saved()).await.unwrap();
    assert_eq!(gateway.counted("toehold_gateway_joins_total{protocol=\"v3\",outcome=\"joined\"}").await, 1);
    assert_eq!(gateway.counted("toehold_gateway_ready").await, 1);
    assert_eq!(gateway.told("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(gateway.told("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(gateway.told("/state").await.0, 404);
    let mut health = HealthClient::with_origin(dial.connect().await.unwrap(), origin());
    let mut ask = async |service: &str| health.check(HealthCheckRequest { service: service.to_owned() }).await;
    assert_eq!(ask("").await.unwrap().into_inner().status, 1);
    assert_eq!(ask("toehold.join.v3.Join").await.unwrap().into_inner().status, 1);
    assert_eq!(ask("another").await.unwrap_err().code(), tonic::Code::NotFound);
    let refused = toehold.run(["gateway", "serve", "--metrics", "192.0.2.1:9"]).ends(2);
    assert!(refused.stderr.contains("loopback"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_join_that_is_open_when_it_is_told_to_stop_still_succeeds() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--drain", "2m"]);
    let (dial, line, me) = (Dial::to(gateway.address), line(&toehold, gateway.address, &[]), identity());
    let connection = dial.connect_in_time().await;
    let joined = join_with(&connection, &line, &me, || async {
        gateway.signal(rustix::process::Signal::TERM);
        eventually("it takes no more connections", || async { dial.connect().await.is_err() }).await;
    });
    joined.await.unwrap();
    drop(connection);
    let done = timeout(PATIENCE, tokio::task::spawn_blocking(move || gateway.ends())).await.expect("it goes on").unwrap();
    assert_eq!(done.code, 0, "{done:?}");
}

#[tokio::test]
async fn what_does_not_end_when_it_is_told_to_stop_is_cut() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--drain", "1s", "--stranger-lifetime", "10m"]);
    let connection = Dial::to(gateway.address).connect_in_time().await;
    let hello = [&[1, 1, 0, 3][..], &[7; 32]].concat();
    let (mut talk, _) = Talk::begin(&connection, hello).await.unwrap();
    let done = timeout(PATIENCE, tokio::task::spawn_blocking(move || gateway.stop())).await.expect("it goes on").unwrap();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(talk.next().await.is_err());
}

#[tokio::test]
async fn a_store_that_cannot_be_followed_is_told_until_it_can_be_again() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let made = toehold.run(["--json", "token", "create", "--opni"]).ends(0).json();
    let store = SqliteStore::open(&toehold.state()).unwrap();
    // One for later, of which the gateway knows nothing yet.
    let token = Key::parse(&format!("token/{}", made["id"].as_str().unwrap())).unwrap();
    let token = store.get(&token).await.unwrap().unwrap();
    store.delete(&token.key, token.revision).await.unwrap();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0", "--stranger-lifetime", "10m"]);
    let signed = async || gateway.counted("toehold_gateway_signatures_total").await;
    let mut health = HealthClient::with_origin(Dial::to(gateway.address).connect_in_time().await, origin());
    let everything = || HealthCheckRequest { service: String::new() };
    let mut watching = health.watch(everything()).await.unwrap().into_inner();
    let mut told =
        async || timeout(PATIENCE, watching.message()).await.expect("nothing was told").unwrap().map(|told| told.status);
    assert_eq!(told().await, Some(1));

    let place = Key::parse("gateway/current").unwrap();
    let good = store.get(&place).await.unwrap().unwrap();
    let bad = store.put(&place, b"no record", Expect::Revision(good.revision)).await.unwrap();
    assert_eq!(told().await, Some(2));
    // Tokens can be followed all the same, which does not speak for the rest.
    store.put(&token.key, &token.value, Expect::Absent).await.unwrap();
    eventually("it is signed", || async { signed().await == 1 }).await;
    assert_eq!(gateway.told("/readyz").await, (503, "not ready\n".to_owned()));
    assert_eq!(gateway.counted("toehold_gateway_ready").await, 0);
    assert_eq!(health.check(everything()).await.unwrap().into_inner().status, 2);

    store.put(&place, &good.value, Expect::Revision(bad)).await.unwrap();
    assert_eq!(told().await, Some(1));
    assert_eq!(gateway.told("/readyz").await.0, 200);
    let stopping = tokio::task::spawn_blocking(move || gateway.stop());
    assert_eq!((told().await, told().await), (Some(2), None));
    stopping.await.unwrap();
}

#[tokio::test]
async fn secrets_stand_in_no_log() {
    let toehold = Toehold::new();
    let mut command = toehold.command(["-vv", "--json", "gateway", "serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut text).unwrap();
    let announced: serde_json::Value = serde_json::from_str(&text).unwrap();
    let address = announced["address"].as_str().unwrap().parse().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let logged = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        text
    });
    let line = line(&toehold, address, &[]);
    let joined = join(&Dial::to(address), &line, &identity()).await.unwrap();
    let connection = Dial::to(address).connect().await.unwrap();
    Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
    let log = logged.join().unwrap();
    assert!(log.contains("has joined"), "{log}");
    let token = line.token.expose_text();
    assert!(!log.contains(token.split_once('.').unwrap().1));
}

/// No ticket is handed out, so that nobody can send anything before the handshake has proven the gateway's key on this very connection.
#[tokio::test]
async fn j5_nothing_is_resumed_and_no_early_data_is_taken() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let mut config = dial.tls();
    config.enable_early_data = true;
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    for _ in 0..3 {
        let name = rustls_pki_types::ServerName::IpAddress(gateway.address.ip().into());
        let connecting = connector.connect_with(name, dial.tcp().await.unwrap(), |client| {
            assert!(client.early_data().is_none(), "the client has something to send early");
        });
        let mut tls = connecting.await.unwrap();
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        // A ticket would come before the first bytes of HTTP/2.
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        tls.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!(tls.get_ref().1.tls13_tickets_received(), 0);
    }
}
