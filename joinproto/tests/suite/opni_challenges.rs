//! Challenges and MACs as Opni makes and checks them.

use crate::support;
use crate::support::{Case, array, bytes, hex, of, text};
use toehold_joinproto::challenge::{
    Assertion, AwaitAttributes, AwaitMac, AwaitResponse, ChallengeError, respond_with_mac, solve_attribute,
};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::mac::{MacHeader, uuid};
use zeroize::Zeroizing;

fn keys(value: &serde_json::Value) -> SharedKeys {
    SharedKeys::from_secret(&Zeroizing::new(array(value)))
}

fn assertion(case: &Case) -> Result<Assertion, ChallengeError> {
    Assertion::from_parts(
        text(case.input("client_id")),
        bytes(case.input("client_random_hex")).try_into().map_err(|_| ChallengeError::Metadata)?,
    )
}

#[test]
fn responses() {
    let mut compared = 0;
    for case in of("challenges.jsonl", "solve").iter().filter(|case| case.is_ok()) {
        let (Ok(assertion), 64) = (assertion(case), text(case.input("client_key_hex")).len()) else { continue };
        let domain = text(case.input("domain")).as_bytes();
        let response =
            assertion.solve(domain, &bytes(case.input("challenge_hex")), &bytes(case.input("client_key_hex"))).unwrap();
        assert_eq!(hex(&response), text(case.output("response_hex")), "{}", case.id());
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
    for case in of("challenges.jsonl", "session_attribute_solve").iter().filter(|case| case.is_ok()) {
        let key = bytes(case.input("key_hex"));
        let response = solve_attribute(
            text(case.input("attribute")),
            text(case.input("client_id")),
            &bytes(case.input("challenge_hex")),
            &key,
        );
        assert_eq!(hex(&response.unwrap()), text(case.output("response_hex")), "{}", case.id());
    }
}

#[test]
fn an_agent_of_ours_at_opnis_gateway() {
    for case in of("challenges.jsonl", "authv2_client").iter().filter(|case| case.is_ok()) {
        let keys = keys(case.input("shared_secret_hex"));
        let assertion = assertion(case).unwrap();
        for (name, value) in assertion.metadata() {
            assert_eq!(text(&case.input("metadata")[name]), value, "{}", case.id());
        }
        let (waiting, message) = assertion.respond(&bytes(case.output("request_list_message_hex")), &keys).unwrap();
        assert_eq!(hex(&message), text(case.output("response_list_message_hex")), "{}", case.id());
        let finished = waiting.finish(&bytes(case.output("auth_info_message_hex")), &keys);
        // The original believes a gateway that calls it by another's name.
        let other = case.id().ends_with("other-authorized-id");
        assert_eq!(finished, if other { Err(ChallengeError::Mismatch) } else { Ok(()) }, "{}", case.id());
    }
}

#[test]
fn opnis_agent_at_our_gateway() {
    for case in of("challenges.jsonl", "authv2_server").iter().filter(|case| case.is_ok()) {
        let mut ring = vec![keys(case.input("shared_secret_hex"))];
        if case.input("first_stored_secret_hex").is_string() {
            ring.insert(0, keys(case.input("first_stored_secret_hex")));
        }
        let Ok(assertion) = assertion(case) else { continue };
        let metadata = assertion.metadata();
        assert_eq!(Assertion::from_metadata(&metadata[1].1, &metadata[2].1).as_ref(), Ok(&assertion));
        let (waiting, message) = AwaitResponse::with_challenge(assertion.clone(), array(case.output("challenge_hex")));
        assert_eq!(hex(&message), text(case.output("request_list_message_hex")), "{}", case.id());
        let (_, response) = assertion.respond(&message, ring.last().unwrap()).unwrap();
        let authenticated = waiting.verify(&response, &ring).unwrap();
        assert_eq!(authenticated.client_id, text(case.output("authorized_id")), "{}", case.id());
        assert_eq!(authenticated.key, ring.len() - 1, "{}", case.id());
        assert_eq!(hex(&authenticated.proof_message), text(case.output("auth_info_message_hex")), "{}", case.id());
    }
}

#[test]
fn a_wrong_answer_and_an_unknown_agent_are_the_same() {
    let (ours, other) = (SharedKeys::from_secret(&Zeroizing::new([1; 64])), SharedKeys::from_secret(&Zeroizing::new([2; 64])));
    let assertion = Assertion::from_parts("agent-1", [3; 32]).unwrap();
    let challenged = || AwaitResponse::with_challenge(assertion.clone(), [4; 32]);
    let (_, answer) = assertion.clone().respond(&challenged().1, &ours).unwrap();
    assert!(challenged().0.verify(&answer, &[ours.duplicate()]).is_ok());
    assert_eq!(challenged().0.verify(&answer, &[other.duplicate()]), Err(ChallengeError::Mismatch));
    assert_eq!(challenged().0.verify(&answer, &[]), Err(ChallengeError::Mismatch));
    for cut in 0..answer.len() {
        assert!(challenged().0.verify(&answer[..cut], &[ours.duplicate()]).is_err(), "{cut}");
    }
    assert!(challenged().0.verify(&[answer.clone(), answer].concat(), &[ours.duplicate()]).is_err());
    // A gateway that does not have the keys.
    let (waiting, answer) = assertion.clone().respond(&challenged().1, &ours).unwrap();
    let fooled = challenged().0.verify(&answer, &[ours.duplicate()]).unwrap();
    let mut proof = fooled.proof_message;
    *proof.last_mut().unwrap() ^= 1;
    assert_eq!(waiting.finish(&proof, &ours), Err(ChallengeError::Mismatch));
    let (_, twice) = AwaitResponse::with_challenge(assertion.clone(), [4; 32]);
    assert!(assertion.clone().respond(&[twice.clone(), twice].concat(), &ours).is_err());
    assert!(assertion.respond(&[], &ours).is_err());
}

#[test]
fn attributes_of_a_session() {
    for case in of("challenges.jsonl", "session_server").iter().filter(|case| case.is_ok()) {
        let id = text(case.input("client_id"));
        let names: Vec<_> = case.input("x-session-attribute").as_array().unwrap().iter().map(text).collect();
        let attributes: Vec<_> =
            case.input("attributes").as_array().unwrap().iter().map(|a| (text(&a["name"]), bytes(&a["key_hex"]))).collect();
        let key = |name: &str| attributes.iter().find(|(known, _)| *known == name).map(|(_, key)| key.as_slice());
        let expected = bytes(case.output("request_list_message_hex"));
        let challenges = names
            .iter()
            .zip(expected.chunks(38))
            .map(|(name, item)| ((*name).to_owned(), item[6..].try_into().unwrap()))
            .collect();
        let (waiting, message) = AwaitAttributes::with_challenges(id, challenges);
        assert_eq!(message, expected, "{}", case.id());
        let confirmed =
            waiting.verify(&bytes(case.output("response_list_message_hex")), key, &keys(case.input("shared_secret_hex")));
        assert_eq!(hex(&confirmed.unwrap()), text(case.output("session_info_message_hex")), "{}", case.id());
    }
    let mut rng = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([1; 32]);
    for names in [vec![], vec!["one"; 2], vec!["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]] {
        assert!(matches!(AwaitAttributes::challenge("id", &names, &mut rng), Err(ChallengeError::Attributes)));
    }
}

#[test]
fn mac_headers() {
    for case in of("challenges.jsonl", "b2mac").iter().filter(|case| case.is_ok()) {
        let key = bytes(case.input("key_hex"));
        let nonce = support::unhex(&text(case.input("nonce")).replace('-', ""));
        let (id, payload) = (bytes(case.input("id_hex")), bytes(case.input("payload_hex")));
        let made = MacHeader::sign(&id, nonce.try_into().unwrap(), &payload, &key);
        // The original takes keys of any length, an empty one too.
        assert_eq!(made.is_ok(), key.len() == 32, "{}", case.id());
        let Ok(made) = made else { continue };
        assert_eq!(hex(&made.mac), text(case.output("mac_hex")), "{}", case.id());
        let Some(header) = case.output("header").as_str() else { continue };
        assert_eq!(made.to_string(), header, "{}", case.id());
        assert_eq!(made.verify(&payload, &key), Ok(()), "{}", case.id());
        if case.id().contains("random") {
            assert_eq!(MacHeader::parse(text(case.output("header")).as_bytes()), Ok(made), "{}", case.id());
        }
    }
    let good = "/good";
    for case in of("challenges.jsonl", "b2mac_decode_header") {
        let read = MacHeader::parse(&case.text());
        assert_eq!(read.is_ok(), case.id().ends_with(good), "{}", case.id());
        if let Ok(header) = read {
            assert_eq!(hex(&header.id), text(case.output("id_hex")), "{}", case.id());
            assert_eq!(hex(&header.mac), text(case.output("mac_hex")), "{}", case.id());
            assert_eq!(uuid(&header.nonce), text(case.output("nonce")), "{}", case.id());
        }
    }
}

#[test]
fn the_first_versions_agent_at_our_gateway_with_an_id_of_any_length() {
    let cases = of("challenges.jsonl", "authv1_server");
    for case in cases.iter().filter(|case| text(case.input("client_behaviour")) == "good") {
        let nonce = support::unhex(&text(case.input("x_challenge_from_server")).replace('-', "")).try_into().unwrap();
        let (waiting, sent) = AwaitMac::with_nonce(nonce);
        assert_eq!(sent, text(case.input("x_challenge_from_server")));
        let ring = [keys(case.input("shared_secret_hex"))];
        let message = respond_with_mac(text(case.input("client_id")), &sent, text(case.input("method")), &ring[0]).unwrap();
        assert_eq!(hex(&message), text(case.input("response_message_hex")), "{}", case.id());
        let response = waiting.read(&message).unwrap();
        assert_eq!(response.client_id(), text(case.output("authorized_id")), "{}", case.id());
        assert_eq!(response.verify(text(case.input("method")), &ring), Ok(0), "{}", case.id());
        assert_eq!(response.verify("/other.Service/Method", &ring), Err(ChallengeError::Mismatch));
        assert_eq!(response.verify(text(case.input("method")), &[]), Err(ChallengeError::Mismatch));
        assert!(AwaitMac::with_nonce([0; 16]).0.read(&message).is_err());
    }
    let ours = SharedKeys::from_secret(&Zeroizing::new([1; 64]));
    for id in ["a", "agent-with-an-id-that-is-longer-than-thirty-six-characters"] {
        let mut rng = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([1; 32]);
        let (waiting, nonce) = AwaitMac::challenge(&mut rng);
        let message = respond_with_mac(id, &nonce, "/stream.Stream/Connect", &ours).unwrap();
        assert_eq!(waiting.read(&message).unwrap().verify("/stream.Stream/Connect", &[ours.duplicate()]), Ok(0));
    }
}
