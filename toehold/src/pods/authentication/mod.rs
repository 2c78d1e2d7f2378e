//! Who may have a pod: by `authorized_keys` files, by keys in the store, by a command.

mod answer;
mod command;
mod files;
mod lines;
mod program;
mod stored;

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use toehold_core::{PublicKey, Store, StoreError};

use crate::cli::chain;

pub use answer::LoginMetadata;
pub use command::KeysCommand;
pub use files::{AuthorizedKeysFiles, Looked};
pub use program::KeysCommandError;
pub use stored::{PodKeyError, PodKeyRecord, StoredKeys};

use lines::Verdict;

/// Somebody who wants in.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    /// The user name of the login: any text.
    pub user: &'a str,
    /// The key.
    pub key: &'a PublicKey,
    /// The client's address.
    pub address: IpAddr,
}

/// What somebody may do who was let in.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Who it is (P4).
    pub principal: String,
    /// What runs whatever is asked for.
    pub command: Option<Vec<u8>>,
    /// Whether a terminal may be had.
    pub terminal: bool,
    /// What the login brings along into the pod.
    pub metadata: Arc<LoginMetadata>,
}

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// The command did not answer as it has to.
    #[error("the command for authorized keys, {}: {reason}", program.display())]
    Command {
        /// Which program.
        program: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be used.
    #[error("{} cannot be used as authorized_keys: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The store failed.
    #[error("the keys in the store cannot be read")]
    Store(#[from] StoreError),
}

/// Decides who is let in. Asked for each key that is offered, and again when its signature was good.
///
/// Implementers: a false yes lets a stranger in; an error, like a no, keeps somebody out.
pub trait Authenticator: Send + Sync + 'static {
    /// Whether this key may log in; `None`: it may not.
    fn admit(&self, applicant: Applicant<'_>) -> impl Future<Output = Result<Option<Admission>, AuthenticationError>> + Send;
}

/// Files first, then the store, then the command: the first that knows the key decides, and the others are not asked. One that cannot be
/// used lets nobody in, is told to the operator, and does not keep those out whom another knows.
#[derive(Debug)]
pub struct Sources<S> {
    /// The files; may be none.
    pub files: AuthorizedKeysFiles,
    /// The store, where it counts.
    pub stored: Option<StoredKeys<S>>,
    /// The command, where there is one.
    pub command: Option<KeysCommand>,
}

impl<S: Store + 'static> Sources<S> {
    async fn ask(&self, source: usize, applicant: Applicant<'_>) -> Result<Verdict, AuthenticationError> {
        match (source, &self.stored, &self.command) {
            (0, _, _) => self.files.decide(applicant),
            (1, Some(stored), _) => stored.decide(applicant).await,
            (2, _, Some(command)) => command.decide(applicant).await,
            _ => Ok(Verdict::Unknown),
        }
    }
}

impl<S: Store + 'static> Authenticator for Sources<S> {
    async fn admit(&self, applicant: Applicant<'_>) -> Result<Option<Admission>, AuthenticationError> {
        for source in 0..3 {
            match self.ask(source, applicant).await {
                Ok(Verdict::Admitted(admission)) => return Ok(Some(admission)),
                Ok(Verdict::Refused) => return Ok(None),
                Ok(Verdict::Unknown) => {}
                Err(error) => tracing::error!("{}", chain(&error)),
            }
        }
        Ok(None)
    }
}
