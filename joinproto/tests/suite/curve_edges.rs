//! Points and signatures at the edges of the curves: the cases that lists of known attacks on Ed25519 and X25519 consist of, made from
//! RFC 7748, RFC 8032 and the order of the group.

use crate::support::lab;
use crate::support::lab::{Lab, identity, new_token};
use crate::support::{hex, unhex};
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha512};
use toehold_core::testing::block_on;
use toehold_joinproto::JoinError;
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::jws::{self, Detached, JwsError};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::frame::{Answer, Hello, Offer, Proof, Retry};
use toehold_joinproto::v3::{Conversation, Ended, GatewayError, TokenKey, Turn};
use zeroize::Zeroizing;

/// All points of small order on the Montgomery curve and its twist, in every encoding of 32 bytes.
const SMALL_ORDER_X25519: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Points of small order on the Edwards curve, canonical and not.
const SMALL_ORDER_ED25519: [&str; 10] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

/// The order of Ed25519's group, little-endian.
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

fn with_high_bit(point: &str) -> [[u8; 32]; 2] {
    let plain: [u8; 32] = unhex(point).try_into().unwrap();
    let mut high = plain;
    high[31] ^= 0x80;
    [plain, high]
}

/// A client that has the token, signs what it sends, and sends what it likes.
#[derive(Default)]
struct Dishonest {
    /// An identity key and what is sent as its signature.
    identity: Option<([u8; 32], [u8; 64])>,
    x25519: Option<[u8; 32]>,
    kem: Option<u8>,
}

impl Dishonest {
    /// Joins, by `docs/join-v3.md`, as far as the gateway's answer to its proof, which is a refusal.
    fn join(&self, lab: &Lab<toehold_core::testing::MemoryStore>, token: &Token, seed: u8) -> GatewayError {
        let channel = lab::channel(seed);
        let own = SigningKey::from_bytes(&[1; 32]);
        let mut conversation = Conversation::new(channel);
        let mut next = |frame: &[u8]| match block_on(conversation.receive(&lab.gateway, &lab.desk, &[], frame, &mut lab::rng(3)))
        {
            Turn::Answer(frame) => Ok(frame),
            Turn::Last(_, Ended::Failed(error)) => Err(error),
            Turn::Last(_, ended) => panic!("{ended:?}"),
        };
        let hello = Hello::new([seed; 32]).encode();
        let retry = next(&hello).unwrap();
        let offer = Offer {
            cookie: Retry::decode(&retry).unwrap().cookie,
            hello: hello.clone(),
            token: token.id(),
            gateway_key: channel.gateway_key,
            endpoint: lab::endpoint(),
            identity: self.identity.map_or(own.verifying_key().to_bytes(), |(key, _)| key),
            x25519: self.x25519.unwrap_or([9; 32]),
            kem: Box::new([self.kem.unwrap_or(0); 1184]),
        }
        .encode();
        let answer = next(&offer).unwrap();
        let mut hash = Sha512::new();
        for part in [b"toehold join v3 transcript".as_slice(), &channel.exporter.0, &hello, &retry, &offer, &answer] {
            hash.update(u32::try_from(part.len()).unwrap().to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut key = [0; 32];
        let kdf = hkdf::Hkdf::<Sha512>::new(Some(b"toehold join v3 token"), token.expose_secret());
        kdf.expand(token.id().as_bytes(), &mut key).unwrap();
        let sign = |key: &SigningKey, label: &[u8]| key.sign(&[label, &digest].concat()).to_bytes();
        let proof = Proof {
            token: sign(&SigningKey::from_bytes(&key), b"toehold join v3 token proof\0"),
            identity: self.identity.map_or_else(|| sign(&own, b"toehold join v3 identity proof\0"), |(_, signature)| signature),
        };
        match next(&proof.encode()) {
            Err(error) => error,
            // Admitted; what it was admitted for is the caller's to look at.
            Ok(_) => GatewayError::Confirmation,
        }
    }
}

#[test]
fn keys_that_cannot_be_agreed_with_end_it_before_anything_is_consumed() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let before = lab.desk.store.entries();
    for point in SMALL_ORDER_X25519.iter().flat_map(|point| with_high_bit(point)) {
        let dishonest = Dishonest { x25519: Some(point), ..Dishonest::default() };
        assert_eq!(dishonest.join(&lab, &token, 1), GatewayError::PeerKey, "{}", hex(&point));
    }
    // Coefficients that are not reduced (FIPS 203, 7.2).
    let dishonest = Dishonest { kem: Some(0xff), ..Dishonest::default() };
    assert_eq!(dishonest.join(&lab, &token, 1), GatewayError::PeerKey);
    assert_eq!(lab.desk.store.entries(), before);
    // The same client with keys that can be agreed with is admitted.
    assert_eq!(Dishonest::default().join(&lab, &token, 1), GatewayError::Confirmation);
    assert_ne!(lab.desk.store.entries(), before);
}

/// The same signature with the group's order added to its scalar: it fits by the equation, and is another text.
fn malleable(signature: &[u8; 64]) -> [u8; 64] {
    let mut out = *signature;
    let mut carry = 0;
    for (place, byte) in unhex(ORDER).into_iter().enumerate() {
        let sum = u16::from(out[32 + place]) + u16::from(byte) + carry;
        out[32 + place] = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    out
}

#[test]
fn the_example_of_rfc_7748_agrees() {
    let key = |text: &str| Ephemeral::from_bytes(&Zeroizing::new(unhex(text).try_into().unwrap()));
    let alice = key("77076d0a7318a57d3c16c17251b26645df4c2f2fe0b9ac5f0bdc5d8ee3f0f1f2");
    let bob = key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    assert_eq!(hex(bob.public()), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let (ours, theirs) = (alice.derive(Side::Client, bob.public()).unwrap(), bob.derive(Side::Gateway, alice.public()).unwrap());
    assert_eq!(ours, theirs);
}

#[test]
fn keys_of_small_order_are_not_agreed_with_by_any_version() {
    let ours = Ephemeral::from_bytes(&Zeroizing::new([5; 32]));
    for point in SMALL_ORDER_X25519.iter().flat_map(|point| with_high_bit(point)) {
        for side in [Side::Client, Side::Gateway] {
            assert!(ours.derive(side, &point).is_err(), "{}", hex(&point));
        }
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        // Put in place of the client's, by somebody in the middle.
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == 2 {
                let offer = Offer::decode(frame).unwrap();
                *frame = Offer { x25519: point, ..offer }.encode();
            }
        }));
        assert!(joined.is_err() && matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
        // In place of the gateway's.
        let (joined, _) = block_on(lab.converse(&token, &identity(1), 11, |number, frame| {
            if number == 3 {
                *frame = Answer { x25519: point }.encode();
            }
        }));
        assert_eq!(joined.unwrap_err(), JoinError::PeerKey, "{}", hex(&point));
        assert_eq!(lab::below(&lab.desk.store, "token/").len(), 1);
    }
}

#[test]
fn a_signature_has_one_spelling() {
    let key = SigningKey::from_bytes(&[7; 32]);
    let token = Token::from_bytes(&[9; 32]);
    let complete = Detached::sign(&token, &key).attach(&token, &key.verifying_key()).unwrap();
    let (signed, signature) = complete.expose().rsplit_once('.').unwrap();
    let signature: [u8; 64] = base64(signature).try_into().unwrap();
    let other = format!("{signed}.{}", to_base64(&malleable(&signature)));
    assert_eq!(jws::verify(other.as_bytes(), &key.verifying_key()), Err(JwsError::Signature));
    for which in [0, 1] {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (joined, ended) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
            if number == 4 {
                let mut proof = Proof::decode(frame).unwrap();
                let changed = if which == 0 { &mut proof.token } else { &mut proof.identity };
                *changed = malleable(changed);
                *frame = proof.encode();
            }
        }));
        assert!(joined.is_err() && matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
    }
}

#[test]
fn keys_of_small_order_verify_nothing() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    for point in SMALL_ORDER_ED25519.map(|point| <[u8; 32]>::try_from(unhex(point)).unwrap()) {
        assert!(hex(&point).parse::<TokenKey>().is_err(), "{}", hex(&point));
        // A machine that claims such an identity, with the signature that fits many a message under it.
        let mut universal = [0; 64];
        universal[..32].copy_from_slice(&point);
        for seed in 0..8 {
            let dishonest = Dishonest { identity: Some((point, universal)), ..Dishonest::default() };
            assert_eq!(dishonest.join(&lab, &token, seed), GatewayError::Proof, "{}", hex(&point));
        }
        // The same as a gateway's key, which v2 trusts for its signature of the token.
        if let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&point) {
            let detached = format!("eyJhbGciOiJFZERTQSJ9..{}", to_base64(&universal));
            let attached = Detached::parse(detached.as_bytes()).unwrap().attach(&token, &key);
            assert!(matches!(attached, Err(JwsError::Signature)), "{}", hex(&point));
        }
    }
    assert_eq!(lab::below(&lab.desk.store, "agent/").len(), 0);
}

fn base64(text: &str) -> Vec<u8> {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::decode_vec(text).unwrap()
}

fn to_base64(bytes: &[u8]) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    Base64UrlUnpadded::encode_string(bytes)
}
