//! The way to a host: logging in over SSH, and its files over SFTP.

use std::fmt;
use std::future::Future;

use crate::account::Route;
use crate::look::{Change, Look, Seen, change_first, one_by_one};
use crate::public_key::{Fingerprint, PublicKey};
use crate::secret::SecretBytes;
use crate::store::Source;

/// The key that a login is made with.
#[derive(Debug)]
#[non_exhaustive]
pub enum Identity {
    /// A private key in memory.
    PrivateKey {
        /// Its public half.
        public_key: PublicKey,
        /// The private half as an unencrypted OpenSSH private key file (`PROTOCOL.key`), PEM armour included.
        openssh: SecretBytes,
    },
    /// A key whose private half an agent holds, which signs with it when the connector asks.
    Agent {
        /// Its public half.
        public_key: PublicKey,
    },
}

impl Identity {
    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        match self {
            Self::PrivateKey { public_key, .. } | Self::Agent { public_key } => public_key,
        }
    }
}

/// Which host keys a connection may be made to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostKeyPolicy {
    /// Only this key. The key exchange offers no algorithm of another key type, so that a host cannot slip past the pin
    /// with a second key.
    Exactly(PublicKey),
    /// Only a key with this fingerprint.
    Fingerprint(Fingerprint),
    /// Any key: the caller looks at [`HostSession::host_key`] and sends nothing of value before it has decided. A public
    /// key login is safe to make (its signature is bound to this very connection), a password or a file is not.
    CallerDecides,
}

/// A login to be made.
#[derive(Debug)]
pub struct Login<'a> {
    /// Where.
    pub route: &'a Route,
    /// With which key.
    pub identity: &'a Identity,
    /// Which host keys will do at the end of the route.
    pub host_key: &'a HostKeyPolicy,
    /// A key about which the server is asked, without a signature, before the login on the same connection (RFC 4252 §7);
    /// [`HostSession::queried`] has the answer.
    pub query: Option<&'a PublicKey>,
}

/// What a server said to "would you accept this key?" (RFC 4252 §7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAnswer {
    /// Whether a signature by the key would be a login.
    pub accepted: bool,
    /// The key of the host that said so.
    pub host_key: PublicKey,
}

/// Why a host could not be reached or logged in to. Nothing was changed on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No connection: refused, no route, no such name.
    #[error("{route} cannot be reached")]
    Unreachable {
        /// Where to.
        route: String,
        /// What the network said.
        #[source]
        source: Source,
    },
    /// The host did not answer in time.
    #[error("{route} did not answer within {seconds} s while {doing}")]
    TimedOut {
        /// Where to.
        route: String,
        /// What was waited for.
        doing: &'static str,
        /// How long.
        seconds: u64,
    },
    /// The host's key is not one that the policy takes. Either the host was set up anew, or somebody is in the middle.
    #[error("{route} presented the host key {found}, which is not the expected {expected}")]
    HostKeyRefused {
        /// Where to.
        route: String,
        /// What the policy wanted, as fingerprint.
        expected: String,
        /// What was presented, as fingerprint; `none of the expected type` where the key exchange already failed over it.
        found: String,
    },
    /// The host does not accept the key.
    #[error("{route} refuses the key {fingerprint}")]
    KeyRefused {
        /// Where to.
        route: String,
        /// The key.
        fingerprint: Fingerprint,
    },
    /// The login was accepted but the host serves no SFTP on it.
    #[error("{route} accepts the login but serves no SFTP: {reason}")]
    NoSftp {
        /// Where to.
        route: String,
        /// What was seen.
        reason: String,
    },
    /// The connection broke or the other side did not keep to the protocol.
    #[error("the connection to {route} failed while {doing}")]
    Broken {
        /// Where to.
        route: String,
        /// What was being done.
        doing: &'static str,
        /// The SSH library's own error.
        #[source]
        source: Source,
    },
}

/// Makes connections.
pub trait Connector: Send + Sync {
    /// A logged-in connection.
    type Session: HostSession;

    /// Connects, checks the host key, logs in and opens SFTP, all within this connector's time limits.
    fn log_in(&self, login: &Login<'_>) -> impl Future<Output = Result<Self::Session, ConnectError>> + Send;

    /// Asks whether `public_key` would be accepted, without a signature and without a login (RFC 4252 §7).
    ///
    /// A wrong `accepted: false` lets a temporary key pass for gone; implementers answer `false` only on a server's own
    /// `SSH_MSG_USERAUTH_FAILURE` and never on an error.
    fn would_accept(
        &self,
        route: &Route,
        public_key: &PublicKey,
        host_key: &HostKeyPolicy,
    ) -> impl Future<Output = Result<KeyAnswer, ConnectError>> + Send;
}

impl<C: Connector + ?Sized> Connector for &C {
    type Session = C::Session;

    fn log_in(&self, login: &Login<'_>) -> impl Future<Output = Result<Self::Session, ConnectError>> + Send {
        (**self).log_in(login)
    }

    fn would_accept(
        &self,
        route: &Route,
        public_key: &PublicKey,
        host_key: &HostKeyPolicy,
    ) -> impl Future<Output = Result<KeyAnswer, ConnectError>> + Send {
        (**self).would_accept(route, public_key, host_key)
    }
}

/// A logged-in connection with SFTP open on it.
pub trait HostSession: Send {
    /// The host's files.
    type Files: HostFiles;

    /// The host key of this very connection.
    fn host_key(&self) -> &PublicKey;

    /// The answer to [`Login::query`]: whether that key would have been accepted; `None` where nothing was asked.
    fn queried(&self) -> Option<bool>;

    /// The software that the server says to be, which this connection's key exchange has signed: what stands behind
    /// `SSH-2.0-` (RFC 4253 §4.2), such as `OpenSSH_9.2p1 Debian-2`. `None` where the connector does not tell.
    fn software(&self) -> Option<&str> {
        None
    }

    /// The files.
    fn files(&mut self) -> &mut Self::Files;

    /// Closes the connection; errors on the way out do not matter.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Kinds of things in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link, itself.
    Link,
    /// Anything else.
    Other,
}

/// What `SSH_FXP_LSTAT` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// What it is; a link is not followed.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// The owner's number, where the server tells.
    pub uid: Option<u32>,
    /// The permission bits (`0o7777`).
    pub mode: u32,
    /// Last change of the content, seconds since 1970 by the host's clock.
    pub modified: i64,
}

/// What a host's SFTP server can do beyond the plain protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// `posix-rename@openssh.com`: a rename that replaces its target in one step.
    pub atomic_rename: bool,
    /// `fsync@openssh.com`.
    pub sync: bool,
}

/// Why a host's file could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing is there.
    #[error("{path} does not exist on the host")]
    NotFound {
        /// The path.
        path: String,
    },
    /// A file that was to be created is there already.
    #[error("{path} exists already on the host")]
    AlreadyExists {
        /// The path.
        path: String,
    },
    /// The account may not.
    #[error("{doing} {path}: permission denied on the host")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: String,
    },
    /// The file is larger than the reader wants it.
    #[error("{path} has more than the limit of {limit} bytes")]
    TooLarge {
        /// The path.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The server cannot do this.
    #[error("the host's SFTP server does not support {what}")]
    Unsupported {
        /// The operation.
        what: &'static str,
    },
    /// The server said no for another reason, such as a full disk.
    #[error("{doing} {path} failed on the host: {message}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: String,
        /// The server's words.
        message: String,
    },
    /// The connection is gone or silent; whether the operation took place is unknown.
    #[error("the connection was lost while {doing} {path}")]
    Lost {
        /// What was being done.
        doing: &'static str,
        /// The path.
        path: String,
        /// What happened to the connection.
        #[source]
        source: Source,
    },
}

impl FileError {
    /// Whether the connection is gone, so that nothing more can be done over it.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }
}

/// A host's files, as SFTP gives them (draft-ietf-secsh-filexfer-02 and OpenSSH's `PROTOCOL`). Paths are absolute, or relative
/// to the directory that the server starts in.
pub trait HostFiles: Send {
    /// What the server can do.
    fn capabilities(&self) -> Capabilities;

    /// The absolute form of `path` by the server's own reckoning (`SSH_FXP_REALPATH`).
    fn real_path(&mut self, path: &str) -> impl Future<Output = Result<String, FileError>> + Send;

    /// What is at `path`, without following a link; `None` where there is nothing.
    fn stat(&mut self, path: &str) -> impl Future<Output = Result<Option<FileStat>, FileError>> + Send;

    /// The whole content; [`FileError::TooLarge`] where it has more than `limit` bytes, [`FileError::NotFound`] for none.
    fn read(&mut self, path: &str, limit: u64) -> impl Future<Output = Result<Vec<u8>, FileError>> + Send;

    /// Creates the file with this content and these permission bits; [`FileError::AlreadyExists`] where something is there.
    /// After an error nothing, or a part of the content, may be there.
    fn stage(&mut self, path: &str, content: &[u8], mode: u32) -> impl Future<Output = Result<(), FileError>> + Send;

    /// Makes the content of the file durable (`fsync@openssh.com`); [`FileError::Unsupported`] without that extension.
    fn sync(&mut self, path: &str) -> impl Future<Output = Result<(), FileError>> + Send;

    /// Renames `from` to `to` in one step, replacing what is at `to`; [`FileError::Unsupported`] without the extension.
    fn rename(&mut self, from: &str, to: &str) -> impl Future<Output = Result<(), FileError>> + Send;

    /// Removes a file; [`FileError::NotFound`] where there is none.
    fn remove(&mut self, path: &str) -> impl Future<Output = Result<(), FileError>> + Send;

    /// Removes an empty directory.
    fn remove_directory(&mut self, path: &str) -> impl Future<Output = Result<(), FileError>> + Send;

    /// The names in a directory, without `.` and `..`, in no order.
    fn list(&mut self, path: &str) -> impl Future<Output = Result<Vec<String>, FileError>> + Send;

    /// Looks at several things; the answers are in the order of the questions.
    ///
    /// They are what one question after the other would have been answered, whoever else was at work. An implementation may
    /// send them all at once where the protocol promises that (draft-ietf-secsh-filexfer-02 §6.1); the default asks one by one.
    fn look(&mut self, looks: &[Look]) -> impl Future<Output = Vec<Seen>> + Send {
        one_by_one(self, looks)
    }

    /// Makes a change and then looks, as with [`look`](Self::look): what is seen is from after the change. After a failed
    /// change the answers are worth nothing, and may be missing.
    fn change_and_look(
        &mut self,
        change: Change<'_>,
        looks: &[Look],
    ) -> impl Future<Output = (Result<(), FileError>, Vec<Seen>)> + Send {
        change_first(self, change, looks)
    }
}

impl fmt::Display for HostKeyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(key) => write!(f, "{} ({})", key.fingerprint(), key.algorithm()),
            Self::Fingerprint(fingerprint) => write!(f, "{fingerprint}"),
            Self::CallerDecides => f.write_str("any host key"),
        }
    }
}
