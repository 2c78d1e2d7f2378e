#![doc = include_str!("../README.md")]

mod admission;
pub mod archive;
mod digest;
mod document;
mod envelope;
mod events;
mod governor;
mod hex;
mod journal;
mod keys;
mod listing;
mod machine;
pub mod matcher;
mod memory;
mod path;
pub mod plan;
mod reconciler;
mod root;
mod selector;
mod source;
pub mod sshsig;
mod state;
pub mod sums;

pub use admission::{Admission, AdmissionError, Admitted, Freshness, MAX_SERIAL_JUMP, Payload, PlainPolicy};
pub use archive::{ArchiveError, Limits, UnpackSink, Unpacked, Unpacker};
pub use digest::{Sha256Digest, Sha256DigestError};
pub use document::{
    Document, DocumentError, Format, FormatError, MAX_DOCUMENT, Unsigned, Verified, pack, pack_signed, plain_signing_bytes,
};
pub use envelope::{Envelope, MAX_KEY_CHANGES, Scheme, SignedStatement, SpecName, Statement, seal};
pub use events::{Notification, Notifier, Outcome};
pub use governor::{Governors, NoGovernors, SlotRecord, StoreGovernors};
pub use journal::MAX_JOURNAL;
pub use keys::{
    KeyError, MAX_KEY_FILE, MAX_TRUSTED_KEYS, Signature, SignatureError, SigningKey, TrustedKeys, Verifier, VerifyingKey,
};
pub use machine::{
    Credentials, ListError, MAX_MACHINES, MAX_NAME, MachineList, MachineName, MachineNameError, ManagedMachine, UnknownMember,
};
pub use matcher::{Answer, CachedFacts, FactError, Facts, KnownFacts, Matcher, MatcherError};
pub use path::{MAX_PATH, MAX_PATH_DEPTH, TreePath, TreePathError};
pub use plan::{Belongs, DeployReason, PurgeReason, Settings, Verdict};
pub use reconciler::{Body, FetchError, Fetcher, Health, NoHealth, PassError, Reconciler, Report};
pub use root::{Attributes, Executables, MachineRoot, Place, Traces, TreeCheck, TreeEntry, TreeVisitor};
pub use selector::Selector;
pub use source::{MAX_SOURCE, Scheme as SourceScheme, Source, SourceError, SourcePolicy};
pub use state::{Failed, Loaded, MAX_STATE, Noes, Phase, Placed, Placing, RootState, StateCopy, StateError};
pub use sums::{Sums, SumsError};
