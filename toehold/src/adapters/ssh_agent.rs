//! An ssh-agent that signs with the master key (draft-miller-ssh-agent).
//!
//! The agent's copy is never the only one: what it holds was opened from the store, where it stays sealed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use russh::keys::PrivateKey;
use russh::keys::agent::Constraint;
use russh::keys::agent::client::AgentClient;
use toehold_core::{Fingerprint, PublicKey, SecretBytes};
use tokio::net::UnixStream;

/// How long an agent may take to answer where it asks nobody.
const PATIENCE: Duration = Duration::from_secs(10);

/// OpenSSH's agent takes messages of 256 KiB, with the key and the framing in them.
const MAX_MESSAGE: usize = 255 * 1024;

/// Why an ssh-agent is of no use. Never holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// `SSH_AUTH_SOCK` is not set.
    #[error("no ssh-agent is named: SSH_AUTH_SOCK is not set")]
    Unnamed,
    /// Nobody answers there.
    #[error("the ssh-agent at {} did not do as it was asked while {doing}", socket.display())]
    Failed {
        /// Its socket.
        socket: PathBuf,
        /// What it was asked for.
        doing: &'static str,
        /// What it, or the system, said.
        #[source]
        source: Box<russh::keys::Error>,
    },
    /// It does not answer.
    #[error("the ssh-agent at {} did not answer within {} s while {doing}", socket.display(), PATIENCE.as_secs())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What it was asked for.
        doing: &'static str,
    },
    /// It does not have the key.
    #[error("the ssh-agent does not hold the master key {0}; run: toehold key load")]
    WithoutKey(Fingerprint),
    /// It holds no key of the kind that is asked for, or several.
    #[error("the ssh-agent holds {0} Ed25519 keys; name the one that is to sign: --agent=KEY")]
    Ambiguous(usize),
    /// It does not have the key.
    #[error("the ssh-agent does not hold the key {0}; run: ssh-add")]
    Lacks(Fingerprint),
    /// It does not take so large a message.
    #[error("{0} bytes are more than an ssh-agent signs at once")]
    TooLong(usize),
    /// A key that agents cannot be asked about.
    #[error("{0} is not a key that an ssh-agent can hold")]
    Unsupported(Fingerprint),
}

/// An ssh-agent at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAgent {
    socket: PathBuf,
}

impl SshAgent {
    /// That of the environment: `SSH_AUTH_SOCK`.
    ///
    /// # Errors
    /// [`AgentError::Unnamed`].
    pub fn from_environment() -> Result<Self, AgentError> {
        match std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty()) {
            Some(socket) => Ok(Self::at(socket)),
            None => Err(AgentError::Unnamed),
        }
    }

    /// That at this socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection to it.
    pub(super) async fn client(&self) -> Result<AgentClient<UnixStream>, AgentError> {
        self.within("connecting", AgentClient::connect_uds(&self.socket)).await
    }

    /// Whether it holds the key.
    ///
    /// # Errors
    /// [`AgentError::Failed`] and [`AgentError::Silent`].
    pub async fn holds(&self, key: &PublicKey) -> Result<bool, AgentError> {
        let mut client = self.client().await?;
        let held = self.within("listing its keys", client.request_identities()).await?;
        Ok(held.iter().any(|held| held.public_key().to_bytes().is_ok_and(|blob| blob == key.blob())))
    }

    /// As [`SshAgent::holds`], where it has to.
    ///
    /// # Errors
    /// [`AgentError::WithoutKey`] besides.
    pub async fn must_hold(&self, key: &PublicKey) -> Result<(), AgentError> {
        if self.holds(key).await? { Ok(()) } else { Err(AgentError::WithoutKey(key.fingerprint())) }
    }

    /// Gives it a private key, an unencrypted OpenSSH private key file: for ever or for so long, to be used freely or after
    /// asking. The message passes through a buffer of the library that is freed without being wiped.
    ///
    /// # Errors
    /// [`AgentError::Failed`], also for what is no key, and [`AgentError::Silent`].
    pub async fn add(&self, openssh: &SecretBytes, lifetime: Option<Duration>, confirm: bool) -> Result<(), AgentError> {
        const DOING: &str = "adding a key";
        let key = PrivateKey::from_openssh(openssh.expose()).map_err(|_| AgentError::Failed {
            socket: self.socket.clone(),
            doing: DOING,
            source: Box::new(russh::keys::Error::CouldNotReadKey),
        })?;
        let mut constraints = Vec::new();
        if let Some(lifetime) = lifetime {
            constraints.push(Constraint::KeyLifetime { seconds: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX) });
        }
        if confirm {
            constraints.push(Constraint::Confirm);
        }
        let mut client = self.client().await?;
        self.within(DOING, client.add_identity(&key, &constraints)).await
    }

    /// Lets it forget the key.
    ///
    /// # Errors
    /// [`AgentError::Failed`], also where it does not hold it, [`AgentError::Silent`] and [`AgentError::Unsupported`].
    pub async fn remove(&self, key: &PublicKey) -> Result<(), AgentError> {
        let parsed = russh::keys::PublicKey::from_bytes(key.blob()).map_err(|_| AgentError::Unsupported(key.fingerprint()))?;
        let mut client = self.client().await?;
        self.within("removing a key", client.remove_identity(&parsed)).await
    }

    /// The Ed25519 key that it holds, where that is the only one.
    ///
    /// # Errors
    /// [`AgentError::Ambiguous`], [`AgentError::Failed`] and [`AgentError::Silent`].
    pub async fn only_ed25519(&self) -> Result<PublicKey, AgentError> {
        let mut client = self.client().await?;
        let held = self.within("listing its keys", client.request_identities()).await?;
        let blobs = held.iter().filter_map(|held| held.public_key().to_bytes().ok());
        let mut keys: Vec<PublicKey> = blobs.filter_map(|blob| PublicKey::from_blob(&blob).ok()).collect();
        keys.retain(|key| key.algorithm() == "ssh-ed25519");
        match keys.pop() {
            Some(key) if keys.is_empty() => Ok(key),
            other => Err(AgentError::Ambiguous(keys.len() + usize::from(other.is_some()))),
        }
    }

    /// Has it sign `message` with an Ed25519 key that it holds; the 64 bytes of RFC 8032. It may ask its owner first.
    ///
    /// # Errors
    /// [`AgentError::Lacks`], [`AgentError::TooLong`], [`AgentError::Failed`], also where its owner says no, and
    /// [`AgentError::Unsupported`].
    pub async fn sign(&self, key: &PublicKey, message: &[u8]) -> Result<[u8; 64], AgentError> {
        if message.len() > MAX_MESSAGE {
            return Err(AgentError::TooLong(message.len()));
        }
        if !self.holds(key).await? {
            return Err(AgentError::Lacks(key.fingerprint()));
        }
        let unsupported = || AgentError::Unsupported(key.fingerprint());
        let parsed = russh::keys::PublicKey::from_bytes(key.blob()).map_err(|_| unsupported())?;
        let mut client = self.client().await?;
        // Its owner may be asked, and takes the time that people take.
        let signed = client.sign_request_signature(&parsed, None, message).await;
        let signature = signed.map_err(|source| AgentError::Failed {
            socket: self.socket.clone(),
            doing: "signing",
            source: Box::new(source),
        })?;
        signature.as_bytes().try_into().map_err(|_| unsupported())
    }

    async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, russh::keys::Error>>,
    ) -> Result<T, AgentError> {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(AgentError::Failed { socket: self.socket.clone(), doing, source: Box::new(source) }),
            Err(_) => Err(AgentError::Silent { socket: self.socket.clone(), doing }),
        }
    }
}
