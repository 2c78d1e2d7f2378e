//! What the machine asks for, and what it is told.

use toehold_core::{Fingerprint, HostKeyPolicy, ManagedKey, PublicKey, Route, SessionId, Timestamp};

use crate::claim::DeadKey;
use crate::record::SessionRecord;

/// Which key a connection is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to know them all")]
pub enum Credential {
    /// The session's temporary key.
    Temporary,
    /// The fleet's master key.
    Master,
}

/// One order to the driver. It performs it, then hands the result back as an [`Event`]; there is never more than one
/// order at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver that ignores an action is broken; a new one must not compile there")]
pub enum Action {
    /// Write the record over the version last read or written. Answer: `Saved`, `Superseded` or `StoreFailed`.
    Save(Box<SessionRecord>),
    /// Take the claim on the account, see [`AccountClaim`](crate::AccountClaim). Answer: `AccountTaken`, `AccountHeld`,
    /// `AccountElsewhere` or `StoreFailed`.
    TakeAccount,
    /// Show the installation command, or run it on the host. Answer: `CommandShown` or `CommandFailed`.
    ShowCommand,
    /// Read the record again. Answer: `Unchanged`, `Superseded` or `StoreFailed`.
    Refresh,
    /// Log in, keeping the connection under this credential in place of an older one. Answer: `LoggedIn` or `LoginFailed`.
    LogIn {
        /// With which key.
        with: Credential,
        /// To which host keys.
        host_key: HostKeyPolicy,
    },
    /// Read the proof file over the temporary key's connection. Answer: `ProofRead` (nothing where there is none) or
    /// `FilesFailed`.
    ReadProof,
    /// Ask the operator whether this host key is the right one. Answer: `Answered`.
    AskOperator(Fingerprint),
    /// Read the host's `authorized_keys`. Answer: `Inspected`, `LinesRefused` or `FilesFailed`.
    Inspect {
        /// Over which connection.
        over: Credential,
    },
    /// Add those of these lines that are not in the host's `authorized_keys`, or give a line of ours the options that are asked
    /// for, in one replacement, after the claim on the account says so. Answer: `LinesAdded`, `LinesInDoubt`, `FilesFailed` or `AccountLost`.
    AddLines {
        /// Over which connection.
        over: Credential,
        /// Which lines.
        lines: Vec<ManagedKey>,
    },
    /// Record in the claim on the account that the master key has logged in, so that the session is no longer undone; but not
    /// where that key was replaced before the session was on record, and its private half dropped. Answer: `Settled`,
    /// `MasterKeyGone`, `StoreFailed` or `AccountLost`.
    Settle,
    /// Take every line of the temporary key, and what the claim says was added of the others, out of the host's
    /// `authorized_keys`, in one replacement, then the proof file and what earlier attempts left, and read back. With `restore`, also what the installation command created goes, if
    /// nothing else has moved in. Where one of the keys is in [`SessionRecord::adding`], the claim on the account is passed
    /// right before the replacement. Answer: `Cleared`, `FilesFailed` or `AccountLost`.
    Clear {
        /// Over which connection.
        over: Credential,
        /// Which keys.
        keys: Vec<PublicKey>,
        /// Which sessions' keys and proofs besides.
        dead: Vec<DeadKey>,
        /// Whether the host is to end as it was.
        restore: bool,
    },
    /// Ask the host which of these keys it would accept, without logging in (RFC 4252 §7). Answer: `Queried` or
    /// `LoginFailed`.
    Query {
        /// The keys.
        keys: Vec<PublicKey>,
        /// From which host keys an answer counts.
        host_key: HostKeyPolicy,
    },
    /// Write the host's own record and its host key to the store. Answer: `HostRecorded` or `StoreFailed`.
    RecordHost,
    /// Wait for the command to be run. Answer: `Woke`, at that time, or earlier when the operator wants out.
    WaitUntil(Timestamp),
    /// Wait before something is tried again; that the operator wants out makes it no shorter. Answer: `Woke`.
    RestUntil(Timestamp),
    /// Close all connections; there is nothing more to do.
    Finish(End),
}

/// How a run over a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a caller that shows an end has to know them all")]
pub enum End {
    /// The host is managed.
    Completed,
    /// Nothing was changed, or all of it was undone, and that was seen.
    Failed,
    /// The temporary key may still be there; the session stays on the list.
    Orphaned,
    /// Somebody else has taken the session up, or the store cannot be written: this run has let go of it, and the record says
    /// where it stands.
    LetGo,
}

/// Why a login or a query failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "made by drivers")]
pub enum LoginFailure {
    /// The server itself refused the key.
    KeyRefused,
    /// The host key was not one that the policy takes.
    HostKeyRefused(String),
    /// The login works but there is no SFTP.
    NoSftp(String),
    /// Everything that may pass: no answer, a broken connection.
    Unreachable(String),
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "made by drivers")]
pub enum Event {
    /// The record is written.
    Saved,
    /// The record is as this machine last wrote it.
    Unchanged,
    /// Somebody else has written the record; this is how it stands now.
    Superseded(Box<SessionRecord>),
    /// The store failed; what it holds is unknown.
    StoreFailed(String),
    /// The claim on the account is this session's.
    AccountTaken {
        /// Keys that the account's file may hold because of this session or of those that held the claim before it, and that
        /// are to go if the session fails.
        adding: Vec<PublicKey>,
        /// Whether the master key has logged in already in an earlier attempt.
        managed: bool,
        /// What closed sessions may have left.
        dead: Vec<DeadKey>,
    },
    /// The account is managed, over another route than this session's.
    AccountElsewhere {
        /// That route.
        managed: Route,
    },
    /// Another session that is under way has the claim; or this one, in a later attempt than this run's.
    AccountHeld {
        /// Whose it is.
        by: SessionId,
    },
    /// The claim was taken over; nothing was written to the host.
    AccountLost {
        /// By whom; this session itself for a later attempt.
        by: SessionId,
    },
    /// The claim says that the master key has logged in.
    Settled,
    /// The master key is a retired one whose private half the store does not hold any more; nothing was recorded.
    MasterKeyGone,
    /// The command was shown, or run to its end.
    CommandShown {
        /// Whether it was run, with success.
        ran: bool,
    },
    /// The command could not be run, or failed on the host.
    CommandFailed(String),
    /// Logged in.
    LoggedIn {
        /// The host key of the connection.
        host_key: PublicKey,
    },
    /// Not logged in, or no answer to a query.
    LoginFailed(LoginFailure),
    /// The proof file's content; `None` where there is no such file.
    ProofRead(Option<Vec<u8>>),
    /// The operator's answer.
    Answered(bool),
    /// What the host's `authorized_keys` lets in.
    Inspected {
        /// Of the managed keys, those that sshd takes by a line with the options that were asked for; and the temporary key, if
        /// it is there.
        present: Vec<PublicKey>,
    },
    /// A key that is to be managed is there already, by somebody else's line and with other options than asked. Nothing was
    /// changed.
    LinesRefused {
        /// Which line, and what to do, for people.
        reason: String,
    },
    /// The lines are in the file, and the file was read back.
    LinesAdded {
        /// The keys that were not there before, or not with these options.
        added: Vec<PublicKey>,
    },
    /// The file may or may not have the lines.
    LinesInDoubt {
        /// The keys that were not there before, or not with these options.
        added: Vec<PublicKey>,
        /// Why, for people.
        reason: String,
        /// Whether the connection is gone.
        lost: bool,
    },
    /// The lines and the proof are gone, but for these keys that were still seen.
    Cleared {
        /// Keys that should be gone and are not.
        still_present: Vec<PublicKey>,
        /// Whether the temporary key or the proof was there until now.
        found: bool,
    },
    /// The host's files could not be read or changed. After `AddLines`: no line was added.
    FilesFailed {
        /// Why, for people.
        reason: String,
        /// Whether the connection is gone.
        lost: bool,
        /// Whether another Toehold is at work on the account's files, so that waiting helps.
        busy: bool,
    },
    /// Which of the keys the host would accept.
    Queried {
        /// The accepted ones.
        accepted: Vec<PublicKey>,
    },
    /// The host's record is written.
    HostRecorded,
    /// The wait is over.
    Woke,
}

impl Event {
    /// The event's name, without its content.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Saved => "Saved",
            Self::Unchanged => "Unchanged",
            Self::Superseded(_) => "Superseded",
            Self::StoreFailed(_) => "StoreFailed",
            Self::AccountTaken { .. } => "AccountTaken",
            Self::AccountElsewhere { .. } => "AccountElsewhere",
            Self::AccountHeld { .. } => "AccountHeld",
            Self::AccountLost { .. } => "AccountLost",
            Self::Settled => "Settled",
            Self::MasterKeyGone => "MasterKeyGone",
            Self::CommandShown { .. } => "CommandShown",
            Self::CommandFailed(_) => "CommandFailed",
            Self::LoggedIn { .. } => "LoggedIn",
            Self::LoginFailed(_) => "LoginFailed",
            Self::ProofRead(_) => "ProofRead",
            Self::Answered(_) => "Answered",
            Self::Inspected { .. } => "Inspected",
            Self::LinesRefused { .. } => "LinesRefused",
            Self::LinesAdded { .. } => "LinesAdded",
            Self::LinesInDoubt { .. } => "LinesInDoubt",
            Self::Cleared { .. } => "Cleared",
            Self::FilesFailed { .. } => "FilesFailed",
            Self::Queried { .. } => "Queried",
            Self::HostRecorded => "HostRecorded",
            Self::Woke => "Woke",
        }
    }
}

impl std::fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::KeyRefused => f.write_str("the host refuses the key"),
            Self::HostKeyRefused(why) | Self::NoSftp(why) | Self::Unreachable(why) => f.write_str(why),
        }
    }
}
