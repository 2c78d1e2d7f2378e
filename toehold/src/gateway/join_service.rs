//! Version 3 of the join: frames over one stream of one connection.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use toehold_joinproto::v3::frame::Refuse;
use toehold_joinproto::v3::{Conversation, Ended, Turn};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Hub, Peer};
use super::keys::AgentPins;
use super::metrics::Counter;
use super::system_rng;
use crate::adapters::grpc::join_v3::Frame;
use crate::adapters::grpc::join_v3::join_server::Join;

/// The largest message: a frame of 4,096 bytes and protobuf's few around it.
pub(super) const MAX_MESSAGE: usize = 4_096 + 16;

#[derive(Debug)]
pub(super) struct JoinService(pub(super) Arc<Hub>);

struct Talk {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
    conversation: Conversation,
    incoming: Streaming<Frame>,
    pins: Arc<Vec<toehold_joinproto::pin::Pin>>,
    /// Until when it has to be over, also on the connection of an agent that has authenticated.
    deadline: Instant,
    is_over: bool,
}

#[tonic::async_trait]
impl Join for JoinService {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn converse(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ConverseStream>, Status> {
        let peer = Peer::of(&request)?;
        let channel =
            peer.converse().ok_or_else(|| Status::failed_precondition("a connection carries one conversation; open another"))?;
        // The pins are those of the start, so that what is noted of the agent later is what it was sent.
        let pins = self.0.pins.borrow().clone();
        let talk = Talk {
            hub: Arc::clone(&self.0),
            peer,
            conversation: Conversation::new(channel),
            incoming: request.into_inner(),
            pins,
            deadline: Instant::now() + self.0.limits.options().stranger_lifetime,
            is_over: false,
        };
        Ok(Response::new(Box::pin(unfold(talk, Talk::turn))))
    }
}

impl Talk {
    async fn turn(mut self) -> Option<(Result<Frame, Status>, Self)> {
        if self.is_over {
            return None;
        }
        let late = || Err(Status::deadline_exceeded("the conversation took too long"));
        let frame = match timeout_at(self.deadline, self.incoming.message()).await.unwrap_or_else(|_| late()) {
            Ok(Some(frame)) => frame.frame,
            Ok(None) => return None,
            Err(status) => {
                self.is_over = true;
                return Some((Err(status), self));
            }
        };
        let turn = {
            let gateway = self.hub.v3.read().await;
            self.conversation.receive(&gateway, &self.hub.desk, &self.pins, &frame, &mut system_rng()).await
        };
        let frame = match turn {
            Turn::Answer(frame) => frame,
            Turn::Last(frame, ended) => {
                self.is_over = true;
                let trouble = trouble(&ended, &frame);
                self.ended(ended).await;
                if let Some(status) = trouble {
                    return Some((Err(status), self));
                }
                frame
            }
        };
        Some((Ok(Frame { frame }), self))
    }

    async fn ended(&self, ended: Ended) {
        let (hub, source) = (&self.hub, self.peer.source);
        match ended {
            Ended::Joined(agent) => {
                hub.metrics.count(Counter::JoinedV3);
                let id = agent.key.as_deref().and_then(agent_id).unwrap_or_default();
                tracing::info!("agent {id} has joined as {} from {source}, with token {}", agent.role, agent.token);
                hub.joined(&id, agent.role.as_str(), &agent.token.to_string(), source);
                // It has saved the pins with its keys: it says so by its confirmation. A note that cannot be written is made when the
                // agent comes back.
                if let Err(error) = AgentPins::note(&hub.desk.store, &id, &agent, &self.pins).await {
                    tracing::warn!("the pins of agent {id} could not be noted: {}", crate::cli::chain(&error));
                }
            }
            Ended::Failed(error) => {
                hub.metrics.count(Counter::FailedV3);
                tracing::info!("a join from {source} ended: {error}");
            }
            Ended::Refused(error) => {
                hub.metrics.count(Counter::RefusedV3);
                hub.failed("a join", source, &error);
            }
        }
    }
}

/// Where it is the gateway's own trouble that ended it, a client that has proven itself is told so by a status: nothing was decided, and it
/// is to come again. Before its proof it is told nothing.
fn trouble(ended: &Ended, frame: &[u8]) -> Option<Status> {
    let Ended::Refused(error) = ended else { return None };
    let refuse = Refuse::decode(frame).ok().filter(|refuse| !refuse.reason.is_empty())?;
    error.is_own_trouble().then(|| Status::unavailable(refuse.reason))
}

/// The id that follows from an identity key in hex.
fn agent_id(key: &str) -> Option<String> {
    let bytes: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| key.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<_>>()?;
    Some(toehold_joinproto::v3::AgentId::of_key(bytes.as_slice().try_into().ok()?).to_string())
}
