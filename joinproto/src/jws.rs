//! The signatures of Opni's join: JWS in the compact form, `EdDSA` alone, with the payload left out or put in.

use std::fmt;

use ed25519_dalek::{SIGNATURE_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::encoding;
use crate::token::{Token, TokenError};

/// `{"alg":"EdDSA"}`: the only header that there is.
const HEADER: &str = "eyJhbGciOiJFZERTQSJ9";
/// A signature in base64url.
const SIGNATURE_TEXT: usize = 86;
/// Longer texts are not looked into.
const MAX: usize = 512;

/// Why a text is no signature of a token. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwsError {
    /// No `Bearer`, one blank, and the signature.
    #[error("the authorization is not \"Bearer\", one blank, and a signature")]
    Bearer,
    /// The header is not the one that is ever written.
    #[error("the header is not exactly {{\"alg\":\"EdDSA\"}}")]
    Header,
    /// A payload where there should be none.
    #[error("a detached signature has no payload")]
    NotDetached,
    /// The payload is not base64url without padding and stray bits.
    #[error("the payload is not base64url, without padding and stray bits")]
    Payload,
    /// Not three segments.
    #[error("a signature has three segments with two dots between them")]
    Segments,
    /// The signature is not that of this key over this token.
    #[error("the signature does not fit")]
    Signature,
    /// The signature is not 64 bytes in base64url without padding and stray bits.
    #[error("the signature is not 64 bytes in base64url, without padding and stray bits")]
    SignatureEncoding,
    /// The payload is signed, and no token.
    #[error("the payload is no token")]
    Token(#[source] TokenError),
    /// Over 512 bytes.
    #[error("longer than any signature of a token")]
    TooLong,
}

/// The signature of a token without the token: `header..signature`. Public, and of no use to anybody without the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    signature: Signature,
}

/// The signature with the token in it: what proves possession. Holds the token's secret.
pub struct Complete(Zeroizing<String>);

impl Detached {
    /// Signs a token with the gateway's key.
    pub fn sign(token: &Token, key: &SigningKey) -> Self {
        Self { signature: key.sign(signed(token).as_bytes()) }
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`JwsError`] for anything but the bytes that [`Detached`] prints.
    pub fn parse(text: &[u8]) -> Result<Self, JwsError> {
        let [header, payload, signature] = segments(text)?;
        check_header(header)?;
        if !payload.is_empty() {
            return Err(JwsError::NotDetached);
        }
        Ok(Self { signature: read_signature(signature)? })
    }

    /// Checks that `key` signed `token`, and puts the token in.
    ///
    /// # Errors
    /// [`JwsError::Signature`]; also where the key is of small order.
    pub fn attach(&self, token: &Token, key: &VerifyingKey) -> Result<Complete, JwsError> {
        let signed = signed(token);
        key.verify_strict(signed.as_bytes(), &self.signature).map_err(|_| JwsError::Signature)?;
        let mut text = Zeroizing::new(String::with_capacity(signed.len() + 1 + SIGNATURE_TEXT));
        text.push_str(&signed);
        text.push('.');
        text.push_str(&encoding::base64url(&self.signature.to_bytes()));
        Ok(Complete(text))
    }
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEADER}..{}", encoding::base64url(&self.signature.to_bytes()))
    }
}

impl Complete {
    /// The text form, which holds the token's secret.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value of the `authorization` header, which holds the token's secret.
    pub fn expose_authorization(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(BEARER.len() + self.0.len()));
        text.push_str(BEARER);
        text.push_str(&self.0);
        text
    }
}

impl fmt::Debug for Complete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Complete([redacted])")
    }
}

const BEARER: &str = "Bearer ";

/// Checks a complete signature with the gateway's key, and returns the token that was signed.
///
/// # Errors
/// [`JwsError`] for anything but what [`Complete`] holds: the token's secret is compared with the stored one afterwards.
pub fn verify(text: &[u8], key: &VerifyingKey) -> Result<Token, JwsError> {
    let [header, payload, signature] = segments(text)?;
    check_header(header)?;
    let signature = read_signature(signature)?;
    let signed = text.get(..header.len() + 1 + payload.len()).ok_or(JwsError::Segments)?;
    key.verify_strict(signed, &signature).map_err(|_| JwsError::Signature)?;
    let payload = std::str::from_utf8(payload).map_err(|_| JwsError::Payload)?;
    let json = Zeroizing::new(encoding::unbase64url_vec(payload).ok_or(JwsError::Payload)?);
    Token::parse_json(&json).map_err(JwsError::Token)
}

/// Checks the value of an `authorization` header: `Bearer`, one blank, and what [`verify`] takes.
///
/// # Errors
/// [`JwsError`].
pub fn verify_authorization(value: &[u8], key: &VerifyingKey) -> Result<Token, JwsError> {
    verify(value.strip_prefix(BEARER.as_bytes()).ok_or(JwsError::Bearer)?, key)
}

fn signed(token: &Token) -> Zeroizing<String> {
    let payload = Zeroizing::new(encoding::base64url(token.expose_json().as_bytes()));
    let mut text = Zeroizing::new(String::with_capacity(HEADER.len() + 1 + payload.len()));
    text.push_str(HEADER);
    text.push('.');
    text.push_str(&payload);
    text
}

fn segments(text: &[u8]) -> Result<[&[u8]; 3], JwsError> {
    if text.len() > MAX {
        return Err(JwsError::TooLong);
    }
    let mut segments = text.split(|byte| *byte == b'.');
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => Err(JwsError::Segments),
    }
}

fn check_header(header: &[u8]) -> Result<(), JwsError> {
    if header == HEADER.as_bytes() { Ok(()) } else { Err(JwsError::Header) }
}

fn read_signature(text: &[u8]) -> Result<Signature, JwsError> {
    let bytes: [u8; SIGNATURE_LENGTH] = encoding::unbase64url(text).ok_or(JwsError::SignatureEncoding)?;
    Ok(Signature::from_bytes(&bytes))
}
