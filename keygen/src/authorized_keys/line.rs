//! A line to be added.

use std::fmt;

use toehold_core::PublicKey;

use super::options::Options;

/// A line for a key of ours: options, the key, and a comment that says what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    options: Options,
    public_key: PublicKey,
    comment: String,
}

/// A comment that cannot stand on a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the comment of a key has a line break or another control character: {0:?}")]
pub struct LineError(String);

impl Line {
    /// A line. An empty `comment` is left out.
    ///
    /// # Errors
    /// [`LineError`] for a comment with control characters.
    pub fn new(options: Options, public_key: PublicKey, comment: &str) -> Result<Self, LineError> {
        if comment.chars().any(char::is_control) {
            return Err(LineError(comment.to_owned()));
        }
        Ok(Self { options, public_key, comment: comment.trim().to_owned() })
    }

    /// The options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The comment.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The line as it stands in a file, without a line feed.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.options.to_bytes();
        if !bytes.is_empty() {
            bytes.push(b' ');
        }
        bytes.extend_from_slice(self.public_key.to_string().as_bytes());
        if !self.comment.is_empty() {
            bytes.push(b' ');
            bytes.extend_from_slice(self.comment.as_bytes());
        }
        bytes
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}
