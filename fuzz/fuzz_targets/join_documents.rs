//! Certificate chains and keyrings: no panic; a keyring is written so that it is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_joinproto::Trust;
use toehold_joinproto::keyring::{EphemeralKey, Keyring};
use toehold_joinproto::pin::{Pin, PinAlgorithm};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(keyring) = Keyring::parse(bytes) {
        assert_eq!(Keyring::parse(keyring.expose_json().expose()).as_ref(), Ok(&keyring));
    }
    let _ = EphemeralKey::parse(bytes);
    // A chain: certificates after their lengths.
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (certificate, after) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        chain.push(certificate);
        rest = after;
    }
    let now = "2026-11-25T12:00:00Z".parse().expect("a time");
    let pins = vec![Pin::new(PinAlgorithm::Sha256, [1; 32])];
    assert!(Trust::Pinned(pins.clone()).check(&chain, "localhost", now).is_err(), "a collision");
    assert!(Trust::OpniPinned(pins).check(&chain, "localhost", now).is_err(), "a collision");
    let _ = Trust::CaCertificates(chain.iter().map(|der| der.to_vec()).collect()).check(&chain, "localhost", now);
    let _ = Trust::DangerousInsecure.check(&chain, "localhost", now);
});
