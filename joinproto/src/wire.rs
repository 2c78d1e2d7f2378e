//! The messages of Opni's services: the few of protobuf's forms that they use, read as strictly as they are written.
//!
//! Unknown fields are passed over, as a newer peer may send them. A field that comes twice, a group, an integer that is longer
//! than it need be, and a known field of another type are refused.

use std::collections::BTreeMap;

use crate::agreement::PUBLIC_KEY_LENGTH;
use crate::names;

/// The largest message in bytes that is read or written: what gRPC peers take by default.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Why bytes are not such a message, or not a valid one. Holds nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A capability is missing.
    #[error("missing required field: Capability")]
    Capability,
    /// The client's id is missing or not well-formed.
    #[error("a client's id is 1 to 128 letters, digits, '-', '_', '.', '(' and ')', and not dots alone")]
    ClientId,
    /// A field or a map's key comes twice.
    #[error("a field comes twice")]
    Doubled,
    /// The friendly name is not well-formed.
    #[error("a friendly name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit")]
    FriendlyName,
    /// Not protobuf's wire format, or cut off.
    #[error("not well-formed, or cut off")]
    Malformed,
    /// An X25519 key is missing or not 32 bytes.
    #[error("a public key is 32 bytes")]
    PublicKey,
    /// Over 4 MiB.
    #[error("over 4 MiB")]
    TooLarge,
    /// A text that is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
}

/// The answer to a join request of v1 and v2: the detached signature of each active token, by the token's id in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinResponse {
    /// Signatures by token id.
    pub signatures: BTreeMap<String, Vec<u8>>,
}

/// The second request of v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequestV1 {
    /// The id that the client has chosen.
    pub client_id: String,
    /// Its ephemeral key.
    pub client_key: [u8; PUBLIC_KEY_LENGTH],
    /// What it joins for.
    pub capability: String,
}

/// The second request of v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRequestV2 {
    /// The id that the client has chosen.
    pub client_id: String,
    /// Its ephemeral key.
    pub client_key: [u8; PUBLIC_KEY_LENGTH],
    /// A name for people.
    pub friendly_name: Option<String>,
}

/// The answer to either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthResponse {
    /// The gateway's ephemeral key.
    pub gateway_key: [u8; PUBLIC_KEY_LENGTH],
}

/// Reads a join request, which has no fields.
///
/// # Errors
/// [`WireError`].
pub fn decode_join_request(bytes: &[u8]) -> Result<(), WireError> {
    fields(bytes, |_, _| Ok(()))
}

impl JoinResponse {
    /// The message, entries in the order of their ids.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (id, signature) in &self.signatures {
            put_signature(id, signature, &mut out);
        }
        out
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut signatures = BTreeMap::new();
        fields(bytes, |number, value| {
            if number != 1 {
                return Ok(());
            }
            let (mut id, mut signature) = (Once::default(), Once::default());
            fields(value.bytes()?, |number, value| match number {
                1 => id.set(value.text()?.to_owned()),
                2 => signature.set(value.bytes()?.to_vec()),
                _ => Ok(()),
            })?;
            // proto3: what is empty is left out.
            let (id, signature) = (id.0.unwrap_or_default(), signature.0.unwrap_or_default());
            if signatures.insert(id, signature).is_some() { Err(WireError::Doubled) } else { Ok(()) }
        })?;
        Ok(Self { signatures })
    }
}

/// Appends one entry of a [`JoinResponse`].
pub(crate) fn put_signature(id: &str, signature: &[u8], out: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(id.len() + signature.len() + 8);
    put_bytes(1, id.as_bytes(), &mut entry);
    put_bytes(2, signature, &mut entry);
    put_bytes(1, &entry, out);
}

impl AuthRequestV1 {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(1, self.client_id.as_bytes(), &mut out);
        put_bytes(2, &self.client_key, &mut out);
        put_bytes(3, self.capability.as_bytes(), &mut out);
        out
    }

    /// Reads the message and checks its fields.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (client_id, client_key, capability) = auth_fields(bytes)?;
        let capability = capability.filter(|capability| !capability.is_empty()).ok_or(WireError::Capability)?;
        Ok(Self { client_id, client_key, capability })
    }
}

impl AuthRequestV2 {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(1, self.client_id.as_bytes(), &mut out);
        put_bytes(2, &self.client_key, &mut out);
        if let Some(name) = &self.friendly_name {
            put_bytes(3, name.as_bytes(), &mut out);
        }
        out
    }

    /// Reads the message and checks its fields.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (client_id, client_key, friendly_name) = auth_fields(bytes)?;
        if friendly_name.as_deref().is_some_and(|name| !names::is_friendly_name(name)) {
            return Err(WireError::FriendlyName);
        }
        Ok(Self { client_id, client_key, friendly_name })
    }
}

type AuthFields = (String, [u8; PUBLIC_KEY_LENGTH], Option<String>);

fn auth_fields(bytes: &[u8]) -> Result<AuthFields, WireError> {
    let (mut id, mut key, mut third) = (Once::default(), Once::default(), Once::default());
    fields(bytes, |number, value| match number {
        1 => id.set(value.text()?.to_owned()),
        2 => key.set(value.bytes()?.to_vec()),
        3 => third.set(value.text()?.to_owned()),
        _ => Ok(()),
    })?;
    let client_id = id.0.filter(|id| names::is_client_id(id)).ok_or(WireError::ClientId)?;
    Ok((client_id, public_key(key.0)?, third.0))
}

impl AuthResponse {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(1, &self.gateway_key, &mut out);
        out
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut key = Once::default();
        fields(bytes, |number, value| if number == 1 { key.set(value.bytes()?.to_vec()) } else { Ok(()) })?;
        Ok(Self { gateway_key: public_key(key.0)? })
    }
}

fn public_key(bytes: Option<Vec<u8>>) -> Result<[u8; PUBLIC_KEY_LENGTH], WireError> {
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(WireError::PublicKey)
}

/// A field that may come once.
pub(crate) struct Once<T>(pub(crate) Option<T>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Once<T> {
    pub(crate) fn set(&mut self, value: T) -> Result<(), WireError> {
        if self.0.replace(value).is_some() { Err(WireError::Doubled) } else { Ok(()) }
    }
}

/// A field's value.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Value<'a> {
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Other => Err(WireError::Malformed),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }
}

/// Calls `field` for each field of a message.
pub(crate) fn fields<'a>(
    bytes: &'a [u8],
    mut field: impl FnMut(u64, Value<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(WireError::TooLarge);
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let number = tag >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(WireError::Malformed);
        }
        let value = match tag & 7 {
            0 => varint(&mut rest).map(|_| Value::Other)?,
            1 => take(&mut rest, 8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|_| WireError::Malformed)?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => take(&mut rest, 4).map(|_| Value::Other)?,
            // Groups, which nobody writes, and what is reserved.
            _ => return Err(WireError::Malformed),
        };
        field(number, value)?;
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(WireError::Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0;
    for place in 0..10 {
        let (&byte, left) = rest.split_first().ok_or(WireError::Malformed)?;
        *rest = left;
        // The tenth byte has room for one bit.
        if place == 9 && byte > 1 {
            return Err(WireError::Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            // A last byte of zero adds nothing: the same number can be written shorter.
            return if byte == 0 && place > 0 { Err(WireError::Malformed) } else { Ok(value) };
        }
    }
    Err(WireError::Malformed)
}

/// Appends a field of bytes; what is empty is written all the same.
pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}
