//! What fails in Opni, seen to end well here. Races, crashes and odd signatures have test programs of their own.

use std::time::Duration;

use crate::support::lab;
use crate::support::lab::{Lab, join_opni, new_token, opni_token, rng};
use ed25519_dalek::SigningKey;
use toehold_core::testing::block_on;
use toehold_core::{Expect, Key, Store as _};
use toehold_joinproto::admission::{DeskError, MAX_OPNI_TOKENS, Refusal};
use toehold_joinproto::opni::{OpniClient, OpniError, OpniGateway, Signatures, Status, Version};
use toehold_joinproto::token::Token;
use toehold_joinproto::wire::{JoinResponse, MAX_MESSAGE};
use toehold_joinproto::{GatewayIdentity, JoinError, jws};

fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

#[test]
fn one_token_changed_is_one_signature_made_and_asking_makes_none() {
    let lab = Lab::new();
    let tokens: Vec<Token> = (0..20).map(|n| lab.token(opni_token(), n)).collect();
    let mut signatures = Signatures::new();
    assert!(signatures.answer(lab.now()).is_none());
    let refresh = |signatures: &mut Signatures| signatures.refresh(&block_on(lab.desk.opni_tokens()).unwrap(), &key());
    assert_eq!(refresh(&mut signatures), 20);
    let first = signatures.answer(lab.now()).unwrap();
    // The very same bytes, not a copy.
    assert!(std::ptr::eq(first.as_ptr(), signatures.answer(lab.now()).unwrap().as_ptr()));
    assert_eq!(refresh(&mut signatures), 0);
    lab.token(opni_token(), 100);
    assert_eq!(refresh(&mut signatures), 1);
    block_on(lab.desk.revoke(tokens[3].id())).unwrap();
    assert_eq!(refresh(&mut signatures), 0);
    let answer = JoinResponse::decode(&signatures.answer(lab.now()).unwrap()).unwrap();
    assert_eq!(answer.signatures.len(), 20);
    assert!(!answer.signatures.contains_key(&tokens[3].id().to_string()));
    // What has ended leaves the answer without anybody asking the store.
    lab.desk.clock.advance(Duration::from_secs(3600));
    assert!(signatures.answer(lab.now()).is_none());
}

#[test]
fn what_is_not_for_opnis_agents_is_not_in_the_answer() {
    let lab = Lab::new();
    lab.token(new_token(), 1);
    assert!(block_on(lab.desk.opni_tokens()).unwrap().is_empty());
}

#[test]
fn one_malformed_token_in_the_store_is_nobody_elses_fault() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    for (id, value) in [("abc", "{}"), ("0102030405ff", "not json"), ("0102030405fe", r#"{"v":1,"readable_from":99}"#)] {
        let key = Key::parse(&format!("token/{id}")).unwrap();
        block_on(lab.desk.store.put(&key, value.as_bytes(), Expect::Absent)).unwrap();
    }
    assert_eq!(block_on(lab.desk.opni_tokens()).unwrap().len(), 1);
    block_on(join_opni(&lab.desk, &token, "agent-1", 1)).unwrap();
    // Nor is it swept: an error is not a no.
    lab.desk.clock.advance(Duration::from_secs(100_000));
    assert_eq!(block_on(lab.desk.sweep()).unwrap(), 1);
    assert_eq!(lab::below(&lab.desk.store, "token/").len(), 3);
}

#[test]
fn a_gateway_key_of_another_type_is_said_so() {
    let spki = [0x30, 0x59, 0x30, 0x13];
    let identity = GatewayIdentity::from_key(&spki);
    let token = Token::from_bytes(&[1; 32]);
    let waiting = OpniClient { version: Version::V2 { friendly_name: None }, client_id: "a".to_owned(), token: Some(&token) }
        .start()
        .unwrap();
    let detached = jws::Detached::sign(&token, &key()).to_string();
    let answer = JoinResponse { signatures: [(token.id().to_string(), detached.into_bytes())].into() }.encode();
    assert_eq!(waiting.receive(&answer, &identity, &mut rng(1)).unwrap_err(), JoinError::GatewayKeyType);
}

#[test]
fn more_tokens_than_an_agent_would_read_are_refused_when_they_are_made() {
    let lab = Lab::new();
    let template = lab.token(opni_token(), 1);
    let entry = lab.desk.store.entries().remove(0);
    let text = String::from_utf8(entry.value).unwrap();
    let sealed = |token: &Token| {
        use toehold_joinproto::admission::Vault as _;
        let secret = toehold_core::SecretBytes::new(token.expose_text().as_bytes().to_vec());
        lab.desk.vault.seal(&format!("token/{}", token.id()), &secret).unwrap()
    };
    let mut rng = rng(5);
    for _ in 1..MAX_OPNI_TOKENS {
        let token = Token::generate(&mut rng);
        let value =
            text.replace(&sealed(&template), &sealed(&token)).replace(&template.id().to_string(), &token.id().to_string());
        let key = Key::parse(&format!("token/{}", token.id())).unwrap();
        block_on(lab.desk.store.put(&key, value.as_bytes(), Expect::Absent)).unwrap();
    }
    let refused = block_on(lab.desk.create(opni_token(), &mut rng));
    assert!(matches!(refused, Err(DeskError::BadToken(reason)) if reason.contains("33,000")), "{refused:?}");
    // One for version 3 is in nobody's way.
    block_on(lab.desk.create(new_token(), &mut rng)).unwrap();
    // All that there may be fit, with room for those that are made at the same moment.
    const { assert!((MAX_OPNI_TOKENS + 256) * 126 < MAX_MESSAGE) };
    let active = block_on(lab.desk.opni_tokens()).unwrap();
    let mut signatures = Signatures::new();
    assert_eq!(signatures.refresh(&active[..100], &key()), 100);
    assert_eq!(signatures.answer(lab.now()).unwrap().len(), 100 * 126);
}

#[test]
fn a_bearer_that_is_replayed_under_other_ids_joins_as_often_as_the_token_allows_and_is_the_same_client_for_one_id() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    block_on(join_opni(&lab.desk, &token, "agent-1", 1)).unwrap();
    for n in 2..5 {
        let refused = block_on(join_opni(&lab.desk, &token, &format!("agent-{n}"), n));
        assert!(matches!(refused, Err(DeskError::Refused(Refusal::Exhausted))), "{refused:?}");
    }
    assert_eq!(lab::below(&lab.desk.store, "agent/"), ["agent/agent-1"]);
}

#[test]
fn the_secret_is_compared_and_not_the_signature_alone() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    let mut bytes = [9; 32];
    bytes[..6].copy_from_slice(token.id().as_bytes());
    let refused = block_on(join_opni(&lab.desk, &Token::from_bytes(&bytes), "agent-1", 1));
    assert!(matches!(refused, Err(DeskError::Unknown)), "{refused:?}");
    // A token of version 3 is not one for this, whatever is signed.
    let other = lab.token(new_token(), 2);
    let refused = block_on(join_opni(&lab.desk, &other, "agent-1", 2));
    assert!(matches!(refused, Err(DeskError::Unknown)), "{refused:?}");
    assert_eq!(refused.unwrap_err().opni_status().0, Status::PermissionDenied);
}

#[test]
fn several_authorizations_are_none() {
    let gateway = OpniGateway::new(key(), None);
    let token = Token::from_bytes(&[1; 32]);
    let bearer = jws::Detached::sign(&token, &key()).attach(&token, &key().verifying_key()).unwrap().expose_authorization();
    let bearer = bearer.as_bytes();
    assert_eq!(gateway.auth_v2(&[bearer, bearer], &[]).unwrap_err(), OpniError::NoAuthorization);
    assert_eq!(gateway.auth_v2(&[], &[]).unwrap_err().status(), Status::Unauthenticated);
    assert!(matches!(gateway.auth_v2(&[bearer], &[]), Err(OpniError::Wire(_))));
}

#[test]
fn tokens_are_checked_when_they_are_made() {
    let lab = Lab::new();
    let flaws: [fn(&mut toehold_joinproto::admission::NewToken); 6] = [
        |new| new.uses = 0,
        |new| new.uses = 10_001,
        |new| new.lifetime = Duration::ZERO,
        |new| drop(new.labels.insert("a b".to_owned(), "c".to_owned())),
        |new| new.client_id = Some("chosen".to_owned()),
        |new| new.may_extend = true,
    ];
    for flaw in flaws {
        let mut new = new_token();
        flaw(&mut new);
        assert!(matches!(block_on(lab.desk.create(new, &mut rng(1))), Err(DeskError::BadToken(_))));
    }
    assert!(lab.desk.store.entries().is_empty());
    assert_eq!(new_token().lifetime, Duration::from_secs(3600));
    assert_eq!(new_token().uses, 1);
}

#[test]
fn no_token_and_malformed_names_are_said_before_anything_is_sent() {
    let start = |version, id: &str, token| OpniClient { version, client_id: id.to_owned(), token }.start().map(|_| ());
    let token = Token::from_bytes(&[1; 32]);
    let v2 = || Version::V2 { friendly_name: None };
    assert_eq!(start(v2(), "a", None), Err(JoinError::NoToken));
    assert!(start(v2(), "", Some(&token)).is_err());
    assert!(start(v2(), "..", Some(&token)).is_err());
    assert!(start(Version::V1 { capability: String::new() }, "a", Some(&token)).is_err());
    assert!(start(Version::V2 { friendly_name: Some("a b".to_owned()) }, "a", Some(&token)).is_err());
    assert_eq!(start(v2(), "a", Some(&token)), Ok(()));
}
