//! Whole joins by version 3, and what somebody in the middle can do to them.

use std::time::Duration;

use crate::support::lab::{Lab, channel, endpoint, fresh, gateway_identity, identity, new_token, pins, rng, source};
use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use toehold_core::testing::block_on;
use toehold_core::{Expect, Key, Store as _, StoreError};
use toehold_joinproto::admission::{AgentState, DeskError, Refusal, Uses};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::frame::{Accept, Answer, Confirm, Hello, Offer, Proof, Refuse, Retry};
use toehold_joinproto::v3::{AgentId, Channel, ClientConfig, Conversation, Ended, Exporter, GatewayError, Turn};
use toehold_joinproto::{JoinError, keyring::Keyring};

fn uses(lab: &Lab<toehold_core::testing::MemoryStore>, token: &Token) -> Uses {
    let record = block_on(lab.desk.token(token.id())).unwrap().unwrap();
    block_on(lab.desk.uses(&record)).unwrap()
}

fn stored_keys(lab: &Lab<toehold_core::testing::MemoryStore>, id: AgentId) -> Keyring {
    let keys = block_on(lab.desk.keys(&id.to_string())).unwrap();
    Keyring {
        shared_keys: keys.keys().iter().map(toehold_joinproto::keyring::SharedKeys::duplicate).collect(),
        ..Keyring::default()
    }
}

#[test]
fn both_sides_end_with_the_same_keys() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    assert_eq!(joined.role, "agent");
    let agent = block_on(lab.desk.agent(&joined.id.to_string())).unwrap().unwrap();
    assert_eq!(agent.state, AgentState::Joined);
    assert_eq!(stored_keys(&lab, joined.id).shared_keys, joined.keyring.shared_keys);
    assert_eq!(uses(&lab, &token), Uses { taken: 1, revoked: 0 });
    // Another join has other keys.
    let other = block_on(lab.join(&token, &identity(1), 11)).unwrap();
    assert_ne!(other.keyring.shared_keys, joined.keyring.shared_keys);
}

#[test]
fn j3_an_agents_id_follows_from_its_key() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    assert_eq!(joined.id, identity(1).id());
    assert_eq!(joined.id, AgentId::of_key(&identity(1).public_key()));
    assert_ne!(identity(1).id(), identity(2).id());
    let mut bound = new_token();
    bound.client_id = Some(identity(2).id().to_string());
    let token = lab.token(bound, 2);
    let refused = block_on(lab.join(&token, &identity(1), 11)).unwrap_err();
    assert_eq!(refused, JoinError::Refused { reason: Refusal::ClientId.to_string() });
    assert_eq!(uses(&lab, &token).taken, 0);
    block_on(lab.join(&token, &identity(2), 12)).unwrap();
}

#[test]
fn j4_the_pins_of_the_next_key_come_with_the_join() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    assert_eq!(joined.keyring.pinned_keys, [pins()]);
}

/// Frames by their number: Hello, Retry, Offer, Answer, Proof, Accept, Confirm, Done.
const FRAMES: usize = 8;

#[test]
fn j1_a_retry_is_the_same_admission_wherever_the_first_try_broke_off() {
    for lost in 0..FRAMES {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (first, _) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == lost {
                frame.clear();
            }
        }));
        assert!(first.is_err(), "{lost}");
        assert_eq!(uses(&lab, &token).taken, u32::from(lost > 4), "{lost}");
        // Nobody else takes the place; the same machine does, with fresh keys.
        if lost > 4 {
            let other = block_on(lab.join(&token, &identity(2), 11)).unwrap_err();
            assert_eq!(other, JoinError::Refused { reason: Refusal::Exhausted.to_string() }, "{lost}");
        }
        let joined = block_on(lab.join(&token, &identity(1), 12)).unwrap();
        assert_eq!(uses(&lab, &token).taken, 1, "{lost}");
        assert_eq!(stored_keys(&lab, joined.id).shared_keys, joined.keyring.shared_keys, "{lost}");
    }
}

#[test]
fn j1_a_confirmation_that_comes_late_replaces_nothing() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let mut held_back = Vec::new();
    let mut late = Conversation::new(channel(10));
    // The first try gets as far as its confirmation, which stays on the way.
    let first = block_on(async {
        let (identity, gateway, endpoint) = (identity(1), gateway_identity(), endpoint());
        let config = ClientConfig {
            endpoint: &endpoint,
            identity: &identity,
            token: &token,
            gateway: &gateway,
            exporter: Exporter([10; 32]),
        };
        let mut next = async |frame: &[u8]| match late.receive(&lab.gateway, &lab.desk, &pins(), frame, &mut rng(5)).await {
            Turn::Answer(answer) => answer,
            Turn::Last(..) => panic!(),
        };
        let (waiting, hello) = config.start(&mut rng(6));
        let (waiting, offer) = waiting.receive(&next(&hello).await, &mut rng(7)).unwrap();
        let (waiting, proof) = waiting.receive(&next(&offer).await).unwrap();
        let accepted = waiting.receive(&next(&proof).await).unwrap();
        held_back.extend(accepted.confirm());
        accepted.keyring()
    });
    let second = block_on(lab.join(&token, &identity(1), 11)).unwrap();
    let turn = block_on(late.receive(&lab.gateway, &lab.desk, &pins(), &held_back, &mut rng(8)));
    assert!(matches!(turn, Turn::Last(_, Ended::Refused(DeskError::Superseded))), "{turn:?}");
    assert_eq!(stored_keys(&lab, second.id).shared_keys, second.keyring.shared_keys);
    assert_ne!(first.shared_keys, second.keyring.shared_keys);
}

#[test]
fn j1_nothing_is_answered_and_nothing_taken_before_the_proof_holds() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let before = lab.desk.store.entries();
    for bit in 0..64 * 16 {
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == 4 {
                frame[1 + bit / 8] ^= 1 << (bit % 8);
            }
        }));
        assert!(joined.is_err(), "{bit}");
        assert!(matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{bit}: {ended:?}");
    }
    assert_eq!(lab.desk.store.entries(), before);
}

#[test]
fn somebody_in_the_middle_who_changes_any_byte_ends_the_join() {
    let lab = Lab::new();
    let new = || {
        let mut new = new_token();
        new.uses = 1;
        new
    };
    let mut lengths = [0; FRAMES];
    let token = lab.token(new(), 1);
    block_on(lab.converse(&token, &identity(1), 10, |number, frame| lengths[number] = frame.len())).0.unwrap();
    for (changed, length) in lengths.into_iter().enumerate() {
        for place in 0..length {
            // Of the long keys every 37th byte.
            if length > 300 && place > 300 && place % 37 != 0 {
                continue;
            }
            let lab = Lab::new();
            let token = lab.token(new(), 1);
            let (joined, _) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
                if number == changed {
                    frame[place] ^= 0x20;
                }
            }));
            assert!(joined.is_err(), "frame {changed}, byte {place}");
            // Only the very last frame comes when the gateway has stored the keys.
            let agents = block_on(lab.desk.agent(&identity(1).id().to_string())).unwrap();
            assert_eq!(agents.is_some(), changed == 7, "frame {changed}, byte {place}");
        }
    }
}

#[test]
fn a_client_has_nothing_to_save_before_the_gateway_has_shown_the_same_keys() {
    for place in [1, 600, 1088, 1090, 1091, 1120, -1, -64, -65_isize] {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let mut sent = 0;
        let (joined, _) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            sent = number;
            if number == 5 {
                let place = usize::try_from(place.rem_euclid(isize::try_from(frame.len()).unwrap())).unwrap();
                frame[place] ^= 0x01;
            }
        }));
        let error = joined.unwrap_err();
        assert!(matches!(error, JoinError::NotConfirmed | JoinError::Wire(_)), "byte {place}: {error}");
        assert_eq!(sent, 5, "byte {place}: the client went on");
    }
}

#[test]
fn every_message_cut_anywhere_ends_the_join() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    for cut in 0..FRAMES {
        for keep in [0, 1, 2, 20] {
            let (joined, _) = block_on(lab.converse(&token, &identity(1), 10 + keep as u64, |number, frame| {
                if number == cut {
                    frame.truncate(frame.len().saturating_sub(1).min(keep));
                }
            }));
            assert!(joined.is_err(), "frame {cut}, {keep} bytes");
            let (joined, _) = block_on(lab.converse(&token, &identity(1), 10 + keep as u64, |number, frame| {
                if number == cut {
                    frame.push(0);
                }
            }));
            assert!(joined.is_err(), "frame {cut} and a byte more");
        }
    }
    block_on(lab.join(&token, &identity(1), 40)).unwrap();
}

#[test]
fn a_relay_between_two_connections_gets_nowhere() {
    // Another certificate, another connection: the exporter differs, and so does the key that the client saw.
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let (identity, gateway, endpoint) = (identity(1), gateway_identity(), endpoint());
    let outcome = |channel: Channel, client_exporter: u8, endpoint: &toehold_joinproto::Endpoint| {
        block_on(async {
            let mut conversation = Conversation::new(channel);
            let config = ClientConfig {
                endpoint,
                identity: &identity,
                token: &token,
                gateway: &gateway,
                exporter: Exporter([client_exporter; 32]),
            };
            let mut next =
                async |frame: &[u8]| match conversation.receive(&lab.gateway, &lab.desk, &pins(), frame, &mut rng(5)).await {
                    Turn::Answer(answer) => Ok(answer),
                    Turn::Last(frame, Ended::Failed(error)) => {
                        assert_eq!(Refuse::decode(&frame).unwrap().reason, "");
                        Err(error)
                    }
                    Turn::Last(_, ended) => panic!("{ended:?}"),
                };
            let (waiting, hello) = config.start(&mut rng(6));
            let (waiting, offer) = waiting.receive(&next(&hello).await?, &mut rng(7)).unwrap();
            let (waiting, proof) = waiting.receive(&next(&offer).await?).unwrap();
            let accept = next(&proof).await?;
            Ok::<_, GatewayError>(waiting.receive(&accept))
        })
    };
    assert!(outcome(channel(3), 3, &endpoint).unwrap().is_ok());
    assert_eq!(outcome(channel(4), 3, &endpoint).unwrap_err(), GatewayError::Proof);
    let other = Channel { gateway_key: [8; 32], ..channel(3) };
    assert_eq!(outcome(other, 3, &endpoint).unwrap_err(), GatewayError::GatewayKey);
    assert_eq!(outcome(channel(3), 3, &"other.example.net:1".parse().unwrap()).unwrap_err(), GatewayError::Endpoint);
}

#[test]
fn a_replay_is_good_for_nothing() {
    let lab = Lab::new();
    let mut new = new_token();
    new.uses = 3;
    let token = lab.token(new, 1);
    let mut sent = Vec::new();
    block_on(lab.converse(&token, &identity(1), 10, |_, frame| sent.push(frame.clone()))).0.unwrap();
    let before = lab.desk.store.entries();
    // In a connection of its own the cookie is no good; a thief of the cookie key would fail at the proof.
    let mut replay = Conversation::new(channel(11));
    for (frame, expected) in [
        (&sent[0], None),
        (&sent[2], Some(GatewayError::Cookie)),
        (&sent[4], Some(GatewayError::Frame(toehold_joinproto::v3::frame::FrameError::Kind))),
    ] {
        match (block_on(replay.receive(&lab.gateway, &lab.desk, &pins(), frame, &mut rng(1))), expected) {
            (Turn::Answer(_), None) => {}
            (Turn::Last(_, Ended::Failed(error)), Some(expected)) => assert_eq!(error, expected),
            (turn, _) => panic!("{turn:?}"),
        }
    }
    // Over the very same connection, the gateway's key is another.
    let mut replay = Conversation::new(channel(10));
    for frame in [&sent[0], &sent[2]] {
        assert!(matches!(block_on(replay.receive(&lab.gateway, &lab.desk, &pins(), frame, &mut rng(1))), Turn::Answer(_)));
    }
    let turn = block_on(replay.receive(&lab.gateway, &lab.desk, &pins(), &sent[4], &mut rng(1)));
    assert!(matches!(turn, Turn::Last(_, Ended::Failed(GatewayError::Proof))), "{turn:?}");
    assert_eq!(lab.desk.store.entries(), before);
}

/// What a token's signing key is made of, as the page on the protocol says.
fn signing_seed(token: &Token) -> [u8; 32] {
    let kdf = hkdf::Hkdf::<sha2::Sha512>::new(Some(b"toehold join v3 token"), token.expose_secret());
    let mut seed = [0; 32];
    kdf.expand(token.id().as_bytes(), &mut seed).unwrap();
    seed
}

#[test]
fn a_dump_of_the_store_joins_nothing() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let entry = lab.desk.store.entries().into_iter().find(|entry| entry.key.as_str() == format!("token/{}", token.id())).unwrap();
    let dump = String::from_utf8(entry.value).unwrap();
    let secret: String = token.expose_secret().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!dump.contains(&secret));
    // Nor what the signing key is made of, of which only the public half is there, however it would be written.
    let seed = signing_seed(&token);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(dump.contains(&hex(ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key().as_bytes())));
    for entry in lab.desk.store.entries() {
        let holds = |needle: &[u8]| entry.value.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(&seed), "{}", entry.key);
        let text = String::from_utf8_lossy(&entry.value);
        assert!(!text.to_ascii_lowercase().contains(&hex(&seed)), "{}", entry.key);
        for written in [Base64Unpadded::encode_string(&seed), Base64UrlUnpadded::encode_string(&seed)] {
            assert!(!text.contains(&written), "{}", entry.key);
        }
    }
    // Everything in it that has the length of a key, taken for the secret and for the signing key.
    let words: Vec<_> = dump.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() >= 52).collect();
    assert!(!words.is_empty());
    for word in words {
        let stolen = Token::from_hex(&token.id().to_string(), &word[..52]).unwrap();
        let (joined, _) = block_on(lab.converse(&stolen, &identity(1), 10, |_, _| ()));
        assert!(joined.is_err());
        let bytes: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&word[2 * i..2 * i + 2], 16).unwrap()).collect();
        let key = ed25519_dalek::SigningKey::from_bytes(&bytes.try_into().unwrap());
        let public: String = key.verifying_key().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(&public));
    }
    assert_eq!(uses(&lab, &token).taken, 0);
    block_on(lab.join(&token, &identity(1), 11)).unwrap();
}

#[test]
fn after_the_proof_the_reason_is_told_in_words() {
    let lab = Lab::new();
    let refused = |new, seconds| {
        let lab = Lab::new();
        let token = lab.token(new, 1);
        lab.desk.clock.advance(Duration::from_secs(seconds));
        let refused = block_on(lab.join(&token, &identity(1), 10)).unwrap_err();
        assert_eq!(uses(&lab, &token).taken, 0);
        match refused {
            JoinError::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    let mut from = new_token();
    from.from = vec!["198.51.100.0/24".parse().unwrap()];
    assert_eq!(refused(from, 0), Refusal::Source.to_string());
    assert_eq!(refused(new_token(), 3600), Refusal::Expired.to_string());
    let mut from = new_token();
    from.from = vec!["192.0.2.0/24".parse().unwrap()];
    from.labels.insert("rack".to_owned(), "b7".to_owned());
    let token = lab.token(from, 1);
    lab.desk.clock.advance(Duration::from_secs(3599));
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    let agent = block_on(lab.desk.agent(&joined.id.to_string())).unwrap().unwrap();
    assert_eq!(agent.labels, [("rack".to_owned(), "b7".to_owned())].into());
    assert_eq!(source().to_string(), "192.0.2.7");
}

#[test]
fn j2_a_removed_agent_comes_back_only_with_a_token_made_later() {
    let lab = Lab::new();
    let mut new = new_token();
    new.uses = 5;
    let (token, before) = (lab.token(new.clone(), 1), lab.token(new.clone(), 2));
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    lab.desk.clock.advance(Duration::from_secs(10));
    block_on(lab.desk.remove_agent(&joined.id.to_string())).unwrap();
    assert!(stored_keys(&lab, joined.id).shared_keys.is_empty());
    let removed = JoinError::Refused { reason: Refusal::Removed.to_string() };
    assert_eq!(block_on(lab.join(&token, &identity(1), 11)).unwrap_err(), removed);
    assert_eq!(block_on(lab.join(&before, &identity(1), 12)).unwrap_err(), removed);
    block_on(lab.join(&before, &identity(2), 13)).unwrap();
    lab.desk.clock.advance(Duration::from_secs(1));
    let later = lab.token(new, 3);
    block_on(lab.join(&later, &identity(1), 14)).unwrap();
}

#[test]
fn j2_a_removal_between_proof_and_confirmation_wins() {
    let lab = Lab::new();
    let mut new = new_token();
    new.uses = 2;
    let token = lab.token(new, 1);
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    lab.desk.clock.advance(Duration::from_secs(1));
    let (again, ended) = block_on(lab.converse(&token, &identity(1), 11, |number, _| {
        if number == 6 {
            block_on(lab.desk.remove_agent(&joined.id.to_string())).unwrap();
        }
    }));
    assert!(again.is_err() && matches!(ended, Some(Ended::Refused(DeskError::Superseded))), "{ended:?}");
    assert!(stored_keys(&lab, joined.id).shared_keys.is_empty());
}

#[test]
fn j2_a_revocation_or_the_tokens_end_between_proof_and_confirmation_wins() {
    for revoked in [true, false] {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, _| {
            if number == 6 {
                if revoked {
                    block_on(lab.desk.revoke(token.id())).unwrap();
                } else {
                    lab.desk.clock.advance(Duration::from_secs(3600));
                }
            }
        }));
        let refusal = if revoked { Refusal::Revoked } else { Refusal::Expired };
        assert!(joined.is_err(), "it has joined all the same");
        assert!(matches!(ended, Some(Ended::Refused(DeskError::Refused(why))) if why == refusal), "{ended:?}");
        assert!(block_on(lab.desk.agent(&identity(1).id().to_string())).unwrap().is_none());
    }
}

#[test]
fn j2_a_revoked_token_brings_nobody_in_and_nobody_back() {
    let lab = Lab::new();
    let mut new = new_token();
    new.uses = 3;
    let token = lab.token(new, 1);
    let joined = block_on(lab.join(&token, &identity(1), 10)).unwrap();
    assert_eq!(block_on(lab.desk.revoke(token.id())).unwrap(), Uses { taken: 1, revoked: 3 });
    assert_eq!(block_on(lab.desk.revoke(token.id())).unwrap(), Uses { taken: 1, revoked: 3 });
    let revoked = JoinError::Refused { reason: Refusal::Revoked.to_string() };
    assert_eq!(block_on(lab.join(&token, &identity(2), 11)).unwrap_err(), revoked);
    assert_eq!(block_on(lab.join(&token, &identity(1), 12)).unwrap_err(), revoked);
    // Who has joined stays.
    assert_eq!(stored_keys(&lab, joined.id).shared_keys, joined.keyring.shared_keys);
}

#[test]
fn what_is_long_over_is_swept_and_nothing_else() {
    let lab = Lab::new();
    let (old, other) = (lab.token(new_token(), 1), lab.token(new_token(), 2));
    let joined = block_on(lab.join(&old, &identity(1), 10)).unwrap();
    let gone = block_on(lab.join(&other, &identity(2), 11)).unwrap();
    lab.desk.clock.advance(Duration::from_secs(1));
    block_on(lab.desk.remove_agent(&gone.id.to_string())).unwrap();
    lab.desk.clock.advance(Duration::from_secs(3600 + 3598));
    let young = lab.token(new_token(), 3);
    assert_eq!(block_on(lab.desk.sweep()).unwrap(), 0);
    assert_eq!(
        block_on(lab.join(&other, &identity(2), 12)).unwrap_err(),
        JoinError::Refused { reason: Refusal::Expired.to_string() }
    );
    lab.desk.clock.advance(Duration::from_secs(2));
    assert_eq!(block_on(lab.desk.sweep()).unwrap(), 2);
    let left: Vec<_> = lab.desk.store.entries().into_iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(left, [format!("agent/{}", joined.id), format!("token/{}", young.id())]);
}

/// Such a token may be as old as any: no mark of a removal goes, and all else that is over does.
#[test]
fn a_token_that_cannot_be_read_is_named_and_stays_with_its_uses() {
    let lab = Lab::new();
    let (old, broken) = (lab.token(new_token(), 1), lab.token(new_token(), 2));
    let gone = block_on(lab.join(&broken, &identity(2), 11)).unwrap();
    block_on(lab.desk.remove_agent(&gone.id.to_string())).unwrap();
    let place = Key::new(["token", &broken.id().to_string()]).unwrap();
    let there = block_on(lab.desk.store.get(&place)).unwrap().unwrap();
    block_on(lab.desk.store.put(&place, b"{}", Expect::Revision(there.revision))).unwrap();
    lab.desk.clock.advance(Duration::from_secs(3 * 3600));
    let plan = block_on(lab.desk.plan_sweep()).unwrap();
    let names: Vec<_> = plan.tokens().map(|key| key.name().to_owned()).collect();
    assert_eq!(names, [old.id().to_string()]);
    assert_eq!((plan.uses().count(), plan.agents().count()), (0, 0));
    assert!(matches!(plan.unreadable(), [StoreError::Corrupt { key, .. }] if *key == place), "{:?}", plan.unreadable());
}

#[test]
fn secrets_are_in_nothing_that_is_printed() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let fresh = fresh(5);
    let mut printed = String::new();
    let (joined, ended) = block_on(lab.converse(&token, &fresh, 10, |_, _| ()));
    let joined = joined.unwrap();
    printed += &format!("{token:?} {fresh:?} {joined:?} {ended:?} {:?} {:?}", lab.gateway, channel(10));
    let (refused, ended) = block_on(lab.converse(&token, &identity(2), 11, |_, _| ()));
    printed += &format!("{refused:?} {ended:?}");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let list = |bytes: &[u8]| format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let keys = &joined.keyring.shared_keys[0];
    for secret in [token.expose_secret(), keys.expose_client(), keys.expose_gateway(), &[10; 32]] {
        assert!(!printed.contains(&hex(&secret[..8])) && !printed.contains(&list(&secret[..8])), "{printed}");
    }
}

#[test]
fn frames_are_read_back_as_they_were_written() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let mut sent = Vec::new();
    block_on(lab.converse(&token, &identity(1), 10, |_, frame| sent.push(frame.clone()))).0.unwrap();
    assert_eq!(Hello::decode(&sent[0]).unwrap().encode(), sent[0]);
    assert_eq!(Retry::decode(&sent[1]).unwrap().encode(), sent[1]);
    assert_eq!(Offer::decode(&sent[2]).unwrap().encode(), sent[2]);
    assert_eq!(Answer::decode(&sent[3]).unwrap().encode(), sent[3]);
    assert_eq!(Proof::decode(&sent[4]).unwrap().encode(), sent[4]);
    assert_eq!(Accept::decode(&sent[5]).unwrap().encode(), sent[5]);
    assert_eq!(Confirm::decode(&sent[6]).unwrap().encode(), sent[6]);
    let long = Refuse { reason: "é".repeat(400) };
    assert_eq!(Refuse::decode(&long.encode()).unwrap().reason, "é".repeat(256));
}
