//! The third version: one conversation over one pinned connection.

use futures_util::stream;
use rand_core::CryptoRng;
use toehold_core::Clock as _;
use toehold_joinproto::JoinError;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::v3::frame::MAX_FRAME;
use toehold_joinproto::v3::{AgentIdentity, ClientConfig};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::directory::{Attempt, Membership};
use super::error::{AgentError, Stage};
use super::join::Joining;
use super::session::within;
use crate::adapters::gateway_connection::{GatewayConnection, GatewayLimits};
use crate::adapters::grpc::join_v3::Frame;
use crate::adapters::grpc::join_v3::join_client::JoinClient;
use crate::adapters::system_clock::SystemClock;

/// What a frame is wrapped in has a tag and a length.
const MAX_MESSAGE: usize = MAX_FRAME + 16;

/// Joins over this connection; the attempt is durable already.
pub(super) async fn converse<R: CryptoRng>(
    connection: &GatewayConnection,
    joining: &Joining<'_>,
    identity: &AgentIdentity,
    mut attempt: Attempt,
    rng: &mut R,
) -> Result<Membership, AgentError> {
    let &Joining { line, directory, lock, limits, reached } = joining;
    let join = |source: JoinError| AgentError::Join { endpoint: line.endpoint.clone(), source };
    let config = ClientConfig {
        endpoint: &line.endpoint,
        identity,
        token: &line.token,
        gateway: connection.identity(),
        exporter: connection.exporter(),
    };
    let (awaiting, hello) = config.start(rng);
    let mut frames = Frames::open(connection, line, limits, hello).await?;
    let retry = frames.next("to answer the first message").await?;
    let (awaiting, offer) = awaiting.receive(&retry, rng).map_err(join)?;
    let answer = frames.exchange(offer, "to answer with its key").await?;
    let (awaiting, proof) = awaiting.receive(&answer).map_err(join)?;
    reached.set(Stage::Proven);
    let accept = frames.exchange(proof, "to answer the proof").await?;
    let accepted = awaiting.receive(&accept).map_err(join)?;
    attempt.role = Some(accepted.role().to_owned());
    directory.add_unconfirmed(lock, &attempt, accepted.keyring())?;
    let confirm = accepted.confirm().to_vec();
    reached.set(Stage::Confirmed);
    let done = frames.exchange(confirm, "to say that it is done").await?;
    let joined = accepted.receive(&done).map_err(join)?;
    let membership = Membership { joined: attempt.joined, role: Some(joined.role), joined_at: SystemClock.now() };
    directory.finish(lock, &membership, &joined.keyring)?;
    Ok(membership)
}

/// A frame each way in turn.
struct Frames<'a> {
    line: &'a JoinLine,
    limits: GatewayLimits,
    to: mpsc::Sender<Frame>,
    from: Streaming<Frame>,
}

impl<'a> Frames<'a> {
    /// Opens the stream, its first frame on the way.
    async fn open(
        connection: &GatewayConnection,
        line: &'a JoinLine,
        limits: GatewayLimits,
        hello: Vec<u8>,
    ) -> Result<Self, AgentError> {
        const DOING: &str = "to begin the conversation";
        let (to, mut receiver) = mpsc::channel(2);
        drop(to.send(Frame { frame: hello }).await);
        let frames = stream::poll_fn(move |context| receiver.poll_recv(context));
        let mut client =
            JoinClient::with_origin(connection.channel(), connection.origin()).max_decoding_message_size(MAX_MESSAGE);
        let opened = within(&line.endpoint, limits.answer, DOING, client.converse(frames)).await?;
        let opened = opened.map_err(|status| AgentError::of_status(status, &line.endpoint, DOING))?;
        Ok(Self { line, limits, to, from: opened.into_inner() })
    }

    async fn exchange(&mut self, frame: Vec<u8>, doing: &'static str) -> Result<Vec<u8>, AgentError> {
        // The call has ended where nobody takes it; what it ended with is the next thing that is read.
        drop(self.to.send(Frame { frame }).await);
        self.next(doing).await
    }

    async fn next(&mut self, doing: &'static str) -> Result<Vec<u8>, AgentError> {
        let message = within(&self.line.endpoint, self.limits.answer, doing, self.from.message()).await?;
        match message.map_err(|status| AgentError::of_status(status, &self.line.endpoint, doing))? {
            Some(frame) => Ok(frame.frame),
            None => Err(AgentError::Unexpected { endpoint: self.line.endpoint.clone(), what: "ended the conversation" }),
        }
    }
}
