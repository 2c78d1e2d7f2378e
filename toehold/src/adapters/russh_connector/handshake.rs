//! From a stream to an encrypted connection with a host whose key will do.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use russh::client::{self, DisconnectReason};
use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PublicKeyOrCertificate};
use russh::{AlgorithmKind, ChannelOpenFailure, Preferred, SshId, cipher, compression};
use toehold_core::{ConnectError, HostKeyPolicy, PublicKey, Route, Source};

use super::dial::{Greeting, Lifeline, Stream, Tethered};
use super::{Deadline, Limits};
use crate::adapters::dial::dial;

/// Host key algorithms, most wanted first. No `ssh-rsa`: its signatures are SHA-1.
const HOST_KEYS: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// AES-GCM first: it is not touched by CVE-2023-48795, whatever the host knows of strict key exchange.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];

/// An encrypted connection to one host on a route. Cut when it is dropped.
pub(super) struct Hop {
    pub(super) handle: client::Handle<Client>,
    pub(super) seen: Seen,
    pub(super) deadline: Deadline,
    host_key: PublicKey,
    greeting: Greeting,
    joined: bool,
    _lifeline: Lifeline,
}

/// What russh's task tells us beside its answers.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    host_key: Option<PublicKey>,
    ended: Option<Ended>,
}

/// How a connection ended.
pub(super) enum Ended {
    /// With a refused login after which the host lists no further method; russh ends there on its own.
    NoMethodLeft,
    /// With this error, or the host's farewell.
    Error(Source),
}

impl Seen {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the connection ended, if it did; told once.
    pub(super) fn ended(&self) -> Option<Ended> {
        self.state().ended.take()
    }
}

/// Why a handshake came to nothing.
enum Failure {
    /// The host's key is not one that the policy takes.
    HostKey(PublicKey),
    /// The host has no key of a type that was asked for.
    NoSuchHostKey,
    Other(ConnectError),
}

impl Hop {
    /// Connects to the end of `route`, through `below` where there is a jump host.
    pub(super) async fn open(
        limits: &Limits,
        below: Option<&Hop>,
        route: &Route,
        policy: &HostKeyPolicy,
        someone_decides: bool,
    ) -> Result<Self, ConnectError> {
        let mut algorithms = match policy {
            HostKeyPolicy::Exactly(key) => algorithms_of(key.algorithm()),
            _ => HOST_KEYS.to_vec(),
        };
        let mut first_found = None;
        // A host shows one key a connection. A fingerprint does not tell the type of its key, so the host is asked for
        // one type after the other.
        while !algorithms.is_empty() {
            let stream = reach(limits, below, route).await?;
            match handshake(limits, stream, route, policy, someone_decides, &algorithms).await {
                Ok(hop) => return Ok(hop),
                Err(Failure::HostKey(found)) => {
                    let types = algorithms_of(found.algorithm());
                    let before = algorithms.len();
                    algorithms.retain(|algorithm| !types.contains(algorithm));
                    first_found.get_or_insert(found);
                    if !matches!(policy, HostKeyPolicy::Fingerprint(_)) || algorithms.len() == before {
                        break;
                    }
                }
                Err(Failure::NoSuchHostKey) => break,
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Err(ConnectError::HostKeyRefused {
            route: route.to_string(),
            expected: if someone_decides || !matches!(policy, HostKeyPolicy::CallerDecides) {
                policy.to_string()
            } else {
                "pinned key of a jump host".to_owned()
            },
            found: first_found.map_or_else(|| "none of the expected type".to_owned(), |key| key.fingerprint().to_string()),
        })
    }

    /// The key that signed this connection's key exchange.
    pub(super) fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// The software that the host says to be.
    pub(super) fn software(&self) -> Option<String> {
        self.greeting.software()
    }

    /// Why the connection ended, where `error` only says that it did.
    pub(super) async fn reason(&mut self, error: impl Into<Source>) -> Source {
        // Everything that could be waited for here is over: the stream has ended.
        let closing = tokio::time::timeout_at(self.deadline.at, self.handle_ended());
        let _ = closing.await;
        match self.seen.ended() {
            Some(Ended::Error(error)) => error,
            Some(Ended::NoMethodLeft) => "the host takes no further login".into(),
            None => error.into(),
        }
    }

    /// Ends when russh's task has.
    pub(super) async fn handle_ended(&mut self) {
        if !self.joined {
            let _ = (&mut self.handle).await;
            self.joined = true;
        }
    }
}

/// The algorithms with which a host proves that it has a key of this type.
fn algorithms_of(key_type: &str) -> Vec<Algorithm> {
    let of_type = |algorithm: &Algorithm| match algorithm {
        Algorithm::Rsa { .. } => key_type == "ssh-rsa",
        other => other.as_str() == key_type,
    };
    HOST_KEYS.iter().filter(|algorithm| of_type(algorithm)).cloned().collect()
}

/// A stream to the end of `route`, from here or from the last jump host.
async fn reach(limits: &Limits, below: Option<&Hop>, route: &Route) -> Result<Box<dyn Stream>, ConnectError> {
    let account = &route.account;
    let unreachable = |source: Source| ConnectError::Unreachable { route: route.to_string(), source };
    let deadline = Deadline::after(limits.connect);
    let Some(below) = below else {
        let stream = deadline.within(route, "connecting", dial(account.host(), account.port())).await?;
        return Ok(Box::new(stream.map_err(|error| unreachable(error.into()))?));
    };
    let opening = below.handle.channel_open_direct_tcpip(account.host(), account.port().into(), "127.0.0.1", 0);
    match deadline.within(route, "asking the jump host for a connection", opening).await? {
        Ok(channel) => Ok(Box::new(channel.into_stream())),
        Err(russh::Error::ChannelOpenFailure(reason)) => Err(unreachable(match reason {
            ChannelOpenFailure::AdministrativelyProhibited => "the jump host does not forward connections there".into(),
            ChannelOpenFailure::ConnectFailed => "the jump host cannot connect there".into(),
            other => format!("the jump host opens no connection: {}", other.description()).into(),
        })),
        Err(error) => Err(unreachable(match below.seen.ended() {
            Some(Ended::Error(error)) => error,
            _ => error.into(),
        })),
    }
}

async fn handshake(
    limits: &Limits,
    stream: Box<dyn Stream>,
    route: &Route,
    policy: &HostKeyPolicy,
    someone_decides: bool,
    algorithms: &[Algorithm],
) -> Result<Hop, Failure> {
    let config = client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-Toehold_", env!("CARGO_PKG_VERSION")))),
        preferred: Preferred {
            key: Cow::Owned(algorithms.to_vec()),
            cipher: Cow::Borrowed(CIPHERS),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        keepalive_interval: Some(limits.keep_alive),
        keepalive_max: 3,
        ..client::Config::default()
    };
    let deadline = Deadline::after(limits.login);
    let (stream, lifeline) = Tethered::new(stream);
    let (seen, greeting) = (Seen::default(), stream.greeting());
    let client = Client { policy: policy.clone(), someone_decides, seen: seen.clone() };
    let connecting = client::connect_stream(Arc::new(config), stream, client);
    let result = deadline.within(route, "exchanging keys", connecting).await.map_err(Failure::Other)?;
    let host_key = seen.state().host_key.take();
    let broken =
        |source: Source| Failure::Other(ConnectError::Broken { route: route.to_string(), doing: "exchanging keys", source });
    match (result, host_key) {
        (Ok(handle), Some(host_key)) => {
            Ok(Hop { handle, seen, deadline, host_key, greeting, joined: false, _lifeline: lifeline })
        }
        (Err(russh::Error::UnknownKey), Some(found)) => Err(Failure::HostKey(found)),
        (Err(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, .. }), _)
            if !matches!(policy, HostKeyPolicy::CallerDecides) =>
        {
            Err(Failure::NoSuchHostKey)
        }
        (Err(error), _) => Err(broken(match seen.ended() {
            Some(Ended::Error(farewell)) => farewell,
            _ => error.into(),
        })),
        (Ok(_), None) => Err(broken("the host proved no key".into())),
    }
}

/// Our side of russh's task.
pub(super) struct Client {
    policy: HostKeyPolicy,
    someone_decides: bool,
    seen: Seen,
}

impl client::Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        if key.certificate().is_some() {
            return Err(russh::Error::UnknownAlgo);
        }
        let blob = key.public_key().to_bytes().map_err(russh::Error::SshKey)?;
        let key = PublicKey::from_blob(&blob).map_err(|_| russh::Error::UnknownKey)?;
        let taken = match &self.policy {
            HostKeyPolicy::Exactly(expected) => key == *expected,
            HostKeyPolicy::Fingerprint(expected) => key.fingerprint() == *expected,
            HostKeyPolicy::CallerDecides => self.someone_decides,
            _ => false,
        };
        self.seen.state().host_key = Some(key);
        Ok(taken)
    }

    async fn kex_done(
        &mut self,
        _shared_secret: Option<&[u8]>,
        names: &russh::Names,
        _session: &mut client::Session,
    ) -> Result<(), russh::Error> {
        // CVE-2023-48795: packets can be cut out of the beginning of such a connection unseen.
        if names.cipher == cipher::CHACHA20_POLY1305 && !names.strict_kex() {
            return Err(russh::Error::InvalidConfig(
                "the host offers neither strict key exchange nor a cipher that is safe without it".to_owned(),
            ));
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<russh::Error>) -> Result<(), russh::Error> {
        self.seen.state().ended = Some(match reason {
            DisconnectReason::Error(russh::Error::NoAuthMethod) => Ended::NoMethodLeft,
            DisconnectReason::Error(error) => Ended::Error(error.into()),
            DisconnectReason::ReceivedDisconnect(farewell) => {
                Ended::Error(format!("the host closed the connection: {}", words(&farewell.message)).into())
            }
        });
        Ok(())
    }

    // A host has no business to open channels to us: dropping the reply refuses them.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: &str,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: russh::Channel<client::Msg>,
        _: &str,
        _: u32,
        _: client::ChannelOpenHandle,
        _: &mut client::Session,
    ) -> Result<(), russh::Error> {
        Ok(())
    }
}

/// A host's words, fit for a terminal: printable, on one line, at most 200 characters.
pub(crate) fn words(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
