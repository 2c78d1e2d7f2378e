//! Opni's messages: no panic, and what was read is written so that it is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_joinproto::challenge::{Assertion, AwaitMac, AwaitResponse};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::wire::{AuthRequestV1, AuthRequestV2, AuthResponse, JoinResponse, decode_join_request};
use zeroize::Zeroizing;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_join_request(bytes);
    if let Ok(message) = JoinResponse::decode(bytes) {
        assert_eq!(JoinResponse::decode(&message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(message) = AuthRequestV1::decode(bytes) {
        assert_eq!(AuthRequestV1::decode(&message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(message) = AuthRequestV2::decode(bytes) {
        assert_eq!(AuthRequestV2::decode(&message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(message) = AuthResponse::decode(bytes) {
        assert_eq!(AuthResponse::decode(&message.encode()).as_ref(), Ok(&message));
    }
    let keys = SharedKeys::from_secret(&Zeroizing::new([1; 64]));
    let assertion = Assertion::from_parts("agent", [2; 32]).expect("well-formed");
    let (waiting, _) = AwaitResponse::with_challenge(assertion.clone(), [3; 32]);
    assert!(waiting.verify(bytes, &[keys.duplicate()]).is_err(), "a forgery");
    if let Ok((waiting, _)) = assertion.respond(bytes, &keys) {
        assert!(waiting.finish(bytes, &keys).is_err(), "a forgery");
    }
    if let Ok(response) = AwaitMac::with_nonce([4; 16]).0.read(bytes) {
        assert!(response.verify("/a/b", &[keys]).is_err(), "a forgery");
    }
});
