//! A joined agent's session with its gateway: both prove that they have the keys, then pins, pings and the agent's own record.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use toehold_core::Timestamp;
use toehold_joinproto::Endpoint;
use toehold_joinproto::challenge::{Assertion, ChallengeError};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::line::MAX_PINS;
use toehold_joinproto::pin::Pin;
use toehold_specsign::{MAX_DOCUMENT, Sha256Digest, SpecName, TrustedKeys};
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::metadata::MetadataValue;

use super::error::AgentError;
use crate::adapters::gateway_connection::GatewayConnection;
use crate::adapters::grpc::agent_v1::agent_client::AgentClient;
use crate::adapters::grpc::agent_v1::answer::Answer;
use crate::adapters::grpc::agent_v1::request::Request;
use crate::adapters::grpc::agent_v1::{self, Ping, Pins, SpecBytes};

/// The most bytes that a message of a session has.
const MAX_MESSAGE: usize = 64 * 1024;
/// The most parts that a specification is taken in.
const MAX_PARTS: usize = 4096;

/// What a machine that has joined begins with of a specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecTrust {
    /// The lowest serial that is taken.
    pub serial: u64,
    /// Whose signatures count.
    pub keys: TrustedKeys,
}

/// An agent as its gateway has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whoami {
    /// Its id.
    pub id: String,
    /// What it joined as.
    pub role: String,
    /// Its labels, by name.
    pub labels: Vec<(String, String)>,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// A session in which both sides have proven that they have the keys. It lives as long as its connection.
#[derive(Debug)]
pub struct AgentSession {
    endpoint: Endpoint,
    limit: Duration,
    to: mpsc::Sender<agent_v1::Request>,
    from: Streaming<agent_v1::Answer>,
    pins: Option<Vec<Pin>>,
}

impl AgentSession {
    /// Authenticates both ways over a connection to the pinned gateway. `limit` is how long each answer may take.
    ///
    /// # Errors
    /// [`AgentError::NotKnown`] where one of the two does not have the keys; what else fails.
    pub async fn open<R: CryptoRng>(
        connection: &GatewayConnection,
        endpoint: &Endpoint,
        id: &str,
        keys: &SharedKeys,
        limit: Duration,
        rng: &mut R,
    ) -> Result<Self, AgentError> {
        let not_known = |error: ChallengeError| match error {
            ChallengeError::Mismatch => AgentError::NotKnown { endpoint: endpoint.clone() },
            source => AgentError::Join { endpoint: endpoint.clone(), source: source.into() },
        };
        let assertion = Assertion::new(id, rng).map_err(not_known)?;
        let (to, mut receiver) = mpsc::channel(4);
        let mut request = tonic::Request::new(stream::poll_fn(move |context| receiver.poll_recv(context)));
        for (name, value) in assertion.metadata() {
            let value: MetadataValue<_> = value.parse().map_err(|_| not_known(ChallengeError::Metadata))?;
            request.metadata_mut().insert(name, value);
        }
        let mut client =
            AgentClient::with_origin(connection.channel(), connection.origin()).max_decoding_message_size(MAX_MESSAGE);
        let opened = within(endpoint, limit, "to begin a session", client.session(request)).await?;
        let opened = opened.map_err(|status| refused(status, endpoint, "to begin a session"))?;
        let mut session = Self { endpoint: endpoint.clone(), limit, to, from: opened.into_inner(), pins: None };
        let Answer::Challenge(challenge) = session.next("to challenge this machine").await? else {
            return Err(session.unexpected("sent something else than its challenge"));
        };
        let (awaiting, response) = assertion.respond(&challenge, keys).map_err(not_known)?;
        session.send(Request::Response(response)).await?;
        let Answer::Proof(proof) = session.next("to authenticate this machine").await? else {
            return Err(session.unexpected("sent something else than its own proof"));
        };
        awaiting.finish(&proof, keys).map_err(not_known)?;
        match session.next("to name its keys").await? {
            Answer::Pins(pins) => session.pins = Some(session.read_pins(&pins)?),
            _ => return Err(session.unexpected("sent something else than its pins")),
        }
        Ok(session)
    }

    /// Pins of the gateway's present and next keys that it has sent, and that [`AgentSession::pins_saved`] has not been told of.
    pub fn new_pins(&self) -> Option<&[Pin]> {
        self.pins.as_deref()
    }

    /// Tells the gateway that these pins are durable here, and waits until it has noted that (J4).
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn pins_saved(&mut self, pins: &[Pin]) -> Result<(), AgentError> {
        if self.pins.as_deref() == Some(pins) {
            self.pins = None;
        }
        let pins = Pins { pins: pins.iter().map(Pin::to_string).collect() };
        self.send(Request::PinsSaved(pins)).await?;
        match self.answer("to note the pins").await? {
            Answer::PinsNoted(_) => Ok(()),
            _ => Err(self.unexpected("sent something else than that it has noted the pins")),
        }
    }

    /// The agent as the gateway has it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn whoami(&mut self) -> Result<Whoami, AgentError> {
        self.send(Request::Whoami(agent_v1::Whoami {})).await?;
        let Answer::Identity(identity) = self.answer("to say who this machine is").await? else {
            return Err(self.unexpected("sent something else than who this machine is"));
        };
        let mut labels: Vec<_> = identity.labels.into_iter().collect();
        labels.sort();
        let joined_at = Timestamp::from_unix_seconds(identity.joined_at);
        Ok(Whoami { id: identity.id, role: identity.role, labels, joined_at })
    }

    /// Sends these bytes (at most 64) and has them back; returns the gateway's clock.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn ping(&mut self, payload: &[u8]) -> Result<Timestamp, AgentError> {
        self.send(Request::Ping(Ping { payload: payload.to_vec() })).await?;
        match self.answer("to answer a ping").await? {
            Answer::Pong(pong) if pong.payload == payload => Ok(Timestamp::from_unix_seconds(pong.time)),
            _ => Err(self.unexpected("sent something else than the ping's bytes")),
        }
    }

    /// The document of a specification as the gateway has it now; `None` where it has none. It is to be judged as if it had come from
    /// anywhere.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn spec(&mut self, name: &SpecName) -> Result<Option<Vec<u8>>, AgentError> {
        const DOING: &str = "to send a specification";
        let mut begun: Option<(Vec<u8>, Vec<u8>)> = None;
        // Another version may come while one is taken.
        for _ in 0..=MAX_PARTS {
            let (digest, offset) =
                begun.as_ref().map_or_else(Default::default, |(digest, has)| (digest.clone(), has.len() as u64));
            self.send(Request::SpecPart(agent_v1::SpecPart { name: name.to_string(), offset, digest })).await?;
            let Answer::SpecBytes(SpecBytes { digest, size, bytes }) = self.answer(DOING).await? else {
                return Err(self.unexpected("sent something else than a part of a specification"));
            };
            if digest.is_empty() {
                return Ok(None);
            }
            let size = usize::try_from(size).ok().filter(|size| *size <= MAX_DOCUMENT);
            let size = size.ok_or_else(|| self.unexpected("has a specification that is over the limit"))?;
            let mut document = match begun.take() {
                Some((before, document)) if before == digest => document,
                Some(_) if bytes.is_empty() => continue,
                _ => Vec::new(),
            };
            if bytes.is_empty() || document.len() + bytes.len() > size {
                return Err(self.unexpected("sent parts of a specification that do not fit together"));
            }
            document.extend_from_slice(&bytes);
            if document.len() < size {
                begun = Some((digest, document));
            } else if digest == Sha256Digest::of(&document).0 {
                return Ok(Some(document));
            } else {
                return Err(self.unexpected("sent another specification than it announced"));
            }
        }
        Err(self.unexpected("changed the specification again and again while it was sent"))
    }

    /// What the operator of the gateway says a machine begins with, by specification: the lowest serial, and whom to trust (S3). Of
    /// `name` alone, as it is now, or of all that there are, which may be some seconds old.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn trusted_specs(&mut self, name: Option<&SpecName>) -> Result<BTreeMap<SpecName, SpecTrust>, AgentError> {
        let name = name.map(ToString::to_string).unwrap_or_default();
        self.send(Request::SpecTrust(agent_v1::SpecTrust { name })).await?;
        let Answer::TrustedSpecs(trusted) = self.answer("to name the specifications to begin with").await? else {
            return Err(self.unexpected("sent something else than the specifications to begin with"));
        };
        let read = |spec: agent_v1::TrustedSpec| {
            let keys = spec.keys.iter().map(|key| key.parse().ok()).collect::<Option<Vec<_>>>()?;
            let keys = TrustedKeys::new(keys, usize::try_from(spec.threshold).ok()?).ok()?;
            Some((spec.name.parse().ok()?, SpecTrust { serial: spec.serial, keys }))
        };
        let read = trusted.specs.into_iter().map(read).collect::<Option<_>>();
        read.ok_or_else(|| self.unexpected("sent specifications to begin with that are none"))
    }

    /// Takes a slot of a governor for an update of one of this machine's directories, which `root` stands for; its number, or `None` where
    /// all are taken. `lease` is how long the update may take.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn take_slot(&mut self, governor: &str, root: &str, lease: Duration) -> Result<Option<u32>, AgentError> {
        let lease = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
        let (governor, root) = (governor.to_owned(), root.to_owned());
        self.send(Request::TakeSlot(agent_v1::TakeSlot { governor, root, lease })).await?;
        match self.answer("to say whether this machine may be updated now").await? {
            Answer::Slot(agent_v1::SlotAnswer { taken, number }) => Ok(taken.then_some(number)),
            _ => Err(self.unexpected("sent something else than whether there is a slot")),
        }
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn free_slot(&mut self, governor: &str, root: &str, number: u32) -> Result<(), AgentError> {
        let (governor, root) = (governor.to_owned(), root.to_owned());
        self.send(Request::FreeSlot(agent_v1::FreeSlot { governor, root, number })).await?;
        match self.answer("to take a slot back").await? {
            Answer::SlotFreed(_) => Ok(()),
            _ => Err(self.unexpected("sent something else than that the slot is free")),
        }
    }

    /// The next answer to a request; pins that come unasked are kept for [`AgentSession::new_pins`].
    async fn answer(&mut self, doing: &'static str) -> Result<Answer, AgentError> {
        loop {
            match self.next(doing).await? {
                Answer::Pins(pins) => self.pins = Some(self.read_pins(&pins)?),
                answer => return Ok(answer),
            }
        }
    }

    async fn next(&mut self, doing: &'static str) -> Result<Answer, AgentError> {
        let message = within(&self.endpoint, self.limit, doing, self.from.message()).await?;
        let message = message.map_err(|status| refused(status, &self.endpoint, doing))?;
        match message {
            Some(agent_v1::Answer { answer: Some(answer) }) => Ok(answer),
            Some(_) => Err(self.unexpected("sent an empty answer")),
            None => Err(self.unexpected("ended the session")),
        }
    }

    async fn send(&self, request: Request) -> Result<(), AgentError> {
        // The call has ended where nobody takes it; what it ended with is the next thing that is read.
        drop(self.to.send(agent_v1::Request { request: Some(request) }).await);
        Ok(())
    }

    fn read_pins(&self, pins: &Pins) -> Result<Vec<Pin>, AgentError> {
        let read: Result<Vec<Pin>, _> = pins.pins.iter().map(|pin| pin.parse()).collect();
        match read {
            Ok(pins) if (1..=MAX_PINS).contains(&pins.len()) => Ok(pins),
            _ => Err(self.unexpected("sent pins that are none")),
        }
    }

    fn unexpected(&self, what: &'static str) -> AgentError {
        AgentError::Unexpected { endpoint: self.endpoint.clone(), what }
    }
}

/// A session that is not let in ends with one status, whatever the reason.
fn refused(status: tonic::Status, endpoint: &Endpoint, doing: &'static str) -> AgentError {
    match AgentError::of_status(status, endpoint, doing) {
        AgentError::Refused { code: tonic::Code::Unauthenticated | tonic::Code::PermissionDenied, .. } => {
            AgentError::NotKnown { endpoint: endpoint.clone() }
        }
        error => error,
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(
    endpoint: &Endpoint,
    limit: Duration,
    doing: &'static str,
    answer: impl Future<Output = T>,
) -> Result<T, AgentError> {
    let timed_out = |_| AgentError::TimedOut { endpoint: endpoint.clone(), doing, limit };
    tokio::time::timeout(limit, answer).await.map_err(timed_out)
}
