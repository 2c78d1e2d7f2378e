//! What an agent that has joined may ask for, and until when.

use std::time::Instant;

use toehold::adapters::grpc::agent_v1::{Pins, answer, request};
use toehold_joinproto::v3::Joined;
use tokio::time::timeout;
use tonic::Code;

use crate::join_support::gateway::{Connection, Dial, Gateway, PATIENCE, Session, eventually, identity, join, line};
use crate::support::Toehold;

async fn open(dial: &Dial, joined: &Joined) -> (Connection, Session) {
    let connection = dial.connect().await.unwrap();
    let session = Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
    (connection, session)
}

#[tokio::test]
async fn an_agent_has_its_messages_in_all_its_sessions_and_no_more() {
    const PER_MINUTE: u64 = 40;
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--calls-per-minute", &PER_MINUTE.to_string(), "--metrics", "127.0.0.1:0"]);
    let dial = Dial::to(gateway.address);
    let begun = Instant::now();
    let may_have_come = |begun: Instant| begun.elapsed().as_secs() * PER_MINUTE / 60 + 1;
    let joined = join(&dial, &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let mut said = 0;
    for _ in 0..2 {
        let (_connection, mut session) = open(&dial, &joined).await;
        let refused = loop {
            match session.ping().await {
                Ok(_) => said += 1,
                Err(status) => break status,
            }
            assert!(said < 1_000, "messages without end");
        };
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    assert!((PER_MINUTE..=PER_MINUTE + may_have_come(begun)).contains(&said), "{said}");
    assert_eq!(gateway.counted("toehold_gateway_messages_refused_total").await, 2);

    // Another one has its own, and what writes into the store stands for ten.
    let begun = Instant::now();
    let joined = join(&dial, &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let (_connection, mut session) = open(&dial, &joined).await;
    let pins = session.pins.clone();
    let mut saved = 0;
    let refused = loop {
        let pins = pins[..usize::try_from(saved % 2).unwrap()].to_vec();
        match session.ask(request::Request::PinsSaved(Pins { pins })).await {
            Ok(noted) => assert!(matches!(noted, answer::Answer::PinsNoted(_)), "{noted:?}"),
            Err(status) => break status,
        }
        saved += 1;
        assert!(saved < 1_000, "writes without end");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!((4..=4 + may_have_come(begun) / 10 + 1).contains(&saved), "{saved}");
}

#[tokio::test]
async fn j2_the_session_of_an_agent_that_is_removed_ends_and_gives_its_place_back() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--metrics", "127.0.0.1:0"]);
    let dial = Dial::to(gateway.address);
    let removed = join(&dial, &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let stays = join(&dial, &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let (held, mut session) = open(&dial, &removed).await;
    let (_connection, mut other) = open(&dial, &stays).await;
    session.ping().await.unwrap();
    let agents = async || gateway.counted("toehold_gateway_open_connections{of=\"agents\"}").await;
    assert_eq!(agents().await, 2);

    toehold.run(["agents", "rm", &removed.id.to_string()]).ends(0);
    // It has said nothing since, and is not told the pins that are new either.
    toehold.run(["gateway", "renew-key", "--force"]).ends(0);
    let ended = timeout(PATIENCE, session.next()).await.expect("it goes on");
    assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);
    eventually("its connection is closed", || async { agents().await == 1 }).await;
    assert_eq!(gateway.counted("toehold_gateway_sessions_ended_total").await, 1);
    drop(held);
    let told = other.next().await.unwrap();
    assert!(matches!(told, answer::Answer::Pins(_)), "{told:?}");
    other.ping().await.unwrap();

    // Joined anew, it is another: whoever has the keys from before is not it any more.
    let me = identity();
    let before = join(&dial, &line(&toehold, gateway.address, &[]), &me).await.unwrap();
    let (_held, mut session) = open(&dial, &before).await;
    join(&dial, &line(&toehold, gateway.address, &[]), &me).await.unwrap();
    let ended = timeout(PATIENCE, session.next()).await.expect("it goes on");
    assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);
}
