//! The gateway's key is renewed while agents are connected (J4).

use toehold::adapters::grpc::agent_v1::{Pins, answer, request};
use toehold_joinproto::Trust;
use toehold_joinproto::pin::Pin;
use tonic::Code;

use crate::join_support::gateway::{Dial, Gateway, Session, eventually, identity, join, line};
use crate::join_support::opni_client::call;
use crate::support::Toehold;

fn pins(toehold: &Toehold) -> Vec<Pin> {
    let document = toehold.run(["--json", "gateway", "pin"]).ends(0).json();
    document["pins"].as_array().unwrap().iter().map(|pin| pin.as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn j4_the_next_key_is_announced_acknowledged_and_switched_to() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let before = pins(&toehold);
    assert_eq!(before.len(), 2);
    let first = line(&toehold, gateway.address, &[]);
    assert_eq!(first.pins, before);
    let dial = Dial::to(gateway.address);
    let joined = join(&dial, &first, &identity()).await.unwrap();
    let (id, key) = (joined.id.to_string(), &joined.keyring.shared_keys[0]);
    let connection = dial.clone().trusting(Trust::Pinned(before.clone())).connect().await.unwrap();
    let mut session = Session::open(&connection, &id, key).await.unwrap();

    // It confirmed its join, and with it the pins that it was sent: nobody is missing.
    let renewed = toehold.run(["--json", "gateway", "renew-key"]).ends(0).json();
    assert_eq!(renewed["pins"][0], before[1].to_string());
    let after = pins(&toehold);
    assert_eq!(after[0], before[1]);
    assert!(!before.contains(&after[1]));
    // The agent that is connected is told at once.
    let answer::Answer::Pins(told) = session.next().await.unwrap() else { panic!("no pins") };
    assert_eq!(told.pins, after.iter().map(ToString::to_string).collect::<Vec<_>>());

    // The running gateway presents the new key, which the pins of the old line know.
    let knows = |pin: Pin| dial.clone().trusting(Trust::Pinned(vec![pin]));
    eventually("the new key is presented", || async { knows(after[0]).connect().await.is_ok() }).await;
    assert!(knows(before[0]).connect().await.is_err());
    let late = line(&toehold, gateway.address, &[]);
    assert_eq!(late.pins, after);

    // Not acknowledged yet: switching again would leave it behind, and waits.
    let waits = toehold.run(["--json", "gateway", "renew-key"]).ends(3).json();
    assert_eq!(waits["missing"][0], id);
    assert_eq!(pins(&toehold), after);
    session.ask(request::Request::PinsSaved(Pins { pins: told.pins })).await.unwrap();
    toehold.run(["gateway", "renew-key"]).ends(0);
}

#[tokio::test]
async fn j4_an_agent_that_does_not_answer_is_left_behind_by_force_alone() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let joined = join(&Dial::to(gateway.address), &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    toehold.run(["gateway", "renew-key"]).ends(0);
    let waits = toehold.run(["gateway", "renew-key"]).ends(3);
    assert!(waits.stderr.contains(&joined.id.to_string()) && waits.stderr.contains("--force"), "{}", waits.stderr);
    let forced = toehold.run(["--json", "gateway", "renew-key", "--force"]).ends(0).json();
    assert_eq!(forced["left_behind"][0], joined.id.to_string());
}

#[tokio::test]
async fn two_gateways_of_one_store_present_one_key() {
    let toehold = Toehold::new();
    let gateways = [Gateway::start(&toehold, &[]), Gateway::start(&toehold, &[])];
    assert_eq!(gateways[0].announced["pins"], gateways[1].announced["pins"]);
    let pins = pins(&toehold);
    for gateway in &gateways {
        Dial::to(gateway.address).trusting(Trust::Pinned(vec![pins[0]])).connect().await.unwrap();
    }
}

/// A self-signed certificate and its key, as files.
fn own_key(directory: &std::path::Path, name: &str) -> [String; 4] {
    own_key_of(&rcgen::PKCS_ED25519, directory, name)
}

fn own_key_of(algorithm: &'static rcgen::SignatureAlgorithm, directory: &std::path::Path, name: &str) -> [String; 4] {
    let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["gw.example.net".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let (chain, key) = (directory.join(format!("{name}-chain.pem")), directory.join(format!("{name}-key.pem")));
    std::fs::write(&chain, certificate.pem()).unwrap();
    crate::support::server::write_private(&key, pair.serialize_pem());
    ["--cert".to_owned(), chain.to_str().unwrap().to_owned(), "--key".to_owned(), key.to_str().unwrap().to_owned()]
}

fn arguments(files: &[String; 4]) -> Vec<&str> {
    files.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn j4_no_start_presents_a_key_that_agents_do_not_know() {
    let toehold = Toehold::new();
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (own_key(directory.path(), "one"), own_key(directory.path(), "two"));
    let gateway = Gateway::start(&toehold, &arguments(&one));
    let joined = join(&Dial::to(gateway.address), &line(&toehold, gateway.address, &[]), &identity()).await.unwrap();
    let announced = pins(&toehold);
    // Neither a start that has forgotten its key nor one with another key, while the first still runs or after it.
    for more in [vec![], arguments(&two)] {
        let serve = ["gateway", "serve", "--listen", "127.0.0.1:0"].into_iter().chain(more);
        let refused = toehold.run(serve).ends(1);
        assert!(refused.stderr.contains(&joined.id.to_string()) && refused.stderr.contains("--force"), "{}", refused.stderr);
        assert_eq!(pins(&toehold), announced);
    }
    Dial::to(gateway.address).trusting(Trust::Pinned(announced)).connect().await.unwrap();
    // By force it does, and a gateway that presents the operator's own key goes on with it.
    let other = Gateway::start(&toehold, &["--force"]);
    assert_ne!(other.announced["pins"], gateway.announced["pins"]);
    Dial::to(gateway.address)
        .trusting(Trust::Pinned(vec![gateway.announced["pins"][0].as_str().unwrap().parse().unwrap()]))
        .connect()
        .await
        .unwrap();
}

#[test]
fn the_operators_own_key_is_served_and_announced() {
    let toehold = Toehold::new();
    let directory = tempfile::tempdir().unwrap();
    let files = own_key(directory.path(), "own");
    let files = arguments(&files);
    let key = files[3];
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let loose = toehold.run(["gateway", "serve", "--listen", "127.0.0.1:0", files[0], files[1], files[2], files[3]]).ends(1);
    assert!(loose.stderr.contains("chmod"), "{}", loose.stderr);
    std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let next = Pin::new(toehold_joinproto::pin::PinAlgorithm::Sha256, [7; 32]).to_string();
    let gateway = Gateway::start(&toehold, &[&files[..], &["--next-pin", &next]].concat());
    assert_eq!(gateway.announced["serves_opni"], true);
    assert_eq!(pins(&toehold)[1].to_string(), next);
    assert_eq!(line(&toehold, gateway.address, &[]).pins, pins(&toehold));
    let refused = toehold.run(["gateway", "renew-key"]).ends(1);
    assert!(refused.stderr.contains("--next-pin"), "{}", refused.stderr);
}

#[test]
fn j4_that_there_is_no_next_pin_is_said() {
    let toehold = Toehold::new();
    let directory = tempfile::tempdir().unwrap();
    let files = own_key(directory.path(), "own");
    let next = Pin::new(toehold_joinproto::pin::PinAlgorithm::Sha256, [7; 32]).to_string();
    // It says so before it listens, which it cannot do here.
    let said = |more: &[&str]| {
        let serve =
            ["gateway", "serve", "--listen", "192.0.2.1:9"].into_iter().chain(arguments(&files)).chain(more.iter().copied());
        toehold.run(serve).ends(1).stderr
    };
    let (without, with) = (said(&[]), said(&["--next-pin", &next]));
    assert!(without.contains("without --next-pin"), "{without}");
    assert!(!with.contains("--next-pin"), "{with}");
}

#[tokio::test]
async fn machines_join_a_gateway_whose_key_is_not_an_ed25519_key_and_agents_of_opnis_are_told_that_they_cannot() {
    let toehold = Toehold::new();
    let directory = tempfile::tempdir().unwrap();
    for (name, algorithm) in [("p256", &rcgen::PKCS_ECDSA_P256_SHA256), ("p384", &rcgen::PKCS_ECDSA_P384_SHA384)] {
        let files = own_key_of(algorithm, directory.path(), name);
        let gateway = Gateway::start(&toehold, &[&arguments(&files)[..], &["--force"]].concat());
        assert_eq!(gateway.announced["serves_opni"], false);
        let line = line(&toehold, gateway.address, &[]);
        assert_eq!(line.pins, pins(&toehold));
        let dial = Dial::to(gateway.address).trusting(Trust::Pinned(line.pins.clone()));
        let joined = join(&dial, &line, &identity()).await.unwrap();
        let connection = dial.connect().await.unwrap();
        let mut session = Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
        session.ping().await.unwrap();
        for method in [
            "/bootstrap.Bootstrap/Join",
            "/bootstrap.v2.Bootstrap/Join",
            "/bootstrap.Bootstrap/Auth",
            "/bootstrap.v2.Bootstrap/Auth",
        ] {
            let refused = call(&connection, method, &[], Vec::new()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unimplemented, "{method}: {refused}");
            assert!(refused.message().contains("Ed25519"), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_gateway_that_is_told_its_endpoints_lets_machines_in_at_those_alone() {
    let toehold = Toehold::new();
    let named = ["--endpoint", "gw.example.net:7443", "--endpoint", "10.0.0.7:7443"];
    let mut elsewhere = None;
    for named in [&named[..2], &named[..]] {
        let gateway = Gateway::start(&toehold, named);
        assert_eq!(gateway.announced["endpoint"], "gw.example.net:7443");
        let dial = Dial::to(gateway.address);
        // Before it has proven anything, it is told nothing.
        let line = elsewhere.insert(line(&toehold, gateway.address, &[]));
        let refused = join(&dial, line, &identity()).await.unwrap_err().to_string();
        assert!(refused.contains("without a reason"), "{refused}");
        for option in named.chunks(2) {
            let created = toehold.run(["--json", "token", "create", option[0], option[1]]).ends(0).json();
            join(&dial, &created["line"].as_str().unwrap().parse().unwrap(), &identity()).await.unwrap();
        }
    }
    // Told nothing, a gateway looks at none, whatever is remembered.
    let other = Gateway::start(&toehold, &[]);
    assert_eq!(other.announced["endpoint"], "gw.example.net:7443");
    join(&Dial::to(other.address), &elsewhere.unwrap(), &identity()).await.unwrap();
}
