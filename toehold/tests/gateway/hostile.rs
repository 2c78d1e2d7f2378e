//! Clients that mean no good: others are served all the same.

use std::time::Duration;

use toehold::adapters::grpc::agent_v1::agent_client::AgentClient;
use toehold::adapters::grpc::bootstrap_v2::bootstrap_client::BootstrapClient;
use toehold::adapters::grpc::health_v1::HealthCheckRequest;
use toehold::adapters::grpc::health_v1::health_client::HealthClient;
use toehold::adapters::grpc::raw::Raw;
use toehold_joinproto::challenge::Assertion;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::join_support::gateway::{
    Connection, Dial, Gateway, PATIENCE, Session, Talk, eventually, identity, join, join_in_time, line, origin, rng,
    session_in_time, streamed,
};
use crate::support::Toehold;

/// Waits for the gateway to close a connection; `true`: it did.
async fn is_closed(tcp: &mut TcpStream) -> bool {
    let mut bytes = [0; 1024];
    let closed = async {
        loop {
            match tcp.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.is_ok()
}

async fn somebody_else_joins(toehold: &Toehold, gateway: &Gateway) {
    let dial = Dial::to(gateway.address).from("127.0.0.77");
    join_in_time(&dial, &line(toehold, gateway.address, &[]), &identity()).await;
}

#[tokio::test]
async fn a_client_that_never_speaks_or_speaks_slowly_is_closed_and_keeps_nobody() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--handshake-timeout", "2s", "--stranger-lifetime", "4s"]);
    let dial = Dial::to(gateway.address);
    let mut silent = dial.tcp().await.unwrap();
    let mut slow = dial.tcp().await.unwrap();
    // A byte of a handshake now and then does not move the deadline.
    let (mut reading, mut writing) = slow.split();
    let dripping = async {
        for byte in [0x16_u8, 3, 1, 2, 0, 1, 0, 1].into_iter().cycle() {
            if writing.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut buffer = [0; 64];
    somebody_else_joins(&toehold, &gateway).await;
    tokio::select! {
        () = dripping => {}
        read = reading.read(&mut buffer) => assert!(matches!(read, Ok(0 | 7) | Err(_)), "{read:?}"),
        () = tokio::time::sleep(PATIENCE) => panic!("a slow client is still there"),
    }
    assert!(is_closed(&mut silent).await);
    // A whole handshake, and a conversation that is never begun or never ended.
    let idle = dial.connect_in_time().await;
    let hello = [&[1, 1, 0, 3][..], &[7; 32]].concat();
    let begun = std::sync::Mutex::new(None);
    eventually("a conversation that begins in time", || async {
        let talking = dial.connect_in_time().await;
        let talk = Talk::begin(&talking, hello.clone()).await.ok();
        talk.map(|(talk, _)| *begun.lock().unwrap() = Some((talking, talk))).is_some()
    })
    .await;
    let (_talking, mut talk) = begun.into_inner().unwrap().unwrap();
    eventually("the end of an idle stranger", || async { ping(&idle).await.is_err() }).await;
    // It began after the other: its end may be still to come.
    assert!(in_time(talk.next()).await.is_err());
    somebody_else_joins(&toehold, &gateway).await;
}

/// Any call that is answered at once.
async fn ping(connection: &Connection) -> Result<(), tonic::Status> {
    let mut health = HealthClient::with_origin(connection.clone(), origin());
    health.check(HealthCheckRequest { service: String::new() }).await.map(drop)
}

#[tokio::test]
async fn an_agent_that_has_authenticated_may_be_silent() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--stranger-lifetime", "2s"]);
    let dial = Dial::to(gateway.address);
    let joined = join_in_time(&dial, &line(&toehold, gateway.address, &[]), &identity()).await;
    let (_connection, mut session) = session_in_time(&dial, &joined).await;
    // A stranger of a later moment is closed; the agent's connection outlives it.
    let stranger = dial.connect_in_time().await;
    eventually("the stranger's end", || async { ping(&stranger).await.is_err() }).await;
    session.ping().await.unwrap();
}

#[tokio::test]
async fn a_connection_whose_sessions_have_ended_keeps_no_place_among_agents() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--stranger-lifetime", "2s", "--metrics", "127.0.0.1:0"]);
    let dial = Dial::to(gateway.address);
    let joined = join_in_time(&dial, &line(&toehold, gateway.address, &[]), &identity()).await;
    let (connection, first) = session_in_time(&dial, &joined).await;
    // While there is a session, others may end.
    let mut second = Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
    drop(first);
    let stranger = dial.connect_in_time().await;
    eventually("the stranger's end", || async { ping(&stranger).await.is_err() }).await;
    second.ping().await.unwrap();
    drop(second);
    eventually("its end", || async { ping(&connection).await.is_err() }).await;
    let agents = "toehold_gateway_open_connections{of=\"agents\"}";
    eventually("its place is given back", || async { gateway.counted(agents).await == 0 }).await;
}

/// Waits for what has to come in time, far below a test's patience.
async fn in_time<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), awaited).await.expect("nothing came, for a minute")
}

#[tokio::test]
async fn a_conversation_ends_in_time_also_on_the_connection_of_an_agent() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--stranger-lifetime", "2s"]);
    let dial = Dial::to(gateway.address);
    let joined = join_in_time(&dial, &line(&toehold, gateway.address, &[]), &identity()).await;
    let id = joined.id.to_string();
    let (connection, mut session) = session_in_time(&dial, &joined).await;
    // A join, and another session, that begin and do not go on.
    let hello = [&[1, 1, 0, 3][..], &[7; 32]].concat();
    let (mut talk, _) = Talk::begin(&connection, hello).await.unwrap();
    assert_eq!(in_time(talk.next()).await.unwrap_err().code(), Code::DeadlineExceeded);
    let (_held, requests) = streamed();
    let mut request = Request::new(requests);
    for (name, value) in Assertion::new(&id, &mut rng()).unwrap().metadata() {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let mut answers = AgentClient::with_origin(connection.clone(), origin()).session(request).await.unwrap().into_inner();
    answers.message().await.unwrap().expect("a challenge");
    assert_eq!(in_time(answers.message()).await.unwrap_err().code(), Code::DeadlineExceeded);
    session.ping().await.unwrap();
}

#[tokio::test]
async fn there_are_as_many_agents_as_there_may_be_and_each_has_its_share() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--max-agents", "3", "--max-sessions-per-agent", "2"]);
    let dial = Dial::to(gateway.address);
    let line = line(&toehold, gateway.address, &["--uses", "3"]);
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(join(&dial, &line, &identity()).await.unwrap());
    }
    let over = async |connection: &Connection, agent: usize| {
        Session::open(connection, &agents[agent].id.to_string(), &agents[agent].keyring.shared_keys[0]).await
    };
    let open = async |agent| {
        let connection = dial.connect().await.unwrap();
        over(&connection, agent).await.map(|session| (connection, session))
    };
    let refused = |status: tonic::Status, whose: &str| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains(whose), "{status}");
    };
    let mut first = open(0).await.unwrap();
    let second = open(0).await.unwrap();
    // Neither on another connection nor on one that it has.
    refused(open(0).await.unwrap_err(), "of this agent");
    refused(over(&first.0, 0).await.unwrap_err(), "of this agent");
    let _other = open(1).await.unwrap();
    refused(open(2).await.unwrap_err(), "too many agents");
    first.1.ping().await.unwrap();
    // A place that is given back is another's.
    drop(second);
    eventually("a place for the third agent", || async { open(2).await.is_ok() }).await;
}

#[tokio::test]
async fn garbage_instead_of_tls_and_other_versions_of_it_get_nowhere() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0"]);
    let dial = Dial::to(gateway.address);
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", &[0; 4_096], &[0xff; 8_192], b"\x16\x03\x01\xff\xff\x01"];
    for bytes in garbage {
        let mut tcp = dial.tcp().await.unwrap();
        let _ = tcp.write_all(bytes).await;
        let _ = tcp.shutdown().await;
        assert!(is_closed(&mut tcp).await);
    }
    somebody_else_joins(&toehold, &gateway).await;
    assert!(gateway.counted("toehold_gateway_handshakes_total{outcome=\"failed\"}").await >= 4);
    assert_eq!(gateway.counted("toehold_gateway_panics_total").await, 0);
}

#[tokio::test]
async fn messages_that_are_too_large_or_no_frames_are_refused() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    for (first, code) in [(vec![1; 8 * 1024 * 1024], Code::OutOfRange), (vec![1; 5_000], Code::OutOfRange)] {
        let connection = dial.connect().await.unwrap();
        let refused = Talk::begin(&connection, first).await.unwrap_err();
        assert!([code, Code::ResourceExhausted].contains(&refused.code()), "{refused:?}");
    }
    for first in [Vec::new(), vec![1], vec![9; 100], vec![1; 4_096], vec![8]] {
        let connection = dial.connect().await.unwrap();
        let (_, refused) = Talk::begin(&connection, first).await.unwrap();
        assert_eq!(refused, [15, 0, 0]);
    }
    let connection = dial.connect().await.unwrap();
    let large = Raw(vec![7; 1024 * 1024].into());
    let status = BootstrapClient::with_origin(connection, origin()).auth(Request::new(large)).await.unwrap_err();
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&status.code()), "{status:?}");
    somebody_else_joins(&toehold, &gateway).await;
}

#[tokio::test]
async fn j5_a_source_has_its_connections_its_handshakes_and_its_calls_and_no_more() {
    let toehold = Toehold::new();
    let limits = [
        "--max-strangers-per-source",
        "8",
        "--handshakes-per-minute",
        "30",
        "--calls-per-minute",
        "40",
        // Those that are held are held to the end.
        "--stranger-lifetime",
        "10m",
        "--metrics",
        "127.0.0.1:0",
    ];
    let gateway = Gateway::start(&toehold, &limits);
    let dial = Dial::to(gateway.address).from("127.0.0.50");
    let mut held = Vec::new();
    while held.len() < 8 {
        held.push(dial.connect().await.unwrap());
    }
    assert!(dial.connect().await.is_err());
    somebody_else_joins(&toehold, &gateway).await;
    // Calls: the source's, whatever the connection.
    let mut refused = None;
    for number in 0..64_usize {
        if let Err(status) = ping(&held[number % held.len()]).await {
            refused = Some((number, status));
            break;
        }
    }
    let (number, status) = refused.expect("calls without end");
    assert!(number >= 40 && status.code() == Code::ResourceExhausted, "{number} {status}");
    // Handshakes: those that were refused for want of a place are not counted.
    drop(held);
    let mut done = 8;
    while done < 64 {
        match dial.connect().await {
            Ok(connection) => drop(connection),
            Err(_) if gateway.counted("toehold_gateway_connections_total{outcome=\"refused\"}").await > 1 && done >= 30 => break,
            Err(_) => continue,
        }
        done += 1;
    }
    assert!((30..64).contains(&done), "{done}");
    somebody_else_joins(&toehold, &gateway).await;
}

#[tokio::test]
async fn thousands_of_connections_do_not_keep_others_out() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let flood = Dial::to(gateway.address).from("127.0.0.60");
    let mut held = Vec::new();
    for _ in 0..2_000 {
        match flood.tcp().await {
            Ok(tcp) => held.push(tcp),
            // Our own descriptors have an end as well.
            Err(_) => break,
        }
    }
    assert!(held.len() > 300, "{}", held.len());
    somebody_else_joins(&toehold, &gateway).await;
}
