//! Every parser is total, and what was read is written as it was.

use proptest::collection::vec;
use proptest::prelude::*;
use toehold_joinproto::jws::Detached;
use toehold_joinproto::keyring::{EphemeralKey, Keyring, SharedKeys};
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::mac::MacHeader;
use toehold_joinproto::pin::{Pin, PinAlgorithm};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::frame::{Accept, Answer, Confirm, Done, Hello, Offer, Proof, Refuse, Retry};
use toehold_joinproto::wire::{AuthRequestV1, AuthRequestV2, AuthResponse, JoinResponse, decode_join_request};
use toehold_joinproto::{Endpoint, Trust};
use zeroize::Zeroizing;

proptest! {
    #[test]
    fn nothing_falls_over(bytes in vec(any::<u8>(), 0..200), kind in 0_u8..18) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        macro_rules! same {
            ($($frame:ident)*) => { $(
                if let Ok(frame) = $frame::decode(&bytes) {
                    prop_assert_eq!(frame.encode(), bytes.clone());
                }
            )* };
        }
        same!(Accept Answer Confirm Done Hello Offer Proof Refuse Retry);
        let _ = (decode_join_request(&bytes), JoinResponse::decode(&bytes), AuthRequestV1::decode(&bytes));
        let _ = (AuthRequestV2::decode(&bytes), AuthResponse::decode(&bytes));
        let _ = (Detached::parse(&bytes), MacHeader::parse(&bytes), Token::parse_json(&bytes), Keyring::parse(&bytes));
        let _ = EphemeralKey::parse(&bytes);
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        prop_assert!(Trust::DangerousInsecure.check(&[&bytes], "x", now).is_err());
    }

    #[test]
    fn texts_fall_over_nothing(text in "\\PC{0,120}") {
        let _ = (Token::parse(&text), text.parse::<JoinLine>(), text.parse::<Pin>(), text.parse::<Endpoint>());
    }

    #[test]
    fn tokens_pins_and_keyrings_are_read_back(bytes in any::<[u8; 32]>(), half in any::<[u8; 32]>(), blake in any::<bool>()) {
        let token = Token::from_bytes(&bytes);
        prop_assert!(Token::parse(&token.expose_text()).is_ok_and(|read| read == token));
        prop_assert!(Token::parse_json(token.expose_json().as_bytes()).is_ok_and(|read| read == token));
        let pin = Pin::new(if blake { PinAlgorithm::Blake2b256 } else { PinAlgorithm::Sha256 }, half);
        prop_assert_eq!(pin.to_string().parse(), Ok(pin));
        let mut secret = Zeroizing::new([0; 64]);
        secret[..32].copy_from_slice(&bytes);
        secret[32..].copy_from_slice(&half);
        let ring = Keyring { pinned_keys: vec![vec![pin]], ..Keyring::of(SharedKeys::from_secret(&secret)) };
        prop_assert!(Keyring::parse(ring.expose_json().expose()).is_ok_and(|read| read == ring));
    }

    #[test]
    fn messages_are_read_back(id in "[a-zA-Z0-9][a-zA-Z0-9_.()-]{0,127}", key in any::<[u8; 32]>(), name in proptest::option::of("[a-z0-9][a-z0-9_.-]{0,63}")) {
        let request = AuthRequestV2 { client_id: id.clone(), client_key: key, friendly_name: name };
        prop_assert_eq!(AuthRequestV2::decode(&request.encode()), Ok(request));
        let request = AuthRequestV1 { client_id: id, client_key: key, capability: "any text".to_owned() };
        prop_assert_eq!(AuthRequestV1::decode(&request.encode()), Ok(request.clone()));
        for cut in 0..request.encode().len() {
            prop_assert!(AuthRequestV1::decode(&request.encode()[..cut]).is_err());
        }
    }
}
