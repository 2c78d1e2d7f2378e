//! Whole recorded exchanges of Opni's agents with Opni's gateway: each side in turn is ours.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::lab;
use crate::support::lab::{Lab, opni_token, rng, source};
use crate::support::{Case, array, base64s, bytes, of, text};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use toehold_core::testing::{MemoryStore, block_on};
use toehold_core::{Key, Record, SecretBytes, Store as _};
use toehold_joinproto::admission::{OpniJoin, OpniRequest, Protocol, TokenRecord, Vault as _};
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::{Keyring, SharedKeys};
use toehold_joinproto::opni::{OpniClient, OpniGateway, Signatures, Status, Version};
use toehold_joinproto::token::Token;
use toehold_joinproto::wire::{AuthRequestV1, AuthRequestV2, AuthResponse, JoinResponse};
use toehold_joinproto::{JoinError, Trust};
use zeroize::Zeroizing;

/// A store that has the case's tokens, as our own commands would have made them.
fn lab(case: &Case) -> Lab<MemoryStore> {
    let lab = Lab::new();
    for stored in case.input("stored_tokens").as_array().unwrap() {
        let token = Token::parse(text(&stored["token_hex"])).unwrap();
        let key = format!("token/{}", token.id());
        let sealed_token = lab.desk.vault.seal(&key, &SecretBytes::new(token.expose_text().as_bytes().to_vec())).unwrap();
        let uses = stored["max_usages"].as_u64().unwrap();
        let record = TokenRecord {
            id: token.id(),
            protocol: Protocol::Opni { sealed_token },
            role: "agent".parse().unwrap(),
            uses: if uses == 0 { 100 } else { u32::try_from(uses).unwrap() },
            created_at: lab.now(),
            expires_at: lab
                .now()
                .saturating_add(Duration::from_secs(stored["ttl_seconds"].as_i64().unwrap_or(0).try_into().unwrap_or(0))),
            labels: stored["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| (name.clone(), text(value).to_owned()))
                .collect(),
            client_id: None,
            from: Vec::new(),
            may_extend: true,
        };
        let mut document = serde_json::to_value(&record).unwrap();
        document["v"] = TokenRecord::VERSION.into();
        document["readable_from"] = TokenRecord::READABLE_FROM.into();
        block_on(lab.desk.store.put(&Key::parse(&key).unwrap(), document.to_string().as_bytes(), toehold_core::Expect::Absent))
            .unwrap();
    }
    lab
}

fn gateway(case: &Case) -> OpniGateway {
    let capabilities: BTreeSet<String> = ["test", "metrics", "logs", "alerting"].map(str::to_owned).into();
    OpniGateway::new(SigningKey::from_bytes(&array(case.input("server_leaf_key_seed_hex"))), Some(capabilities))
}

/// What our gateway answers to one recorded call: a status, and the message where it is OK.
fn answer(lab: &Lab<MemoryStore>, gateway: &OpniGateway, rpc: &Value, seed: u64) -> Result<Vec<u8>, Status> {
    let request = bytes(&rpc["request_hex"]);
    let authorization: Vec<Vec<u8>> = rpc["request_headers"]["authorization"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|value| text(value).as_bytes().to_vec())
        .collect();
    let authorization: Vec<&[u8]> = authorization.iter().map(Vec::as_slice).collect();
    let read = match text(&rpc["method"]) {
        "/bootstrap.Bootstrap/Join" | "/bootstrap.v2.Bootstrap/Join" => {
            gateway.join(&request).map_err(|error| error.status())?;
            let mut signatures = Signatures::new();
            signatures.refresh(&block_on(lab.desk.opni_tokens()).unwrap(), gateway.key());
            return signatures.answer(lab.now()).map(|bytes| bytes.to_vec()).ok_or(Status::Unavailable);
        }
        "/bootstrap.Bootstrap/Auth" => gateway.auth_v1(&authorization, &request),
        "/bootstrap.v2.Bootstrap/Auth" => gateway.auth_v2(&authorization, &request),
        other => panic!("{other}"),
    };
    let (token, request) = read.map_err(|error| error.status())?;
    let join = OpniJoin { token: &token, request: &request, source: source() };
    block_on(lab.desk.join_opni(join, &mut rng(seed))).map(|response| response.encode()).map_err(|error| error.opni_status().0)
}

fn status(status: Status) -> String {
    format!("{status:?}")
}

/// An agent that has joined authenticates, as real ones do at once.
fn authenticate(lab: &Lab<MemoryStore>, id: &str) {
    let known = block_on(lab.desk.keys(id)).unwrap();
    block_on(lab.desk.confirm(&known, 0)).unwrap();
}

#[test]
fn opnis_agents_at_our_gateway() {
    let mut joins = 0;
    for case in of("exchange.jsonl", "go_client_go_server") {
        // The original's storage failing, and keys that our gateway's type excludes: the next test programs have those.
        if case.id().contains("storage-") || case.id().contains("server-key-") {
            continue;
        }
        let (lab, gateway) = (lab(&case), gateway(&case));
        for (number, step) in case.output("steps").as_array().unwrap().iter().enumerate() {
            let asked = &case.input("steps")[number];
            for rpc in step["rpcs"].as_array().unwrap() {
                let ours = answer(&lab, &gateway, rpc, joins);
                let theirs = text(&rpc["status"]);
                match &ours {
                    Ok(message) if text(&rpc["method"]).ends_with("Join") => {
                        assert_eq!(theirs, "OK", "{} step {number}", case.id());
                        // Signatures are deterministic; the order of a map is free.
                        let (ours, theirs) =
                            (JoinResponse::decode(message).unwrap(), JoinResponse::decode(&bytes(&rpc["response_hex"])).unwrap());
                        assert_eq!(ours, theirs, "{} step {number}", case.id());
                    }
                    Ok(_) => {
                        assert_eq!(theirs, "OK", "{} step {number}", case.id());
                        joins += 1;
                        authenticate(&lab, text(&asked["client_id"]));
                    }
                    // Whether a capability can be installed just now is the caller's to say; here it is unknown.
                    Err(Status::NotFound) if case.id().ends_with("capability-cannot-install") => {}
                    Err(ours) => assert_eq!(status(*ours), theirs, "{} step {number}", case.id()),
                }
            }
        }
        // What is stored afterwards.
        let clusters: Vec<_> = case.output("state_after")["clusters"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, cluster)| !cluster.is_null())
            .collect();
        assert_eq!(lab::below(&lab.desk.store, "agent/").len(), clusters.len(), "{}", case.id());
        for (id, cluster) in clusters {
            let agent = block_on(lab.desk.agent(id)).unwrap().unwrap();
            assert_eq!(serde_json::to_value(&agent.labels).unwrap(), cluster["labels"], "{}", case.id());
            let capabilities: BTreeSet<_> =
                cluster["capabilities"].as_array().unwrap().iter().map(|c| text(c).to_owned()).collect();
            assert_eq!(agent.capabilities, capabilities, "{}", case.id());
            let theirs = Keyring::parse(text(&cluster["keyring_json"]).as_bytes()).unwrap();
            assert_eq!(block_on(lab.desk.keys(id)).unwrap().keys().len(), theirs.shared_keys.len(), "{}", case.id());
        }
        for (id, token) in case.output("state_after")["tokens"].as_object().unwrap() {
            let uses = lab::below(&lab.desk.store, &format!("token/{id}/")).len();
            assert_eq!(uses as u64, token["usage_count"].as_u64().unwrap_or(0), "{}", case.id());
        }
    }
    assert!(joins > 20, "{joins}");
}

/// Forms of the authorization that Opni tolerates and our gateway refuses.
const LAX: [&str; 9] = [
    "-header-no-scheme",
    "-header-no-space",
    "-header-many-spaces",
    "-header-two-headers-good-first",
    "-header-four-segments",
    "-header-padded-signature",
    "-header-noncanonical-signature",
    "-header-json-flattened",
    "-header-json-general",
];

#[test]
fn calls_of_any_kind_at_our_gateway() {
    for case in of("exchange.jsonl", "scripted_client_go_server") {
        let (lab, gateway) = (lab(&case), gateway(&case));
        for (number, step) in case.output("steps").as_array().unwrap().iter().enumerate() {
            let asked = &case.input("steps")[number];
            for rpc in step["rpcs"].as_array().unwrap() {
                let what = format!("{} step {number}", case.id());
                let ours = answer(&lab, &gateway, rpc, number as u64);
                let id = case.id();
                let lax = LAX.iter().any(|name| id.ends_with(name))
                    || id.ends_with("-right-id-wrong-secret-right-key")
                    || id.ends_with("-id-only-payload-right-key")
                    || id.ends_with("-alg-hs256-header-signed-by-right-key");
                let theirs = text(&rpc["status"]);
                match ours {
                    Ok(message) => {
                        assert!(theirs == "OK" && !lax, "{what}");
                        let response = AuthResponse::decode(&message).unwrap();
                        if asked["client_private_hex"].is_null() {
                            continue;
                        }
                        let private = Zeroizing::new(array(&asked["client_private_hex"]));
                        let keys = Ephemeral::from_bytes(&private).derive(Side::Client, &response.gateway_key).unwrap();
                        assert_eq!(block_on(lab.desk.keys(text(&asked["client_id"]))).unwrap().keys(), [keys], "{what}");
                        authenticate(&lab, text(&asked["client_id"]));
                    }
                    Err(_) if lax || theirs == "Aborted" || theirs == "Internal" => {}
                    Err(_) if rpc["request_headers"]["authorization"].as_array().is_some_and(|values| values.len() != 1) => {}
                    // A key of small order is seen before the id is looked up, and nothing is kept for it.
                    Err(Status::InvalidArgument) if id.ends_with("duplicate-id-and-low-order-key") => {}
                    // The original looks at the key before the capability.
                    Err(Status::NotFound) if id.ends_with("low-order-key-and-unknown-capability") => {}
                    Err(ours) => assert_eq!(status(ours), theirs, "{what}"),
                }
            }
        }
    }
}

fn client_id(rpc: &Value, version: u64) -> (String, Version) {
    let request = bytes(&rpc["request_hex"]);
    if version == 1 {
        let request = AuthRequestV1::decode(&request).unwrap();
        (request.client_id, Version::V1 { capability: request.capability })
    } else {
        let request = AuthRequestV2::decode(&request).unwrap();
        (request.client_id, Version::V2 { friendly_name: request.friendly_name })
    }
}

fn trust(case: &Case, name: &str, chain: &[Vec<u8>]) -> Option<Trust> {
    let pin = |which: &str| text(case.input(which)).parse().unwrap();
    Some(match name {
        "pkp-root" => Trust::OpniPinned(vec![pin("pin_root_sha256")]),
        "cacerts" => Trust::CaCertificates(vec![chain.last().unwrap().clone()]),
        "insecure" => Trust::DangerousInsecure,
        "pkp-wrong" => {
            Trust::OpniPinned(vec![toehold_joinproto::pin::Pin::new(toehold_joinproto::pin::PinAlgorithm::Sha256, [7; 32])])
        }
        "pkp-none" => Trust::OpniPinned(Vec::new()),
        _ => return None,
    })
}

#[test]
fn an_agent_of_ours_at_opnis_gateway() {
    let mut joins = 0;
    for case in of("exchange.jsonl", "go_client_go_server") {
        let chain = base64s(case.input("server_chain_der_b64"));
        for (number, step) in case.output("steps").as_array().unwrap().iter().enumerate() {
            let asked = &case.input("steps")[number];
            let Some(trust) = trust(&case, text(&asked["trust"]), &chain) else { continue };
            let now = "2026-11-25T12:00:00Z".parse().unwrap();
            let what = format!("{} step {number}", case.id());
            let identity = match trust.check(&chain, "127.0.0.1", now) {
                Ok(identity) => identity,
                Err(error) => {
                    // At once, and in words, where the original dials until its own deadline.
                    assert!(matches!(error, JoinError::RootCAHashMismatch | JoinError::NoPins), "{what}: {error}");
                    continue;
                }
            };
            let token = asked["token_hex"].as_str().map(|token| Token::parse(token).unwrap());
            let (rpcs, client) = (step["rpcs"].as_array().unwrap(), &step["client"]);
            let Some(auth) = rpcs.get(1).filter(|auth| auth["status"] == "OK") else {
                let version = Version::V2 { friendly_name: None };
                let started = OpniClient { version, client_id: "x".to_owned(), token: token.as_ref() }.start();
                let Some(join) =
                    rpcs.first().filter(|join| join["status"] == "OK" && rpcs.len() == 1 && !case.id().contains("ident-error"))
                else {
                    assert!(started.is_ok() == token.is_some(), "{what}");
                    continue;
                };
                let received = started.unwrap().receive(&bytes(&join["response_hex"]), &identity, &mut rng(1)).unwrap_err();
                let wrong = case.id().contains("wrong-secret");
                assert!(
                    if wrong { matches!(received, JoinError::Signature(_)) } else { received == JoinError::NoValidSignature },
                    "{what}: {received}"
                );
                continue;
            };
            assert_eq!(client, "ok", "{what}");
            let (client_id, version) = client_id(auth, asked["version"].as_u64().unwrap());
            assert_eq!([version.join_method(), version.auth_method()], [text(&rpcs[0]["method"]), text(&auth["method"])]);
            let waiting = OpniClient { version, client_id, token: token.as_ref() }.start().unwrap();
            let (waiting, call) = waiting.receive(&bytes(&rpcs[0]["response_hex"]), &identity, &mut rng(2)).unwrap();
            assert_eq!(*call.authorization, text(&auth["request_headers"]["authorization"][0]), "{what}");
            // All but the ephemeral key, which is fresh.
            let (ours, theirs) = (&call.message, bytes(&auth["request_hex"]));
            let key = ours.windows(2).position(|window| window == [0x12, 32]).unwrap() + 2;
            assert_eq!((&ours[..key], &ours[key + 32..]), (&theirs[..key], &theirs[key + 32..]), "{what}");
            let ring = waiting.receive(&bytes(&auth["response_hex"]), &trust).unwrap();
            let theirs = Keyring::parse(text(&step["keyring_json"]).as_bytes()).unwrap();
            assert_eq!((&ring.pinned_keys, &ring.ca_certificates), (&theirs.pinned_keys, &theirs.ca_certificates), "{what}");
            joins += 1;
        }
    }
    assert!(joins > 20, "{joins}");
}

#[test]
fn an_agent_of_ours_at_a_gateway_that_misbehaves() {
    for case in of("exchange.jsonl", "go_client_scripted_server") {
        let chain = base64s(case.input("server_chain_der_b64"));
        let trust = Trust::OpniPinned(vec![text(case.input("pin_root_sha256")).parse().unwrap()]);
        let identity = trust.check(&chain, "127.0.0.1", "2026-11-25T12:00:00Z".parse().unwrap()).unwrap();
        let token = Token::parse(text(case.input("token_hex"))).unwrap();
        let rpcs = case.output("rpcs").as_array().unwrap();
        let mode = text(case.input("mode"));
        let Some(join) = rpcs.first().filter(|join| join["status"] == "OK") else { continue };
        let client_id = "agent-1".to_owned();
        let waiting =
            OpniClient { version: Version::V2 { friendly_name: None }, client_id, token: Some(&token) }.start().unwrap();
        let received = waiting.receive(&bytes(&join["response_hex"]), &identity, &mut rng(1));
        if mode.starts_with("sig-") {
            let expected_missing = matches!(mode, "sig-missing" | "sig-upper-id");
            let error = received.expect_err(mode);
            assert!(
                if expected_missing { error == JoinError::NoValidSignature } else { matches!(error, JoinError::Signature(_)) },
                "{mode}: {error}"
            );
            continue;
        }
        let (waiting, _) = received.unwrap();
        let Some(auth) = rpcs.get(1).filter(|auth| auth["status"] == "OK") else { continue };
        let ring = waiting.receive(&bytes(&auth["response_hex"]), &trust);
        match mode {
            "pub-31" | "pub-33" | "pub-empty" | "pub-zero" => assert_eq!(ring, Err(JoinError::PeerKey), "{mode}"),
            _ => assert!(ring.is_ok(), "{mode}: {ring:?}"),
        }
    }
}

#[test]
fn both_sides_of_ours_by_both_versions() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    let chain_key = SigningKey::from_bytes(&[3; 32]);
    let mut spki = lab::GATEWAY_SPKI;
    spki[12..].copy_from_slice(chain_key.verifying_key().as_bytes());
    let identity = toehold_joinproto::GatewayIdentity::from_key(&spki);
    let gateway = OpniGateway::new(chain_key, None);
    let mut signatures = Signatures::new();
    signatures.refresh(&block_on(lab.desk.opni_tokens()).unwrap(), gateway.key());
    let client = OpniClient {
        version: Version::V1 { capability: "metrics".to_owned() },
        client_id: "agent-1".to_owned(),
        token: Some(&token),
    };
    let (waiting, call) =
        client.start().unwrap().receive(&signatures.answer(lab.now()).unwrap(), &identity, &mut rng(1)).unwrap();
    let (proven, request) = gateway.auth_v1(&[call.authorization.as_bytes()], &call.message).unwrap();
    assert!(matches!(request, OpniRequest::V1(_)));
    let response =
        block_on(lab.desk.join_opni(OpniJoin { token: &proven, request: &request, source: source() }, &mut rng(2))).unwrap();
    let ring = waiting.receive(&response.encode(), &Trust::DangerousInsecure).unwrap();
    let stored: Vec<_> = block_on(lab.desk.keys("agent-1")).unwrap().keys().iter().map(SharedKeys::duplicate).collect();
    assert_eq!(ring.shared_keys, stored);
}
