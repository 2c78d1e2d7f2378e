//! The state directory: the store, and the identity that opens what is sealed in it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use etcetera::base_strategy::{BaseStrategy as _, Xdg};
use toehold_core::{Identity, Key, SecretBytes, Source, StoreError, Timestamp};
use toehold_specsign::SigningKey;
use tokio::sync::OnceCell;

use crate::adapters::identity::{self, IdentityError, IdentityFile, NewIdentity, Recipient, Vault, read_wiped};
use crate::adapters::nats::{NatsAddress, NatsOptions, NatsStore};
use crate::adapters::sqlite::{self, SqliteStore};
use crate::adapters::ssh_agent::AgentError;
use crate::master_key::{self, MasterKey, MasterKeyError};
use crate::private::{self, PrivateError};
use crate::shared::{
    AnyStore, Behind, Envelope, Marks, MarksError, MemberId, OperatorSet, Origin, SharedStore, SignedError, SignedStore, Signer,
    StoreId, sealed,
};

/// The most bytes that a passphrase file may have.
const MAX_PASSPHRASE: usize = 4096;

/// Where the passphrase of an identity comes from. Never the command line: `ps` shows it to everybody.
///
/// Asked at most once, on a thread that may block, and only for an identity that has a passphrase.
pub trait PassphraseSource: Send + Sync {
    /// The passphrase of the identity in the file `identity`; `None` where there is nobody to ask.
    ///
    /// # Errors
    /// Where it was to be had and could not be read.
    fn passphrase(&self, identity: &Path) -> Result<Option<SecretBytes>, PassphraseError>;
}

/// Why a passphrase could not be read. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// The file is not private, or the system refused.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Asking for it on the terminal failed.
    #[error("the passphrase could not be read from the terminal")]
    Terminal(#[source] io::Error),
    /// The file has more bytes than any passphrase.
    #[error("{} has over {MAX_PASSPHRASE} bytes and is no passphrase file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

impl<F> PassphraseSource for F
where
    F: Fn(&Path) -> Result<Option<SecretBytes>, PassphraseError> + Send + Sync,
{
    fn passphrase(&self, identity: &Path) -> Result<Option<SecretBytes>, PassphraseError> {
        self(identity)
    }
}

/// A source for those who have no passphrase.
#[derive(Clone, Copy, Debug)]
pub struct NoPassphrase;

impl PassphraseSource for NoPassphrase {
    fn passphrase(&self, _: &Path) -> Result<Option<SecretBytes>, PassphraseError> {
        Ok(None)
    }
}

/// A file whose first line is the passphrase: `TOEHOLD_PASSPHRASE_FILE` or `--passphrase-file`.
#[derive(Clone, Debug)]
pub struct PassphraseFile(pub PathBuf);

impl PassphraseFile {
    /// Reads it. A regular file must let nobody but its owner in; a pipe such as `/dev/fd/3` is read as it is.
    ///
    /// # Errors
    /// [`PassphraseError::Private`] and [`PassphraseError::TooLong`].
    pub fn read(&self) -> Result<SecretBytes, PassphraseError> {
        let path = &self.0;
        let file = File::open(path).map_err(private::io_error("reading", path))?;
        let metadata = file.metadata().map_err(private::io_error("reading", path))?;
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(PrivateError::Loose { path: path.clone(), mode, wanted: 0o600 }.into());
        }
        let content = read_wiped(file, MAX_PASSPHRASE + 1).map_err(private::io_error("reading", path))?;
        if content.len() > MAX_PASSPHRASE {
            return Err(PassphraseError::TooLong { path: path.clone() });
        }
        let line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
        Ok(SecretBytes::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
    }
}

impl PassphraseSource for PassphraseFile {
    fn passphrase(&self, _: &Path) -> Result<Option<SecretBytes>, PassphraseError> {
        self.read().map(Some)
    }
}

/// Why the state directory could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The ssh-agent that is to sign does not.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The user has no home directory, so that there is no default place.
    #[error("there is no home directory to keep state in; name one with --state-dir or TOEHOLD_STATE_DIR")]
    NoHome,
    /// The directory is not there: nothing was initialised.
    #[error("there is no state directory {}; run: toehold init", path.display())]
    NotInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not private, not ours, or cannot be made.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The shared store was never seen from this directory.
    #[error("{} knows nothing of the store {address}; run: toehold init --store {address}", path.display())]
    NotJoined {
        /// The directory.
        path: PathBuf,
        /// The store.
        address: NatsAddress,
    },
    /// The identity is another one than the one that is a member.
    #[error("the identity {} is not the one by which this directory knows the shared store; bring that one back from its copy", path.display())]
    OtherIdentity {
        /// Where it is.
        path: PathBuf,
    },
    /// What was seen of the shared store cannot be used.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// The shared store is not to be trusted, or cannot be used.
    #[error(transparent)]
    Shared(#[from] SignedError),
    /// A member of the shared store cannot be sealed to.
    #[error(transparent)]
    Sealed(#[from] sealed::SealedError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever works with it only looks.
    #[error("this part of the process only looks, and opens no identity")]
    OnlyLooks,
    /// The identity cannot be made or unlocked.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The master key is sealed to an identity that is gone; a new one could not open it.
    #[error("the identity {} is gone, and the store's keys are sealed to it; bring it back from its copy", path.display())]
    IdentityLost {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no master key to be had.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// The passphrase could not be read.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// A key pair could not be made.
    #[error("making the master key failed")]
    Generating(#[source] Source),
    /// The thread that unlocks the identity panicked.
    #[error("unlocking the identity failed")]
    Unlocking(#[source] Source),
}

/// What [`State::init`] found and made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initialised {
    /// Whether the identity was made now.
    pub identity_created: bool,
    /// The identity's recipient; `None` for one that was there and that nobody had to unlock.
    pub recipient: Option<Recipient>,
    /// The master key, and whether it was made now.
    pub master_key: MasterKey,
}

/// Where a shared store is, and how to come to it.
#[derive(Clone, Debug)]
pub struct SharedAt {
    /// Where.
    pub address: NatsAddress,
    /// How.
    pub options: NatsOptions,
}

/// The identity of a state directory, unlocked when it is first needed: opens what is sealed, and signs what goes into a shared store.
pub struct Keys {
    directory: PathBuf,
    /// None where it is never unlocked.
    passphrase: Option<Arc<dyn PassphraseSource>>,
    vault: OnceCell<Vault>,
    signing: OnceLock<SigningKey>,
    /// Who this is in a shared store, as was seen before.
    member: OnceLock<MemberId>,
    /// The members of the shared store, to whom is sealed.
    members: Mutex<Option<OperatorSet>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Keys {
    /// Of this directory.
    pub fn new(directory: &Path, passphrase: impl PassphraseSource + 'static) -> Self {
        Self::with(directory, Some(Arc::new(passphrase)))
    }

    /// Of this directory, and never unlocked: opens nothing, and signs nothing.
    pub fn locked(directory: &Path) -> Self {
        Self::with(directory, None)
    }

    fn with(directory: &Path, passphrase: Option<Arc<dyn PassphraseSource>>) -> Self {
        Self {
            directory: directory.to_owned(),
            passphrase,
            vault: OnceCell::new(),
            signing: OnceLock::new(),
            member: OnceLock::new(),
            members: Mutex::default(),
        }
    }

    /// What is sealed from now on is sealed to these; to be told before anything is.
    ///
    /// # Errors
    /// [`sealed::SealedError::Member`].
    pub fn seal_to(&self, members: OperatorSet) -> Result<(), sealed::SealedError> {
        let audience = sealed::audience(&members)?;
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = Some(members);
        if let Some(vault) = self.vault.get() {
            vault.seal_to(audience);
        }
        Ok(())
    }

    /// Who this is in a shared store.
    pub fn is_member(&self, id: MemberId) {
        drop(self.member.set(id));
    }

    fn members(&self) -> Option<OperatorSet> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The unlocked identity; asks for its passphrase at the first call. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StateError::Identity`] and [`StateError::Passphrase`]. A later call tries again. [`StateError::OnlyLooks`] for [`Keys::locked`].
    pub async fn vault(&self) -> Result<&Vault, StateError> {
        let source = self.passphrase.as_ref().ok_or(StateError::OnlyLooks)?;
        self.vault
            .get_or_try_init(|| async {
                let directory = self.directory.clone();
                let source = Arc::clone(source);
                // A prompt waits for a person, and scrypt computes for a second.
                let unlocked = tokio::task::spawn_blocking(move || unlock(&directory, source.as_ref()))
                    .await
                    .map_err(|error| StateError::Unlocking(Box::new(error)))??;
                let is_other = |id: &MemberId| *id != MemberId::of(&unlocked.signing_key().verifying_key());
                if self.member.get().is_some_and(is_other) {
                    return Err(StateError::OtherIdentity { path: self.directory.join(identity::FILE_NAME) });
                }
                if let Some(members) = self.members() {
                    unlocked.seal_to(sealed::audience(&members)?);
                }
                Ok(unlocked)
            })
            .await
    }

    /// The key that signs; unlocks the identity.
    ///
    /// # Errors
    /// As [`Keys::vault`].
    pub async fn signing_key(&self) -> Result<SigningKey, StateError> {
        Ok(self.vault().await?.signing_key())
    }
}

impl Signer for Arc<Keys> {
    fn id(&self) -> MemberId {
        // Who was never a member has none, and writes nothing.
        self.member.get().cloned().unwrap_or_else(MemberId::nobody)
    }

    async fn sign(&self, store: &StoreId, key: &Key, origin: Origin, value: &[u8]) -> Result<Envelope, Source> {
        let vault = self.vault().await?;
        // Derived once: that costs as much as it does to sign.
        let signing = self.signing.get_or_init(|| vault.signing_key());
        Ok(Envelope::seal(signing, store, key, origin, value))
    }

    async fn reseal(&self, key: &Key, value: &[u8], members: &OperatorSet) -> Result<Option<Vec<u8>>, Source> {
        if self.members().is_some_and(|sealed_to| sealed_to.number == members.number) {
            return Ok(None);
        }
        let audience = sealed::audience(members)?;
        Ok(sealed::reseal(self.vault().await?, &audience, key, value)?)
    }
}

/// An open state directory, with its store or a shared one.
pub struct State {
    directory: PathBuf,
    store: AnyStore,
    keys: Arc<Keys>,
    /// In what the shared store is behind what was seen of it.
    behind: Vec<Behind>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl State {
    /// `toehold` in the user's data directory by the XDG Base Directory Specification: `~/.local/share/toehold`.
    ///
    /// # Errors
    /// [`StateError::NoHome`].
    pub fn default_directory() -> Result<PathBuf, StateError> {
        Ok(Xdg::new().map_err(|_| StateError::NoHome)?.data_dir().join("toehold"))
    }

    /// Opens a directory that was initialised. The identity is unlocked when it is first needed.
    ///
    /// # Errors
    /// [`StateError::NotInitialised`]; [`StateError::Private`] for a directory that others may enter; [`StateError::Store`].
    pub fn open(directory: &Path, passphrase: impl PassphraseSource + 'static) -> Result<Self, StateError> {
        Self::open_with(directory, Keys::new(directory, passphrase))
    }

    /// As [`State::open`] for whoever only looks: the identity is never unlocked.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn open_to_look(directory: &Path) -> Result<Self, StateError> {
        Self::open_with(directory, Keys::locked(directory))
    }

    fn open_with(directory: &Path, keys: Keys) -> Result<Self, StateError> {
        private::check_directory(directory).map_err(|error| {
            if error.is_absent() { StateError::NotInitialised { path: directory.to_owned() } } else { error.into() }
        })?;
        // What an agent or a node keeps there needs no store.
        let names = [sqlite::FILE_NAME.to_owned(), format!("{}-wal", sqlite::FILE_NAME), identity::FILE_NAME.to_owned()];
        if names.iter().all(|name| matches!(directory.join(name).try_exists(), Ok(false))) {
            return Err(StateError::NotInitialised { path: directory.to_owned() });
        }
        Ok(Self::with(directory, SqliteStore::open(directory)?, keys))
    }

    /// Opens a directory, and makes it with mode 0700 and an empty store where there is none. [`State::init`] does the rest.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn create(directory: &Path, passphrase: impl PassphraseSource + 'static) -> Result<Self, StateError> {
        private::create_directory(directory)?;
        Ok(Self::with(directory, SqliteStore::create(directory)?, Keys::new(directory, passphrase)))
    }

    fn with(directory: &Path, store: SqliteStore, keys: Keys) -> Self {
        Self { directory: directory.to_owned(), store: store.into(), keys: Arc::new(keys), behind: Vec::new() }
    }

    /// Opens a shared store that this directory knows. A store that is behind what was seen of it is not written to (N3).
    ///
    /// # Errors
    /// [`StateError::NotInitialised`] and [`StateError::NotJoined`]; [`StateError::Shared`] for a store that is not to be trusted;
    /// [`StateError::Store`].
    pub async fn open_shared(
        directory: &Path,
        at: &SharedAt,
        passphrase: impl PassphraseSource + 'static,
    ) -> Result<Self, StateError> {
        Self::open_shared_with(directory, at, Keys::new(directory, passphrase)).await
    }

    /// As [`State::open_shared`] for whoever only looks: what is in it is told by public keys, and the identity is never unlocked.
    ///
    /// # Errors
    /// As [`State::open_shared`].
    pub async fn open_shared_to_look(directory: &Path, at: &SharedAt) -> Result<Self, StateError> {
        Self::open_shared_with(directory, at, Keys::locked(directory)).await
    }

    async fn open_shared_with(directory: &Path, at: &SharedAt, keys: Keys) -> Result<Self, StateError> {
        private::check_directory(directory).map_err(|error| {
            if error.is_absent() { StateError::NotInitialised { path: directory.to_owned() } } else { error.into() }
        })?;
        let not_joined = || StateError::NotJoined { path: directory.to_owned(), address: at.address.clone() };
        let marks = Marks::read(directory, at.address.bucket())?.ok_or_else(not_joined)?;
        let store = NatsStore::open(&at.address, &at.options).await?;
        Self::shared(directory, store, Arc::new(keys), marks).await
    }

    /// Over a shared store that has members.
    ///
    /// # Errors
    /// As [`State::open_shared`].
    pub async fn shared(directory: &Path, store: NatsStore, keys: Arc<Keys>, marks: Marks) -> Result<Self, StateError> {
        keys.is_member(marks.seen().member);
        let store: SharedStore = SignedStore::open(store, Arc::clone(&keys), marks).await?;
        keys.seal_to(store.chain().members().clone())?;
        let behind = store.look().await?;
        Ok(Self { directory: directory.to_owned(), store: store.into(), keys, behind })
    }

    /// In what the shared store is behind what this machine has seen of it; never anything for the embedded one.
    pub fn behind(&self) -> &[Behind] {
        &self.behind
    }

    /// The identity, unlocked when it is first needed.
    pub fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The store: the one in the directory, or the shared one.
    pub fn store(&self) -> &AnyStore {
        &self.store
    }

    /// Makes what is not there yet: an identity as `new_identity` says, and a master key by `generate`. What is there stays as it
    /// is, and for that no passphrase is asked. Safe to interrupt and to run again.
    ///
    /// # Errors
    /// [`StateError::IdentityLost`]; further as [`IdentityFile::create`], [`State::vault`] and [`master_key::create_master_key`].
    pub async fn init(
        &self,
        new_identity: NewIdentity,
        generate: impl FnOnce() -> Result<Identity, Source>,
        comment: &str,
        now: Timestamp,
    ) -> Result<Initialised, StateError> {
        let current = master_key::current_master_key(&self.store).await?;
        if current.is_some() && !IdentityFile::exists(&self.directory) {
            return Err(StateError::IdentityLost { path: self.directory.join(identity::FILE_NAME) });
        }
        let made = IdentityFile::create(&self.directory, new_identity, now)?;
        let identity_created = made.is_some();
        if let Some(vault) = made {
            // Only filled already where somebody took the identity away meanwhile.
            drop(self.keys.vault.set(vault));
        }
        if let Some(record) = current {
            let master_key = MasterKey { record, created: false };
            return Ok(Initialised { identity_created, recipient: self.keys.vault.get().map(Vault::recipient), master_key });
        }
        let vault = self.vault().await?;
        let key = generate().map_err(StateError::Generating)?;
        let master_key = master_key::create_master_key(&self.store, vault, &key, comment, now).await?;
        Ok(Initialised { identity_created, recipient: Some(vault.recipient()), master_key })
    }

    /// The unlocked identity; asks for its passphrase at the first call. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Keys::vault`].
    pub async fn vault(&self) -> Result<&Vault, StateError> {
        self.keys.vault().await
    }

    /// The current master key, ready to log in with.
    ///
    /// # Errors
    /// As [`State::vault`] and [`master_key::load_master_key`].
    pub async fn master_key(&self) -> Result<Identity, StateError> {
        Ok(master_key::load_master_key(&self.store, self.vault().await?).await?)
    }
}

fn unlock(directory: &Path, source: &dyn PassphraseSource) -> Result<Vault, StateError> {
    let file = IdentityFile::read(directory)?;
    let passphrase = if file.needs_passphrase() { source.passphrase(file.secret_path())? } else { None };
    Ok(file.unlock(passphrase.as_ref())?)
}
