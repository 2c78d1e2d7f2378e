//! Who may join, decided from what was read: no IO, no clock.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use toehold_core::Timestamp;

use super::record::{AgentRecord, AgentState, Held, Holder, Protocol, TokenRecord, UseRecord};

/// Who wants to join, after its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// To whom the use will be bound.
    pub holder: Holder,
    /// The client's id.
    pub client_id: String,
    /// Where it comes from.
    pub source: IpAddr,
    /// The present time.
    pub now: Timestamp,
}

/// Why somebody who has proven possession of the token may not join. Printed to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// v1: this capability is there already.
    #[error("this capability is already installed on this agent")]
    Capability,
    /// The token is for one client, and not for this one.
    #[error("this token is for another client id")]
    ClientId,
    /// The token's time is over.
    #[error("this token has expired")]
    Expired,
    /// All uses are taken, by others.
    #[error("this token has been used up")]
    Exhausted,
    /// The id belongs to somebody else.
    #[error("this id already exists and is not this client's")]
    IdTaken,
    /// v1: the agent is there, and the token may not extend it.
    #[error("insufficient permissions: this token may not be used for an agent that is there already")]
    MayNotExtend,
    /// The token is for another version of the protocol.
    #[error("this token is for another version of the protocol")]
    Protocol,
    /// The agent was removed, and the token is older than that.
    #[error("this agent was removed; it needs a token that was made after that")]
    Removed,
    /// The token was revoked.
    #[error("this token has been revoked")]
    Revoked,
    /// The token may not be used from there.
    #[error("this token may not be used from this network")]
    Source,
}

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// v1 and v2.
    Opni,
    /// v3.
    V3,
}

/// What is to be done with one use of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this client's already: write this over the revision that was read, so that a revocation in between is seen.
    Again(UseRecord),
    /// It is another's: look at the next.
    Next,
    /// It is free: write this, if it is absent still.
    Take(UseRecord),
}

impl TokenRecord {
    /// Checks all that is fixed in the token, before anything is consumed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, request: &Request, protocol: Check) -> Result<(), Refusal> {
        let is_for =
            matches!((&self.protocol, protocol), (Protocol::Opni { .. }, Check::Opni) | (Protocol::V3 { .. }, Check::V3));
        let source = request.source.to_canonical();
        if !is_for {
            Err(Refusal::Protocol)
        } else if request.now >= self.expires_at {
            Err(Refusal::Expired)
        } else if self.client_id.as_ref().is_some_and(|id| *id != request.client_id) {
            Err(Refusal::ClientId)
        } else if !self.from.is_empty() && !self.from.iter().any(|network| network.contains(&source)) {
            Err(Refusal::Source)
        } else {
            Ok(())
        }
    }
}

/// Decides on one use of a token that was checked: `found` is what is stored of it. For `token.uses` uses, it is called from
/// [`first_slot`] on, around, until it says something else than [`Verdict::Next`]; after all of them the token is used up.
///
/// # Errors
/// [`Refusal::Revoked`].
pub fn admit(found: Option<&UseRecord>, request: &Request) -> Result<Verdict, Refusal> {
    let Some(found) = found else {
        let held = Held { holder: request.holder.clone(), since: request.now, tries: 1 };
        return Ok(Verdict::Take(UseRecord { held: Some(held), revoked_at: None }));
    };
    if found.revoked_at.is_some() {
        return Err(Refusal::Revoked);
    }
    match &found.held {
        Some(held) if held.holder == request.holder => {
            let held = Held { tries: held.tries.saturating_add(1), ..held.clone() };
            Ok(Verdict::Again(UseRecord { held: Some(held), revoked_at: None }))
        }
        _ => Ok(Verdict::Next),
    }
}

/// At which use a client begins to look. Spread, so that many clients of one token do not meet at the first free one; the same
/// for every gateway, so that a client meets its own.
pub fn first_slot(uses: u32, holder: &Holder) -> u32 {
    let mut hash = Sha256::new();
    match holder {
        Holder::Key(key) => hash.update(key),
        Holder::Id { id, capability } => {
            hash.update(id);
            hash.update([0]);
            hash.update(capability.as_deref().unwrap_or_default());
        }
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    u32::from_be_bytes([a, b, c, d]) % uses.max(1)
}

/// Whether the agent's id may be taken (or taken again) with this token: what is stored of it is `found`.
///
/// # Errors
/// [`Refusal`].
pub fn check_agent(found: Option<&AgentRecord>, token: &TokenRecord, request: &Request) -> Result<(), Refusal> {
    let Some(agent) = found else { return Ok(()) };
    if agent.last_removed().is_some_and(|removed| token.created_at <= removed) {
        return Err(Refusal::Removed);
    }
    if agent.state == AgentState::Removed {
        return Ok(());
    }
    match &request.holder {
        Holder::Key(key) => {
            if agent.key.as_ref() == Some(key) {
                Ok(())
            } else {
                Err(Refusal::IdTaken)
            }
        }
        Holder::Id { capability, .. } => {
            let same_token = agent.token == token.id && agent.key.is_none();
            match agent.state {
                AgentState::Reserved if same_token || request.now >= agent.token_expires_at => Ok(()),
                _ if agent.key.is_some() => Err(Refusal::IdTaken),
                AgentState::Pending | AgentState::Joined if capability.is_some() => {
                    check_capability(agent, token, capability.as_ref())
                }
                // While nobody has shown that it has the keys, who has the token may have them made anew.
                AgentState::Pending if same_token => Ok(()),
                _ => Err(Refusal::IdTaken),
            }
        }
    }
}

fn check_capability(agent: &AgentRecord, token: &TokenRecord, capability: Option<&String>) -> Result<(), Refusal> {
    let installed = capability.is_some_and(|capability| agent.capabilities.contains(capability));
    let is_open = capability.is_some_and(|capability| agent.is_open(capability));
    let same_token = agent.token == token.id;
    if installed && is_open && same_token {
        // The answer may have been lost: also that of a capability which an agent that is there has added.
        Ok(())
    } else if installed {
        Err(Refusal::Capability)
    } else if same_token && token.may_extend && !agent.capabilities.is_empty() {
        Ok(())
    } else {
        Err(Refusal::MayNotExtend)
    }
}
