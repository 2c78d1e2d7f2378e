//! Certificate chains as presented: parsing, and the links between them.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use toehold_core::Timestamp;
use webpki::ring as algorithms;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use crate::error::JoinError;
use crate::pin::Pin;

/// Longer chains are refused unread.
const MAX_CERTIFICATES: usize = 10;
/// Larger certificates are refused unread, in bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// The certificates that a gateway presented, leaf first.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    certificates: Vec<X509Certificate<'a>>,
}

impl<'a> Chain<'a> {
    /// Parses all of them; there is at least one.
    pub(crate) fn parse<D: AsRef<[u8]>>(presented: &'a [D]) -> Result<Self, JoinError> {
        if presented.is_empty() || presented.len() > MAX_CERTIFICATES {
            return Err(JoinError::MalformedChain { number: presented.len().min(MAX_CERTIFICATES) + 1 });
        }
        let mut certificates = Vec::with_capacity(presented.len());
        for (number, der) in (1..).zip(presented) {
            let der = der.as_ref();
            let parsed = if der.len() > MAX_CERTIFICATE { None } else { X509Certificate::from_der(der).ok() };
            match parsed {
                Some(([], certificate)) => certificates.push(certificate),
                _ => return Err(JoinError::MalformedChain { number }),
            }
        }
        Ok(Self { certificates })
    }

    fn leaf(&self) -> Option<&X509Certificate<'a>> {
        self.certificates.first()
    }

    /// The DER `SubjectPublicKeyInfo` of the leaf.
    pub(crate) fn leaf_key(&self) -> &'a [u8] {
        self.leaf().map_or(&[], |leaf| leaf.tbs_certificate.subject_pki.raw)
    }

    /// The places of certificates whose key has one of these pins.
    pub(crate) fn pinned(&self, pins: &[Pin]) -> impl Iterator<Item = usize> {
        self.certificates
            .iter()
            .enumerate()
            .filter(|(_, certificate)| pins.iter().any(|pin| pin.fits(certificate.tbs_certificate.subject_pki.raw)))
            .map(|(place, _)| place)
    }

    /// Whether the certificate at this place is signed by its own key.
    pub(crate) fn is_self_signed(&self, place: usize) -> bool {
        self.certificates.get(place).is_some_and(|certificate| signed_by(certificate, certificate))
    }

    /// Whether a certificate after the leaf may sign others.
    pub(crate) fn has_ca(&self) -> bool {
        self.certificates.iter().skip(1).any(may_sign)
    }

    /// Whether each certificate is signed by the next, and the next may sign: as Opni looks at a chain. Names, dates and path
    /// lengths are not looked at.
    pub(crate) fn check_links(&self) -> Result<(), JoinError> {
        let linked =
            |(child, parent)| if may_sign(parent) && signed_by(child, parent) { Ok(()) } else { Err(JoinError::LeafNotSigned) };
        self.certificates.iter().zip(self.certificates.iter().skip(1)).try_for_each(linked)
    }

    /// Whether all after the leaf may sign, each with as many below it as there are (RFC 5280, 4.2.1.9: those that issued
    /// themselves do not count).
    pub(crate) fn check_authorities(&self) -> Result<(), JoinError> {
        let mut below = 0;
        for authority in self.certificates.iter().skip(1) {
            let length =
                authority.basic_constraints().ok().flatten().and_then(|constraints| constraints.value.path_len_constraint);
            if !may_sign(authority) || length.is_some_and(|length| length < below) {
                return Err(JoinError::LeafNotSigned);
            }
            below += u32::from(authority.subject().as_raw() != authority.issuer().as_raw());
        }
        Ok(())
    }

    /// Whether the dates of the last certificate hold.
    pub(crate) fn check_last_dates(&self, now: Timestamp) -> Result<(), JoinError> {
        let time = ASN1Time::from_timestamp(now.unix_seconds()).map_err(|_| JoinError::KeyExpired)?;
        let holds = self.certificates.last().is_some_and(|certificate| certificate.validity().is_valid_at(time));
        if holds { Ok(()) } else { Err(JoinError::KeyExpired) }
    }
}

/// Whether this is one certificate, and nothing else.
pub(crate) fn is_certificate(der: &[u8]) -> bool {
    matches!(X509Certificate::from_der(der), Ok(([], _)))
}

/// Whether a certificate is a CA's that may sign certificates.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_ca = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    // RFC 5280, 4.2.1.3: where the extension is there, keyCertSign must be set.
    let key_usage = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
    is_ca && key_usage
}

fn signed_by(child: &X509Certificate<'_>, parent: &X509Certificate<'_>) -> bool {
    // RFC 5280, 4.1.1.2: the algorithm is named twice, and must be the same.
    child.signature_algorithm == child.tbs_certificate.signature
        && verification(child, parent).is_some_and(|algorithm| {
            let key = &parent.tbs_certificate.subject_pki.subject_public_key.data;
            algorithm.verify_signature(key, child.tbs_certificate.as_ref(), &child.signature_value.data).is_ok()
        })
}

/// How the child's signature is verified with the parent's key, if the two go together.
fn verification(
    child: &X509Certificate<'_>,
    parent: &X509Certificate<'_>,
) -> Option<&'static dyn SignatureVerificationAlgorithm> {
    let key = &parent.tbs_certificate.subject_pki.algorithm;
    let curve = || key.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let p256 = || curve().is_some_and(|curve| curve == oid::OID_EC_P256);
    let p384 = || curve().is_some_and(|curve| curve == oid::OID_NIST_EC_P384);
    let signature = &child.signature_algorithm.algorithm;
    if key.algorithm == oid::OID_SIG_ED25519 {
        return (*signature == oid::OID_SIG_ED25519).then_some(algorithms::ED25519);
    }
    if key.algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        return match () {
            () if *signature == oid::OID_SIG_ECDSA_WITH_SHA256 && p256() => Some(algorithms::ECDSA_P256_SHA256),
            () if *signature == oid::OID_SIG_ECDSA_WITH_SHA256 && p384() => Some(algorithms::ECDSA_P384_SHA256),
            () if *signature == oid::OID_SIG_ECDSA_WITH_SHA384 && p256() => Some(algorithms::ECDSA_P256_SHA384),
            () if *signature == oid::OID_SIG_ECDSA_WITH_SHA384 && p384() => Some(algorithms::ECDSA_P384_SHA384),
            () => None,
        };
    }
    if key.algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        return match () {
            () if *signature == oid::OID_PKCS1_SHA256WITHRSA => Some(algorithms::RSA_PKCS1_2048_8192_SHA256),
            () if *signature == oid::OID_PKCS1_SHA384WITHRSA => Some(algorithms::RSA_PKCS1_2048_8192_SHA384),
            () if *signature == oid::OID_PKCS1_SHA512WITHRSA => Some(algorithms::RSA_PKCS1_2048_8192_SHA512),
            () => None,
        };
    }
    None
}

/// Borrowed certificates in the form that webpki takes.
pub(crate) fn ders<D: AsRef<[u8]>>(presented: &[D]) -> Vec<CertificateDer<'_>> {
    presented.iter().map(|der| CertificateDer::from(der.as_ref())).collect()
}
