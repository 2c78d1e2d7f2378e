//! Pins and chains as Opni makes and checks them.

use crate::support;
use crate::support::{Lax, base64s, bytes, of, text};
use toehold_core::Timestamp;
use toehold_joinproto::pin::{Pin, PinAlgorithm, PinError};
use toehold_joinproto::{JoinError, Trust};

/// The certificates of the cases hold from 2024 to 2124.
fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

#[test]
fn made_over_the_public_key() {
    for case in of("pins.jsonl", "pin_from_cert").iter().filter(|case| case.is_ok()) {
        let algorithm = if case.input("alg") == "sha256" { PinAlgorithm::Sha256 } else { PinAlgorithm::Blake2b256 };
        let pin = Pin::of_key(algorithm, &bytes(case.input("spki_der_hex")));
        assert_eq!(support::hex(pin.digest()), text(case.output("fingerprint_hex")), "{}", case.id());
    }
}

#[test]
fn the_text_form_is_read_where_opni_would_write_it_so() {
    for case in of("pins.jsonl", "decode_pin") {
        let input = case.text();
        let read = std::str::from_utf8(&input).map_err(|_| PinError::Digest).and_then(str::parse::<Pin>);
        let whole = case.is_ok() && text(case.output("reencoded")).as_bytes() == input && case.output("validate") == "ok";
        assert_eq!(read.is_ok(), whole, "{}: {read:?}", case.id());
        if let Ok(pin) = read {
            assert_eq!(pin.to_string().as_bytes(), input, "{}", case.id());
            assert_eq!(support::hex(pin.digest()), text(case.output("fingerprint_hex")), "{}", case.id());
        }
    }
    for case in of("pins.jsonl", "pin_equal") {
        let (a, b) = (text(case.input("a")).parse::<Pin>(), text(case.input("b")).parse::<Pin>());
        if let (Ok(a), Ok(b)) = (a, b) {
            assert_eq!(a == b, case.output("equal") == true, "{}", case.id());
        }
    }
}

fn pins(case: &support::Case) -> Vec<Pin> {
    let pin = |pin: &serde_json::Value| match pin.as_str() {
        Some(text) => text.parse().unwrap(),
        None => {
            let algorithm = if pin["alg"] == "sha256" { PinAlgorithm::Sha256 } else { PinAlgorithm::Blake2b256 };
            Pin::new(algorithm, support::array(&pin["fingerprint_hex"]))
        }
    };
    case.input("pins").as_array().unwrap().iter().map(pin).collect()
}

#[test]
fn chains_are_judged_as_opni_judges_them_where_that_is_asked_for() {
    for op in ["verify_chain", "tls_handshake"] {
        for case in of("pins.jsonl", op).iter().filter(|case| !case.id().ends_with("tls12-server")) {
            let chain = base64s(case.input("chain_der_b64"));
            let checked = Trust::OpniPinned(pins(case)).check(&chain, "localhost", now());
            assert_eq!(checked.is_ok(), case.is_ok(), "{}: {checked:?}", case.id());
        }
    }
}

/// What passes with Opni's strategy and must not with ours.
const LAX: [&str; 11] = [
    "-expired-leaf-pin-root",
    "-future-leaf-pin-root",
    "-wrong-name-pin-root",
    "-path-length-exceeded",
    "-issuer-name-mismatch",
    "-client-auth-leaf",
    "-pin-intermediate",
    "handshake/ed25519-expired",
    "handshake/p256-expired",
    "handshake/rsa2048-expired",
    "handshake/mixed-expired",
];

#[test]
fn the_strict_form_checks_all_of_the_path_below_a_pinned_ca() {
    let mut lax = Lax::new(&LAX);
    for op in ["verify_chain", "tls_handshake"] {
        for case in of("pins.jsonl", op).iter().filter(|case| !case.id().ends_with("tls12-server")) {
            let chain = base64s(case.input("chain_der_b64"));
            let checked = Trust::Pinned(pins(case)).check(&chain, "localhost", now());
            if lax.has(case.id()) {
                assert!(checked.is_err(), "{}", case.id());
            } else if case.is_ok() {
                assert!(checked.is_ok(), "{}: {checked:?}", case.id());
            } else if let Ok(identity) = checked {
                // The leaf itself is pinned, whatever else is in the list.
                assert!(pins(case).contains(&identity.pin()), "{}", case.id());
            }
        }
    }
    lax.all_met();
}

fn chain(name: &str) -> (Vec<Vec<u8>>, Vec<Pin>) {
    let cases = of("pins.jsonl", "verify_chain");
    let case = cases.iter().find(|case| case.id() == format!("pins/verify-chain/ed25519-{name}")).unwrap();
    (base64s(case.input("chain_der_b64")), pins(case))
}

#[test]
fn every_refusal_is_the_seeds_error() {
    let check = |name: &str, host: &str| {
        let (chain, pins) = chain(name);
        Trust::Pinned(pins).check(&chain, host, now()).unwrap_err()
    };
    assert_eq!(check("sha256-wrong-pin", "localhost"), JoinError::RootCAHashMismatch);
    assert_eq!(check("leaf-only-pin-root", "localhost"), JoinError::NoRootCA);
    assert_eq!(check("expired-leaf-pin-root", "localhost"), JoinError::KeyExpired);
    assert_eq!(check("future-leaf-pin-root", "localhost"), JoinError::KeyExpired);
    assert_eq!(check("other-leaf-with-pinned-root", "localhost"), JoinError::LeafNotSigned);
    assert_eq!(check("wrong-name-pin-root", "localhost"), JoinError::WrongName { name: "localhost".to_owned() });
    assert_eq!(check("empty-list", "localhost"), JoinError::MalformedChain { number: 1 });
    let (good, pins) = chain("sha256-pin-root");
    assert!(Trust::Pinned(pins.clone()).check(&good, "localhost", now()).is_ok());
    assert!(Trust::Pinned(pins.clone()).check(&good, "127.0.0.1", now()).is_ok());
    let other = Trust::Pinned(pins.clone()).check(&good, "gw.example.net", now());
    assert_eq!(other, Err(JoinError::WrongName { name: "gw.example.net".to_owned() }));
    // The pinned CA's own dates count, too.
    let late = "2130-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(Trust::Pinned(pins.clone()).check(&good, "localhost", late), Err(JoinError::KeyExpired));
    assert_eq!(Trust::Pinned(Vec::new()).check(&good, "localhost", now()), Err(JoinError::NoPins));
    assert_eq!(Trust::OpniPinned(Vec::new()).check(&good, "localhost", now()), Err(JoinError::NoPins));
    for (place, flaw) in [(0, 1), (2, 3)] {
        let mut chain = good.clone();
        chain[place].push(0);
        assert_eq!(
            Trust::Pinned(pins.clone()).check(&chain, "localhost", now()),
            Err(JoinError::MalformedChain { number: flaw })
        );
    }
}

#[test]
fn a_pinned_leaf_needs_nothing_else() {
    let (chain, pins) = chain("expired-leaf-pin-leaf");
    let identity = Trust::Pinned(pins.clone()).check(&chain, "any.example.net", now()).unwrap();
    assert_eq!([identity.pin()], pins[..]);
    identity.ed25519().unwrap();
}

#[test]
fn ca_certificates_are_checked_in_every_respect() {
    let (good, _) = chain("sha256-pin-root");
    let trust = Trust::CaCertificates(vec![good[2].clone()]);
    assert!(trust.check(&good, "localhost", now()).is_ok());
    assert!(trust.check(&good[..2], "localhost", now()).is_ok());
    assert!(matches!(trust.check(&good, "other.example.net", now()), Err(JoinError::WrongName { .. })));
    let (other, _) = chain("other-chain");
    assert_eq!(trust.check(&other, "localhost", now()), Err(JoinError::LeafNotSigned));
    let (expired, _) = chain("expired-leaf-pin-root");
    assert_eq!(trust.check(&expired, "localhost", now()), Err(JoinError::KeyExpired));
    assert_eq!(Trust::CaCertificates(Vec::new()).check(&good, "localhost", now()), Err(JoinError::NoPins));
    assert!(Trust::DangerousInsecure.check(&other, "x", now()).is_ok());
}

#[test]
fn several_pins_overlap_so_that_a_key_can_be_renewed() {
    let (old, old_pins) = chain("sha256-pin-leaf");
    let (new, _) = chain("other-chain");
    let new_pin = Trust::DangerousInsecure.check(&new, "x", now()).unwrap().pin();
    let both = Trust::Pinned(vec![old_pins[0], new_pin]);
    assert!(both.check(&old, "x", now()).is_ok());
    assert!(both.check(&new, "x", now()).is_ok());
    assert!(Trust::Pinned(old_pins).check(&new, "x", now()).is_err());
}
