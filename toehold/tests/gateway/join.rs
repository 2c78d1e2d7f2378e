//! A machine joins by version 3, and comes back as an agent.

use toehold::adapters::grpc::agent_v1::{Pins, Whoami, answer, request};
use toehold_joinproto::{JoinError, Trust};
use tonic::Code;

use crate::join_support::gateway::{Dial, Gateway, NotJoined, Session, Talk, identity, join, join_with, line};
use crate::support::Toehold;

#[tokio::test]
async fn a_machine_joins_and_comes_back() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let line = line(&toehold, gateway.address, &["--role", "web", "--label", "rack=7"]);
    let dial = Dial::to(gateway.address).trusting(Trust::Pinned(line.pins.clone()));
    let joined = join(&dial, &line, &identity()).await.unwrap();
    assert_eq!(joined.role, "web");
    // What the gateway sent is what the line said: the present key's pin and the next one's (J4).
    assert_eq!(joined.keyring.pinned_keys, std::slice::from_ref(&line.pins));

    let id = joined.id.to_string();
    let connection = dial.connect().await.unwrap();
    let mut session = Session::open(&connection, &id, &joined.keyring.shared_keys[0]).await.unwrap();
    assert_eq!(session.pins, line.pins.iter().map(ToString::to_string).collect::<Vec<_>>());
    let answer::Answer::Identity(me) = session.ask(request::Request::Whoami(Whoami {})).await.unwrap() else { panic!() };
    assert_eq!((me.id.as_str(), me.role.as_str(), me.labels["rack"].as_str()), (id.as_str(), "web", "7"));
    assert!(me.joined_at > 1_700_000_000);
    let answer::Answer::Pong(pong) = session.ping().await.unwrap() else { panic!() };
    assert_eq!(pong.payload, b"here?");
    let saved = request::Request::PinsSaved(Pins { pins: session.pins.clone() });
    assert_eq!(session.ask(saved).await.unwrap(), answer::Answer::PinsNoted(toehold::adapters::grpc::agent_v1::PinsNoted {}));
    assert_eq!(gateway.stop().code, 0);
}

#[tokio::test]
async fn wrong_keys_and_unknown_agents_are_told_the_same() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let (one, two) = (line(&toehold, gateway.address, &[]), line(&toehold, gateway.address, &[]));
    let first = join(&dial, &one, &identity()).await.unwrap();
    let second = join(&dial, &two, &identity()).await.unwrap();
    let connection = dial.connect().await.unwrap();
    let mut told = Vec::new();
    for id in [first.id.to_string(), "0".repeat(32), "nobody".to_owned()] {
        let status = Session::open(&connection, &id, &second.keyring.shared_keys[0]).await.unwrap_err();
        told.push((status.code(), status.message().to_owned()));
    }
    assert_eq!(told, vec![(Code::Unauthenticated, "not authenticated".to_owned()); 3]);
    // On the same connection, the right keys are as good as ever.
    Session::open(&connection, &second.id.to_string(), &second.keyring.shared_keys[0]).await.unwrap();
}

#[tokio::test]
async fn j1_a_retry_is_the_same_admission_with_fresh_keys_and_proven_anew() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let line = line(&toehold, gateway.address, &[]);
    let (dial, me) = (Dial::to(gateway.address), identity());
    let first = join(&dial, &line, &me).await.unwrap();
    let again = join(&dial, &line, &me).await.unwrap();
    assert_eq!(first.id, again.id);
    assert_ne!(first.keyring.shared_keys, again.keyring.shared_keys);
    // The keys of the first are replaced; one use was taken, and it is nobody else's.
    let connection = dial.connect().await.unwrap();
    let id = again.id.to_string();
    assert!(Session::open(&connection, &id, &first.keyring.shared_keys[0]).await.is_err());
    Session::open(&connection, &id, &again.keyring.shared_keys[0]).await.unwrap();
    let other = join(&dial, &line, &identity()).await.unwrap_err();
    assert!(other.to_string().contains("used up"), "{other}");
}

#[tokio::test]
async fn j1_frames_of_one_connection_are_worth_nothing_on_another() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let (line, me) = (line(&toehold, gateway.address, &[]), identity());
    let dial = Dial::to(gateway.address);
    let (mine, other) = (dial.connect().await.unwrap(), dial.connect().await.unwrap());
    let config = toehold_joinproto::v3::ClientConfig {
        endpoint: &line.endpoint,
        identity: &me,
        token: &line.token,
        gateway: &mine.known,
        exporter: mine.exporter,
    };
    let mut rng = crate::join_support::gateway::rng();
    let (waiting, hello) = config.start(&mut rng);
    let (mut talk, retry) = Talk::begin(&mine, hello.clone()).await.unwrap();
    let (waiting, offer) = waiting.receive(&retry, &mut rng).unwrap();
    // The cookie is the first connection's: on the other one it is refused, without a reason.
    let (mut relayed, _) = Talk::begin(&other, hello).await.unwrap();
    assert_eq!(relayed.say(offer.clone()).await.unwrap(), [15, 0, 0]);
    // A signature is the first connection's as well.
    let (waiting, proof) = waiting.receive(&talk.say(offer).await.unwrap()).unwrap();
    let third = dial.connect().await.unwrap();
    let (_, answered) = {
        let config = toehold_joinproto::v3::ClientConfig {
            endpoint: &line.endpoint,
            identity: &me,
            token: &line.token,
            gateway: &third.known,
            exporter: third.exporter,
        };
        let (waiting, hello) = config.start(&mut rng);
        let (mut talk, retry) = Talk::begin(&third, hello).await.unwrap();
        let (_, offer) = waiting.receive(&retry, &mut rng).unwrap();
        talk.say(offer).await.unwrap();
        let refused = talk.say(proof.clone()).await.unwrap();
        (talk, refused)
    };
    assert_eq!(answered, [15, 0, 0]);
    // The one it was made for goes on.
    waiting.receive(&talk.say(proof).await.unwrap()).unwrap();
}

#[tokio::test]
async fn a_connection_carries_one_conversation() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let line = line(&toehold, gateway.address, &["--uses", "2"]);
    let connection = Dial::to(gateway.address).connect().await.unwrap();
    join_with(&connection, &line, &identity(), || std::future::ready(())).await.unwrap();
    match join_with(&connection, &line, &identity(), || std::future::ready(())).await.unwrap_err() {
        NotJoined::Call(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        NotJoined::Join(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn j5_unknown_tokens_and_wrong_secrets_are_refused_alike_and_without_a_reason() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let good = line(&toehold, gateway.address, &[]);
    let dial = Dial::to(gateway.address);
    let text = good.expose();
    let token = good.token.expose_text();
    let (id, secret) = token.split_once('.').unwrap();
    let flipped = |text: &str| text.chars().map(|c| if c == '0' { '1' } else { '0' }).collect::<String>();
    let mut told = Vec::new();
    for bad in [format!("{}.{secret}", flipped(id)), format!("{id}.{}", flipped(secret))] {
        let line = text.replace(token.as_str(), &bad).parse().unwrap();
        match join(&dial, &line, &identity()).await.unwrap_err() {
            NotJoined::Join(JoinError::Refused { reason }) => told.push(reason),
            other => panic!("{other}"),
        }
    }
    assert_eq!(told[0], told[1]);
    assert!(told[0].contains("without a reason"), "{told:?}");
    join(&dial, &good, &identity()).await.unwrap();
}
