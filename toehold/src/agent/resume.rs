//! A join that broke off after its keys were saved: whether they are good is found out by authenticating with them.

use rand_core::CryptoRng;
use toehold_core::Clock as _;
use toehold_joinproto::Trust;

use super::directory::{AgentDirectory, AgentLock, Membership, one_of};
use super::error::AgentError;
use super::session::AgentSession;
use crate::adapters::gateway_connection::{GatewayConnection, GatewayLimits};
use crate::adapters::system_clock::SystemClock;

/// Ends a join that is half done, if the gateway has this machine as joined by now; needs no token. `None`: there is none, or the
/// gateway does not know its keys, so that only joining again helps.
///
/// # Errors
/// Where the gateway cannot be asked, or the files cannot be written.
pub async fn finish_half_done<R: CryptoRng>(
    directory: &AgentDirectory,
    lock: &AgentLock,
    limits: GatewayLimits,
    rng: &mut R,
) -> Result<Option<Membership>, AgentError> {
    let (Some(attempt), Some(tries)) = (directory.attempt()?, directory.unconfirmed()?) else { return Ok(None) };
    let endpoint = attempt.joined.endpoint()?;
    for place in 0..tries.shared_keys.len() {
        let Some(keyring) = one_of(&tries, place) else { break };
        let Some(keys) = keyring.shared_keys.first() else { break };
        let trust = match attempt.joined.trust.with(&keyring) {
            Trust::Pinned(mut pins) => {
                pins.extend(&attempt.pins);
                Trust::Pinned(pins)
            }
            trust => trust,
        };
        // One for each: the gateway may end a connection on which somebody was not known.
        let connection = GatewayConnection::open(&endpoint, trust, limits).await?;
        match AgentSession::open(&connection, &endpoint, &attempt.joined.id, keys, limits.answer, rng).await {
            Ok(_) => {}
            // A gateway of Opni's: it has answered, which it does only once it has stored the keys.
            Err(error) if error.is_unimplemented() && !attempt.joined.is_v3() => {}
            Err(AgentError::NotKnown { .. }) => continue,
            Err(error) => return Err(error),
        }
        let membership = Membership { joined: attempt.joined, role: attempt.role, joined_at: SystemClock.now() };
        directory.finish(lock, &membership, &keyring)?;
        return Ok(Some(membership));
    }
    Ok(None)
}
