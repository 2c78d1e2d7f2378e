//! A machine as an agent: it joins a gateway, keeps what it got in files of its own, and authenticates with them.
//!
//! The protocol itself is `toehold-joinproto`'s; here are its hands: the order of files and messages that a crash at any point leaves
//! completable.
//!
//! ```text
//! v3     lock · identity durable · connect · prove · attempt and unconfirmed keyring durable · confirm · Done ·
//!        keyring durable · membership durable · unconfirmed keyring and attempt gone
//! v1, v2 lock · attempt with its id durable · connect · token · unconfirmed keyring durable · authenticate with it · as above
//! ```

mod directory;
mod error;
mod join;
mod opni;
mod resume;
mod session;
mod v3;

pub use directory::{AgentDirectory, AgentLock, Attempt, JoinedAs, Membership, TrustKind};
pub use error::{AgentError, Reached, Stage};
pub use join::{JoinOutcome, JoinRequest, OpniOptions, join};
pub use resume::finish_half_done;
pub use session::{AgentSession, SpecTrust, Whoami};
