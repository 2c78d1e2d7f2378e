//! Sessions of agents that have joined.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use toehold_core::{Clock as _, StoreError};
use toehold_joinproto::admission::{AgentKeys, AgentRecord, DeskError};
use toehold_joinproto::challenge::{Assertion, AwaitResponse, METADATA_CLIENT_ID, METADATA_CLIENT_RANDOM, METADATA_VERSION};
use toehold_joinproto::line::MAX_PINS;
use toehold_joinproto::pin;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Hub, OpenSession, Peer};
use super::keys::AgentPins;
use super::limits::SessionPlace;
use super::metrics::Counter;
use super::presence::Present;
use super::slots::{self, SlotError};
use super::specs::Specs;
use super::system_rng;
use crate::adapters::grpc::agent_v1::agent_server::Agent;
use crate::adapters::grpc::agent_v1::{self as wire, Answer, Identity, Pins, PinsNoted, Pong, TrustedSpecs, answer, request};
use crate::spec_store::SpecStoreError;

/// The largest message.
pub(super) const MAX_MESSAGE: usize = 4_096;
/// The most bytes that a ping carries.
const MAX_PAYLOAD: usize = 64;
/// How often, at least, an agent whose session is open is looked at; changes are seen at once, while they can be followed.
const LOOK: Duration = Duration::from_secs(60);
/// For how many messages one stands that may write into the store.
const WRITES: u32 = 10;

#[derive(Debug)]
pub(super) struct AgentService(pub(super) Arc<Hub>);

struct Session {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    id: String,
    incoming: Streaming<wire::Request>,
    pins: watch::Receiver<Arc<Vec<pin::Pin>>>,
    stopping: watch::Receiver<bool>,
    /// Until when the challenge has to be answered.
    deadline: Instant,
    state: State,
}

/// An agent that has authenticated.
struct Known {
    keys: AgentKeys,
    place: SessionPlace,
    present: Present,
    /// Its connection stays while it is there.
    _open: OpenSession,
    /// When it is looked at next.
    look_at: Instant,
}

enum State {
    Begun(AwaitResponse, Vec<u8>),
    Challenged(AwaitResponse),
    Proven(Known),
    Open(Known),
    Over,
}

#[tonic::async_trait]
impl Agent for AgentService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn session(&self, request: Request<Streaming<wire::Request>>) -> Result<Response<Self::SessionStream>, Status> {
        let peer = Peer::of(&request)?;
        let assertion = assertion(request.metadata())?;
        let id = assertion.client_id().to_owned();
        let (waiting, challenge) = AwaitResponse::challenge(assertion, &mut system_rng());
        let session = Session {
            hub: Arc::clone(&self.0),
            peer,
            id,
            incoming: request.into_inner(),
            pins: self.0.pins.clone(),
            stopping: self.0.stopping.clone(),
            deadline: Instant::now() + self.0.limits.options().stranger_lifetime,
            state: State::Begun(waiting, challenge),
        };
        Ok(Response::new(Box::pin(unfold(session, Session::next))))
    }
}

fn assertion(metadata: &MetadataMap) -> Result<Assertion, Status> {
    let one = |name: &str| {
        let mut values = metadata.get_all(name).iter();
        match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(Status::invalid_argument(format!("{name} is to be given once"))),
        }
    };
    if one(METADATA_VERSION)? != "v2" {
        return Err(Status::invalid_argument("only the second version of the challenge is spoken here"));
    }
    Assertion::from_metadata(one(METADATA_CLIENT_ID)?, one(METADATA_CLIENT_RANDOM)?)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Why an agent that has authenticated is not seen any more.
enum NotThere {
    /// It was removed, or has joined anew.
    Removed,
    /// It could not be looked at.
    Unknown(DeskError),
}

/// For how many messages of an agent's allowance one stands.
fn weight(request: Option<&request::Request>) -> u32 {
    match request {
        Some(request::Request::PinsSaved(_) | request::Request::TakeSlot(_) | request::Request::FreeSlot(_)) => WRITES,
        _ => 1,
    }
}

impl Session {
    async fn next(mut self) -> Option<(Result<Answer, Status>, Self)> {
        let answer = match std::mem::replace(&mut self.state, State::Over) {
            State::Begun(waiting, challenge) => {
                self.state = State::Challenged(waiting);
                Ok(Some(answer::Answer::Challenge(challenge)))
            }
            State::Challenged(waiting) => self.authenticate(waiting).await,
            // It was read when it authenticated, a moment ago as a rule.
            State::Proven(known) if !known.present.has_changed() && Instant::now() < known.look_at => Ok(Some(self.push(known))),
            State::Proven(known) => self.push_after_look(known).await,
            State::Open(known) => self.serve(known).await,
            State::Over => Ok(None),
        };
        let answer = answer.transpose()?.map(|answer| Answer { answer: Some(answer) });
        Some((answer, self))
    }

    /// The pins to know.
    fn push(&mut self, known: Known) -> answer::Answer {
        let pins = self.pins.borrow_and_update().iter().map(pin::Pin::to_string).collect();
        self.state = State::Open(known);
        answer::Answer::Pins(Pins { pins })
    }

    async fn push_after_look(&mut self, mut known: Known) -> Result<Option<answer::Answer>, Status> {
        self.look(&mut known).await.map_err(|not| self.not_there(not))?;
        Ok(Some(self.push(known)))
    }

    /// The agent as the store has it now.
    async fn look(&self, known: &mut Known) -> Result<AgentRecord, NotThere> {
        known.look_at = Instant::now() + LOOK;
        known.present.look();
        let agent = self.hub.desk.agent(&self.id).await.map_err(NotThere::Unknown)?;
        // One that was removed, or has joined anew, since it authenticated is not this one any more.
        let sealed = known.keys.agent().and_then(|agent| agent.sealed_keyring.as_ref());
        agent.filter(|agent| agent.sealed_keyring.as_ref() == sealed).ok_or(NotThere::Removed)
    }

    fn not_there(&self, not: NotThere) -> Status {
        match not {
            NotThere::Removed => {
                self.hub.metrics.count(Counter::SessionEnded);
                tracing::info!(
                    "the session of agent {} from {} ended: it was removed, or has joined anew",
                    self.id,
                    self.peer.source
                );
                self.peer.removed(&self.id);
                Status::unauthenticated("not authenticated")
            }
            NotThere::Unknown(error) => self.failed(&error),
        }
    }

    async fn authenticate(&mut self, waiting: AwaitResponse) -> Result<Option<answer::Answer>, Status> {
        // Also where another session on the same connection has authenticated.
        let awaited = timeout_at(self.deadline, self.incoming.message()).await;
        let message = awaited.map_err(|_| Status::deadline_exceeded("the challenge was not answered in time"))??;
        let Some(message) = message else { return Ok(None) };
        let Some(request::Request::Response(response)) = message.request else {
            return Err(Status::failed_precondition("the challenge is to be answered first"));
        };
        let outcome = self.check(waiting, &response).await;
        let counter = if outcome.is_ok() { Counter::Authenticated } else { Counter::NotAuthenticated };
        self.hub.metrics.count(counter);
        outcome.map(Some)
    }

    async fn check(&mut self, waiting: AwaitResponse, response: &[u8]) -> Result<answer::Answer, Status> {
        let hub = Arc::clone(&self.hub);
        // The same words for an agent that is not there, one that was removed, and a wrong answer.
        let unauthenticated = || Status::unauthenticated("not authenticated");
        let keys = hub.desk.keys(&self.id).await.map_err(|error| self.failed(&error))?;
        let authenticated = waiting.verify(response, keys.keys()).map_err(|_| unauthenticated())?;
        // What changes from here on is heard of.
        let present = hub.presence.enter(&self.id);
        hub.desk.confirm(&keys, authenticated.key).await.map_err(|error| match error {
            DeskError::Superseded | DeskError::Unknown | DeskError::Refused(_) => unauthenticated(),
            error => self.failed(&error),
        })?;
        let place = self.peer.authenticated(&hub.limits, &self.id)?;
        tracing::debug!("agent {} is there, from {}", self.id, self.peer.source);
        self.state = State::Proven(Known { keys, place, present, _open: self.peer.session(), look_at: Instant::now() + LOOK });
        Ok(answer::Answer::Proof(authenticated.proof_message))
    }

    fn failed(&self, error: &DeskError) -> Status {
        self.hub.failed("an agent's authentication", self.peer.source, error);
        Status::unavailable("the gateway's store does not answer; try again")
    }

    async fn serve(&mut self, mut known: Known) -> Result<Option<answer::Answer>, Status> {
        enum Event {
            Message(Option<wire::Request>),
            Pins,
            Look,
            Stop,
        }
        let message = loop {
            let event = tokio::select! {
                message = self.incoming.message() => Event::Message(message?),
                changed = self.pins.changed() => if changed.is_ok() { Event::Pins } else { Event::Stop },
                () = known.present.changed() => Event::Look,
                () = sleep_until(known.look_at) => Event::Look,
                _ = self.stopping.wait_for(|stopping| *stopping) => Event::Stop,
            };
            match event {
                Event::Message(message) => break message,
                Event::Pins => return self.push_after_look(known).await,
                Event::Look => match self.look(&mut known).await {
                    // Nobody has asked for anything: while the store does not answer, all stay, and are looked at later.
                    Ok(_) | Err(NotThere::Unknown(DeskError::Store(StoreError::Unavailable { .. }))) => {}
                    Err(not) => return Err(self.not_there(not)),
                },
                Event::Stop => return Err(Status::unavailable("the gateway is being stopped; come back")),
            }
        };
        let Some(message) = message else { return Ok(None) };
        if !known.place.message(weight(message.request.as_ref()), std::time::Instant::now()) {
            self.hub.metrics.count(Counter::MessageRefused);
            return Err(Status::resource_exhausted("too many messages of this agent; wait a minute"));
        }
        let agent = self.look(&mut known).await.map_err(|not| self.not_there(not))?;
        let answer = match message.request {
            Some(request::Request::Whoami(_)) => answer::Answer::Identity(Identity {
                id: self.id.clone(),
                role: agent.role.to_string(),
                labels: agent.labels.into_iter().collect(),
                joined_at: agent.since.unix_seconds(),
            }),
            Some(request::Request::Ping(ping)) if ping.payload.len() <= MAX_PAYLOAD => {
                answer::Answer::Pong(Pong { payload: ping.payload, time: self.hub.desk.clock.now().unix_seconds() })
            }
            Some(request::Request::Ping(_)) => return Err(Status::invalid_argument("a ping carries at most 64 bytes")),
            Some(request::Request::PinsSaved(pins)) => self.note(&agent, &pins).await?,
            Some(request::Request::SpecPart(part)) => answer::Answer::SpecBytes(self.spec(&part).await?),
            Some(request::Request::SpecTrust(wanted)) => {
                let store = &self.hub.desk.store;
                let trusted = match wanted.name.as_str() {
                    "" => self.hub.specs.trusted(store).await,
                    name => match name.parse() {
                        Ok(name) => Specs::trusted_one(store, &name).await,
                        Err(_) => Ok(TrustedSpecs::default()),
                    },
                };
                answer::Answer::TrustedSpecs(trusted.map_err(|error| self.unreadable(&error))?)
            }
            Some(request::Request::TakeSlot(wanted)) => {
                let (desk, governors) = (&self.hub.desk, &self.hub.governors);
                let taken = slots::take(&desk.store, &desk.clock, governors, &self.id, &wanted).await;
                answer::Answer::Slot(taken.map_err(|error| self.no_slot(error))?)
            }
            Some(request::Request::FreeSlot(slot)) => {
                let freed = slots::free(&self.hub.desk.store, &self.id, &slot).await;
                answer::Answer::SlotFreed(freed.map_err(|error| self.no_slot(error))?)
            }
            Some(request::Request::Response(_)) | None => {
                return Err(Status::invalid_argument("nothing that could be answered was asked"));
            }
        };
        self.state = State::Open(known);
        Ok(Some(answer))
    }

    async fn spec(&self, part: &wire::SpecPart) -> Result<wire::SpecBytes, Status> {
        let name = part.name.parse().map_err(|_| Status::invalid_argument("that is not the name of a specification"))?;
        let bytes = self.hub.specs.part(&self.hub.desk.store, &name, part.offset, &part.digest).await;
        bytes.map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &SpecStoreError) -> Status {
        self.store_failed("a specification", error)
    }

    fn no_slot(&self, error: SlotError) -> Status {
        match error {
            SlotError::Store(error) => self.store_failed("a slot", &error),
            error => Status::invalid_argument(error.to_string()),
        }
    }

    fn store_failed(&self, what: &str, error: &(dyn std::error::Error + 'static)) -> Status {
        self.hub.metrics.count(Counter::StoreFailed);
        tracing::error!("{what} for the agent {} failed: {}", self.id, crate::cli::chain(error));
        Status::unavailable("the gateway's store does not answer; try again")
    }

    async fn note(&self, agent: &AgentRecord, pins: &Pins) -> Result<answer::Answer, Status> {
        let read = pins.pins.iter().take(MAX_PINS + 1).map(|pin| pin.parse()).collect::<Result<Vec<pin::Pin>, _>>();
        let pins = read.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if pins.len() > MAX_PINS {
            return Err(Status::invalid_argument("at most 8 pins are kept"));
        }
        AgentPins::note(&self.hub.desk.store, &self.id, agent, &pins).await.map_err(|error| self.failed(&error.into()))?;
        Ok(answer::Answer::PinsNoted(PinsNoted {}))
    }
}
