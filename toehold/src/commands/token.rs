//! `toehold token create`, `token ls` and `token revoke`.

use serde_json::{Value, json};
use toehold_core::{AuditEvent, Clock as _, Key, Store as _, Stored, Timestamp};
use toehold_joinproto::Endpoint;
use toehold_joinproto::admission::{Desk, DeskError, NewToken, Protocol, TokenRecord, Uses, Vault};
use toehold_joinproto::line::{JoinLine, MAX_PINS, Protocol as LineProtocol};
use toehold_joinproto::token::TokenId;

use super::gateway;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::Create;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, chain, table};
use crate::gateway::{GatewayDesk, GatewayVault, NoVault, system_rng};

fn desk<V: Vault>(context: &Context, vault: V) -> GatewayDesk<V> {
    Desk::new(context.store().clone(), SystemClock, vault)
}

/// Makes a token, and prints the line for the new machine.
///
/// # Errors
/// Where there is no gateway key yet, nobody said where machines reach the gateway, or the token cannot be.
pub(super) async fn create(context: &Context, options: Create) -> Result<Exit, Failure> {
    let record = gateway::record(context).await?;
    let endpoint: Endpoint = match (&options.endpoint, &record.endpoint) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(text)) => text
            .parse()
            .map_err(|_| Failure::new("the gateway's endpoint in the store is none").hint("give it: --endpoint HOST:PORT"))?,
        (None, None) => {
            return Err(Failure::usage("nobody has said where machines reach the gateway")
                .hint("give it: --endpoint HOST:PORT (gateway serve --endpoint remembers it)"));
        }
    };
    let mut pins = record.pins();
    pins.truncate(MAX_PINS);
    let new = NewToken {
        for_opni: options.opni,
        role: options.role,
        lifetime: options.ttl,
        uses: options.uses,
        labels: options.labels.into_iter().collect(),
        client_id: options.client_id,
        from: options.from,
        may_extend: options.may_extend,
    };
    let (lifetime, role, uses) = (new.lifetime, new.role.clone(), new.uses);
    let token = if options.opni {
        // Its secret stays with the gateway, sealed.
        desk(context, GatewayVault::load(&context.state).await?).create(new, &mut system_rng()).await
    } else {
        desk(context, NoVault).create(new, &mut system_rng()).await
    };
    let token = token.map_err(failure)?;
    let (id, expires_at) = (token.id(), SystemClock.now().saturating_add(lifetime));
    let event = AuditEvent::new(SystemClock.now(), "token.created", id.to_string()).with("role", role.to_string());
    context.put_on_record(event.with("uses", uses.to_string()).with("expires_at", expires_at.to_string())).await;
    let protocol = if options.opni { LineProtocol::V2 } else { LineProtocol::V3 };
    let text = token.expose_text();
    let line = JoinLine { protocol, endpoint, token, pins };
    let exposed = line.expose();
    let pins: Vec<String> = line.pins.iter().map(ToString::to_string).collect();
    let mut document = json!({
        "id": id.to_string(),
        "line": exposed.as_str(),
        "endpoint": line.endpoint.to_string(),
        "pins": pins,
        "expires_at": expires_at,
    });
    if let (true, Some(object)) = (options.opni, document.as_object_mut()) {
        object.insert("token".to_owned(), Value::from(text.as_str()));
    }
    context.output.document(&document);
    context.output.text(exposed.as_str());
    if options.opni && !context.output.json {
        eprintln!("For an agent of Opni's: token {}, pin {}.", text.as_str(), pins.first().map_or("", String::as_str));
    }
    Ok(Exit::Done)
}

/// Lists the tokens.
///
/// # Errors
/// Where the store fails; exit code 3 where one of them cannot be read.
pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let desk = desk(context, NoVault);
    let now = SystemClock.now();
    let (mut documents, mut unreadable) = (Vec::new(), Vec::new());
    let mut rows = vec![["ID", "FOR", "ROLE", "USES", "UNTIL", "STATE"].map(str::to_owned).to_vec()];
    let mut tokens = Vec::new();
    let entries = context.store().list(&Key::new(["token"])?).await?;
    for entry in entries.iter().filter(|entry| entry.key.segments().count() == 2) {
        match Stored::<TokenRecord>::decode(entry) {
            Ok(stored) => tokens.push(stored.body),
            Err(error) => unreadable.push(chain(&error)),
        }
    }
    tokens.sort_by_key(|token| (token.expires_at, token.id));
    for token in &tokens {
        // One whose uses cannot be read hides no other.
        let uses = match desk.uses(token).await {
            Ok(uses) => uses,
            Err(error) => {
                unreadable.push(chain(&error));
                continue;
            }
        };
        documents.push(document(token, uses, now));
        rows.push(vec![
            token.id.to_string(),
            protocol(token).to_owned(),
            token.role.to_string(),
            format!("{}/{}", uses.taken, token.uses),
            token.expires_at.to_string(),
            state(token, uses, now).to_owned(),
        ]);
    }
    let found = json!({ "tokens": documents, "unreadable": unreadable });
    if rows.len() == 1 {
        context.output.text("There are no tokens. Let a machine in: toehold token create");
    } else {
        context.output.text(table(&rows).trim_end());
    }
    if unreadable.is_empty() {
        context.output.document(&found);
        return Ok(Exit::Done);
    }
    Err(Failure::new(unreadable.join("; ")).partly().with(found))
}

/// Revokes a token.
///
/// # Errors
/// Where there is none; exit code 3 where it broke off when some of its uses were revoked, or may have been.
pub(super) async fn revoke(context: &Context, id: TokenId) -> Result<Exit, Failure> {
    const AGAIN: &str = "run it again: it goes on where it was";
    let desk = desk(context, NoVault);
    let mut signals = context.signals.clone();
    let revoked = tokio::select! {
        revoked = desk.revoke(id) => revoked,
        // What was being written may have been.
        () = signals.wait() => return Err(Failure::new(format!("interrupted: token {id} may be revoked in part")).hint(AGAIN).partly()),
    };
    let uses = revoked.map_err(|error| match error {
        DeskError::Unknown => Failure::new(format!("there is no token {id}")).hint("see which there are: toehold token ls"),
        DeskError::PartlyRevoked { revoked, uses, .. } => Failure::new(chain(&error)).hint(AGAIN).partly().with(json!({
            "id": id.to_string(),
            "revoked": false,
            "uses": uses,
            "uses_revoked": revoked,
            "uses_owed": uses.saturating_sub(revoked),
        })),
        error => failure(error).hint(AGAIN),
    })?;
    let event = AuditEvent::new(SystemClock.now(), "token.revoked", id.to_string());
    context.put_on_record(event.with("uses_taken", uses.taken.to_string())).await;
    context.output.document(&json!({ "id": id.to_string(), "revoked": true, "uses_taken": uses.taken }));
    context.output.text(format_args!("Token {id} lets nobody join any more."));
    if uses.taken > 0 {
        context.output.text(format_args!("{} joined with it before, and stay: toehold agents ls", uses.taken));
    }
    Ok(Exit::Done)
}

fn protocol(token: &TokenRecord) -> &'static str {
    match token.protocol {
        Protocol::Opni { .. } => "opni",
        Protocol::V3 { .. } => "v3",
    }
}

fn state(token: &TokenRecord, uses: Uses, now: Timestamp) -> &'static str {
    if now >= token.expires_at {
        "expired"
    } else if uses.revoked >= token.uses {
        "revoked"
    } else if uses.revoked > 0 {
        // A revocation was cut short: the others still let somebody in.
        "partly revoked"
    } else if uses.taken >= token.uses {
        "used up"
    } else {
        "open"
    }
}

fn document(token: &TokenRecord, uses: Uses, now: Timestamp) -> Value {
    json!({
        "id": token.id.to_string(),
        "protocol": protocol(token),
        "role": token.role,
        "uses": token.uses,
        "uses_taken": uses.taken,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "labels": token.labels,
        "client_id": token.client_id,
        "from": token.from,
        "state": state(token, uses, now),
    })
}

fn failure(error: DeskError) -> Failure {
    match error {
        DeskError::BadToken(_) => Failure::usage(error.to_string()),
        error => Failure::new(chain(&error)),
    }
}
