//! `toehold agent join --local`: the operator joins the machine that the gateway's store is on, with a token that nobody sees.

use std::time::Duration;

use toehold_joinproto::admission::{Desk, NewToken};
use toehold_joinproto::line::{JoinLine, MAX_PINS, Protocol};
use toehold_joinproto::token::TokenId;
use toehold_joinproto::{Endpoint, Trust};

use super::{agent, gateway};
use crate::adapters::system_clock::SystemClock;
use crate::agent::{AgentDirectory, AgentError, JoinOutcome, JoinRequest, OpniOptions, Stage};
use crate::cli::agent_args::AgentJoin;
use crate::cli::args::Global;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain};
use crate::gateway::{GatewayDesk, NoVault, system_rng};

/// How long the token lives where nobody is left to revoke it.
const LIFETIME: Duration = Duration::from_secs(300);

/// Joins this machine to the gateway of the store.
///
/// # Errors
/// As `agent join`; exit code 3 where the token could not be revoked.
pub(super) async fn join(context: &Context, global: &Global, options: &AgentJoin) -> Result<Exit, Failure> {
    let record = gateway::record(context).await?;
    let endpoint = match (&options.endpoint, &record.endpoint) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(text)) => text.parse().map_err(|_| Failure::new("the gateway's endpoint in the store is none"))?,
        (None, None) => {
            return Err(Failure::usage("nobody has said where machines reach the gateway").hint("give it: --endpoint HOST:PORT"));
        }
    };
    let directory = AgentDirectory::create(&agent::agent_directory(global, &options.files)?)
        .map_err(|error| agent::failure(&error, Stage::Begun))?;
    if !options.rejoin
        && let Some(outcome) = already(&directory, &endpoint).map_err(|error| agent::failure(&error, Stage::Begun))?
    {
        agent::tell_joined(&directory, &outcome, context.output);
        return Ok(Exit::Done);
    }
    let desk = Desk::new(context.store().clone(), SystemClock, NoVault);
    let new = NewToken { lifetime: LIFETIME, ..NewToken::new(options.role.clone()) };
    let token = desk.create(new, &mut system_rng()).await?;
    let id = token.id();
    let mut pins = record.pins();
    pins.truncate(MAX_PINS);
    let trust = Trust::Pinned(pins.clone());
    let line = JoinLine { protocol: Protocol::V3, endpoint, token, pins };
    let request = JoinRequest { line, trust, opni: OpniOptions::default(), rejoin: options.rejoin };
    let joined = agent::run(&directory, request, agent::gateway_limits(global), context.signals.clone(), context.output).await;
    // However that went, and also when the operator wants out: nobody else is to have it.
    let revoked = revoke(&desk, id).await;
    let outcome = match (joined, revoked) {
        (Ok(outcome), Ok(())) => outcome,
        (Ok(outcome), Err(owed)) => {
            agent::tell_joined(&directory, &outcome, context.output);
            return Err(owed);
        }
        // The token is gone: what is run again is another admission of the same machine.
        (Err(failure), Ok(())) if failure.exit == Exit::Partly => {
            return Err(failure.hint("run the same command again: it joins this machine with another token; this one is revoked"));
        }
        (Err(failure), Ok(())) => return Err(failure),
        (Err(failure), Err(owed)) => {
            let hint = owed.hint.clone().unwrap_or_default();
            return Err(Failure::new(format!("{failure}; and {owed}")).hint(hint).partly());
        }
    };
    agent::tell_joined(&directory, &outcome, context.output);
    Ok(Exit::Done)
}

/// What there is, if this machine has joined there before.
fn already(directory: &AgentDirectory, endpoint: &Endpoint) -> Result<Option<JoinOutcome>, AgentError> {
    if directory.attempt()?.is_some() || directory.keyring()?.is_none() {
        return Ok(None);
    }
    let Some(membership) = directory.membership()? else { return Ok(None) };
    let joined = membership.joined.endpoint()?;
    if joined != *endpoint {
        return Err(AgentError::OtherJoined { endpoint: joined.to_string(), id: membership.joined.id });
    }
    Ok(Some(JoinOutcome { membership, already: true, resumed: false }))
}

async fn revoke(desk: &GatewayDesk<NoVault>, id: TokenId) -> Result<(), Failure> {
    match desk.revoke(id).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!("the token {id} could not be revoked: {}", chain(&error)))
            .hint(format!("it ends by itself within five minutes; sooner: toehold token revoke {id}"))
            .partly()),
    }
}
