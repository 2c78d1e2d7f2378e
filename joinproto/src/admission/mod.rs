//! Who may join: tokens and their uses in a store.
//!
//! | key | what it holds |
//! | --- | --- |
//! | `token/<id>` | a token; never changes |
//! | `token/<id>/<n>` | one use of it: written if absent, bound to who joined with it. A revoked token has all of them taken |
//! | `agent/<id>` | an agent with its keys, or the mark that it was removed |
//!
//! [`admit`] decides, without IO; [`Desk`] does, over a [`Store`](toehold_core::Store). A use is taken by one write that
//! succeeds only where nobody has taken it, so that none is doubled, whatever dies and however many gateways there are. It is bound to the
//! client, so that none is lost: the same client takes the same use again.

mod decide;
mod decoy;
mod desk;
mod error;
mod new_token;
mod opni;
mod record;
mod sweep;
mod walk;

pub use decide::{Check, Refusal, Request, Verdict, admit, check_agent, first_slot};
pub use desk::{Admitted, AgentKeys, Desk, MAX_OPNI_TOKENS, Uses};
pub use error::{DeskError, Vault};
pub use new_token::{DEFAULT_LIFETIME, MAX_USES, NewToken};
pub use opni::{LABEL_NAME, LABEL_VERSION, OpniJoin, OpniRequest};
pub use record::{AgentRecord, AgentState, Held, Holder, Protocol, Role, RoleError, TokenRecord, UseRecord};
pub use sweep::{SWEEP_MARGIN, Sweep};
