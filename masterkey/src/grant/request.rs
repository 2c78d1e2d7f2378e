//! What is to be granted.

use std::time::Duration;

use toehold_core::{Account, PublicKey};
use toehold_keygen::Options;

use super::error::GrantError;

/// The longest time for which a key is granted: 366 days.
pub const MAX_GRANT: Duration = Duration::from_hours(366 * 24);

/// Somebody's key, to be let into an account for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrantRequest {
    /// The account; its host is managed.
    pub account: Account,
    /// The key.
    pub public_key: PublicKey,
    /// For how long, from 1 s to [`MAX_GRANT`].
    pub lifetime: Duration,
    /// The options of its line, such as `from="192.0.2.0/24"`. The end is added.
    pub options: Options,
    /// Whose key it is, for people.
    pub comment: String,
    /// Whether to grant also on a host that reads no end: such a line is good until it is swept, for ever if nobody does.
    pub even_without_expiry: bool,
}

impl GrantRequest {
    /// A key without further options.
    pub fn new(account: Account, public_key: PublicKey, lifetime: Duration) -> Self {
        Self { account, public_key, lifetime, options: Options::new(), comment: String::new(), even_without_expiry: false }
    }

    pub(super) fn check(&self) -> Result<(), GrantError> {
        if self.lifetime < Duration::from_secs(1) || self.lifetime > MAX_GRANT {
            return Err(GrantError::Lifetime { asked: self.lifetime });
        }
        // What sshd does not take would be a line that lets nobody in; what makes it an authority would let in others.
        let effect = self.options.effect(0).map_err(|source| GrantError::Options { source: Box::new(source) })?;
        for (name, set) in [
            ("expiry-time", self.options.has("expiry-time")),
            ("cert-authority", effect.certificate_authority),
            ("principals", effect.principals.is_some()),
        ] {
            if set {
                return Err(GrantError::OptionNotAllowed { option: name });
            }
        }
        Ok(())
    }
}
