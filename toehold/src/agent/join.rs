//! Joining, from the first file to the last.

use rand_core::CryptoRng;
use toehold_core::Clock as _;
use toehold_joinproto::Trust;
use toehold_joinproto::line::{JoinLine, Protocol};
use toehold_joinproto::mac::{NONCE_LENGTH, uuid, uuid_v4};
use toehold_joinproto::opni::Version;

use super::directory::{AgentDirectory, AgentLock, Attempt, JoinedAs, Membership, TrustKind};
use super::error::{AgentError, Reached, Stage};
use super::resume::finish_half_done;
use super::{opni, v3};
use crate::adapters::gateway_connection::{GatewayConnection, GatewayLimits};
use crate::adapters::system_clock::SystemClock;

/// What only Opni's versions have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpniOptions {
    /// The id to join under; a random UUID where none is named.
    pub client_id: Option<String>,
    /// v2: a name for people.
    pub name: Option<String>,
    /// v1: what to join for.
    pub capability: Option<String>,
}

/// What to join, and how.
#[derive(Debug)]
pub struct JoinRequest {
    /// The line.
    pub line: JoinLine,
    /// By what the gateway is known; [`Trust::Pinned`] with the line's pins for the third version.
    pub trust: Trust,
    /// What only Opni's versions have.
    pub opni: OpniOptions,
    /// Also where the machine has joined already.
    pub rejoin: bool,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinOutcome {
    /// What the machine has joined.
    pub membership: Membership,
    /// It had before; nothing was done.
    pub already: bool,
    /// An earlier try had gone through, and was brought to its end.
    pub resumed: bool,
}

/// What all steps share.
#[derive(Clone, Copy)]
pub(super) struct Joining<'a> {
    pub(super) line: &'a JoinLine,
    pub(super) directory: &'a AgentDirectory,
    pub(super) lock: &'a AgentLock,
    pub(super) limits: GatewayLimits,
    pub(super) reached: &'a Reached,
}

/// Joins. Interrupted at any point and called again with the same line, it completes: the same admission, no further use.
///
/// # Errors
/// [`AgentError`]; `reached` says how far it was.
pub async fn join<R: CryptoRng>(
    directory: &AgentDirectory,
    request: JoinRequest,
    limits: GatewayLimits,
    reached: &Reached,
    rng: &mut R,
) -> Result<JoinOutcome, AgentError> {
    let lock = directory.lock()?;
    let line = &request.line;
    let outcome = |membership| JoinOutcome { membership, already: false, resumed: false };
    let before = directory.attempt()?.filter(|attempt| attempt.joined.is_of(line));
    if let Some(membership) = directory.membership()?
        && !request.rejoin
        && before.is_none()
    {
        if !membership.joined.is_of(line) {
            let endpoint = membership.joined.endpoint()?.to_string();
            return Err(AgentError::OtherJoined { endpoint, id: membership.joined.id });
        }
        if directory.keyring()?.is_some() {
            return Ok(JoinOutcome { already: true, ..outcome(membership) });
        }
    }
    if before.is_some() {
        // As far as it was known to be when it was cut short, until the gateway says otherwise.
        if directory.unconfirmed()?.is_some() {
            reached.set(Stage::Confirmed);
        }
        if let Some(membership) = finish_half_done(directory, &lock, limits, rng).await? {
            return Ok(JoinOutcome { resumed: true, ..outcome(membership) });
        }
        reached.set(Stage::Begun);
    }
    let joining = Joining { line, directory, lock: &lock, limits, reached };
    match line.protocol {
        Protocol::V3 => join_v3(&joining, &request.trust, rng).await.map(outcome),
        Protocol::V1 | Protocol::V2 => {
            join_opni(&joining, &request, before.map(|attempt| attempt.joined.id), rng).await?;
            // The gateway knows that the join is over once the machine has shown its keys.
            let membership = finish_half_done(directory, &lock, limits, rng).await?;
            let not_known = || AgentError::NotKnown { endpoint: line.endpoint.clone() };
            membership.map(outcome).ok_or_else(not_known)
        }
    }
}

async fn join_v3<R: CryptoRng>(joining: &Joining<'_>, trust: &Trust, rng: &mut R) -> Result<Membership, AgentError> {
    // Durable before the first message: a retry is the same admission for this key alone (J1).
    let identity = joining.directory.identity(joining.lock, rng)?;
    let attempt = attempt(joining, identity.id().to_string(), trust);
    let connection = connect(joining, trust).await?;
    v3::converse(&connection, joining, &identity, attempt, rng).await
}

async fn join_opni<R: CryptoRng>(
    joining: &Joining<'_>,
    request: &JoinRequest,
    before: Option<String>,
    rng: &mut R,
) -> Result<(), AgentError> {
    let version = match joining.line.protocol {
        Protocol::V1 => Version::V1 { capability: request.opni.capability.clone().unwrap_or_default() },
        _ => Version::V2 { friendly_name: request.opni.name.clone() },
    };
    // Durable as well: a token is kept for the id that came with it first.
    let id = request.opni.client_id.clone().or(before).unwrap_or_else(|| random_id(rng));
    let attempt = attempt(joining, id, &request.trust);
    joining.directory.begin(joining.lock, &attempt)?;
    let connection = connect(joining, &request.trust).await?;
    opni::call(&connection, joining, version, &request.trust, &attempt, rng).await
}

fn attempt(joining: &Joining<'_>, id: String, trust: &Trust) -> Attempt {
    let joined = JoinedAs::new(id, joining.line, TrustKind::of(trust));
    Attempt { joined, pins: joining.line.pins.clone(), role: None, begun_at: SystemClock.now() }
}

async fn connect(joining: &Joining<'_>, trust: &Trust) -> Result<GatewayConnection, AgentError> {
    Ok(GatewayConnection::open(&joining.line.endpoint, trust.clone(), joining.limits).await?)
}

fn random_id<R: CryptoRng>(rng: &mut R) -> String {
    let mut random = [0; NONCE_LENGTH];
    rng.fill_bytes(&mut random);
    uuid(&uuid_v4(random))
}
