//! What an operator asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use toehold_core::{ManagedKey, Route};
use toehold_keygen::FromPatterns;
use toehold_keygen::install::{ExpiryForm, InstallCommand, ProofSecret};

use crate::record::{HostKeyCheck, SessionRecord};

/// How long a session lives where nothing else is said: 30 minutes.
pub const DEFAULT_LIFETIME: Duration = Duration::from_mins(30);

/// A host to be brought under management.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Request {
    /// The account and the way to it.
    pub route: Route,
    /// The lines that it is to hold; the first is the master key's.
    pub keys: Vec<ManagedKey>,
    /// How the host's key is judged while it is not known (default: by its proof).
    pub host_key_check: HostKeyCheck,
    /// How long the temporary key lives (60 s to 24 h; default [`DEFAULT_LIFETIME`]).
    pub lifetime: Duration,
    /// Only from these addresses may the temporary key be used: sshd's `from=` pattern list.
    pub from: Option<FromPatterns>,
    /// The home directory to use instead of the account's own.
    pub home: Option<String>,
    /// The operator's own name for the host.
    pub label: Option<String>,
    /// The operator's tags for it.
    pub tags: BTreeMap<String, String>,
    /// Whether the temporary line has no expiry, for servers that know none.
    pub without_expiry: bool,
    /// How the expiry is written where there is one; normally found out on the host.
    pub expiry: ExpiryForm,
    /// Public halves of the host's keys in places where `sshd` does not keep them by default.
    pub host_key_files: Vec<String>,
    /// Whether the temporary private half is kept, sealed, so that a recovery can log in with it.
    pub seal_temporary_key: bool,
    /// Whether somebody pastes the installation command into a terminal, which takes only so long a line (the default). One that a
    /// program feeds to a shell may have any length.
    pub pasted: bool,
}

impl Request {
    /// A request with every default: `master` is the master key's line.
    pub fn new(route: impl Into<Route>, master: ManagedKey) -> Self {
        Self {
            route: route.into(),
            keys: vec![master],
            host_key_check: HostKeyCheck::Proof,
            lifetime: DEFAULT_LIFETIME,
            from: None,
            home: None,
            label: None,
            tags: BTreeMap::new(),
            without_expiry: false,
            expiry: ExpiryForm::Detect,
            host_key_files: Vec::new(),
            seal_temporary_key: false,
            pasted: true,
        }
    }
}

/// What the installation command needs beyond the record.
pub(crate) struct Installation {
    pub(crate) from: Option<FromPatterns>,
    pub(crate) expiry: ExpiryForm,
    pub(crate) host_key_files: Vec<String>,
    pub(crate) pasted: bool,
}

impl Installation {
    pub(crate) fn command<'a>(&'a self, record: &'a SessionRecord, secret: &'a ProofSecret) -> InstallCommand<'a> {
        let expiry = if record.without_expiry { ExpiryForm::None } else { self.expiry };
        let account = &record.route.account;
        let mut command =
            InstallCommand::new(account, record.id, &record.temporary_key, record.expires_at, secret).expiry(expiry);
        if let Some(home) = &record.home {
            command = command.home(home);
        }
        if let Some(from) = &self.from {
            command = command.from(from);
        }
        for file in &self.host_key_files {
            command = command.host_key_file(file);
        }
        command
    }
}
