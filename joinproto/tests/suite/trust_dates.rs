//! Dates and constraints of a pinned CA itself, which a path check takes for granted.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, PKCS_ED25519, date_time_ymd};
use toehold_joinproto::pin::Pin;
use toehold_joinproto::{JoinError, Trust};

/// A leaf for `gw.example.net` below a CA, both valid from 2024 on, up to a year each; the chain and the CA's pin.
fn chain(ca_until: i32, leaf_until: i32, adjust: impl FnOnce(&mut CertificateParams)) -> (Vec<Vec<u8>>, Pin) {
    let key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "the CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(ca_until, 1, 1));
    adjust(&mut params);
    let ca = CertifiedIssuer::self_signed(params, key()).unwrap();
    let mut params = CertificateParams::new(vec!["gw.example.net".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(leaf_until, 1, 1));
    let leaf = params.signed_by(&key(), &ca).unwrap();
    let chain = vec![leaf.der().to_vec(), ca.der().to_vec()];
    let pin = Trust::DangerousInsecure.check(&chain[1..], "x", now()).unwrap().pin();
    (chain, pin)
}

fn now() -> toehold_core::Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn check(chain: &[Vec<u8>], pin: Pin) -> Result<(), JoinError> {
    Trust::Pinned(vec![pin]).check(chain, "gw.example.net", now()).map(|_| ())
}

#[test]
fn a_pinned_ca_that_has_expired_vouches_for_nobody() {
    let (good, pin) = chain(2030, 2030, |_| ());
    assert_eq!(check(&good, pin), Ok(()));
    let (expired, pin) = chain(2025, 2030, |_| ());
    assert_eq!(check(&expired, pin), Err(JoinError::KeyExpired));
    assert_eq!(
        Trust::CaCertificates(vec![expired[1].clone()]).check(&expired, "gw.example.net", now()),
        Err(JoinError::KeyExpired)
    );
    let (leaf_expired, pin) = chain(2030, 2025, |_| ());
    assert_eq!(check(&leaf_expired, pin), Err(JoinError::KeyExpired));
}

#[test]
fn a_pinned_certificate_that_may_not_sign_vouches_for_nobody() {
    let (flawed, pin) = chain(2030, 2030, |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(check(&flawed, pin), Err(JoinError::LeafNotSigned));
    let (flawed, pin) = chain(2030, 2030, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(check(&flawed, pin), Err(JoinError::LeafNotSigned));
}
