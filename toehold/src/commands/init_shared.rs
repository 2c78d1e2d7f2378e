//! `toehold init --store`: a shared store's first operator, and everybody who comes after.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use toehold_core::{Clock as _, Identity, Source, Store, StoreError};
use toehold_specsign::SigningKey;

use super::host_add::MASTER_COMMENT;
use super::init::{check_identity, check_master_key, check_ssh_key, generated, import, new_identity};
use super::recovery_copy;
use crate::adapters::identity::{FILE_NAME, IdentityFile, NewIdentity};
use crate::adapters::nats::{NatsAddress, NatsError, NatsStore};
use crate::adapters::sqlite::{self, SqliteStore};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, Init, copies};
use crate::cli::context::{Asker, state_directory};
use crate::cli::{Exit, Failure, Output, Signals, chain as words, printable};
use crate::private;
use crate::shared::{
    Chain, Marks, Member, NewMember, OperatorSet, Role, Seen, SharedStore, SignedStore, StoreId, check_continues, read_chain,
    sealed,
};
use crate::state::{Keys, SharedAt, State, StateError};

/// A directory that has an identity, a store that has members, and what the one knows of the other.
pub(super) struct Joined {
    /// Who this is.
    pub(super) me: NewMember,
    /// Who the members are.
    pub(super) chain: Chain,
    /// The store, whose values nothing has verified yet.
    store: NatsStore,
    keys: Arc<Keys>,
    marks: Marks,
}

impl Joined {
    /// Who this is in the store, where it is a member.
    pub(super) fn member(&self) -> Option<Member> {
        self.chain.members().member(&self.me.id()).cloned()
    }

    /// Opens the store.
    ///
    /// # Errors
    /// As [`State::shared`].
    pub(super) async fn open(self, directory: &Path) -> Result<State, StateError> {
        State::shared(directory, self.store, self.keys, self.marks).await
    }
}

/// Makes what is not there yet, or says what somebody inside has to do; run again, it goes on from there.
///
/// # Errors
/// Where the store cannot be reached or is not to be trusted; exit code 3 where this machine is no member yet, or cannot open
/// everything.
pub(super) async fn init(
    global: &Global,
    options: &Init,
    at: &SharedAt,
    output: Output,
    signals: Signals,
) -> Result<Exit, Failure> {
    if let (Some(copy), Some(identity)) = (&options.restore, &options.identity) {
        return restore(global, options, at, (copy, identity), output).await;
    }
    let directory = state_directory(global)?;
    let asker = Asker::new(global);
    let imported = options.import.as_deref().map(import).transpose()?;
    let exists = IdentityFile::exists(&directory);
    let protect = options.passphrase || global.passphrase_file.is_some();
    let identity = new_identity(options, protect, exists, &asker)?;
    private::create_directory(&directory)?;
    let store = open_or_create(at, options.replicas.as_deref(), output).await?;
    if read_chain(&store).await?.is_none() {
        no_fleet_of_its_own(&directory, &at.address).await?;
    }
    let identity_created = IdentityFile::create(&directory, identity, SystemClock.now())?.is_some();
    if exists {
        // A newcomer runs it again with the same options.
        check_identity(&IdentityFile::read(&directory)?, options, global, false)?;
    }
    let name = own_name(options.name.as_deref());
    let joined = join(&directory, asker, store, at, &name).await?;
    let found = json!({
        "state_dir": directory,
        "store": at.address.to_string(),
        "store_id": joined.chain.store(),
        "members_fingerprint": joined.chain.fingerprint(),
        "identity_created": identity_created,
        "id": joined.me.id(),
        "recipient": joined.me.to_string(),
    });
    let Some(own) = joined.member() else { return Err(newcomer(&joined, &at.address, &name, found, output)) };
    let state = joined.open(&directory).await?;
    let mut found = found;
    set(&mut found, "role", json!(own.role));
    set(&mut found, "name", json!(own.name));
    if let Some(reason) = state.store().shared().and_then(SharedStore::read_only) {
        return Err(Failure::new(reason).partly().with(found));
    }
    if own.role == Role::Operator {
        let key = master_key(&state, options, imported, &directory, &signals).await?;
        set(&mut found, "master_key_created", json!(key.created));
        let public = &key.record.public_key;
        set(
            &mut found,
            "master_key",
            json!({ "public_key": public, "fingerprint": public.fingerprint(), "created_at": key.record.created_at }),
        );
        if let Some(advice) = recovery_copy::advice(state.store()).await? {
            set(&mut found, "advice", json!(advice));
        }
    }
    let closed = closed(&state).await?;
    if !closed.is_empty() {
        set(&mut found, "sealed_to_others", json!(closed));
        return Err(Failure::new(format!("what is sealed in {} does not open here yet", closed.join(", ")))
            .hint(format!("somebody inside runs it again: {}", add_command(&found, own.role, &at.address, &own.name)))
            .partly()
            .with(found));
    }
    output.document(&found);
    output.text(format_args!("{} is {} ({}) in {}", directory.display(), printable(&own.name), own.role, at.address));
    output.text(format_args!(
        "Members of the store: see them with `toehold operator ls`; their list's fingerprint is {}",
        text(&found, "/members_fingerprint").unwrap_or_default()
    ));
    if let Some(fingerprint) = text(&found, "/master_key/fingerprint") {
        output.text(format_args!("Master key: {fingerprint}"));
    }
    if identity_created {
        let secret = IdentityFile::read(&directory)?;
        output.text(format_args!("Keep {} private, and a copy of it elsewhere.", secret.secret_path().display()));
    }
    if let Some(advice) = text(&found, "/advice") {
        output.text(advice);
    }
    Ok(Exit::Done)
}

/// What others call this machine or person.
fn own_name(chosen: Option<&str>) -> String {
    chosen.map_or_else(|| super::rotate::operator().chars().take(64).collect(), str::to_owned)
}

/// Fills an empty shared store with what a recovery copy holds: this machine is its first operator, to whom alone it is sealed.
async fn restore(
    global: &Global,
    options: &Init,
    at: &SharedAt,
    (copy, identity): (&Path, &Path),
    output: Output,
) -> Result<Exit, Failure> {
    let directory = state_directory(global)?;
    let asker = Asker::new(global);
    let copy = recovery_copy::open(global, copy, identity).await?;
    let exists = IdentityFile::exists(&directory);
    let identity = new_identity(options, options.passphrase, exists, &asker)?;
    private::create_directory(&directory)?;
    let store = open_or_create(at, options.replicas.as_deref(), output).await?;
    if read_chain(&store).await?.is_none() {
        no_fleet_of_its_own(&directory, &at.address).await?;
    }
    IdentityFile::create(&directory, identity, SystemClock.now())?;
    if exists {
        check_ssh_key(&IdentityFile::read(&directory)?, options)?;
    }
    let state = alone_in(&directory, asker, store, at, options.name.as_deref()).await?;
    let written = copy.restore(state.store(), state.vault().await?).await?;
    copy.tested(state.store(), SystemClock.now()).await?;
    let found = super::init::restored(&directory, &copy, (!exists, written), state.vault().await?, Some(&at.address));
    super::init::tell_restored(&at.address, &copy, &found, output);
    output.text("Let the others in anew: toehold operator add");
    Ok(Exit::Done)
}

/// A store in which nobody else is a member: the one of an earlier run, or an empty one, whose first operator this machine becomes.
///
/// # Errors
/// Where there are other members, or as [`join`].
pub(super) async fn alone_in(
    directory: &Path,
    asker: Asker,
    store: NatsStore,
    at: &SharedAt,
    name: Option<&str>,
) -> Result<State, Failure> {
    let joined = join(directory, asker, store, at, &own_name(name)).await?;
    let is_first = joined.member().is_some_and(|own| own.role == Role::Operator) && joined.chain.members().members.len() == 1;
    if !is_first {
        return Err(Failure::new(format!(
            "{} has members already, and what is brought there is sealed to this machine alone",
            at.address
        ))
        .hint("name an empty bucket, and let others in afterwards"));
    }
    Ok(joined.open(directory).await?)
}

/// What was found, by its place.
fn text<'f>(found: &'f serde_json::Value, place: &str) -> Option<&'f str> {
    found.pointer(place)?.as_str()
}

fn set(found: &mut serde_json::Value, name: &str, value: serde_json::Value) {
    if let Some(found) = found.as_object_mut() {
        found.insert(name.to_owned(), value);
    }
}

/// The bucket as it is; made where there is none. Who may not make one need not be let do it where there is one. That one is kept by
/// another number of servers than was asked for is said.
///
/// # Errors
/// As [`NatsStore::open`].
pub(super) async fn open_or_create(at: &SharedAt, replicas: Option<&str>, output: Output) -> Result<NatsStore, StoreError> {
    let wanted = copies(replicas);
    let store = match NatsStore::open(&at.address, &at.options).await {
        Err(StoreError::Unavailable { source, .. })
            if matches!(source.downcast_ref::<NatsError>(), Some(NatsError::Absent { .. })) =>
        {
            NatsStore::create(&at.address, &at.options, wanted).await?
        }
        opened => opened?,
    };
    let there = store.replicas();
    if replicas.is_some() && there != wanted {
        output.aside(&format!(
            "the bucket {bucket} is there already, and the number of its copies is {there}: --replicas {wanted} changes nothing. To change it: nats stream edit KV_{bucket} --replicas {wanted}",
            bucket = at.address.bucket(),
        ));
    }
    Ok(store)
}

/// A fleet that is in the embedded store is taken along, and not begun anew beside it.
async fn no_fleet_of_its_own(directory: &Path, address: &NatsAddress) -> Result<(), Failure> {
    if !directory.join(sqlite::FILE_NAME).exists() {
        return Ok(());
    }
    let embedded = SqliteStore::open(directory)?;
    match crate::master_key::current_master_key(&embedded).await? {
        None => Ok(()),
        Some(_) => Err(Failure::new(format!(
            "{} has a store with a master key of its own, and {address} is empty; nothing was written",
            directory.display()
        ))
        .hint(format!(
            "take it along: toehold store migrate --from embedded --to {address}\nor name another --state-dir for another fleet"
        ))),
    }
}

/// The members of a store; whoever finds none becomes the first.
///
/// # Errors
/// Where the store is not to be trusted, holds what nobody signed, or is not the one that was seen before.
pub(super) async fn join(directory: &Path, asker: Asker, store: NatsStore, at: &SharedAt, name: &str) -> Result<Joined, Failure> {
    let keys = Arc::new(Keys::new(directory, asker));
    let vault = keys.vault().await?;
    let me = NewMember::of(vault);
    let chain = loop {
        if let Some(chain) = read_chain(&store).await? {
            break chain;
        }
        // Whoever founds it meanwhile has written more by now.
        if let Some(kind) = store.kinds().await?.first()
            && read_chain(&store).await?.is_none()
        {
            return Err(Failure::new(format!(
                "{} has no members and yet holds records ({kind}/…), which nobody has signed; nothing was written",
                at.address
            ))
            .hint("name an empty bucket; what is in the embedded store is taken there with: toehold store migrate"));
        }
        if Marks::read(directory, at.address.bucket())?.is_some() {
            return Err(Failure::new(format!(
                "{} is empty, and {} has seen a store there: it was lost, or removed; nothing was written",
                at.address,
                directory.display()
            ))
            .hint(
                "bring it back from a backup; or name a bucket of another name, and bring an export there: toehold store import",
            ));
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Failure::new(format!("there is no randomness: {error}")))?;
        let now = SystemClock.now();
        let first = OperatorSet::first(StoreId::from_random(id), member(&me, name.to_owned(), Role::Operator, now), now);
        // Where somebody else is faster, that list is read.
        SignedStore::<_, SigningKey>::found(&store, &first, &vault.signing_key()).await?;
    };
    let marks = match Marks::read(directory, at.address.bucket())? {
        Some(marks) => {
            check_continues(&chain, &marks)?;
            if marks.seen().member != me.id() {
                return Err(StateError::OtherIdentity { path: directory.join(FILE_NAME) }.into());
            }
            marks
        }
        None => {
            let seen = Seen::first(chain.store().clone(), me.id(), me.recipient.writer(), chain.hashes());
            Marks::begin(directory, at.address.bucket(), seen)?
        }
    };
    Ok(Joined { me, chain, store, keys, marks })
}

/// Somebody as a member.
pub(super) fn member(new: &NewMember, name: String, role: Role, now: toehold_core::Timestamp) -> Member {
    Member { id: new.id(), name, role, recipient: new.recipient.to_string(), key: new.key, added_at: now }
}

/// What somebody inside has to run.
fn add_command(found: &serde_json::Value, role: Role, address: &NatsAddress, name: &str) -> String {
    let recipient = text(found, "/recipient").unwrap_or_default();
    let role = if role == Role::Operator { String::new() } else { format!(" --role {role}") };
    format!("toehold operator add {recipient} --name {}{role} --store {address}", shell_words::quote(name))
}

fn newcomer(joined: &Joined, address: &NatsAddress, name: &str, found: serde_json::Value, output: Output) -> Failure {
    let members = joined.chain.members();
    let command = add_command(&found, Role::Operator, address, name);
    let names: Vec<String> = members.with_role(Role::Operator).map(|member| printable(&member.name)).collect();
    output.text(format_args!("Recipient: {}", joined.me));
    output.text(format_args!(
        "{address} has members already; its operators are {}. The fingerprint of their list, to compare with theirs (`toehold operator ls`):\n{}",
        names.join(", "),
        joined.chain.fingerprint()
    ));
    let mut found = found;
    set(&mut found, "command", json!(command));
    Failure::new("this machine is no member of the store yet")
        .hint(format!(
            "one of its operators runs: {command}\n(with --role gateway or --role pods for a service); then run init again"
        ))
        .partly()
        .with(found)
}

/// The fleet's master key: the one that there is, or a new one.
async fn master_key(
    state: &State,
    options: &Init,
    imported: Option<Identity>,
    directory: &Path,
    signals: &Signals,
) -> Result<crate::master_key::MasterKey, Failure> {
    let wanted = imported.as_ref().map(|identity| identity.public_key().clone());
    let present = crate::master_key::current_master_key(state.store()).await?.map(|record| record.public_key);
    if let Some(present) = &present {
        check_master_key(directory, present, options, wanted.as_ref())?;
    }
    let key = match imported {
        None if present.is_none() => Some(generated(options.algorithm.unwrap_or_default(), signals.clone()).await?),
        imported => imported,
    };
    let generate = || -> Result<Identity, Source> { key.ok_or_else(|| "the master key has gone meanwhile; run it again".into()) };
    let made = state.init(NewIdentity::unprotected(), generate, MASTER_COMMENT, SystemClock.now()).await?.master_key;
    if !made.created {
        check_master_key(directory, &made.record.public_key, options, wanted.as_ref())?;
    }
    Ok(made)
}

/// The records in which something is sealed that this member should be able to open, and cannot.
async fn closed(state: &State) -> Result<Vec<String>, Failure> {
    let Some(shared) = state.store().shared() else { return Ok(Vec::new()) };
    let kinds: &[&str] = match super::members::own_role(state.store()) {
        Some(Role::Operator) => &sealed::KINDS,
        Some(Role::Gateway) => &["gateway"],
        _ => &[],
    };
    let vault = state.vault().await?;
    let mut closed = Vec::new();
    for kind in kinds {
        for entry in shared.list(&toehold_core::Key::new([*kind])?).await? {
            let opened = if let Some(fault) = entry.fault() {
                Err(words(&fault))
            } else {
                sealed::opens(vault, &entry.key, &entry.value).map_err(|error| words(&error))
            };
            if let Err(why) = opened {
                tracing::info!("{}: {why}", entry.key);
                closed.push(entry.key.to_string());
            }
        }
    }
    Ok(closed)
}
