//! A gateway and machines in memory.
#![allow(dead_code, reason = "each test program uses a part")]

use std::net::IpAddr;

use base64ct::{Base64, Encoding as _};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{ManualClock, MemoryStore, block_on};
use toehold_core::{Clock, SecretBytes, Store, Timestamp};
use toehold_joinproto::admission::{Desk, NewToken, Vault};
use toehold_joinproto::pin::{Pin, PinAlgorithm};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::{
    AgentIdentity, Channel, ClientConfig, Conversation, CookieKeys, Ended, Exporter, FreshIdentity, Gateway, Joined, Turn,
};
use toehold_joinproto::{Endpoint, GatewayIdentity, JoinError};

/// Hides nothing, but says to whom it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenVault;

impl Vault for OpenVault {
    fn seal(&self, name: &str, secret: &SecretBytes) -> Result<String, String> {
        Ok(format!("{name} {}", Base64::encode_string(secret.expose())))
    }

    fn open(&self, name: &str, sealed: &str) -> Result<SecretBytes, String> {
        let text = sealed.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).ok_or("another's")?;
        Base64::decode_vec(text).map(SecretBytes::new).map_err(|e| e.to_string())
    }
}

pub(crate) const GATEWAY_SPKI: [u8; 44] = {
    let mut spki = [0x57; 44];
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let mut place = 0;
    while place < prefix.len() {
        spki[place] = prefix[place];
        place += 1;
    }
    spki
};

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

pub(crate) fn start() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

pub(crate) fn identity(seed: u8) -> AgentIdentity {
    AgentIdentity::from_saved(&zeroize::Zeroizing::new([seed; 32]))
}

pub(crate) fn new_token() -> NewToken {
    NewToken::new("agent".parse().unwrap())
}

pub(crate) fn source() -> IpAddr {
    "192.0.2.7".parse().unwrap()
}

pub(crate) fn endpoint() -> Endpoint {
    "gw.example.net:7443".parse().unwrap()
}

pub(crate) fn gateway_identity() -> GatewayIdentity {
    GatewayIdentity::from_key(&GATEWAY_SPKI)
}

/// What both ends of one connection know.
pub(crate) fn channel(exporter: u8) -> Channel {
    Channel { exporter: Exporter([exporter; 32]), gateway_key: *gateway_identity().pin().digest(), source: source() }
}

/// Pins of the present and the next key.
pub(crate) fn pins() -> Vec<Pin> {
    vec![gateway_identity().pin(), Pin::new(PinAlgorithm::Sha256, [9; 32])]
}

pub(crate) type LabDesk<S> = Desk<S, ManualClock, OpenVault>;

/// A gateway's process at a store.
pub(crate) struct Lab<S> {
    pub(crate) desk: LabDesk<S>,
    pub(crate) gateway: Gateway,
}

impl Lab<MemoryStore> {
    pub(crate) fn new() -> Self {
        let clock = ManualClock::new(start());
        Self::at(MemoryStore::with_clock(clock.clone()), clock)
    }

    pub(crate) fn token(&self, new: NewToken, seed: u64) -> Token {
        block_on(self.desk.create(new, &mut rng(seed))).unwrap()
    }

    /// Another gateway's process at the same store.
    pub(crate) fn second(&self) -> Self {
        Self::at(self.desk.store.clone(), self.desk.clock.clone())
    }
}

impl<S: Store> Lab<S> {
    pub(crate) fn at(store: S, clock: ManualClock) -> Self {
        let gateway = Gateway { cookies: CookieKeys::generate(&mut rng(99)), endpoints: vec![endpoint()] };
        Self { desk: Desk::new(store, clock, OpenVault), gateway }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.desk.clock.now()
    }

    /// A whole join over one connection; `meddle` sees every frame on its way, numbered from 0, and may change it.
    pub(crate) async fn converse(
        &self,
        token: &Token,
        identity: &AgentIdentity,
        seed: u64,
        mut meddle: impl FnMut(usize, &mut Vec<u8>),
    ) -> (Result<Joined, JoinError>, Option<Ended>) {
        let exporter = u8::try_from(seed % 251).unwrap();
        let mut conversation = Conversation::new(channel(exporter));
        let (mut of_client, mut of_gateway) = (rng(seed), rng(seed + 1_000_000));
        let (endpoint, gateway) = (endpoint(), gateway_identity());
        let config = ClientConfig { endpoint: &endpoint, identity, token, gateway: &gateway, exporter: Exporter([exporter; 32]) };
        let mut number = 0;
        let mut ended = None;
        macro_rules! turn {
            ($frame:expr) => {{
                let mut frame: Vec<u8> = $frame;
                meddle(number, &mut frame);
                let turn = conversation.receive(&self.gateway, &self.desk, &pins(), &frame, &mut of_gateway).await;
                let mut answer = match turn {
                    Turn::Answer(answer) => answer,
                    Turn::Last(answer, how) => {
                        ended = Some(how);
                        answer
                    }
                };
                meddle(number + 1, &mut answer);
                number += 2;
                answer
            }};
        }
        let joined = async {
            let (waiting, hello) = config.start(&mut of_client);
            let retry = turn!(hello);
            let (waiting, offer) = waiting.receive(&retry, &mut of_client)?;
            let answer = turn!(offer);
            let (waiting, proof) = waiting.receive(&answer)?;
            let accept = turn!(proof);
            let accepted = waiting.receive(&accept)?;
            let done = turn!(accepted.confirm().to_vec());
            accepted.receive(&done)
        }
        .await;
        (joined, ended)
    }

    pub(crate) async fn join(&self, token: &Token, identity: &AgentIdentity, seed: u64) -> Result<Joined, JoinError> {
        self.converse(token, identity, seed, |_, _| ()).await.0
    }
}

pub(crate) fn fresh(seed: u64) -> AgentIdentity {
    FreshIdentity::generate(&mut rng(seed)).saved()
}

/// A join of v2 by an agent of Opni's that has a signature already, and a key of its own for each try.
pub(crate) async fn join_opni<S: Store>(
    desk: &LabDesk<S>,
    token: &Token,
    client_id: &str,
    seed: u64,
) -> Result<toehold_joinproto::keyring::SharedKeys, toehold_joinproto::admission::DeskError> {
    use toehold_joinproto::agreement::{Ephemeral, Side};
    let ephemeral = Ephemeral::generate(&mut rng(seed));
    let request = toehold_joinproto::wire::AuthRequestV2 {
        client_id: client_id.to_owned(),
        client_key: *ephemeral.public(),
        friendly_name: None,
    };
    let request = toehold_joinproto::admission::OpniRequest::V2(request);
    let join = toehold_joinproto::admission::OpniJoin { token, request: &request, source: source() };
    let response = desk.join_opni(join, &mut rng(seed + 1_000_000)).await?;
    Ok(ephemeral.derive(Side::Client, &response.gateway_key).unwrap())
}

/// A token for Opni's agents.
pub(crate) fn opni_token() -> NewToken {
    NewToken { for_opni: true, ..new_token() }
}

/// What is stored below a prefix.
pub(crate) fn below(store: &MemoryStore, prefix: &str) -> Vec<String> {
    store.entries().into_iter().map(|entry| entry.key.to_string()).filter(|key| key.starts_with(prefix)).collect()
}
