//! How the process behaves: its end, its metrics, its health.

use toehold::adapters::grpc::health_v1::HealthCheckRequest;
use toehold::adapters::grpc::health_v1::health_client::HealthClient;
use toehold_joinproto::v3::FreshIdentity;

use crate::join_support::gateway::{Dial, Gateway, Session, identity, join, line, origin, rng};
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
