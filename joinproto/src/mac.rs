//! Keyed MACs: BLAKE2b-512 under one of the shared keys.

use std::fmt;

use blake2::Blake2bMac512;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use subtle::ConstantTimeEq as _;

use crate::encoding;

/// Bytes of a MAC.
pub const MAC_LENGTH: usize = 64;
/// Bytes of a nonce.
pub const NONCE_LENGTH: usize = 16;

/// Why a MAC or its header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MacError {
    /// Not the header as it is written.
    #[error("not a MAC header: MAC id=\"…\",nonce=\"…\",mac=\"…\", exactly so")]
    Header,
    /// The key is not 32 bytes, or the MAC does not fit.
    #[error("the MAC does not fit")]
    Mismatch,
}

/// The MAC over `parts` one after the other, with nothing between them.
pub(crate) fn keyed(key: &[u8], parts: &[&[u8]]) -> Result<[u8; MAC_LENGTH], MacError> {
    if key.len() != crate::keyring::SHARED_KEY_LENGTH {
        return Err(MacError::Mismatch);
    }
    let mut mac = Blake2bMac512::new_from_slice(key).map_err(|_| MacError::Mismatch)?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac.finalize_fixed().into())
}

/// Whether `mac` is the one over `parts`, in constant time.
pub(crate) fn verify(key: &[u8], parts: &[&[u8]], mac: &[u8]) -> Result<(), MacError> {
    let expected = keyed(key, parts)?;
    if expected.ct_eq(mac).into() { Ok(()) } else { Err(MacError::Mismatch) }
}

/// A MAC with whose it is and the nonce that it is over: what Opni's first agents send. Ids of any length are read.
#[derive(Clone, PartialEq, Eq)]
pub struct MacHeader {
    /// The client's id.
    pub id: Vec<u8>,
    /// The nonce: a random UUID (version 4).
    pub nonce: [u8; NONCE_LENGTH],
    /// The MAC over id, nonce and payload.
    pub mac: [u8; MAC_LENGTH],
}

impl MacHeader {
    /// Makes the MAC over a payload; for streams, that is the method's full path.
    ///
    /// # Errors
    /// [`MacError::Mismatch`] where the key is not 32 bytes.
    pub fn sign(id: &[u8], nonce: [u8; NONCE_LENGTH], payload: &[u8], key: &[u8]) -> Result<Self, MacError> {
        Ok(Self { id: id.to_vec(), nonce, mac: keyed(key, &[id, &nonce, payload])? })
    }

    /// Checks the MAC; the caller has compared the nonce with the one that it gave.
    ///
    /// # Errors
    /// [`MacError::Mismatch`].
    pub fn verify(&self, payload: &[u8], key: &[u8]) -> Result<(), MacError> {
        verify(key, &[&self.id, &self.nonce, payload], &self.mac)
    }

    /// Reads the header as [`MacHeader`] prints it; other orders, blanks, padding and forms of the nonce are refused.
    ///
    /// # Errors
    /// [`MacError::Header`].
    pub fn parse(text: &[u8]) -> Result<Self, MacError> {
        let text = std::str::from_utf8(text).map_err(|_| MacError::Header)?;
        let inner = text.strip_prefix("MAC id=\"").and_then(|rest| rest.strip_suffix('"')).ok_or(MacError::Header)?;
        let (id, rest) = inner.split_once("\",nonce=\"").ok_or(MacError::Header)?;
        let (nonce, mac) = rest.split_once("\",mac=\"").ok_or(MacError::Header)?;
        let id = encoding::unbase64url_vec(id).filter(|id| !id.is_empty()).ok_or(MacError::Header)?;
        let mac = encoding::unbase64url(mac.as_bytes()).ok_or(MacError::Header)?;
        Ok(Self { id, nonce: parse_uuid(nonce).ok_or(MacError::Header)?, mac })
    }
}

impl fmt::Display for MacHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = encoding::base64url(&self.id);
        write!(f, "MAC id=\"{id}\",nonce=\"{}\",mac=\"{}\"", uuid(&self.nonce), encoding::base64url(&self.mac))
    }
}

impl fmt::Debug for MacHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MacHeader").field("nonce", &uuid(&self.nonce)).finish_non_exhaustive()
    }
}

/// A nonce as a UUID's text.
pub fn uuid(nonce: &[u8; NONCE_LENGTH]) -> String {
    let mut text = encoding::hex(nonce);
    for place in [20, 16, 12, 8] {
        text.insert(place, '-');
    }
    text
}

/// Random bytes made a UUID of version 4.
pub fn uuid_v4(mut random: [u8; NONCE_LENGTH]) -> [u8; NONCE_LENGTH] {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    random
}

pub(crate) fn parse_uuid(text: &str) -> Option<[u8; NONCE_LENGTH]> {
    let bytes: [u8; NONCE_LENGTH] = *encoding::unhex(text.replace('-', "").as_bytes())?;
    (uuid(&bytes) == text && uuid_v4(bytes) == bytes).then_some(bytes)
}
