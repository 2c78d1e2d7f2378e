//! Somebody's public key on a host for a limited time.
//!
//! A grant is a line of its own in `authorized_keys`, with an `expiry-time`: sshd ends it, whether or not anybody of us is
//! alive. Around that line:
//!
//! 1. The record, `grant/<id>`, is in the store before the line is on the host, with the absolute instant of its end.
//! 2. Between the staging of the new file and its renaming the record is written once more. Whoever ends a grant writes the
//!    record first and then takes the host's lock, which sweeps what others have staged: a line that comes late is either
//!    seen and taken away, or never comes.
//! 3. After the end, [`Grants::sweep`] takes the line away, and the record goes when the file was read back without it. What
//!    could not be swept stays on the list.
//!
//! The line's comment names the grant, so that grants are independent of each other and of everything else: the same key
//! may be there for good, or granted twice, and each line comes and goes alone. A rotation leaves such lines alone
//! ([`toehold_keygen::is_grant`]), and no master key, present or past, is ever granted.

mod edit;
mod error;
mod fenced;
mod grants;
mod id;
mod record;
mod request;
mod sweep;

pub use error::GrantError;
pub use grants::{Granted, Grants};
pub use id::{GrantId, GrantIdError};
pub use record::{GrantRecord, GrantStatus};
pub use request::{GrantRequest, MAX_GRANT};
pub use sweep::{Ended, Swept};
