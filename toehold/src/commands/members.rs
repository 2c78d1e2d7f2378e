//! `toehold operator add`, `operator ls`, `operator rm` and `operator roles`: who the members of a shared store are.

use serde_json::{Value, json};
use toehold_core::{AuditEvent, Clock as _, Expect, Key, Store as _, StoreError};

use super::init_shared::member;
use crate::adapters::identity::Audience;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, OperatorAdd, OperatorCommand, OperatorRemove, OperatorRoles, Rotate};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, Output, Signals, chain as words, printable, table};
use crate::shared::{
    AnyStore, Distrust, Judged, Member, MemberId, OperatorSet, Role, SharedStore, Signer as _, permissions, sealed,
};
use crate::state::State;

/// How often a list of members or a record is tried to be written, where others write it, too.
const TRIES: usize = 16;

/// Does what was asked for.
///
/// # Errors
/// Where no shared store was named, or it fails; exit code 3 where something is left to be done.
pub(super) async fn run(global: &Global, command: OperatorCommand, output: Output, signals: Signals) -> Result<Exit, Failure> {
    let Some(address) = &global.shared.store else {
        return Err(Failure::usage("the embedded store has no members: this is for a shared store")
            .hint("name one: --store nats://host/bucket"));
    };
    if let OperatorCommand::Roles(options) = command {
        roles(&options, address.bucket(), output);
        return Ok(Exit::Done);
    }
    let context = Context::open(global, output, signals).await?;
    let shared = shared(&context)?;
    match command {
        OperatorCommand::Add(options) => add(&context, shared, options).await,
        OperatorCommand::Rm(options) => remove(&context, shared, &options).await,
        OperatorCommand::Ls | OperatorCommand::Roles(_) => {
            list(&context, shared);
            Ok(Exit::Done)
        }
    }
}

/// The shared store.
///
/// # Errors
/// Where the command works with the embedded one.
pub(super) fn shared(context: &Context) -> Result<&SharedStore, Failure> {
    context.store().shared().ok_or_else(|| {
        Failure::usage("the embedded store has no members and no signatures: this is for a shared store")
            .hint("name one: --store nats://host/bucket")
    })
}

/// What this machine may do in a shared store; `None` in the embedded one, and where it is no member.
pub(super) fn own_role(store: &AnyStore) -> Option<Role> {
    let shared = store.shared()?;
    shared.chain().members().member(&shared.signer().id()).map(|member| member.role)
}

/// Sees before anything is done that this machine may do it.
fn must_be_operator(shared: &SharedStore) -> Result<(), Failure> {
    if let Some(reason) = shared.read_only() {
        return Err(Failure::new(reason));
    }
    let chain = shared.chain();
    match chain.members().member(&shared.signer().id()) {
        Some(own) if own.role == Role::Operator => Ok(()),
        Some(own) => {
            Err(Failure::new(format!("this machine is a member with the role {}; operators alone change who is", own.role)))
        }
        None => Err(Failure::new("this machine is no member of the store (any more)")),
    }
}

async fn add(context: &Context, shared: &SharedStore, options: OperatorAdd) -> Result<Exit, Failure> {
    must_be_operator(shared)?;
    let signing = context.state.keys().signing_key().await?;
    let (new, role) = (&options.recipient, options.role);
    let name = options.name.unwrap_or_else(|| new.id().to_string());
    let mut added = false;
    for _ in 0..TRIES {
        shared.refresh().await?;
        must_be_operator(shared)?;
        let chain = shared.chain();
        let members = chain.members();
        if let Some(there) = members.member(&new.id()) {
            if there.role != role {
                return Err(Failure::new(format!("{} is a member already, with the role {}", there.name, there.role))
                    .hint(format!("let it go first: toehold operator rm {}", there.id)));
            }
            break;
        }
        if members.members.iter().any(|member| member.name == name) {
            return Err(Failure::new(format!("there is a member called {name} already")).hint("choose another: --name NAME"));
        }
        let now = SystemClock.now();
        let mut next = members.members.clone();
        next.push(member(new, name.clone(), role, now));
        added = shared.continue_chain(&chain.next(next, now), &signing).await?;
        if added {
            break;
        }
    }
    let chain = shared.chain();
    let Some(there) = chain.members().member(&new.id()) else {
        return Err(Failure::new("others change the members all the time").hint("run it again"));
    };
    if added {
        let event = AuditEvent::new(SystemClock.now(), "operator.added", there.id.to_string());
        let event = event.with("name", there.name.clone()).with("role", there.role.to_string());
        context.put_on_record(event.with("list", chain.members().number.to_string())).await;
    }
    let sealed = reseal(&context.state, shared).await?;
    let found = json!({
        "id": there.id, "name": there.name, "role": there.role, "added": added,
        "sealed_anew": sealed.done, "not_sealed": sealed.failed, "members_fingerprint": chain.fingerprint(),
    });
    if !sealed.failed.is_empty() {
        return Err(sealed.failure(&format!("{} is a member", there.name)).hint(AGAIN).partly().with(found));
    }
    context.output.document(&found);
    let how = if added { "is a member now" } else { "was a member already" };
    context.output.text(format_args!(
        "{} ({}) {how}; {} records were sealed anew.",
        printable(&there.name),
        there.role,
        sealed.done
    ));
    context.output.text(format_args!(
        "They run `toehold init` once more. The fingerprint of the list of members, to compare with what that prints:\n{}",
        chain.fingerprint()
    ));
    Ok(Exit::Done)
}

const AGAIN: &str = "run it again: it goes on where it was";

/// What was sealed anew.
pub(super) struct Sealed {
    pub(super) done: usize,
    /// The records that could not be.
    pub(super) failed: Vec<String>,
}

impl Sealed {
    pub(super) fn failure(&self, what: &str) -> Failure {
        Failure::new(format!("{what}, but what is sealed in {} could not be sealed anew", self.failed.join(", ")))
    }
}

/// Seals everything to those who are members now.
///
/// # Errors
/// Where the store fails; a record that cannot be sealed anew is in what comes back.
pub(super) async fn reseal(state: &State, shared: &SharedStore) -> Result<Sealed, Failure> {
    let members: OperatorSet = shared.chain().members().clone();
    let audience = sealed::audience(&members)?;
    state.keys().seal_to(members)?;
    let mut sealed = Sealed { done: 0, failed: Vec::new() };
    for kind in sealed::KINDS {
        for entry in shared.list(&Key::new([kind])?).await? {
            match reseal_one(state, shared, &audience, entry).await {
                Ok(true) => sealed.done += 1,
                Ok(false) => {}
                Err((key, why)) => {
                    tracing::warn!("{key} was not sealed anew: {why}");
                    sealed.failed.push(key.to_string());
                }
            }
        }
    }
    Ok(sealed)
}

/// One record; somebody may be changing it.
async fn reseal_one(
    state: &State,
    shared: &SharedStore,
    audience: &Audience,
    mut entry: toehold_core::Entry,
) -> Result<bool, (Key, String)> {
    if !sealed::may_hold(&entry.key) {
        return Ok(false);
    }
    let failed = |entry: &toehold_core::Entry, why: String| (entry.key.clone(), why);
    for _ in 0..TRIES {
        if let Some(fault) = entry.fault() {
            return Err(failed(&entry, words(&fault)));
        }
        let vault = state.vault().await.map_err(|error| failed(&entry, words(&error)))?;
        let anew = sealed::reseal(vault, audience, &entry.key, &entry.value).map_err(|error| failed(&entry, words(&error)))?;
        let Some(anew) = anew else { return Ok(false) };
        match shared.put(&entry.key, &anew, Expect::Revision(entry.revision)).await {
            Ok(_) => return Ok(true),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(failed(&entry, words(&error))),
        }
        match shared.get(&entry.key).await {
            Ok(Some(changed)) => entry = changed,
            Ok(None) => return Ok(false),
            Err(error) => return Err(failed(&entry, words(&error))),
        }
    }
    Err(failed(&entry, "somebody changes it all the time".to_owned()))
}

/// The member, or the one that was, by id or by name.
fn find(shared: &SharedStore, wanted: &str) -> Result<(Member, bool), Failure> {
    let chain = shared.chain();
    let present = chain.members().members.iter().find(|member| member.id.as_str() == wanted || member.name == wanted);
    if let Some(member) = present {
        return Ok((member.clone(), true));
    }
    let once = wanted.parse::<MemberId>().ok();
    let gone = once.as_ref().and_then(|id| chain.removed(id)).map(|(member, _)| member);
    match gone.or_else(|| chain.removed_by_name(wanted)) {
        Some(member) => Ok((member.clone(), false)),
        None => Err(Failure::new(format!("the store has no member {wanted}")).hint("see who they are: toehold operator ls")),
    }
}

async fn remove(context: &Context, shared: &SharedStore, options: &OperatorRemove) -> Result<Exit, Failure> {
    must_be_operator(shared)?;
    shared.refresh().await?;
    let (gone, is_present) = find(shared, &options.member)?;
    if gone.id == shared.signer().id() {
        return Err(Failure::new("whoever is let go cannot seal anew to those who remain").hint("let another operator run it"));
    }
    let signing = context.state.keys().signing_key().await?;
    // What they wrote stands, and is vouched for by us: before they go, so that nothing is refused where this breaks off.
    let mut adopted = adopt(shared, &gone.id).await?;
    let mut removed = false;
    for _ in 0..TRIES {
        shared.refresh().await?;
        must_be_operator(shared)?;
        let chain = shared.chain();
        if chain.members().member(&gone.id).is_none() {
            break;
        }
        let rest = chain.members().members.iter().filter(|member| member.id != gone.id).cloned().collect();
        removed = shared.continue_chain(&chain.next(rest, SystemClock.now()), &signing).await?;
        if removed {
            break;
        }
    }
    let chain = shared.chain();
    if chain.members().member(&gone.id).is_some() {
        return Err(Failure::new("others change the members all the time").hint("run it again"));
    }
    if removed {
        let event = AuditEvent::new(SystemClock.now(), "operator.removed", gone.id.to_string());
        let event = event.with("name", gone.name.clone()).with("role", gone.role.to_string());
        context.put_on_record(event.with("list", chain.members().number.to_string()).with("adopted", adopted.to_string())).await;
    }
    // What they wrote while that was going on.
    let late = adopt_late(shared, &gone.id).await?;
    adopted += late.adopted;
    let sealed = reseal(&context.state, shared).await?;
    let mut found = json!({
        "id": gone.id, "name": gone.name, "role": gone.role, "removed": removed, "signed_anew": adopted,
        "refused": late.refused, "sealed_anew": sealed.done, "not_sealed": sealed.failed,
        "members_fingerprint": chain.fingerprint(),
    });
    let how = if is_present { "is no member any more" } else { "was no member any more" };
    if !sealed.failed.is_empty() {
        return Err(sealed.failure(&format!("{} {how}", gone.name)).hint(AGAIN).partly().with(found));
    }
    context.output.text(format_args!(
        "{} {how}: {adopted} records of theirs are signed by this machine now, {} were sealed anew to those who remain.",
        printable(&gone.name),
        sealed.done
    ));
    for key in &late.refused {
        context.output.text(printable(&format!("{key}: written by them afterwards, and taken by nobody")));
    }
    let due = gone.role == Role::Operator && !options.rotate;
    if let Some(object) = found.as_object_mut() {
        object.insert("rotation_due".to_owned(), Value::from(due));
    }
    match gone.role {
        Role::Operator if options.rotate => {
            context.output.document(&found);
            return super::rotate::rotate(context, rotate_options(options.grace)).await;
        }
        Role::Operator => context.output.text(
            "They may have kept the master key: a rotation is due (toehold key rotate). Take them off the NATS servers, too.",
        ),
        Role::Gateway => context.output.text(
            "They may have kept what gateways have in clear: the gateway's keys, those of its agents, and Opni's tokens. Take them off the NATS servers; renew the gateway's key twice (toehold gateway renew-key), let its agents join anew, and revoke tokens for Opni's agents.",
        ),
        Role::Pods => context.output.text("Take them off the NATS servers, too."),
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// `key rotate` as it is without options but this one.
fn rotate_options(grace: Option<std::time::Duration>) -> Rotate {
    Rotate {
        resume: false,
        rollback: false,
        take_over: false,
        algorithm: None,
        on_unreachable: None,
        grace,
        canary: None,
        wave: None,
        max_failures: None,
        provisional_for: None,
        concurrency: 32,
        timeout: std::time::Duration::from_secs(60),
        no_wait: false,
        dry_run: false,
    }
}

/// Signs anew what a member has signed, who is about to go; how many records that were.
async fn adopt(shared: &SharedStore, whose: &MemberId) -> Result<usize, Failure> {
    let mut adopted = 0;
    for _ in 0..TRIES {
        let mut is_done = true;
        for Judged { entry, verdict } in shared.judged().await? {
            if let Ok(envelope) = verdict
                && envelope.origin.signer == *whose
            {
                is_done = false;
                adopted += usize::from(shared.sign_anew(&entry.key, &envelope.value, entry.revision).await?);
            }
        }
        if is_done {
            return Ok(adopted);
        }
    }
    // They write all the time; what is left is taken by the order of the store.
    Ok(adopted)
}

struct Late {
    adopted: usize,
    refused: Vec<String>,
}

/// Signs anew what somebody wrote who was a member then. What came after stays refused.
async fn adopt_late(shared: &SharedStore, whose: &MemberId) -> Result<Late, Failure> {
    let mut late = Late { adopted: 0, refused: Vec::new() };
    let judged = shared.judged().await?;
    let chain = shared.chain();
    for Judged { entry, verdict } in judged {
        if !matches!(&verdict, Err(Distrust::Removed { id, .. }) if id == whose) {
            continue;
        }
        match chain.was_good(&entry) {
            Some(envelope) => late.adopted += usize::from(shared.sign_anew(&entry.key, &envelope.value, entry.revision).await?),
            None => late.refused.push(entry.key.to_string()),
        }
    }
    Ok(late)
}

fn list(context: &Context, shared: &SharedStore) {
    let chain = shared.chain();
    let own = shared.signer().id();
    let mut rows = vec![["ID", "NAME", "ROLE", "SINCE", ""].map(str::to_owned).to_vec()];
    for member in &chain.members().members {
        let here = if member.id == own { "this machine" } else { "" };
        rows.push(vec![
            member.id.to_string(),
            printable(&member.name),
            member.role.to_string(),
            member.added_at.to_string(),
            here.to_owned(),
        ]);
    }
    let members = chain.members().members.iter().map(|member| {
        json!({
            "id": member.id, "name": member.name, "role": member.role, "added_at": member.added_at,
            "recipient": member.recipient, "this_machine": member.id == own,
        })
    });
    let signed = chain.signers().map(|(set, by)| json!({ "number": set.number, "at": set.at, "signed_by": by }));
    context.output.document(&json!({
        "store_id": chain.store(), "fingerprint": chain.fingerprint(), "list": chain.members().number,
        "members": members.collect::<Vec<_>>(), "lists": signed.collect::<Vec<_>>(),
    }));
    context.output.text(table(&rows).trim_end());
    context.output.text(format_args!(
        "List {} of store {}, fingerprint {}",
        chain.members().number,
        chain.store(),
        chain.fingerprint()
    ));
}

fn roles(options: &OperatorRoles, bucket: &str, output: Output) {
    let wanted = Role::ALL.into_iter().filter(|role| options.role.is_none_or(|only| only == *role));
    let mut document = serde_json::Map::new();
    let mut text = String::new();
    if options.role.is_none() {
        text.push_str("# For `authorization { … }` in the configuration of the NATS servers, beside users such as\n");
        text.push_str("#   users: [ { nkey: U…, permissions: $TOEHOLD_OPERATOR } ]\n");
    }
    for role in wanted {
        let new = options.recipient.as_ref();
        let permissions = permissions(role, bucket, new.map(|new| &new.recipient));
        let whose = new.map(|new| format!("_{}", new.id())).unwrap_or_default();
        text.push_str(&format!("TOEHOLD_{}{whose} = {{\n  {permissions}\n}}\n", role.to_string().to_uppercase()));
        document.insert(role.to_string(), json!(permissions));
    }
    output.document(&Value::Object(document));
    output.text(text.trim_end());
}
