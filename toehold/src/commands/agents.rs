//! `toehold agents`: the agents that have joined the gateway of this store.

use serde_json::{Value, json};
use toehold_core::{AuditEvent, Clock as _, Key, Store as _, StoreError, Stored};
use toehold_joinproto::admission::{AgentRecord, AgentState, Desk, DeskError};

use crate::adapters::system_clock::SystemClock;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};
use crate::gateway::NoVault;

/// `toehold agents ls`.
///
/// # Errors
/// Where the store fails; exit code 3 where a record cannot be read.
pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let (mut agents, mut unreadable) = (Vec::new(), Vec::new());
    for entry in context.store().list(&Key::new(["agent"])?).await? {
        match Stored::<AgentRecord>::decode(&entry) {
            Ok(stored) if is_agent(&stored.body) => agents.push((entry.key.name().to_owned(), stored.body)),
            Ok(_) => {}
            Err(error) => unreadable.push(chain(&error)),
        }
    }
    agents.sort_by(|(id, agent), (other_id, other)| (agent.since, id).cmp(&(other.since, other_id)));
    let mut rows = vec![["ID", "ROLE", "STATE", "SINCE", "LABELS"].map(str::to_owned).to_vec()];
    for (id, agent) in &agents {
        let labels: Vec<String> = agent.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        rows.push(vec![
            id.clone(),
            agent.role.to_string(),
            state(agent.state).to_owned(),
            agent.since.to_string(),
            labels.join(","),
        ]);
    }
    if agents.is_empty() {
        context.output.text("No agent has joined. Let a machine in: toehold token create");
    } else {
        context.output.text(table(&rows).trim_end());
    }
    let documents: Vec<Value> = agents.iter().map(|(id, agent)| document(id, agent)).collect();
    let found = json!({ "agents": documents, "unreadable": unreadable });
    if unreadable.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    Err(Failure::new(unreadable.join("; ")).partly().with(found))
}

/// `toehold agents show`.
///
/// # Errors
/// Where there is no such agent.
pub(super) async fn show(context: &Context, id: &str) -> Result<Exit, Failure> {
    let key = Key::new(["agent", id]).map_err(|_| unknown(id))?;
    let stored: Option<Stored<AgentRecord>> = Stored::read(context.store(), &key).await?;
    let agent = stored.map(|stored| stored.body).ok_or_else(|| unknown(id))?;
    context.output.document(&document(id, &agent));
    let mut rows = vec![
        vec!["id".to_owned(), id.to_owned()],
        vec!["state".to_owned(), format!("{} since {}", state(agent.state), agent.since)],
        vec!["role".to_owned(), agent.role.to_string()],
        vec!["token".to_owned(), agent.token.to_string()],
    ];
    rows.extend(agent.key.iter().map(|key| vec!["identity key".to_owned(), key.clone()]));
    rows.extend(agent.labels.iter().map(|(name, value)| vec!["label".to_owned(), format!("{name}={value}")]));
    rows.extend(agent.capabilities.iter().map(|capability| vec!["capability".to_owned(), capability.clone()]));
    context.output.text(table(&rows).trim_end());
    Ok(Exit::Done)
}

/// `toehold agents rm`: its keys are gone at once, and a mark stays, so that a retry with a token that is there now does not bring it
/// back (J2).
///
/// # Errors
/// Where there is no such agent.
pub(super) async fn remove(context: &Context, id: &str) -> Result<Exit, Failure> {
    let desk = Desk::new(context.store().clone(), SystemClock, NoVault);
    desk.remove_agent(id).await.map_err(|error| match error {
        DeskError::Unknown | DeskError::Store(StoreError::BadKey(_)) => unknown(id),
        error => Failure::new(chain(&error)),
    })?;
    context.put_on_record(AuditEvent::new(SystemClock.now(), "agent.removed", id.to_owned())).await;
    context.output.document(&json!({ "id": id, "removed": true }));
    context.output.text(format_args!("Agent {id} is removed; its keys open nothing any more."));
    context.output.text("Only a token that is made from now on brings it back: toehold token create");
    context.output.text(
        "If the line that it joined with has uses left, whoever has that joins as somebody new: toehold token revoke TOKEN",
    );
    Ok(Exit::Done)
}

fn unknown(id: &str) -> Failure {
    Failure::new(format!("there is no agent {id}")).hint("see which there are: toehold agents ls")
}

fn is_agent(agent: &AgentRecord) -> bool {
    matches!(agent.state, AgentState::Pending | AgentState::Joined)
}

fn state(state: AgentState) -> &'static str {
    match state {
        AgentState::Reserved => "reserved",
        AgentState::Pending => "pending",
        AgentState::Joined => "joined",
        AgentState::Removed => "removed",
    }
}

/// All but its keys.
fn document(id: &str, agent: &AgentRecord) -> Value {
    json!({
        "id": id,
        "state": state(agent.state),
        "since": agent.since,
        "role": agent.role,
        "labels": agent.labels,
        "capabilities": agent.capabilities,
        "key": agent.key,
        "token": agent.token,
    })
}
