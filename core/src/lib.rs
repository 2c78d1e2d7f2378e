#![doc = include_str!("../README.md")]

mod account;
mod audit;
mod connect;
mod export_file;
mod host;
mod id;
mod look;
mod master_key;
mod public_key;
mod record;
mod rotation;
mod secret;
mod store;
mod store_export;
#[cfg(feature = "testing")]
pub mod testing;
mod time;

pub use account::{Account, AccountError, DEFAULT_PORT, Route};
pub use audit::{
    AuditEntry, AuditEvent, AuditExport, AuditFault, AuditFlaw, AuditHead, AuditLog, AuditReport, AuditSink, AuditWriter,
    ChainReport, Checkpoint, FoundEntry, StoreAudit,
};
pub use connect::{
    Capabilities, ConnectError, Connector, FileError, FileKind, FileStat, HostFiles, HostKeyPolicy, HostSession, Identity,
    KeyAnswer, Login,
};
pub use export_file::ExportError;
pub use host::{HostKeyTrust, HostRecord, KeyRole, KnownHost, ManagedKey, Settled};
pub use id::{IdError, SessionId};
pub use look::{Change, Look, Seen};
pub use master_key::{CurrentMasterKey, MasterKeyRecord, RetiredKey};
pub use public_key::{Fingerprint, FingerprintError, MAX_BLOB, PublicKey, PublicKeyError};
pub use record::{Record, Stored};
pub use rotation::{HostPhase, HostProgress, OnUnreachable, RotationPhase, RotationPolicy, RotationRecord, SessionGlance};
pub use secret::SecretBytes;
pub use store::{Entry, Expect, Key, KeyError, Revision, Source, Store, StoreError, Watch};
pub use store_export::{ExportedValue, StoreExport};
pub use time::{Clock, Timer, Timestamp, TimestampError};
