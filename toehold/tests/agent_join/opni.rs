//! `agent join` at a gateway of Opni's, for which recorded exchanges stand, over real TLS; and at one of ours, which speaks its protocol.

use std::fs;

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{Machine, agents, uses_taken};
use crate::join_support::opni_gateway::{OpniGateway, chain, exchanges, hex};
use crate::join_support::relay::Relay;
use crate::support::{Done, Toehold};
use base64ct::{Base64, Encoding as _};
use serde_json::Value;
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::Keyring;
use toehold_joinproto::wire::{AuthRequestV1, AuthRequestV2};
use zeroize::Zeroizing;

/// Joins as the recorded agent did, by Opni's own trust strategies.
async fn join(machine: Machine, case: &Value, asked: &Value, gateway: &OpniGateway) -> (Machine, Done) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut arguments: Vec<String> =
        ["--json", "agent", "join", "--endpoint", &gateway.address.to_string()].map(str::to_owned).to_vec();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--token", text(&asked["token_hex"]));
    option("--opni", format!("v{}", asked["version"].as_u64().unwrap_or(2)));
    option("--client-id", asked["client_id"].as_str().unwrap_or("agent-1").to_owned());
    let wrong = format!("sha256:{}", "B".repeat(42) + "E");
    let root = text(&case["input"]["pin_root_sha256"]);
    match asked["trust"].as_str().unwrap_or("pkp-root") {
        "pkp-root" => {
            option("--pin", root);
            option("--trust", "opni-pinned".to_owned());
        }
        "pkp-wrong" => {
            option("--pin", wrong);
            option("--trust", "opni-pinned".to_owned());
        }
        "pkp-none" => option("--trust", "opni-pinned".to_owned()),
        "insecure" => option("--trust", "dangerous-insecure".to_owned()),
        "cacerts" => {
            let pem = Base64::encode_string(chain(case).last().unwrap());
            let lines: Vec<&str> = pem.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
            let file = machine.0.state().with_file_name("ca.pem");
            fs::write(&file, pem).unwrap();
            option("--trust", "ca".to_owned());
            option("--ca-cert", file.to_str().unwrap().to_owned());
        }
        other => panic!("{other}"),
    }
    if let Some(capability) = asked["capability"].as_str() {
        option("--capability", capability.to_owned());
    }
    if let Some(name) = asked["friendly_name"].as_str() {
        option("--name", name.to_owned());
    }
    let ran = move || {
        let done = machine.0.run(arguments.iter().map(String::as_str));
        (machine, done)
    };
    tokio::task::spawn_blocking(ran).await.unwrap()
}

/// An Auth request without its ephemeral key, which is fresh; and the key.
fn without_key(version: u64, message: &[u8]) -> ((String, Option<String>), [u8; 32]) {
    if version == 1 {
        let request = AuthRequestV1::decode(message).unwrap();
        ((request.client_id, Some(request.capability)), request.client_key)
    } else {
        let request = AuthRequestV2::decode(message).unwrap();
        ((request.client_id, request.friendly_name), request.client_key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_exchanges_of_both_versions_go_as_they_were_recorded() {
    let (mut joined, mut refused) = (0, 0);
    for case in exchanges("go_client_go_server") {
        // What its server's key cannot do, ours does not ask of it; the other is a strategy that our tests of pins have.
        if case["input"]["server_key_type"] != "ed25519" {
            continue;
        }
        for (number, step) in case["output"]["steps"].as_array().unwrap().iter().enumerate() {
            let asked = &case["input"]["steps"][number];
            let trust = asked["trust"].as_str().unwrap();
            if asked["token_hex"].is_null() || ["pkp-leaf-b2b256", "cacerts-wrong"].contains(&trust) {
                continue;
            }
            let what = format!("{} step {number}", case["id"]);
            let rpcs = step["rpcs"].as_array().unwrap();
            let gateway = OpniGateway::start(&case, rpcs).await;
            let (machine, done) = join(Machine::new(), &case, asked, &gateway).await;
            let calls = gateway.calls();
            if step["client"] != "ok" {
                assert!(matches!(done.code, 1..=3), "{what}: {}", done.stdout);
                assert!(machine.keyring().is_none() && gateway.connections() <= 1, "{what}");
                refused += 1;
                continue;
            }
            assert_eq!(done.code, 0, "{what}: {}", done.stderr);
            let version = asked["version"].as_u64().unwrap();
            assert_eq!(calls.len(), 2, "{what}");
            for (call, rpc) in calls.iter().zip(rpcs) {
                assert_eq!(call.method, rpc["method"].as_str().unwrap(), "{what}");
                let recorded = rpc["request_headers"]["authorization"].as_array().cloned().unwrap_or_default();
                assert_eq!(Value::from(call.authorization.clone()), Value::from(recorded), "{what}");
            }
            let recorded = hex(rpcs[1]["request_hex"].as_str().unwrap());
            assert!(calls[0].message.is_empty(), "{what}");
            assert_eq!(without_key(version, &calls[1].message).0, without_key(version, &recorded).0, "{what}");
            assert_eq!(calls[1].message.len(), recorded.len(), "{what}");
            let (ours, theirs) = (machine.keyring().unwrap(), step["keyring_json"].as_str().unwrap());
            let theirs = Keyring::parse(theirs.as_bytes()).unwrap();
            assert_eq!((&ours.pinned_keys, &ours.ca_certificates), (&theirs.pinned_keys, &theirs.ca_certificates), "{what}");
            assert_eq!(ours.shared_keys.len(), 1, "{what}");
            joined += 1;
        }
    }
    assert!(joined > 20 && refused > 20, "{joined} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_misbehaves_gets_no_token_and_leaves_no_keyring() {
    for case in exchanges("go_client_scripted_server") {
        let mode = case["input"]["mode"].as_str().unwrap().to_owned();
        let rpcs = case["output"]["rpcs"].as_array().unwrap();
        let gateway = OpniGateway::start(&case, rpcs).await;
        let (machine, done) = join(Machine::new(), &case, &case["input"], &gateway).await;
        let calls = gateway.calls();
        if ["good", "good-again", "pub-high-bit", "extra-signatures"].contains(&mode.as_str()) {
            assert_eq!(done.code, 0, "{mode}: {}", done.stderr);
            // Both sides have the same keys.
            let private: [u8; 32] = hex(case["input"]["server_private_hex"].as_str().unwrap()).try_into().unwrap();
            let (_, client) = without_key(2, &calls[1].message);
            if mode != "pub-high-bit" {
                let keys = Ephemeral::from_bytes(&Zeroizing::new(private)).derive(Side::Gateway, &client).unwrap();
                assert_eq!(machine.keyring().unwrap().shared_keys, [keys], "{mode}");
            }
            continue;
        }
        assert!(done.code == 1 || done.code == 3, "{mode}: {}", done.stdout);
        assert!(machine.keyring().is_none(), "{mode}");
        // A signature that is not right in every respect is none, and the token stays here.
        let stays = mode.starts_with("sig-") || mode == "join-denied";
        assert_eq!(calls.iter().all(|call| call.method.ends_with("/Join") && call.authorization.is_empty()), stays, "{mode}");
    }
}

#[tokio::test]
async fn a_signature_that_is_there_a_moment_later_is_asked_for_again() {
    let cases = exchanges("go_client_scripted_server");
    let of = |mode: &str| cases.iter().find(|case| case["input"]["mode"] == mode).unwrap();
    let (good, missing) = (of("good"), of("sig-missing"));
    let rpcs = [&missing["output"]["rpcs"].as_array().unwrap()[..1], good["output"]["rpcs"].as_array().unwrap()].concat();
    let gateway = OpniGateway::start(good, &rpcs).await;
    let (machine, done) = join(Machine::new(), good, &good["input"], &gateway).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(machine.keyring().is_some() && gateway.calls().len() == 3, "{:?}", gateway.calls());
}

#[test]
fn j1_a_join_of_opnis_that_is_run_again_comes_with_the_same_id() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let relay = Relay::start(gateway.address);
    let (second, third) = (line(&operator, relay.address(), &["--opni"]), line(&operator, relay.address(), &["--opni"]).expose());
    let first: toehold_joinproto::line::JoinLine = third.replacen("-v2/", "-v1/", 1).parse().unwrap();
    gateway.kill();
    let lines = [(second, &[][..]), (first, &["--capability", "metrics"][..])];
    let begun = lines.map(|(line, more)| {
        let machine = Machine::new();
        machine.join_with(&line, more).ends(1);
        let attempt: Value = serde_json::from_slice(&fs::read(machine.file("join.json")).unwrap()).unwrap();
        (machine, line, more, attempt["id"].clone())
    });
    let gateway = Gateway::start(&operator, &[]);
    relay.lead_to(gateway.address);
    for (machine, line, more, id) in begun {
        assert_eq!(machine.join_with(&line, more).ends(0).json()["id"], id, "{}", line.protocol);
    }
}

#[test]
fn our_gateway_takes_both_versions_and_knows_the_agent_once_it_has_authenticated() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let second = line(&operator, gateway.address, &["--opni", "--label", "site=berlin"]);
    let machine = Machine::new();
    let joined = machine.join_with(&second, &["--name", "web1"]).ends(0).json();
    assert_eq!((joined["protocol"].as_u64(), joined["role"].as_str()), (Some(2), None));
    let agent = operator.run(["--json", "agents", "show", joined["id"].as_str().unwrap()]).ends(0).json();
    assert_eq!((&agent["state"], &agent["labels"]["site"]), (&"joined".into(), &"berlin".into()));
    assert_eq!(machine.ping().ends(0).json()["id"], joined["id"]);
    assert_eq!(machine.join(&second).ends(0).json()["already"], true);
    // Confirmed, nobody redoes it, the same machine neither.
    let refused = machine.join_with(&second, &["--rejoin"]).ends(1);
    assert!(refused.stderr.contains("refused"), "{}", refused.stderr);
    machine.ping().ends(0);
    assert_eq!(uses_taken(&operator, &second), 1);

    let text = second.expose();
    let first: toehold_joinproto::line::JoinLine = text.replacen("-v2/", "-v1/", 1).parse().unwrap();
    let machine = Machine::new();
    let usage = machine.join(&first).ends(2);
    assert!(usage.stderr.contains("--capability"), "{}", usage.stderr);
    let third = line(&operator, gateway.address, &["--opni"]);
    let text = third.expose();
    let third: toehold_joinproto::line::JoinLine = text.replacen("-v2/", "-v1/", 1).parse().unwrap();
    let joined = machine.join_once_signed(&third, &["--capability", "metrics", "--client-id", "web2"]);
    assert_eq!((joined["protocol"].as_u64(), joined["id"].as_str()), (Some(1), Some("web2")));
    machine.ping().ends(0);
    assert_eq!(agents(&operator).len(), 2);
}
