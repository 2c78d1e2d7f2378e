//! Join tokens: a public id and a secret.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use toehold_core::SecretBytes;
use zeroize::Zeroizing;

use crate::encoding;

/// Bytes of a token's id.
pub const ID_LENGTH: usize = 6;
/// Bytes of a token's secret.
pub const SECRET_LENGTH: usize = 26;

/// Names a token: 6 bytes, written as 12 lower-case hex digits. Public; may be logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId([u8; ID_LENGTH]);

/// A text that is not a token, or not a token's id. Holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not 12 lower-case hex digits.
    #[error("a token's id is 12 lower-case hex digits")]
    Id,
    /// Not the JSON form exactly as it is written.
    #[error("not a token's JSON form: {{\"id\":\"…\",\"secret\":\"…\"}} with 6 and 26 bytes in base64, and nothing else")]
    Json,
    /// Not the text form exactly as it is written.
    #[error("a token is 12 lower-case hex digits, a dot, and 52 more")]
    Text,
}

impl TokenId {
    /// From its bytes.
    pub fn from_bytes(bytes: [u8; ID_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; ID_LENGTH] {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::hex(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        encoding::unhex(text.as_bytes()).map(|id| Self(*id)).ok_or(TokenError::Id)
    }
}

impl TryFrom<String> for TokenId {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// A token with its secret: what the pasted line carries. Printed as its id alone, compared in constant time.
#[derive(PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    secret: SecretBytes,
}

impl Token {
    /// A fresh token.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; ID_LENGTH + SECRET_LENGTH]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    /// A token from 32 random bytes: the first 6 are the id, the others the secret.
    pub fn from_bytes(bytes: &[u8; ID_LENGTH + SECRET_LENGTH]) -> Self {
        let (id, secret) = split(bytes);
        Self { id: TokenId(*id), secret: SecretBytes::new(secret.to_vec()) }
    }

    /// Reads the text form, `hex.hex`. Upper case, blanks and line ends are refused.
    ///
    /// # Errors
    /// [`TokenError::Text`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let (id, secret) = text.split_once('.').ok_or(TokenError::Text)?;
        Self::from_hex(id, secret)
    }

    /// Reads the two halves of the text form, as Opni keeps them apart in its store.
    ///
    /// # Errors
    /// [`TokenError::Text`].
    pub fn from_hex(id: &str, secret: &str) -> Result<Self, TokenError> {
        let id: Zeroizing<[u8; ID_LENGTH]> = encoding::unhex(id.as_bytes()).ok_or(TokenError::Text)?;
        let secret: Zeroizing<[u8; SECRET_LENGTH]> = encoding::unhex(secret.as_bytes()).ok_or(TokenError::Text)?;
        Ok(Self { id: TokenId(*id), secret: SecretBytes::new(secret.to_vec()) })
    }

    /// Reads the JSON form. Only the bytes that [`Token::expose_json`] writes are one: other members, another order, doubled
    /// members, blanks and stray bits are refused.
    ///
    /// # Errors
    /// [`TokenError::Json`].
    pub fn parse_json(json: &[u8]) -> Result<Self, TokenError> {
        let inner = json
            .strip_prefix(b"{\"id\":\"")
            .and_then(|rest| rest.strip_suffix(b"\"}"))
            .and_then(|rest| std::str::from_utf8(rest).ok())
            .ok_or(TokenError::Json)?;
        let (id, secret) = inner.split_once("\",\"secret\":\"").ok_or(TokenError::Json)?;
        let bytes = |text| encoding::unbase64(text).ok_or(TokenError::Json);
        let (id, secret) = (bytes(id)?, bytes(secret)?);
        let id = <[u8; ID_LENGTH]>::try_from(id.as_slice()).map_err(|_| TokenError::Json)?;
        if secret.len() != SECRET_LENGTH {
            return Err(TokenError::Json);
        }
        Ok(Self { id: TokenId(id), secret: secret.into() })
    }

    /// Its public half.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Lends the secret's 26 bytes.
    pub fn expose_secret(&self) -> &[u8] {
        self.secret.expose()
    }

    /// The text form, which holds the secret.
    pub fn expose_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * (ID_LENGTH + SECRET_LENGTH) + 1));
        encoding::push_hex(&self.id.0, &mut text);
        text.push('.');
        encoding::push_hex(self.secret.expose(), &mut text);
        text
    }

    /// The JSON form, which holds the secret: what Opni signs.
    pub fn expose_json(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(encoding::base64(self.secret.expose()));
        let mut json = Zeroizing::new(String::with_capacity(72));
        for part in ["{\"id\":\"", &encoding::base64(&self.id.0), "\",\"secret\":\"", &secret, "\"}"] {
            json.push_str(part);
        }
        json
    }
}

fn split(bytes: &[u8; ID_LENGTH + SECRET_LENGTH]) -> (&[u8; ID_LENGTH], &[u8]) {
    let (id, secret) = bytes.split_first_chunk().unwrap_or((&[0; ID_LENGTH], &[]));
    (id, secret)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_id_alone() {
        let token = Token::from_bytes(&[0xab; 32]);
        assert_eq!(format!("{token:?}"), "Token { id: TokenId(abababababab), .. }");
    }
}
