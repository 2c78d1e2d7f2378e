//! Passwords, tokens and private keys out of a configuration.

use std::fmt;

use serde::de::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A text that is wiped when it is dropped and never printed; read from a configuration, never written.
#[derive(Default)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes `text` over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Lends the text. Do not keep a copy.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `None` where it is empty, as an unset field is.
    pub(crate) fn non_empty(self) -> Option<Self> {
        (!self.is_empty()).then_some(self)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText([redacted])")
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", SecretText::new("hunter2".to_owned())), "SecretText([redacted])");
    }
}
