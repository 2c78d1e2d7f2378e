//! By what a client knows its gateway.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use toehold_core::Timestamp;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::chain::{self, Chain};
use crate::error::JoinError;
use crate::keyring::Keyring;
use crate::pin::{Pin, PinAlgorithm};

/// `SubjectPublicKeyInfo` of an Ed25519 key (RFC 8410), up to its 32 bytes.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// By what a client knows its gateway during the TLS handshake.
///
/// All of it is about certificates. That the peer holds the leaf's private key is what the TLS handshake proves: a verifier that
/// calls [`Trust::check`] has to check the handshake's signature as well.
#[derive(Clone)]
pub enum Trust {
    /// The default: the leaf's key is pinned, or a root CA's key is pinned and the certificates that lead to it hold in every respect
    /// (signatures, dates, path lengths, key usage, the name). Several pins overlap, so that a key can be renewed.
    ///
    /// A pin holds a key and no certificate: the root's certificate is the one that the peer presents, and its dates and limits count
    /// because it is signed by the pinned key itself. A pinned CA whose certificate somebody else signed is refused, since nobody who
    /// is known vouches for what stands in it.
    Pinned(Vec<Pin>),
    /// As Opni does it: each certificate is signed by the next, and any of them is pinned. Dates, names and path lengths are
    /// not looked at, so whoever holds a certificate below a pinned CA, expired or made for another host, passes.
    OpniPinned(Vec<Pin>),
    /// CA certificates, as DER; the name and everything else is checked, and of the CA what stands in the certificate given here,
    /// whatever the peer presents in its place. One that fits is enough, wherever it stands.
    CaCertificates(Vec<Vec<u8>>),
    /// Nothing: whoever is in the middle is the gateway.
    DangerousInsecure,
}

/// A gateway that was known by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayIdentity {
    pin: Pin,
    ed25519: Option<VerifyingKey>,
}

impl GatewayIdentity {
    /// From the leaf's DER `SubjectPublicKeyInfo`.
    pub fn from_key(spki: &[u8]) -> Self {
        let ed25519 = spki
            .strip_prefix(&ED25519_SPKI)
            .and_then(|key| key.try_into().ok())
            .and_then(|key| VerifyingKey::from_bytes(key).ok());
        Self { pin: Pin::of_key(PinAlgorithm::Sha256, spki), ed25519 }
    }

    /// The sha256 pin of the leaf's key.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The leaf's key where it is an Ed25519 key, as v1 and v2 of the protocol need.
    ///
    /// # Errors
    /// [`JoinError::GatewayKeyType`].
    pub fn ed25519(&self) -> Result<&VerifyingKey, JoinError> {
        self.ed25519.as_ref().ok_or(JoinError::GatewayKeyType)
    }
}

impl Trust {
    /// Checks the chain that a gateway presented, leaf first, each as DER. `name` is the host of the endpoint.
    ///
    /// # Errors
    /// [`JoinError`] in what way it is not the gateway.
    pub fn check<D: AsRef<[u8]>>(&self, presented: &[D], name: &str, now: Timestamp) -> Result<GatewayIdentity, JoinError> {
        let chain = Chain::parse(presented)?;
        match self {
            Self::Pinned(pins) => check_pinned(&chain, &chain::ders(presented), pins, name, now)?,
            Self::OpniPinned(pins) => {
                expect_some(pins)?;
                chain.check_links()?;
                chain.pinned(pins).next().ok_or_else(|| mismatch(&chain))?;
            }
            Self::CaCertificates(anchors) => {
                expect_some(anchors)?;
                let path = chain::ders(presented);
                let mut refusal = None;
                for anchor in chain::ders(anchors) {
                    match check_path(&path, &anchor, name, now) {
                        Ok(()) => return Ok(GatewayIdentity::from_key(chain.leaf_key())),
                        Err(error) => refusal = Some(telling(refusal, error)),
                    }
                }
                return Err(refusal.unwrap_or(JoinError::NoPins));
            }
            Self::DangerousInsecure => {}
        }
        Ok(GatewayIdentity::from_key(chain.leaf_key()))
    }

    /// What a join under this strategy leaves in the client's keyring, beside the shared keys.
    pub fn keyring(&self) -> Keyring {
        let mut keyring = Keyring::default();
        match self {
            Self::Pinned(pins) | Self::OpniPinned(pins) => keyring.pinned_keys.push(pins.clone()),
            Self::CaCertificates(certificates) => keyring.ca_certificates.push(certificates.clone()),
            Self::DangerousInsecure => {}
        }
        keyring
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(pins) => f.debug_tuple("Pinned").field(pins).finish(),
            Self::OpniPinned(pins) => f.debug_tuple("OpniPinned").field(pins).finish(),
            Self::CaCertificates(certificates) => f.debug_tuple("CaCertificates").field(&certificates.len()).finish(),
            Self::DangerousInsecure => f.write_str("DangerousInsecure"),
        }
    }
}

fn expect_some<T>(of: &[T]) -> Result<(), JoinError> {
    if of.is_empty() { Err(JoinError::NoPins) } else { Ok(()) }
}

/// Of two refusals the one that says more: that a certificate leads nowhere is true of every CA but its own.
fn telling(before: Option<JoinError>, error: JoinError) -> JoinError {
    match before {
        Some(before) if matches!(error, JoinError::LeafNotSigned | JoinError::MalformedChain { .. }) => before,
        _ => error,
    }
}

fn mismatch(chain: &Chain<'_>) -> JoinError {
    if chain.has_ca() { JoinError::RootCAHashMismatch } else { JoinError::NoRootCA }
}

fn check_pinned(
    chain: &Chain<'_>,
    presented: &[CertificateDer<'_>],
    pins: &[Pin],
    name: &str,
    now: Timestamp,
) -> Result<(), JoinError> {
    expect_some(pins)?;
    let mut refusal = None;
    for place in chain.pinned(pins) {
        // The key itself is pinned: its certificate says nothing more.
        if place == 0 {
            return Ok(());
        }
        if !chain.is_self_signed(place) {
            refusal = Some(telling(refusal, JoinError::PinnedNotRoot));
            continue;
        }
        let (path, rest) = presented.split_at_checked(place).unwrap_or_default();
        match rest.first().ok_or(JoinError::MalformedChain { number: 1 }).and_then(|anchor| check_path(path, anchor, name, now)) {
            Ok(()) => return Ok(()),
            Err(error) => refusal = Some(telling(refusal, error)),
        }
    }
    Err(refusal.unwrap_or_else(|| mismatch(chain)))
}

/// Whether `path` (leaf first) leads to the anchor in every respect. What webpki does not ask of an anchor (dates, path length,
/// that it may sign) nor of anybody (key usage), we do.
fn check_path(path: &[CertificateDer<'_>], anchor: &CertificateDer<'_>, name: &str, now: Timestamp) -> Result<(), JoinError> {
    let (leaf, intermediates) = path.split_first().ok_or(JoinError::MalformedChain { number: 1 })?;
    let whole: Vec<_> = path.iter().chain([anchor]).collect();
    let whole = Chain::parse(&whole)?;
    let anchors = [anchor_from_trusted_cert(anchor).map_err(|_| JoinError::MalformedChain { number: path.len() + 1 })?];
    let time = u64::try_from(now.unix_seconds()).map_err(|_| JoinError::KeyExpired)?;
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(time));
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| JoinError::MalformedChain { number: 1 })?;
    leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, time, KeyUsage::server_auth(), None, None)
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => JoinError::KeyExpired,
            _ => JoinError::LeafNotSigned,
        })?;
    whole.check_authorities()?;
    whole.check_last_dates(now)?;
    let wrong = || JoinError::WrongName { name: name.to_owned() };
    let server_name = ServerName::try_from(name).map_err(|_| wrong())?;
    leaf.verify_is_valid_for_subject_name(&server_name).map_err(|_| wrong())
}
