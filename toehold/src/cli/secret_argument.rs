//! Arguments that hold a secret: wiped when they go, never printed.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use zeroize::Zeroizing;

/// A secret of the command line. It is read later, so that no error about the command line repeats it.
#[derive(Clone)]
pub struct SecretArgument(Arc<Zeroizing<String>>);

impl SecretArgument {
    /// Lends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretArgument {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Arc::new(Zeroizing::new(text.to_owned()))))
    }
}

impl fmt::Debug for SecretArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
