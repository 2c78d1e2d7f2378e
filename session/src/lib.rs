#![doc = include_str!("../README.md")]

mod claim;
mod error;
mod host_files;
mod lines;
pub mod machine;
mod onboarder;
mod operator;
mod record;
mod registry;
mod request;
mod retention;
mod status;
mod wait;

pub use claim::{AccountClaim, AddedLine, DeadKey, LeftLine};
pub use error::SessionError;
pub use machine::{End, Pace};
pub use onboarder::{Onboarder, Outcome};
pub use operator::{Installed, NoSealer, Operator, Progress, Sealer};
pub use record::{Closed, Evidence, HostKeyCheck, SessionRecord, TrustedHostKey};
pub use registry::{Recovered, is_settled, list};
pub use request::{DEFAULT_LIFETIME, Request};
pub use retention::{CLOSED_SESSIONS_KEPT, LongClosed, long_closed, prune_closed};
pub use status::Status;
