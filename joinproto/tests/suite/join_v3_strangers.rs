//! What somebody without a token learns by asking, and what it costs the gateway (J5).

use std::convert::Infallible;
use std::time::Duration;

use crate::support::lab::{Lab, channel, endpoint, gateway_identity, identity, new_token, rng, start};
use rand_chacha::rand_core::{TryCryptoRng, TryRng};
use toehold_core::testing::block_on;
use toehold_joinproto::JoinError;
use toehold_joinproto::challenge::{Assertion, AwaitResponse};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::frame::{Hello, Offer, Proof, Retry};
use toehold_joinproto::v3::{AgentIdentity, COOKIE_LIFETIME, Channel, ClientConfig, Ended, Exporter, GatewayError, TokenSigner};

#[test]
fn j5_an_unknown_token_is_answered_as_a_wrong_one() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let mut bytes = [7; 32];
    let unknown = Token::from_bytes(&bytes);
    bytes[..6].copy_from_slice(token.id().as_bytes());
    let wrong_secret = Token::from_bytes(&bytes);
    let mut for_opni = new_token();
    for_opni.for_opni = true;
    let for_opni = lab.token(for_opni, 2);
    let before = lab.desk.store.entries();
    let answers = |token: &Token| {
        let mut frames = Vec::new();
        let (joined, ended) = block_on(lab.converse(token, &identity(1), 10, |number, frame| {
            if number % 2 == 1 {
                frames.push(frame.clone());
            }
        }));
        assert!(matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
        assert!(matches!(joined, Err(JoinError::Refused { .. })));
        frames
    };
    let seen = answers(&unknown);
    assert_eq!(seen.len(), 3);
    for other in [answers(&wrong_secret), answers(&for_opni)] {
        // The cookie is over the Hello, which is the same; only the token's id differs.
        assert_eq!(other, seen);
    }
    assert_eq!(lab.desk.store.entries(), before);
}

/// The shortest time of each of these; in turns, so that whatever else is at work is at work for all.
fn shortest<const N: usize>(works: [&dyn Fn(); N]) -> [f64; N] {
    let mut shortest = [f64::MAX; N];
    for _ in 0..400 {
        for (work, shortest) in works.iter().zip(&mut shortest) {
            let begun = std::time::Instant::now();
            work();
            *shortest = shortest.min(begun.elapsed().as_secs_f64());
        }
    }
    shortest
}

#[test]
fn j5_looking_for_a_token_or_an_agent_costs_the_same_whether_there_is_one() {
    let lab = Lab::new();
    let (token, removed) = (lab.token(new_token(), 1), lab.token(new_token(), 2));
    let for_opni = lab.token(toehold_joinproto::admission::NewToken { for_opni: true, ..new_token() }, 3);
    let known = block_on(lab.join(&token, &identity(1), 10)).unwrap().id.to_string();
    let gone = block_on(lab.join(&removed, &identity(2), 11)).unwrap().id.to_string();
    block_on(lab.desk.remove_agent(&gone)).unwrap();
    let nobody = identity(3).id().to_string();
    let look = |token: &Token| assert!(block_on(lab.desk.token_for_stranger(token.id())).is_ok());
    let unknown = Token::from_bytes(&[7; 32]);
    let tokens = shortest([&|| look(&token), &|| look(&unknown), &|| look(&for_opni)]);
    let authenticate = |id: &str| {
        let keys = block_on(lab.desk.keys(id)).unwrap();
        let assertion = Assertion::from_parts(id, [1; 32]).unwrap();
        let (waiting, _) = AwaitResponse::with_challenge(assertion, [2; 32]);
        // The form of an answer, to another challenge.
        let other = SharedKeys::from_secret(&zeroize::Zeroizing::new([9; 64]));
        let (_, message) = Assertion::from_parts(id, [1; 32]).unwrap().respond(&challenge_message(), &other).unwrap();
        assert!(waiting.verify(&message, keys.keys()).is_err());
    };
    let agents = shortest([&|| authenticate(&known), &|| authenticate(&nobody), &|| authenticate(&gone)]);
    for times in [tokens, agents] {
        for time in times {
            assert!((0.6..1.7).contains(&(time / times[0])), "{times:?}");
        }
    }
}

#[test]
fn j5_a_proof_under_an_unknown_token_costs_what_one_under_another_costs() {
    let lab = Lab::new();
    let token = Token::from_bytes(&[1; 32]);
    let (other, me) = (TokenSigner::new(&Token::from_bytes(&[2; 32])).key(), identity(1));
    let (endpoint, known) = (endpoint(), gateway_identity());
    let config = ClientConfig { endpoint: &endpoint, identity: &me, token: &token, gateway: &known, exporter: Exporter([1; 32]) };
    let (waiting, hello) = config.start(&mut rng(1));
    let retry = lab.gateway.hello(&channel(1), &hello, start()).unwrap();
    let (waiting, offer) = waiting.receive(&retry, &mut rng(2)).unwrap();
    let begin = || lab.gateway.offer(&channel(1), &offer, start(), &mut rng(3)).unwrap();
    let (_, proof) = waiting.receive(&begin().1).unwrap();
    let verify = |key| assert_eq!(begin().0.verify(&proof, key).unwrap_err(), GatewayError::Proof);
    let times = shortest([&|| verify(Some(&other)), &|| verify(None)]);
    // Making the gateway's ephemeral key is a part of both.
    let [opening] = shortest([&|| drop(begin())]);
    let ratio = (times[1] - opening) / (times[0] - opening);
    assert!((0.3..3.0).contains(&ratio), "{times:?} {opening}");
}

/// Draws nothing, since nobody may ask it to.
struct Untouched;

impl TryRng for Untouched {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("random bytes were drawn")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("random bytes were drawn")
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
        panic!("random bytes were drawn")
    }
}

impl TryCryptoRng for Untouched {}

#[test]
fn j5_no_ephemeral_key_is_made_before_the_cookie_is_good() {
    let lab = Lab::new();
    let (endpoint, known, me, token) = (endpoint(), gateway_identity(), identity(1), Token::from_bytes(&[1; 32]));
    let config = ClientConfig { endpoint: &endpoint, identity: &me, token: &token, gateway: &known, exporter: Exporter([1; 32]) };
    let (waiting, hello) = config.start(&mut rng(1));
    let retry = lab.gateway.hello(&channel(1), &hello, start()).unwrap();
    let (_, offer) = waiting.receive(&retry, &mut rng(2)).unwrap();
    let elsewhere = lab.gateway.offer(&channel(2), &offer, start(), &mut Untouched);
    assert_eq!(elsewhere.map(drop), Err(GatewayError::Cookie));
    let late = start().saturating_add(Duration::from_secs(COOKIE_LIFETIME + 1));
    assert_eq!(lab.gateway.offer(&channel(1), &offer, late, &mut Untouched).map(drop), Err(GatewayError::Cookie));
    // It is the random bytes for that key that are drawn.
    assert!(std::panic::catch_unwind(|| lab.gateway.offer(&channel(1), &offer, start(), &mut Untouched).map(drop)).is_err());
}

fn challenge_message() -> Vec<u8> {
    AwaitResponse::with_challenge(Assertion::from_parts("x", [0; 32]).unwrap(), [3; 32]).1
}

#[test]
fn j5_a_proof_for_one_purpose_is_none_for_another() {
    use ed25519_dalek::{Signer as _, SigningKey};
    // A machine whose identity is the token's own key: even then the two proofs are not interchangeable.
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    let kdf = hkdf::Hkdf::<sha2::Sha512>::new(Some(b"toehold join v3 token"), token.expose_secret());
    kdf.expand(token.id().as_bytes(), &mut *seed).unwrap();
    let same_key = AgentIdentity::from_saved(&seed);
    let (joined, ended) = block_on(lab.converse(&token, &same_key, 10, |number, frame| {
        if number == 4 {
            let proof = Proof::decode(frame).unwrap();
            *frame = Proof { token: proof.identity, identity: proof.token }.encode();
        }
    }));
    assert!(joined.is_err() && matches!(ended, Some(Ended::Failed(GatewayError::Proof))), "{ended:?}");
    // A signature over the bare transcript, without its domain, is none.
    let key = SigningKey::from_bytes(&[1; 32]);
    let (joined, _) = block_on(lab.converse(&token, &identity(1), 10, |number, frame| {
        if number == 4 {
            let proof = Proof::decode(frame).unwrap();
            *frame = Proof { identity: key.sign(&[0; 64]).to_bytes(), ..proof }.encode();
        }
    }));
    assert!(joined.is_err());
}

#[test]
fn j5_a_line_for_this_version_is_answered_by_no_other() {
    let hello = Hello { versions: vec![1, 2], nonce: [0; 32] }.encode();
    let lab = Lab::new();
    assert_eq!(lab.gateway.hello(&channel(1), &hello, start()), Err(GatewayError::Version));
    let (identity, gateway, endpoint) = (identity(1), gateway_identity(), endpoint());
    let token = Token::from_bytes(&[1; 32]);
    let config =
        ClientConfig { endpoint: &endpoint, identity: &identity, token: &token, gateway: &gateway, exporter: Exporter([1; 32]) };
    let (waiting, _) = config.start(&mut rng(1));
    let downgraded = Retry { version: 2, cookie: [0; 40] }.encode();
    assert_eq!(waiting.receive(&downgraded, &mut rng(2)).unwrap_err(), JoinError::OutOfTurn);
}

#[test]
fn a_cookie_is_for_one_connection_one_network_one_hello_and_half_a_minute() {
    let mut lab = Lab::new();
    let hello = Hello::new([1; 32]).encode();
    let retry = Retry::decode(&lab.gateway.hello(&channel(1), &hello, start()).unwrap()).unwrap();
    let offer = Offer {
        cookie: retry.cookie,
        hello: hello.clone(),
        token: Token::from_bytes(&[1; 32]).id(),
        gateway_key: channel(1).gateway_key,
        endpoint: endpoint(),
        identity: [0; 32],
        x25519: [9; 32],
        kem: Box::new([0; 1184]),
    };
    let after = |seconds| start().saturating_add(Duration::from_secs(seconds));
    let try_at = |lab: &Lab<_>, channel: &Channel, offer: &Offer, now| {
        lab.gateway.offer(channel, &offer.encode(), now, &mut rng(1)).map(|_| ())
    };
    assert_eq!(try_at(&lab, &channel(1), &offer, after(COOKIE_LIFETIME)), Ok(()));
    assert_eq!(try_at(&lab, &channel(1), &offer, after(COOKIE_LIFETIME + 1)), Err(GatewayError::Cookie));
    assert_eq!(try_at(&lab, &channel(1), &offer, start().saturating_sub(Duration::from_secs(1))), Err(GatewayError::Cookie));
    assert_eq!(try_at(&lab, &channel(2), &offer, start()), Err(GatewayError::Cookie));
    let elsewhere = Channel { source: "192.0.2.8".parse().unwrap(), ..channel(1) };
    assert_eq!(try_at(&lab, &elsewhere, &offer, start()), Err(GatewayError::Cookie));
    let mapped = Channel { source: "::ffff:192.0.2.7".parse().unwrap(), ..channel(1) };
    assert_eq!(try_at(&lab, &mapped, &offer, start()), Ok(()));
    let another = Offer { hello: Hello::new([2; 32]).encode(), ..offer.clone() };
    assert_eq!(try_at(&lab, &channel(1), &another, start()), Err(GatewayError::Cookie));
    lab.gateway.cookies.rotate(&mut rng(2));
    assert_eq!(try_at(&lab, &channel(1), &offer, start()), Ok(()));
    lab.gateway.cookies.rotate(&mut rng(3));
    assert_eq!(try_at(&lab, &channel(1), &offer, start()), Err(GatewayError::Cookie));
    // Within its /64 a machine may change its address.
    let v6 = |text: &str| Channel { source: text.parse().unwrap(), ..channel(1) };
    let retry = Retry::decode(&lab.gateway.hello(&v6("2001:db8::1"), &hello, start()).unwrap()).unwrap();
    let offer = Offer { cookie: retry.cookie, ..offer };
    assert_eq!(try_at(&lab, &v6("2001:db8::2"), &offer, start()), Ok(()));
    assert_eq!(try_at(&lab, &v6("2001:db8:0:1::1"), &offer, start()), Err(GatewayError::Cookie));
}
