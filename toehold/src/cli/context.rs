//! What a command works with: the state directory and everything that is wired to it.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use toehold_core::{
    AuditEvent, AuditSink as _, Clock as _, HostKeyPolicy, HostRecord, Identity, KnownHost, Route, SecretBytes, Source,
    StoreAudit, StoreError, Stored,
};
use toehold_session::{Onboarder, Pace, SessionRecord, Status};

use super::args::Global;
use super::{Failure, Output, Signals};
use crate::adapters::file_lock::FileLock;
use crate::adapters::identity::{IdentityError, Vault};
use crate::adapters::russh_connector::{JumpLogin, Limits, RusshConnector};
use crate::adapters::ssh_agent::SshAgent;
use crate::adapters::system_clock::SystemClock;
use crate::adapters::vault_sealer::VaultSealer;
use crate::master_key::{current_master_public, held_master_keys, open_master_key};
use crate::shared::AnyStore;
use crate::state::{PassphraseError, PassphraseFile, PassphraseSource, State, StateError};

/// The chain of the audit log in the embedded store that commands write for which the identity need not be unlocked.
const COMMANDS: &str = "commands";

/// An onboarder over the real world.
pub type RealOnboarder<'c> = Onboarder<&'c AnyStore, &'c RusshConnector, SystemClock, StoreAudit<AnyStore>, VaultSealer<'c>>;

/// Everything that commands share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where results go.
    pub output: Output,
    /// Whether the operator wants out.
    pub signals: Signals,
    /// The state directory.
    pub state: Arc<State>,
    /// Makes connections.
    pub connector: RusshConnector,
    /// Signs with the master key, where the operator wants that.
    pub agent: Option<SshAgent>,
}

impl Context {
    /// Opens the state directory that the options name, with its store or a shared one.
    ///
    /// # Errors
    /// Where it is not there, not private, or of a newer release; where the shared store cannot be reached, or is not to be trusted.
    pub async fn open(global: &Global, output: Output, signals: Signals) -> Result<Self, Failure> {
        let directory = state_directory(global)?;
        let agent = global.use_agent.then(SshAgent::from_environment).transpose()?;
        let state = match global.shared.at() {
            None => State::open(&directory, Asker::new(global))?,
            Some(at) => State::open_shared(&directory, &at, Asker::new(global)).await?,
        };
        let context = Self::with(state, limits(global), agent, output, signals);
        context.say_read_only();
        Ok(context)
    }

    fn say_read_only(&self) {
        if let Some(reason) = self.store().read_only() {
            self.output.aside(&reason);
        }
    }

    /// Opens the state directory for what a process that goes on only looks at: its identity is never unlocked, so that it signs nothing and
    /// opens nothing that is sealed (N2). A shared store that is not to be written to is nothing to begin with.
    ///
    /// # Errors
    /// As [`Context::open_to_change`].
    pub async fn open_to_look(global: &Global, output: Output, signals: Signals) -> Result<Self, Failure> {
        let directory = state_directory(global)?;
        let state = match global.shared.at() {
            None => State::open_to_look(&directory)?,
            Some(at) => State::open_shared_to_look(&directory, &at).await?,
        };
        let context = Self::with(state, limits(global), None, output, signals);
        context.say_read_only();
        writable(context.store())?;
        Ok(context)
    }

    /// Opens the state directory for work that changes hosts or the store: a shared store that is not to be written to stops it before
    /// anything is done (N3).
    ///
    /// # Errors
    /// As [`Context::open`]; where the store is not to be written to.
    pub async fn open_to_change(global: &Global, output: Output, signals: Signals) -> Result<Self, Failure> {
        let context = Self::open(global, output, signals).await?;
        writable(context.store())?;
        Ok(context)
    }

    /// Opens the state directory for work that a node does without a gateway.
    ///
    /// # Errors
    /// Where a shared store was named; further as [`Context::open`].
    pub async fn open_embedded(global: &Global, output: Output, signals: Signals) -> Result<Self, Failure> {
        no_shared_store(global)?;
        Self::open(global, output, signals).await
    }

    /// A context over a state directory that is open already.
    pub fn with(state: State, limits: Limits, agent: Option<SshAgent>, output: Output, signals: Signals) -> Self {
        let state = Arc::new(state);
        let for_jumps = (Arc::clone(&state), agent.clone());
        let mut connector = RusshConnector::new(limits).with_jump_logins(move |jump| {
            let (state, agent) = for_jumps.clone();
            async move { jump_login(&state, agent.as_ref(), &jump).await }
        });
        if let Some(agent) = &agent {
            connector = connector.with_agent(agent.clone());
        }
        Self { output, signals, state, connector, agent }
    }

    /// The store.
    pub fn store(&self) -> &AnyStore {
        self.state.store()
    }

    /// Puts on record in the audit log what was done. It took place: where it cannot be written down, that is told, and nothing is undone. In
    /// the embedded store it stands in a chain that is called by what does it, since the identity need not be unlocked for that.
    pub async fn put_on_record(&self, event: AuditEvent) {
        let writer = match self.store().shared() {
            None => Ok(COMMANDS.to_owned()),
            Some(_) => self.state.vault().await.map(Vault::writer),
        };
        let recorded = match writer {
            Ok(writer) => {
                let audit = StoreAudit::new(self.store().clone(), writer);
                audit.record(event).await.map_err(|error| super::chain(&error))
            }
            Err(error) => Err(super::chain(&error)),
        };
        if let Err(why) = recorded {
            self.output.aside(&format!("this is not on record in the audit log: {why}"));
        }
    }

    /// An onboarder; unlocks the identity.
    ///
    /// # Errors
    /// Where the identity cannot be unlocked.
    pub async fn onboarder(&self) -> Result<RealOnboarder<'_>, Failure> {
        let vault = self.state.vault().await.map_err(locked)?;
        Ok(Onboarder {
            store: self.state.store(),
            connector: &self.connector,
            timer: SystemClock,
            audit: StoreAudit::new(self.state.store().clone(), vault.writer()),
            sealer: VaultSealer(vault),
            pace: Pace::default(),
        })
    }

    /// The master key, ready to log in with; unlocks the identity, unless an agent signs.
    ///
    /// # Errors
    /// Where there is none, or the identity cannot be unlocked, or the agent does not hold the key.
    pub async fn master_key(&self) -> Result<Identity, Failure> {
        login_key(&self.state, self.agent.as_ref()).await.map_err(locked)
    }

    /// Every master key that a host may take, ready to log in with: the current one, then those that an open rotation or a host
    /// that was away may still need, from the newest to the oldest.
    ///
    /// # Errors
    /// As [`Context::master_key`].
    pub async fn login_keys(&self) -> Result<Vec<Identity>, Failure> {
        let current = self.master_key().await?;
        let mut keys = Vec::new();
        for record in held_master_keys(self.store()).await? {
            if record.public_key == *current.public_key() {
                continue;
            }
            match open_master_key(self.state.vault().await?, &record) {
                Ok(key) => keys.push(key),
                // Sealed to another operator, or damaged: a host that takes another of our keys is reached all the same.
                Err(error) => {
                    let fingerprint = record.public_key.fingerprint();
                    tracing::warn!(%fingerprint, "an older master key is not tried: {}", super::chain(&error));
                }
            }
        }
        keys.insert(0, current);
        Ok(keys)
    }

    /// Whether another machine may be at work on this session, as far as is known here: it goes by a shared store, its key is good still, and
    /// no process of this state directory has left it behind. Whoever names it takes it up all the same; the record's fence keeps
    /// the two apart.
    pub fn may_be_elsewhere(&self, session: &SessionRecord) -> bool {
        self.store().shared().is_some()
            && matches!(session.status, Status::Active | Status::Committing)
            && SystemClock.now() < session.expires_at
            && !FileLock::was_left(self.state.directory(), session.id)
    }

    /// The key that a managed host is held to.
    ///
    /// # Errors
    /// What the store says; a host without a recorded key is one.
    pub async fn host_key_policy(&self, route: &Route) -> Result<HostKeyPolicy, Failure> {
        host_key_policy(self.store(), route).await?.ok_or_else(|| Failure::new(format!("no host key is on record for {route}")))
    }
}

/// Sees that a store is still written to, by a look of now, before something is done again that is done from time to time: hosts and clusters are
/// changed on the word of its records, and nobody takes that back (N3).
///
/// # Errors
/// Where it is not, or does not answer.
pub async fn still_writable(store: &AnyStore) -> Result<(), Failure> {
    match store.read_only_now().await? {
        None => Ok(()),
        Some(reason) => Err(Failure::new(reason)),
    }
}

/// Sees that a store is written to, before anything is done (N3).
///
/// # Errors
/// Where it is not.
pub fn writable(store: &AnyStore) -> Result<(), Failure> {
    match store.read_only() {
        None => Ok(()),
        Some(_) => Err(Failure::new("nothing is done with a store that is behind what was seen of it")
            .hint("find out why, and then: toehold store accept-rollback")),
    }
}

/// That the identity cannot be unlocked, and what to do about it.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
pub fn locked(error: StateError) -> Failure {
    let failure = Failure::new(super::chain(&error));
    match error {
        StateError::Identity(IdentityError::NeedsPassphrase { .. }) => {
            failure.hint("name a file that has it: --passphrase-file FILE")
        }
        _ => failure,
    }
}

/// For what a node does without a gateway: says so, instead of working with another store than was named.
///
/// # Errors
/// Where a shared one was named (N2).
pub fn no_shared_store(global: &Global) -> Result<(), Failure> {
    match &global.shared.store {
        None => Ok(()),
        Some(address) => Err(Failure::usage(format!("a node comes to the shared store {address} through a gateway alone"))
            .hint("join it at a gateway: toehold agent join; or leave out --store (and TOEHOLD_STORE) to do it with what is in the state directory")),
    }
}

/// The state directory that the options name, or the default.
///
/// # Errors
/// Where there is no home directory to keep it in.
pub fn state_directory(global: &Global) -> Result<std::path::PathBuf, Failure> {
    match &global.state_dir {
        Some(directory) => Ok(directory.clone()),
        None => Ok(State::default_directory()?),
    }
}

/// How long a host may take for what.
pub fn limits(global: &Global) -> Limits {
    let usual = Limits::default();
    Limits {
        connect: global.connect_timeout.unwrap_or(usual.connect),
        login: global.login_timeout.unwrap_or(usual.login),
        request: global.request_timeout.unwrap_or(usual.request),
        ..usual
    }
}

async fn host_key_policy(store: &AnyStore, route: &Route) -> Result<Option<HostKeyPolicy>, StoreError> {
    let known = Stored::<KnownHost>::read(store, &KnownHost::key(route)?).await?;
    Ok(known.map(|known| HostKeyPolicy::Exactly(known.body.host_key)))
}

/// The current master key, out of the store or as the agent has it.
async fn login_key(state: &State, agent: Option<&SshAgent>) -> Result<Identity, StateError> {
    match agent {
        None => state.master_key().await,
        Some(agent) => {
            let public_key = current_master_public(state.store()).await?;
            agent.must_hold(&public_key).await?;
            Ok(Identity::Agent { public_key })
        }
    }
}

/// A jump host is a managed host: the master key logs in, and its host key is on record.
async fn jump_login(state: &State, agent: Option<&SshAgent>, jump: &Route) -> Result<JumpLogin, Source> {
    let store = state.store();
    // The host may be managed under a route of its own, such as a direct one; its key is on record for that.
    let managed = Stored::<HostRecord>::read(store, &HostRecord::key(&jump.account)?).await?;
    let Some(managed) = managed else {
        return Err(format!(
            "the jump host {} is not managed; bring it in first: toehold host add {}",
            jump.account, jump.account
        )
        .into());
    };
    let host_key = match host_key_policy(store, jump).await? {
        Some(policy) => policy,
        None => host_key_policy(store, &managed.body.route)
            .await?
            .ok_or_else(|| format!("no host key is on record for the jump host {}", jump.account))?,
    };
    Ok(JumpLogin { identity: login_key(state, agent).await?, host_key })
}

/// Asks for the identity's passphrase: the file that was named, else the terminal.
#[derive(Clone, Debug)]
pub struct Asker {
    file: Option<PassphraseFile>,
}

impl Asker {
    /// As the options say.
    pub fn new(global: &Global) -> Self {
        Self { file: global.passphrase_file.clone().map(PassphraseFile) }
    }

    /// A passphrase for a new identity: typed twice, or the file's.
    ///
    /// # Errors
    /// Where there is neither a file nor a terminal, or the two do not match.
    pub fn new_passphrase(&self) -> Result<SecretBytes, Failure> {
        if let Some(file) = &self.file {
            return Ok(file.read()?);
        }
        let first = prompt("New passphrase for the identity: ").map_err(PassphraseError::Terminal)?;
        let second = prompt("The same again: ").map_err(PassphraseError::Terminal)?;
        match (first, second) {
            (Some(first), Some(second)) if first == second && !first.is_empty() => Ok(first),
            (Some(first), Some(_)) if first.is_empty() => Err(Failure::new("the passphrase is empty")),
            (Some(_), Some(_)) => Err(Failure::new("the two passphrases differ")),
            _ => Err(Failure::new("there is no terminal to ask for a passphrase on").hint("name a file: --passphrase-file FILE")),
        }
    }
}

impl PassphraseSource for Asker {
    fn passphrase(&self, identity: &Path) -> Result<Option<SecretBytes>, PassphraseError> {
        match &self.file {
            Some(file) => file.passphrase(identity),
            None => prompt(&format!("Passphrase of {}: ", identity.display())).map_err(PassphraseError::Terminal),
        }
    }
}

/// How the terminal was before a passphrase was asked for, while it is.
static PROMPT: Mutex<Option<rustix::termios::Termios>> = Mutex::new(None);

/// Lets the terminal show again what is typed. Says whether a passphrase was being asked for.
pub(crate) fn leave_prompt() -> bool {
    let Some(before) = PROMPT.lock().unwrap_or_else(PoisonError::into_inner).take() else { return false };
    // A terminal that has gone needs no restoring.
    let _ = rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Now, &before);
    true
}

/// Reads a line from the terminal without showing it; `None` where there is no terminal.
pub(crate) fn prompt(question: &str) -> std::io::Result<Option<SecretBytes>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    *PROMPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(before.clone());
    // Before the question is seen: whoever answers at once is not shown either.
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = zeroize::Zeroizing::new(String::with_capacity(4096));
    let mut stderr = std::io::stderr().lock();
    let read = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).and_then(|()| stdin.read_line(&mut line));
    leave_prompt();
    read?;
    Ok(Some(SecretBytes::new(line.trim_end_matches(['\r', '\n']).as_bytes().to_vec())))
}
