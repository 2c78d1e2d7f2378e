//! Hosts that stop in the middle of it: every call ends within its limit, with an error that says what was waited for.

use std::time::{Duration, Instant};

use crate::support;
use crate::support::proxy::Proxy;
use crate::support::{RealSshd, key};
use toehold::adapters::russh_connector::{Limits, RusshConnector};
use toehold_core::{Account, ConnectError, Connector as _, HostFiles as _, HostKeyPolicy, HostSession as _, Login, Route};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

/// The limit for a login; many go on at once here, and those that are not to hang must not reach it.
const LOGIN: u64 = 8;

/// In time is what ends well before the default limits.
const IN_TIME: Duration = Duration::from_secs(18);

fn quick() -> RusshConnector {
    let connect = Duration::from_secs(2);
    let (login, request) = (Duration::from_secs(LOGIN), Duration::from_secs(1));
    RusshConnector::new(Limits { connect, login, request, ..Limits::default() })
}

fn through(port: u16, host: &RealSshd) -> Route {
    Route::direct(Account::new(host.account().user(), "127.0.0.1", port).unwrap())
}

#[tokio::test]
async fn a_listener_that_never_speaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct(format!("root@127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap());
    let key = key("ed25519");
    let begun = Instant::now();
    let error = quick().would_accept(&route, &key.public_key, &HostKeyPolicy::CallerDecides).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { doing: "exchanging keys", seconds: LOGIN, .. }), "{error:?}");
    assert!(begun.elapsed() < IN_TIME);
    // Nothing of it stays: our end is closed.
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with(b"SSH-2.0-Toehold_"));
}

#[tokio::test]
async fn an_address_that_swallows_everything() {
    // A listener whose queue is full takes no further connection.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await {
        queue.push(connected.unwrap());
    }
    let route = Route::direct(format!("root@127.0.0.1:{}", address.port()).parse().unwrap());
    let error = quick().would_accept(&route, &key("ed25519").public_key, &HostKeyPolicy::CallerDecides).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { doing: "connecting", seconds: 2, .. }), "{error:?}");
}

#[tokio::test]
async fn a_stopped_server_times_out_a_login() {
    let host = RealSshd::start();
    let key = key("ed25519");
    host.authorize(key.line());
    host.suspend();
    let (route, pin) = (host.route(), host.pin());
    let login = Login { route: &route, identity: &key.identity, host_key: &pin, query: None };
    let error = quick().log_in(&login).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { doing: "exchanging keys", .. }), "{error:?}");
    host.resume();
    quick().log_in(&login).await.unwrap().close().await;
}

#[tokio::test]
async fn a_stopped_server_is_lost_to_every_request() {
    let host = RealSshd::start();
    let key = key("ed25519");
    host.authorize(key.line());
    let (route, pin) = (host.route(), host.pin());
    let path = host.authorized_keys();
    let path = path.to_str().unwrap();
    let login = Login { route: &route, identity: &key.identity, host_key: &pin, query: None };
    for request in 0..8 {
        let mut session = quick().log_in(&login).await.unwrap();
        host.suspend();
        let begun = Instant::now();
        let files = session.files();
        let error = match request {
            0 => files.real_path(".").await.map(drop),
            1 => files.stat(path).await.map(drop),
            2 => files.read(path, 1000).await.map(drop),
            3 => files.stage("/nowhere/new", b"x", 0o600).await,
            4 => files.sync(path).await,
            5 => files.rename("/nowhere/a", "/nowhere/b").await,
            6 => files.remove("/nowhere/a").await,
            _ => files.list("/").await.map(drop),
        }
        .unwrap_err();
        assert!(error.is_lost(), "{error:?}");
        assert!(begun.elapsed() < IN_TIME);
        // What became of that request is unknown, so no later one is sent, even if the host wakes up.
        host.resume();
        assert!(session.files().stat(path).await.unwrap_err().is_lost());
        let begun = Instant::now();
        session.close().await;
        assert!(begun.elapsed() < IN_TIME);
    }
}

/// The link dies after every number of bytes that a login takes, in steps: whatever it is doing then, it ends in time and
/// says what it waited for, and a half-dead link never makes a "no".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_dies_anywhere_in_a_login() {
    let host = RealSshd::start();
    let (login_key, absent) = (key("ed25519"), key("ed25519"));
    host.authorize(login_key.line());
    let pin = host.pin();
    let whole = Proxy::start(host.port(), u64::MAX).await;
    let route = through(whole.port(), &host);
    let login = Login { route: &route, identity: &login_key.identity, host_key: &pin, query: Some(&absent.public_key) };
    let session = quick().log_in(&login).await.unwrap();
    assert_eq!(session.queried(), Some(false));
    let bytes = whole.passed();
    session.close().await;

    let mut stalls = tokio::task::JoinSet::new();
    let mut doings = std::collections::BTreeSet::new();
    for limit in (1..bytes).step_by(61).chain((bytes.saturating_sub(80)..bytes).step_by(4)) {
        let proxy = Proxy::start(host.port(), limit).await;
        let (route, pin) = (through(proxy.port(), &host), pin.clone());
        let login_key = copy(&login_key);
        let absent = absent.public_key.clone();
        stalls.spawn(async move {
            let begun = Instant::now();
            let login = Login { route: &route, identity: &login_key.identity, host_key: &pin, query: Some(&absent) };
            let error = quick().log_in(&login).await.err();
            assert!(begun.elapsed() < IN_TIME, "after {limit} bytes it took {:?}", begun.elapsed());
            drop(proxy);
            (limit, error)
        });
    }
    while let Some(ended) = stalls.join_next().await {
        match ended.unwrap() {
            (_, Some(ConnectError::TimedOut { doing, seconds, .. })) => {
                assert_eq!(seconds, LOGIN);
                doings.insert(doing);
            }
            (limit, other) => panic!("after {limit} bytes: {other:?}"),
        }
    }
    let all = ["asking about a key", "exchanging keys", "logging in", "starting SFTP"];
    assert_eq!(doings.into_iter().collect::<Vec<_>>(), all);
}

fn copy(key: &support::Key) -> support::Key {
    let toehold_core::Identity::PrivateKey { public_key, openssh } = &key.identity else { panic!("another identity") };
    let openssh = toehold_core::SecretBytes::new(openssh.expose().to_vec());
    let identity = toehold_core::Identity::PrivateKey { public_key: public_key.clone(), openssh };
    support::Key { public_key: key.public_key.clone(), identity }
}

/// The link dies in the middle of a large file.
#[tokio::test]
async fn a_link_that_dies_in_a_file() {
    let host = RealSshd::start();
    let key = key("ed25519");
    host.authorize(key.line());
    std::fs::write(host.home().join("large"), vec![7; 4_000_000]).unwrap();
    let pin = host.pin();
    let proxy = Proxy::start(host.port(), 1_000_000).await;
    let route = through(proxy.port(), &host);
    let login = Login { route: &route, identity: &key.identity, host_key: &pin, query: None };
    let mut session = quick().log_in(&login).await.unwrap();
    let path = host.home().join("large");
    let error = session.files().read(path.to_str().unwrap(), 10_000_000).await.unwrap_err();
    assert!(error.is_lost(), "{error:?}");
    session.close().await;
}

/// A jump host that stops is as good as a host that stops.
#[tokio::test]
async fn a_jump_host_that_stops() {
    let (jump, host) = (RealSshd::start(), RealSshd::start());
    let key = key("ed25519");
    jump.authorize(key.line());
    host.authorize(key.line());
    let (jump_key, jump_pin) = (copy(&key), jump.pin());
    let connector = quick().with_jump_logins(move |_| {
        let login =
            toehold::adapters::russh_connector::JumpLogin { identity: copy(&jump_key).identity, host_key: jump_pin.clone() };
        async move { Ok(login) }
    });
    let (route, pin) = (Route { account: host.account(), jumps: vec![jump.account()] }, host.pin());
    let login = Login { route: &route, identity: &key.identity, host_key: &pin, query: None };
    let mut session = connector.log_in(&login).await.unwrap();
    jump.suspend();
    assert!(session.files().stat("/").await.unwrap_err().is_lost());
    let begun = Instant::now();
    session.close().await;
    assert!(begun.elapsed() < IN_TIME);
}
