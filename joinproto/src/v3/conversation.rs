//! A whole conversation at the gateway, over a store.

use rand_core::CryptoRng;
use toehold_core::{Clock, Store};

use super::frame::{Done, Refuse};
use super::gateway::{AwaitConfirm, AwaitProof, Channel, Gateway, GatewayError};
use crate::admission::{Admitted, AgentRecord, Desk, DeskError, Protocol, Vault};
use crate::pin::Pin;

/// What to do after a frame.
#[derive(Debug)]
pub enum Turn {
    /// Send this, and await the next frame.
    Answer(Vec<u8>),
    /// Send this, and close.
    Last(Vec<u8>, Ended),
}

/// How a conversation ended.
#[derive(Debug)]
pub enum Ended {
    /// The peer did not prove anything, or broke off; it was told nothing.
    Failed(GatewayError),
    /// The agent has joined.
    Joined(Box<AgentRecord>),
    /// Refused after proof, or because of the store.
    Refused(DeskError),
}

/// One conversation with one client, at most one on a connection.
#[derive(Debug)]
pub struct Conversation {
    channel: Channel,
    state: State,
}

#[derive(Debug)]
enum State {
    AwaitHello,
    AwaitOffer,
    AwaitProof(AwaitProof),
    AwaitConfirm(AwaitConfirm, Box<Admitted>),
    Over,
}

impl Conversation {
    /// With whoever is at the other end of this connection.
    pub fn new(channel: Channel) -> Self {
        Self { channel, state: State::AwaitHello }
    }

    /// Takes a frame. `pins` are those of the gateway's present and next keys. The future may be dropped: the conversation is then over, and
    /// the client begins anew.
    pub async fn receive<S: Store, C: Clock, V: Vault, R: CryptoRng + ?Sized>(
        &mut self,
        gateway: &Gateway,
        desk: &Desk<S, C, V>,
        pins: &[Pin],
        frame: &[u8],
        rng: &mut R,
    ) -> Turn {
        match std::mem::replace(&mut self.state, State::Over) {
            State::AwaitHello => match gateway.hello(&self.channel, frame, desk.clock.now()) {
                Ok(retry) => self.answer(State::AwaitOffer, retry),
                Err(error) => failed(error),
            },
            State::AwaitOffer => match gateway.offer(&self.channel, frame, desk.clock.now(), rng) {
                Ok((waiting, answer)) => self.answer(State::AwaitProof(waiting), answer),
                Err(error) => failed(error),
            },
            State::AwaitProof(waiting) => {
                let token = match desk.token_for_stranger(waiting.token()).await {
                    Ok(token) => token,
                    // Not a word before the proof, not even of the store.
                    Err(error) => return Turn::Last(silence(), Ended::Refused(error)),
                };
                let key = token.as_ref().and_then(|token| match &token.protocol {
                    Protocol::V3 { key } => Some(key),
                    Protocol::Opni { .. } => None,
                });
                let (proven, token) = match (waiting.verify(frame, key), token) {
                    (Ok(proven), Some(token)) => (proven, token),
                    (Err(error), _) => return failed(error),
                    (Ok(_), None) => return failed(GatewayError::Proof),
                };
                match desk.admit(&proven, token).await {
                    Ok(admitted) => {
                        let (waiting, accept) = proven.accept(admitted.role().as_str(), pins, rng);
                        self.answer(State::AwaitConfirm(waiting, Box::new(admitted)), accept)
                    }
                    Err(error) => Turn::Last(proven.refuse(&reason(&error)), Ended::Refused(error)),
                }
            }
            State::AwaitConfirm(waiting, admitted) => match waiting.receive(frame) {
                Ok(confirmed) => match desk.complete(*admitted, confirmed).await {
                    Ok(agent) => Turn::Last(Done.encode(), Ended::Joined(Box::new(agent))),
                    Err(error) => Turn::Last(Refuse { reason: reason(&error) }.encode(), Ended::Refused(error)),
                },
                Err(error) => failed(error),
            },
            State::Over => failed(GatewayError::Frame(super::frame::FrameError::Kind)),
        }
    }

    fn answer(&mut self, state: State, frame: Vec<u8>) -> Turn {
        self.state = state;
        Turn::Answer(frame)
    }
}

fn failed(error: GatewayError) -> Turn {
    Turn::Last(silence(), Ended::Failed(error))
}

fn silence() -> Vec<u8> {
    Refuse { reason: String::new() }.encode()
}

/// What a client that has proven itself is told. What went wrong in the store is the gateway's business.
fn reason(error: &DeskError) -> String {
    if error.is_own_trouble() && !matches!(error, DeskError::Busy) {
        "the gateway's store does not answer; try again".to_owned()
    } else {
        error.to_string()
    }
}
