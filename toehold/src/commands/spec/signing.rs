//! Who signs a specification: keys on the command line and in files, and an ssh-agent.

use std::path::Path;

use toehold_core::PublicKey;
use toehold_specsign::{KeyError, MAX_KEY_FILE, Scheme, Signature, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::public_key;
use crate::adapters::ssh_agent::{AgentError, SshAgent};
use crate::cli::Failure;
use crate::cli::args::{Global, KeyText, Signing};
use crate::cli::context::Asker;
use crate::state::PassphraseSource as _;

/// Somebody who signs.
pub(super) enum Signer {
    /// A key at hand.
    Key(SigningKey, Scheme),
    /// An agent, which makes SSH signatures: that is what agents' own rules are about.
    Agent(SshAgent, VerifyingKey, PublicKey),
}

impl Signer {
    pub(super) fn verifying_key(&self) -> VerifyingKey {
        match self {
            Self::Key(key, _) => key.verifying_key(),
            Self::Agent(_, key, _) => *key,
        }
    }

    /// How it signs envelopes.
    pub(super) fn scheme(&self) -> Scheme {
        match self {
            Self::Key(_, scheme) => *scheme,
            Self::Agent(..) => Scheme::SshSig,
        }
    }

    /// The signature over bytes that a format gave out.
    ///
    /// # Errors
    /// Where the agent does not sign.
    pub(super) async fn sign(&self, message: &[u8]) -> Result<Signature, AgentError> {
        match self {
            Self::Key(key, _) => Ok(key.sign(message)),
            Self::Agent(agent, _, key) => Ok(Signature::from_bytes(agent.sign(key, message).await?)),
        }
    }
}

/// All that the options name, each key once.
///
/// # Errors
/// Where one cannot be had.
pub(super) async fn signers(global: &Global, options: &Signing) -> Result<Vec<Signer>, Failure> {
    let mut signers: Vec<Signer> = Vec::new();
    let mut add = |signer: Signer| {
        if signers.iter().all(|other| other.verifying_key() != signer.verifying_key()) {
            signers.push(signer);
        }
    };
    // An empty variable is as good as none.
    if let Some(text) = options.key.as_ref().filter(|text| !text.0.is_empty()) {
        add(Signer::Key(key_of(global, text)?, Scheme::Plain));
    }
    for path in &options.ssh_keys {
        add(Signer::Key(key_in(global, path)?, Scheme::SshSig));
    }
    if let Some(named) = &options.agent {
        let agent = SshAgent::from_environment()?;
        let key = match named.as_str() {
            "" => VerifyingKey::from_ssh(&agent.only_ed25519().await?)?,
            named => public_key(named)?,
        };
        let ssh = key.to_ssh()?;
        add(Signer::Agent(agent, key, ssh));
    }
    Ok(signers)
}

fn key_of(global: &Global, text: &KeyText) -> Result<SigningKey, Failure> {
    match SigningKey::from_hex(&text.0) {
        Ok(key) => Ok(key),
        // A key never names a file by chance: it has 128 digits.
        Err(KeyError::NotPrivate) if text.0.len() != 128 && Path::new(&*text.0).is_file() => key_in(global, Path::new(&*text.0)),
        Err(error) => Err(Failure::new(format!("KEY, the argument or the variable: {error}"))),
    }
}

/// The private key in a file; asks for its passphrase where it has one.
///
/// # Errors
/// Where there is none, or the passphrase does not open it.
pub(super) fn key_in(global: &Global, path: &Path) -> Result<SigningKey, Failure> {
    let bytes = Zeroizing::new(super::read(path, MAX_KEY_FILE)?);
    let named = |error: KeyError| Failure::new(format!("{}: {error}", path.display()));
    match SigningKey::from_file(&bytes, None) {
        Err(KeyError::NeedsPassphrase) => {
            let passphrase = Asker::new(global).passphrase(path)?;
            let passphrase = passphrase.ok_or_else(|| {
                named(KeyError::NeedsPassphrase)
                    .hint("name a file that has it: --passphrase-file FILE; or --agent, after ssh-add")
            })?;
            SigningKey::from_file(&bytes, Some(passphrase.expose())).map_err(named)
        }
        other => other.map_err(named),
    }
}
