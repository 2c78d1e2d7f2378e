//! Dates and constraints of a pinned CA itself, which a path check takes for granted.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, date_time_ymd,
};
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

/// What the CA's certificate says, valid from 2024 on.
fn authority(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(until, 1, 1));
    params
}

/// A leaf below `issuer`, whose own dates hold.
fn leaf_below(issuer: &Issuer<'_, KeyPair>) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["gw.example.net".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2024, 1, 1), date_time_ymd(2030, 1, 1));
    params.signed_by(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), issuer).unwrap().der().to_vec()
}

fn pin_of(certificate: &[u8]) -> Pin {
    Trust::DangerousInsecure.check(&[certificate], "x", now()).unwrap().pin()
}

#[test]
fn what_a_pinned_ca_says_of_itself_counts_only_under_its_own_signature() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let expired = authority("the CA", 2025).self_signed(&key).unwrap().der().to_vec();
    let pin = pin_of(&expired);
    // Who holds the key of a certificate below it presents the CA's key with dates of his own making, under the CA's name or another.
    let forger = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let forgeries: Vec<Vec<u8>> = ["the CA", "somebody"]
        .map(|name| {
            let by = authority(name, 2030);
            let issuer = Issuer::from_params(&by, &forger);
            let made = authority("the CA", 2030).signed_by(&key, &issuer).unwrap().der().to_vec();
            assert_eq!(pin_of(&made), pin);
            made
        })
        .into();
    let leaf = leaf_below(&Issuer::new(authority("the CA", 2025), key));
    assert_eq!(check(&[leaf.clone(), expired.clone()], pin), Err(JoinError::KeyExpired));
    for forged in forgeries {
        assert_eq!(check(&[leaf.clone(), forged.clone()], pin), Err(JoinError::PinnedNotRoot));
        // Where the certificate itself is held, what the peer presents in its place says nothing at all.
        let held = Trust::CaCertificates(vec![expired.clone()]);
        assert_eq!(held.check(&[leaf.clone(), forged], "gw.example.net", now()), Err(JoinError::KeyExpired));
    }
}

#[test]
fn any_of_several_ca_certificates_that_fits_is_enough_in_whatever_order() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    // A CA that was renewed under its key and name, and another one.
    let [old, new] = [2025, 2030].map(|until| authority("the CA", until).self_signed(&key).unwrap().der().to_vec());
    let other = authority("another", 2030).self_signed(&KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap().der().to_vec();
    let chain = [leaf_below(&Issuer::new(authority("the CA", 2030), key))];
    let check = |anchors: &[&Vec<u8>]| {
        let anchors = anchors.iter().map(|anchor| (*anchor).clone()).collect();
        Trust::CaCertificates(anchors).check(&chain, "gw.example.net", now()).map(drop)
    };
    for order in [[&old, &new, &other], [&new, &old, &other], [&other, &old, &new]] {
        assert_eq!(check(&order), Ok(()));
    }
    // Where none fits, the reason that says most is given.
    assert_eq!(check(&[&old, &other]), Err(JoinError::KeyExpired));
    assert_eq!(check(&[&other, &old]), Err(JoinError::KeyExpired));
    assert_eq!(check(&[&other]), Err(JoinError::LeafNotSigned));
}
