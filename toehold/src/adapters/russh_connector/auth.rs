//! Logging in with a key, and asking about one (RFC 4252 §7).

use std::sync::Arc;

use russh::AgentAuthError;
use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use toehold_core::{ConnectError, Identity, PublicKey, Route, Source};

use super::super::ssh_agent::SshAgent;
use super::handshake::{Ended, Hop};

/// What a server answered to an authentication request.
enum Answer {
    Success,
    /// `SSH_MSG_USERAUTH_FAILURE`.
    Failure {
        /// Whether the method was fine and only more of them is wanted.
        partial: bool,
    },
}

/// Logs in as the route's user; the agent signs for a key that it holds.
pub(super) async fn log_in(
    hop: &mut Hop,
    route: &Route,
    identity: &Identity,
    agent: Option<&SshAgent>,
) -> Result<(), ConnectError> {
    let broken = |source: Source| ConnectError::Broken { route: route.to_string(), doing: LOGGING_IN, source };
    let signer = signer(identity, agent).await.map_err(broken)?;
    let public_key = identity.public_key();
    let is_rsa = public_key.algorithm() == "ssh-rsa";
    // A server may name an algorithm (RFC 8308 §3.1) that it does not take from this user, so both are tried.
    let hashes: &[_] = if is_rsa { &[Some(HashAlg::Sha512), Some(HashAlg::Sha256)] } else { &[None] };
    for hash in hashes {
        match attempt(hop, route, public_key, &signer, *hash).await? {
            Answer::Success => return Ok(()),
            Answer::Failure { partial: true } => {
                return Err(broken("the host accepts the key but wants a second proof after it".into()));
            }
            Answer::Failure { partial: false } => {}
        }
    }
    if is_rsa && query(hop, route, &Question::new(route, public_key)?, SHA_1).await? {
        return Err(broken("the host takes RSA signatures with SHA-1 only".into()));
    }
    Err(ConnectError::KeyRefused { route: route.to_string(), fingerprint: public_key.fingerprint() })
}

const LOGGING_IN: &str = "logging in";

/// Who signs.
enum Signer<'a> {
    Key(Arc<PrivateKey>),
    Agent(&'a SshAgent),
}

async fn signer<'a>(identity: &Identity, agent: Option<&'a SshAgent>) -> Result<Signer<'a>, Source> {
    if let Some(agent) = agent
        && agent.holds(identity.public_key()).await?
    {
        return Ok(Signer::Agent(agent));
    }
    match identity {
        Identity::PrivateKey { public_key, openssh } => {
            let key = PrivateKey::from_openssh(openssh.expose())
                .map_err(|_| "the private key is not an unencrypted OpenSSH private key file")?;
            if key.is_encrypted() || !key.public_key().to_bytes().is_ok_and(|blob| blob == public_key.blob()) {
                return Err("the private key does not belong to the public key, or is encrypted".into());
            }
            Ok(Signer::Key(Arc::new(key)))
        }
        Identity::Agent { public_key } => {
            Err(format!("no ssh-agent at hand holds {}; run: toehold key load", public_key.fingerprint()).into())
        }
        _ => Err("this connector logs in with private keys and through an ssh-agent only".into()),
    }
}

async fn attempt(
    hop: &mut Hop,
    route: &Route,
    public_key: &PublicKey,
    signer: &Signer<'_>,
    hash: Option<HashAlg>,
) -> Result<Answer, ConnectError> {
    let broken = |source: Source| ConnectError::Broken { route: route.to_string(), doing: LOGGING_IN, source };
    let user = route.account.user();
    let result = match signer {
        Signer::Key(key) => {
            let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
            hop.deadline.within(route, LOGGING_IN, hop.handle.authenticate_publickey(user, key)).await?
        }
        Signer::Agent(agent) => {
            let question = Question::new(route, public_key)?;
            let mut client = agent.client().await.map_err(|error| broken(error.into()))?;
            let asking = hop.handle.authenticate_publickey_with(user, question.0, hash, &mut client);
            match hop.deadline.within(route, LOGGING_IN, asking).await? {
                Ok(result) => Ok(result),
                Err(AgentAuthError::Send(_)) => Err(russh::Error::SendError),
                Err(AgentAuthError::Key(error)) => {
                    return Err(broken(format!("the ssh-agent does not sign: {error}").into()));
                }
            }
        }
    };
    settle(hop, result).await.map_err(broken)
}

/// An RSA key with the algorithm `ssh-rsa`.
const SHA_1: Option<HashAlg> = None;

/// A key to ask a server about.
pub(super) struct Question(russh::keys::PublicKey);

impl Question {
    pub(super) fn new(route: &Route, public_key: &PublicKey) -> Result<Self, ConnectError> {
        let broken = |source: Source| ConnectError::Broken { route: route.to_string(), doing: ASKING, source };
        let key = russh::keys::PublicKey::from_bytes(public_key.blob())
            .map_err(|_| broken(format!("{} keys cannot be asked about", public_key.algorithm()).into()))?;
        // Another encoding would be another key to the server, and its "no" worth nothing.
        if !key.to_bytes().is_ok_and(|blob| blob == public_key.blob()) {
            return Err(broken("the key is not in its canonical form".into()));
        }
        Ok(Self(key))
    }

    /// The hashes of the algorithms with which the key could log in; the key is refused where each of them is. To be asked
    /// on a connection each, for a server may hang up after very few refusals.
    pub(super) fn hashes(&self) -> &'static [Option<HashAlg>] {
        if self.0.algorithm().is_rsa() { &[Some(HashAlg::Sha512), Some(HashAlg::Sha256), SHA_1] } else { &[None] }
    }
}

const ASKING: &str = "asking about a key";

/// Asks whether a signature by the key, with this hash, would be a login. The connection can be used for a login afterwards.
///
/// `false` only where the server said so: a lost connection, a farewell and a time-out are errors.
pub(super) async fn query(
    hop: &mut Hop,
    route: &Route,
    question: &Question,
    hash: Option<HashAlg>,
) -> Result<bool, ConnectError> {
    let broken = |source: Source| ConnectError::Broken { route: route.to_string(), doing: ASKING, source };
    let mut signer = NeverSigns;
    let asking = hop.handle.authenticate_publickey_with(route.account.user(), question.0.clone(), hash, &mut signer);
    let answer = match hop.deadline.within(route, ASKING, asking).await? {
        Err(NotSigned::Asked) => return Ok(true),
        Err(NotSigned::Lost) => settle(hop, Err(russh::Error::SendError)).await,
        Ok(result) => settle(hop, Ok(result)).await,
    };
    match answer.map_err(broken)? {
        Answer::Failure { .. } => Ok(false),
        Answer::Success => Err(broken("the host let somebody in without a signature".into())),
    }
}

/// Tells the server's own "no" from a connection that ended: russh reports both as a failure without methods.
async fn settle(hop: &mut Hop, result: Result<AuthResult, russh::Error>) -> Result<Answer, Source> {
    match result {
        Ok(AuthResult::Success) => Ok(Answer::Success),
        Ok(AuthResult::Failure { remaining_methods, partial_success }) if !remaining_methods.is_empty() => {
            Ok(Answer::Failure { partial: partial_success })
        }
        Ok(AuthResult::Failure { .. }) => {
            let _ = tokio::time::timeout_at(hop.deadline.at, hop.handle_ended()).await;
            match hop.seen.ended() {
                Some(Ended::NoMethodLeft) => Ok(Answer::Failure { partial: false }),
                Some(Ended::Error(error)) => Err(error),
                None => Err("the connection ended".into()),
            }
        }
        Err(error) => Err(hop.reason(error).await),
    }
}

/// A signer that is asked only after the server's `SSH_MSG_USERAUTH_PK_OK`, and then does not sign.
struct NeverSigns;

enum NotSigned {
    Asked,
    Lost,
}

impl From<russh::SendError> for NotSigned {
    fn from(_: russh::SendError) -> Self {
        Self::Lost
    }
}

impl russh::Signer for NeverSigns {
    type Error = NotSigned;

    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, _: Vec<u8>) -> Result<Vec<u8>, NotSigned> {
        Err(NotSigned::Asked)
    }
}
