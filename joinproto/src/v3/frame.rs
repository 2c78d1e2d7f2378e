//! The frames: one byte that says which, then fields of fixed places, numbers big-endian. Nothing may follow.

use std::fmt;

use super::VERSION;
use super::cookie::COOKIE;
use crate::endpoint::Endpoint;
use crate::pin::{Pin, PinAlgorithm};
use crate::token::{ID_LENGTH, TokenId};

/// Bytes of an ML-KEM-768 encapsulation key.
pub const KEM_KEY: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
pub const KEM_CIPHERTEXT: usize = 1088;
/// No frame is longer, in bytes; more is not read.
pub const MAX_FRAME: usize = 4096;
/// The longest reason of a refusal, in bytes.
pub const MAX_REASON: usize = 512;
const MAX_VERSIONS: usize = 8;
const MAX_PINS: usize = 8;
const MAX_ROLE: usize = 64;

const HELLO: u8 = 1;
const RETRY: u8 = 2;
const OFFER: u8 = 3;
const ANSWER: u8 = 4;
const PROOF: u8 = 5;
const ACCEPT: u8 = 6;
const CONFIRM: u8 = 7;
const DONE: u8 = 8;
const REFUSE: u8 = 15;

/// Bytes that are not the frame that was awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Another frame than the awaited one.
    #[error("another message than the awaited one")]
    Kind,
    /// Not well-formed: cut off, too long, or a field that cannot be.
    #[error("a message that is not well-formed, or cut off")]
    Malformed,
}

/// The first frame: which versions the client speaks, the best last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Versions, ascending.
    pub versions: Vec<u16>,
    /// Random bytes.
    pub nonce: [u8; 32],
}

/// The answer to a [`Hello`]: the version that is spoken from here on, and a cookie to bring back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The version.
    pub version: u16,
    /// The cookie.
    pub cookie: [u8; COOKIE],
}

/// The client comes back with its cookie, and says which token it means to prove and under which keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Offer {
    /// The cookie.
    pub cookie: [u8; COOKIE],
    /// The [`Hello`] as it was sent, so that the gateway need not have kept it.
    pub hello: Vec<u8>,
    /// Which token.
    pub token: TokenId,
    /// SHA-256 over the `SubjectPublicKeyInfo` of the certificate that the client saw.
    pub gateway_key: [u8; 32],
    /// Whom the client meant to reach.
    pub endpoint: Endpoint,
    /// Its Ed25519 identity key.
    pub identity: [u8; 32],
    /// Its ephemeral X25519 key.
    pub x25519: [u8; 32],
    /// Its ephemeral ML-KEM-768 encapsulation key.
    pub kem: Box<[u8; KEM_KEY]>,
}

/// The gateway's ephemeral key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// An X25519 key.
    pub x25519: [u8; 32],
}

/// Both proofs of the client, over the transcript up to here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Under the token's key.
    pub token: [u8; 64],
    /// Under the identity key.
    pub identity: [u8; 64],
}

/// The client is admitted.
#[derive(Clone, PartialEq, Eq)]
pub struct Accept {
    /// The ML-KEM-768 ciphertext.
    pub kem: Box<[u8; KEM_CIPHERTEXT]>,
    /// Pins of the gateway's keys, the present one and the next (J4).
    pub pins: Vec<Pin>,
    /// What the client joins as.
    pub role: String,
    /// That the gateway has the same keys.
    pub mac: [u8; 64],
}

/// The client has saved its keyring.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// That the client has the same keys.
    pub mac: [u8; 64],
}

/// The gateway has stored the keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done;

/// No. The reason is empty where the client has not proven anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Why, for people.
    pub reason: String,
}

macro_rules! redacted {
    ($($name:ident)*) => { $(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )* };
}
redacted!(Retry Offer Proof Accept Confirm);

impl Hello {
    /// Of a client that speaks this version alone.
    pub fn new(nonce: [u8; 32]) -> Self {
        Self { versions: vec![VERSION], nonce }
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![HELLO, u8::try_from(self.versions.len()).unwrap_or(u8::MAX)];
        for version in &self.versions {
            out.extend(version.to_be_bytes());
        }
        out.extend(self.nonce);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, HELLO)?;
        let count = usize::from(reader.byte()?);
        if count == 0 || count > MAX_VERSIONS {
            return Err(FrameError::Malformed);
        }
        let versions: Vec<u16> = (0..count).map(|_| reader.u16()).collect::<Result<_, _>>()?;
        let nonce = reader.array()?;
        reader.end()?;
        if !versions.is_sorted_by(|a, b| a < b) {
            return Err(FrameError::Malformed);
        }
        Ok(Self { versions, nonce })
    }
}

impl Retry {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RETRY];
        out.extend(self.version.to_be_bytes());
        out.extend(self.cookie);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, RETRY)?;
        let retry = Self { version: reader.u16()?, cookie: reader.array()? };
        reader.end().map(|()| retry)
    }
}

impl Offer {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(KEM_KEY + 512);
        out.push(OFFER);
        out.extend(self.cookie);
        put_short(&self.hello, &mut out);
        out.extend(self.token.as_bytes());
        out.extend(self.gateway_key);
        put_short(self.endpoint.to_string().as_bytes(), &mut out);
        out.extend(self.identity);
        out.extend(self.x25519);
        out.extend(self.kem.iter());
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, OFFER)?;
        let cookie = reader.array()?;
        let hello = reader.short()?.to_vec();
        let token = TokenId::from_bytes(reader.array::<ID_LENGTH>()?);
        let gateway_key = reader.array()?;
        let text = reader.text()?;
        let endpoint: Endpoint = text.parse().map_err(|_| FrameError::Malformed)?;
        // One spelling for each endpoint.
        if endpoint.to_string() != text {
            return Err(FrameError::Malformed);
        }
        let (identity, x25519, kem) = (reader.array()?, reader.array()?, Box::new(reader.array()?));
        reader.end()?;
        Ok(Self { cookie, hello, token, gateway_key, endpoint, identity, x25519, kem })
    }
}

impl Answer {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![ANSWER];
        out.extend(self.x25519);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, ANSWER)?;
        let answer = Self { x25519: reader.array()? };
        reader.end().map(|()| answer)
    }
}

impl Proof {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![PROOF];
        out.extend(self.token);
        out.extend(self.identity);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, PROOF)?;
        let proof = Self { token: reader.array()?, identity: reader.array()? };
        reader.end().map(|()| proof)
    }
}

impl Accept {
    /// The frame without its MAC: what the MAC is over.
    pub fn encode_unconfirmed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(KEM_CIPHERTEXT + 512);
        out.push(ACCEPT);
        out.extend(self.kem.iter());
        out.push(u8::try_from(self.pins.len()).unwrap_or(u8::MAX));
        for pin in &self.pins {
            out.push(match pin.algorithm() {
                PinAlgorithm::Sha256 => 1,
                PinAlgorithm::Blake2b256 => 2,
            });
            out.extend(pin.digest());
        }
        put_short(self.role.as_bytes(), &mut out);
        out
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_unconfirmed();
        out.extend(self.mac);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, ACCEPT)?;
        let kem = Box::new(reader.array()?);
        let count = usize::from(reader.byte()?);
        if count > MAX_PINS {
            return Err(FrameError::Malformed);
        }
        let mut pins = Vec::with_capacity(count);
        for _ in 0..count {
            let algorithm = match reader.byte()? {
                1 => PinAlgorithm::Sha256,
                2 => PinAlgorithm::Blake2b256,
                _ => return Err(FrameError::Malformed),
            };
            pins.push(Pin::new(algorithm, reader.array()?));
        }
        let role = reader.text()?.to_owned();
        if role.len() > MAX_ROLE {
            return Err(FrameError::Malformed);
        }
        let mac = reader.array()?;
        reader.end()?;
        Ok(Self { kem, pins, role, mac })
    }
}

impl Confirm {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![CONFIRM];
        out.extend(self.mac);
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, CONFIRM)?;
        let confirm = Self { mac: reader.array()? };
        reader.end().map(|()| confirm)
    }
}

impl Done {
    /// The frame.
    pub fn encode(self) -> Vec<u8> {
        vec![DONE]
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        Reader::new(frame, DONE)?.end().map(|()| Self)
    }
}

impl Refuse {
    /// The frame; a reason that is too long is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut end = self.reason.len().min(MAX_REASON);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = self.reason.get(..end).unwrap_or_default();
        let mut out = vec![REFUSE];
        out.extend(u16::try_from(reason.len()).unwrap_or_default().to_be_bytes());
        out.extend(reason.as_bytes());
        out
    }

    /// Reads the frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(frame, REFUSE)?;
        let length = usize::from(reader.u16()?);
        let reason = std::str::from_utf8(reader.take(length)?).map_err(|_| FrameError::Malformed)?.to_owned();
        reader.end()?;
        if reason.len() > MAX_REASON { Err(FrameError::Malformed) } else { Ok(Self { reason }) }
    }
}

/// A length of one byte, and that many bytes.
fn put_short(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
    out.extend(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(frame: &'a [u8], kind: u8) -> Result<Self, FrameError> {
        match frame.split_first() {
            _ if frame.len() > MAX_FRAME => Err(FrameError::Malformed),
            Some((found, rest)) if *found == kind => Ok(Self(rest)),
            Some(_) => Err(FrameError::Kind),
            None => Err(FrameError::Malformed),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(FrameError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.take(N)?.try_into().map_err(|_| FrameError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.array().map(u16::from_be_bytes)
    }

    fn short(&mut self) -> Result<&'a [u8], FrameError> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, FrameError> {
        std::str::from_utf8(self.short()?).map_err(|_| FrameError::Malformed)
    }

    fn end(self) -> Result<(), FrameError> {
        if self.0.is_empty() { Ok(()) } else { Err(FrameError::Malformed) }
    }
}
