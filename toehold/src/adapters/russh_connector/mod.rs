//! The way to a host over the network: russh behind [`toehold_core::Connector`].

mod auth;
mod dial;
mod handshake;
mod session;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::HashAlg;
use toehold_core::{ConnectError, Connector, HostKeyPolicy, Identity, KeyAnswer, Login, PublicKey, Route, Source};
use tokio::time::Instant;

pub use session::RusshSession;

use auth::Question;
pub(crate) use dial::{Lifeline, Tethered};
use handshake::Hop;
pub(crate) use handshake::words;

use super::ssh_agent::SshAgent;

/// How long a [`RusshConnector`] waits for what. Whatever hangs, every call ends after these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the look-up of a host's name and a TCP connection to one of its addresses, or for a jump host to make that
    /// connection. Default 10 s: above three lost SYN packets (1 + 2 + 4 s).
    pub connect: Duration,
    /// From the first byte on a connection until the login is made and SFTP is open, for each host on the way. Default
    /// 20 s: above what a slow board needs for its key exchange, or a reverse look-up in `sshd` that times out.
    pub login: Duration,
    /// For the answer to one SFTP request. Default 20 s: above a disk that has to spin up.
    pub request: Duration,
    /// After this long without a sign of the host on an open connection it is asked for one; after the third question
    /// without an answer the connection is given up. Default 15 s.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            login: Duration::from_secs(20),
            request: Duration::from_secs(20),
            keep_alive: Duration::from_secs(15),
        }
    }
}

/// How to log in to a jump host.
#[derive(Debug)]
pub struct JumpLogin {
    /// The key.
    pub identity: Identity,
    /// The host keys that will do; [`HostKeyPolicy::CallerDecides`] is refused, since nobody decides on the way.
    pub host_key: HostKeyPolicy,
}

type JumpLogins = Arc<dyn Fn(Route) -> Pin<Box<dyn Future<Output = Result<JumpLogin, Source>> + Send>> + Send + Sync>;

/// Connects over TCP, directly or through jump hosts, and logs in with russh.
///
/// `curve25519-sha256` (with ML-KEM where the host has it) and strict key exchange are offered; a host without the
/// latter gets no cipher that CVE-2023-48795 weakens. SHA-1 signatures are neither made nor accepted.
#[derive(Clone)]
pub struct RusshConnector {
    limits: Limits,
    agent: Option<SshAgent>,
    jump_logins: Option<JumpLogins>,
}

impl fmt::Debug for RusshConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RusshConnector").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for RusshConnector {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl RusshConnector {
    /// A connector with these limits that knows no jump hosts.
    pub fn new(limits: Limits) -> Self {
        Self { limits, agent: None, jump_logins: None }
    }

    /// The same with an agent that signs for the keys that it holds, also for those that are at hand as well.
    #[must_use]
    pub fn with_agent(mut self, agent: SshAgent) -> Self {
        self.agent = Some(agent);
        self
    }

    /// The same with a way to learn how each jump host is logged in to. It is asked with the part of the route that ends
    /// at the jump host.
    #[must_use]
    pub fn with_jump_logins<F, R>(mut self, jump_logins: F) -> Self
    where
        F: Fn(Route) -> R + Send + Sync + 'static,
        R: Future<Output = Result<JumpLogin, Source>> + Send + 'static,
    {
        self.jump_logins = Some(Arc::new(move |jump| Box::pin(jump_logins(jump))));
        self
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// A connection whose host key the policy takes, and the jump hosts below it; nobody is logged in at its end yet.
    async fn connect(&self, route: &Route, policy: &HostKeyPolicy) -> Result<(Hop, Vec<Hop>), ConnectError> {
        let mut below = Vec::with_capacity(route.jumps.len());
        for (index, jump) in route.jumps.iter().enumerate() {
            let jump = Route { account: jump.clone(), jumps: route.jumps.iter().take(index).cloned().collect() };
            let login = match &self.jump_logins {
                None => Err("no login for jump hosts is set up".into()),
                Some(jump_logins) => jump_logins(jump.clone()).await,
            }
            .map_err(|source| ConnectError::Unreachable { route: jump.to_string(), source })?;
            let mut hop = Hop::open(&self.limits, below.last(), &jump, &login.host_key, false).await?;
            auth::log_in(&mut hop, &jump, &login.identity, self.agent.as_ref()).await?;
            below.push(hop);
        }
        let hop = Hop::open(&self.limits, below.last(), route, policy, true).await?;
        Ok((hop, below))
    }

    /// Asks about the key with each of the hashes, on a connection each, until one is accepted; `None` without hashes.
    async fn ask(
        &self,
        route: &Route,
        question: &Question,
        hashes: impl Iterator<Item = Option<HashAlg>> + Send,
        host_key: &HostKeyPolicy,
    ) -> Result<Option<KeyAnswer>, ConnectError> {
        let mut answer: Option<KeyAnswer> = None;
        for hash in hashes {
            // One host answers all of it.
            let same_host = answer.map(|answer| HostKeyPolicy::Exactly(answer.host_key));
            let (mut hop, below) = self.connect(route, same_host.as_ref().unwrap_or(host_key)).await?;
            let accepted = auth::query(&mut hop, route, question, hash).await?;
            answer = Some(KeyAnswer { accepted, host_key: hop.host_key().clone() });
            session::close(hop, below).await;
            if accepted {
                break;
            }
        }
        Ok(answer)
    }
}

impl Connector for RusshConnector {
    type Session = RusshSession;

    async fn log_in(&self, login: &Login<'_>) -> Result<RusshSession, ConnectError> {
        let (mut hop, below) = self.connect(login.route, login.host_key).await?;
        let queried = match login.query {
            None => None,
            Some(key) => {
                let question = Question::new(login.route, key)?;
                let mut hashes = question.hashes().iter().copied();
                let mut accepted = match hashes.next() {
                    Some(hash) => auth::query(&mut hop, login.route, &question, hash).await?,
                    None => false,
                };
                if !accepted {
                    let same_host = HostKeyPolicy::Exactly(hop.host_key().clone());
                    accepted = self.ask(login.route, &question, hashes, &same_host).await?.is_some_and(|answer| answer.accepted);
                }
                Some(accepted)
            }
        };
        auth::log_in(&mut hop, login.route, login.identity, self.agent.as_ref()).await?;
        RusshSession::open(hop, below, login.route, &self.limits, queried).await
    }

    async fn would_accept(
        &self,
        route: &Route,
        public_key: &PublicKey,
        host_key: &HostKeyPolicy,
    ) -> Result<KeyAnswer, ConnectError> {
        let question = Question::new(route, public_key)?;
        self.ask(route, &question, question.hashes().iter().copied(), host_key).await?.ok_or_else(|| ConnectError::Broken {
            route: route.to_string(),
            doing: "asking about a key",
            source: "there is nothing to ask".into(),
        })
    }
}

/// A point in time up to which something may take, and the limit that it came from.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    seconds: u64,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, seconds: limit.as_secs() }
    }

    /// The result of `work`, or [`ConnectError::TimedOut`].
    async fn within<T>(self, route: &Route, doing: &'static str, work: impl Future<Output = T>) -> Result<T, ConnectError> {
        tokio::time::timeout_at(self.at, work).await.map_err(|_| ConnectError::TimedOut {
            route: route.to_string(),
            doing,
            seconds: self.seconds,
        })
    }
}
