//! `toehold spec pack`.

use std::path::Path;

use serde_json::json;
use toehold_core::{Clock as _, Timestamp};
use toehold_specsign::{
    Document, Envelope, Format, MAX_DOCUMENT, MachineList, Matcher, Signature, SignedStatement, SourceScheme, SpecName,
    Statement, TrustedKeys, UnknownMember, VerifyingKey, pack_signed, plain_signing_bytes, seal, sshsig,
};

use super::signing::{Signer, signers};
use super::{ANY_SOURCE, public_key, read, read_document, statement, verify};
use crate::adapters::ssh_agent::AgentError;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{EnvelopeOptions, Global, PackSpec};
use crate::cli::{Exit, Failure, Output, printable};
use crate::private::replace_shown;

/// The largest list whose document is still one.
const MAX_LIST: usize = MAX_DOCUMENT / 4 * 3 - 1024 * 1024;

/// Packs a list, or adds signatures to a packed one.
///
/// # Errors
/// Where the list is of no use to a node, or somebody does not sign.
pub(super) async fn pack(global: &Global, options: &PackSpec, output: Output) -> Result<Exit, Failure> {
    let signers = signers(global, &options.signing).await?;
    if options.add_signature {
        return add(&options.file, options, &signers, output).await;
    }
    let payload = read(&options.file, MAX_LIST)?;
    if !options.unchecked {
        check(&payload, output)?;
    }
    if signers.is_empty() && !options.force {
        output.aside("nobody signs this (KEY, --ssh-key, --agent): whoever can change it says what nodes run that take it");
    }
    let envelope = Frame::of(&options.envelope, options.format, &payload, &signers)?;
    let plain = if options.envelope_only && envelope.is_some() {
        None
    } else {
        plain_signature(options.format, &payload, signers.first(), envelope.is_some(), output).await?
    };
    let mut is_complete = true;
    let text = match &envelope {
        None => match &plain {
            Some(signature) => pack_signed(options.format, &payload, signature),
            None => toehold_specsign::pack(options.format, &payload, None)?,
        },
        Some(frame) => {
            let mut current = SignedStatement::unsigned(frame.statement.clone())?;
            for signer in &signers {
                current = sign(current, signer).await?;
            }
            if let Some(path) = &options.statement {
                statement::write(path, &current)?;
            }
            let envelope = Envelope { current, key_changes: frame.key_changes.clone() };
            // Who has it signed elsewhere has said so.
            is_complete = signers.is_empty() && options.force || !lacks(&envelope, frame.before.as_ref(), output);
            seal(&payload, &envelope, plain.as_ref())?
        }
    };
    if envelope.is_none() && options.statement.is_some() {
        return Err(
            Failure::usage("a document without an envelope has no statement").hint("give it one: --name --serial --expires")
        );
    }
    let serial = envelope.as_ref().map(|frame| frame.statement.serial);
    let signers: Vec<VerifyingKey> = signers.iter().map(Signer::verifying_key).collect();
    give(&text, options, output, (serial, is_complete), &signers)?;
    Ok(if is_complete { Exit::Done } else { Exit::Partly })
}

/// Whether a node could use the list: Choria's tool packs anything, and nodes then find out.
fn check(payload: &[u8], output: Output) -> Result<(), Failure> {
    let useless =
        |reason: String| Failure::new(format!("no node could use this list: {reason}")).hint("pack it all the same: --unchecked");
    let list = MachineList::parse(payload, ANY_SOURCE).map_err(|error| useless(error.to_string()))?;
    for machine in list.machines() {
        if let Some(Err(error)) = machine.matcher.as_deref().map(Matcher::compile) {
            return Err(useless(format!("match of {}: {}", machine.name, error.message())));
        }
    }
    for UnknownMember { name, machine, meant, .. } in list.unknown_members() {
        let meant = meant.map_or_else(String::new, |meant| {
            let everywhere = if meant == "match" { ", without which a machine belongs on every node" } else { "" };
            format!("; is \"{meant}\" meant{everywhere}?")
        });
        output.aside(&format!("{machine}: the member \"{}\" means nothing to a node{meant}", printable(name)));
    }
    for (scheme, what, option) in
        [(SourceScheme::Http, "fetched over plain http", "--allow-http"), (SourceScheme::File, "a file", "--allow-file")]
    {
        let named: Vec<&str> =
            list.machines().iter().filter(|one| one.source.scheme() == scheme).map(|one| one.name.as_str()).collect();
        if let Some(first) = named.first() {
            let others = if named.len() > 1 { format!(" and of {} more", named.len() - 1) } else { String::new() };
            output.aside(&format!("the source of {first}{others} is {what}: only nodes that are told {option} take this list"));
        }
    }
    Ok(())
}

/// What an envelope is made of.
struct Frame {
    statement: Statement,
    key_changes: Vec<SignedStatement>,
    /// Who may sign this version, where the one before says so.
    before: Option<TrustedKeys>,
}

impl Frame {
    fn of(options: &EnvelopeOptions, format: Format, payload: &[u8], signers: &[Signer]) -> Result<Option<Self>, Failure> {
        let EnvelopeOptions { name, serial, after, expires, not_before, next_keys, next_threshold, removals_meant } = options;
        if name.is_none() && after.is_none() {
            let other = serial.is_some() || expires.is_some() || not_before.is_some() || !next_keys.is_empty() || *removals_meant;
            return if other {
                Err(Failure::usage("this is said by an envelope, which has a name")
                    .hint("name it: --name NAME, or --after DOCUMENT"))
            } else {
                Ok(None)
            };
        }
        let before = after.as_deref().map(Before::read).transpose()?;
        if let Some(before) = before.as_ref().filter(|before| before.format != format) {
            return Err(Failure::new(format!("the version before is a list of {}", before.format)));
        }
        let now = SystemClock.now();
        let serial = match (serial, &before) {
            (Some(serial), Some(before)) if *serial <= before.serial => {
                return Err(Failure::usage(format!(
                    "serial {serial} is not above {}, that of the version before",
                    before.serial
                )));
            }
            (Some(serial), _) => *serial,
            (None, Some(before)) => before
                .serial
                .checked_add(1)
                .ok_or_else(|| Failure::new("the version before has the highest serial that there is; none can follow it"))?,
            (None, None) => return Err(Failure::usage("an envelope has a serial").hint("the first one: --serial 1")),
        };
        let expires = expires.ok_or_else(|| Failure::usage("an envelope has an end").hint("such as --expires 7d"))?.from(now);
        let not_before = not_before.map_or(now, |when| when.from(now));
        if expires <= not_before || expires <= now {
            return Err(Failure::usage(format!("it would expire at {expires}, before it holds or in the past")));
        }
        let next = next(next_keys, *next_threshold, before.as_ref().map(|before| &before.next), signers)?;
        let name: SpecName = match (name, &before) {
            (_, Some(before)) => before.name.clone(),
            (Some(name), None) => name.clone(),
            (None, None) => return Err(Failure::usage("an envelope has a name")),
        };
        let mut statement = Statement::new(format, name, serial, whole(not_before), whole(expires), payload, next);
        statement.removals_meant = *removals_meant;
        let (key_changes, before) = before.map(|before| (before.key_changes, before.next)).unzip();
        Ok(Some(Self { statement, key_changes: key_changes.unwrap_or_default(), before }))
    }
}

/// To the second: a node's clock knows no better.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_seconds(at.unix_seconds())
}

/// The version before.
struct Before {
    format: Format,
    name: SpecName,
    serial: u64,
    next: TrustedKeys,
    key_changes: Vec<SignedStatement>,
}

impl Before {
    fn read(path: &Path) -> Result<Self, Failure> {
        let (_, document) = read_document(path)?;
        let Some(envelope) = document.envelope() else {
            return Err(Failure::new(format!("{} has no envelope to go on from", path.display()))
                .hint("begin with one: --name NAME --serial 1"));
        };
        let statement = envelope.current.statement();
        Ok(Self {
            format: statement.format,
            name: statement.name.clone(),
            serial: statement.serial,
            next: statement.next.clone(),
            key_changes: envelope.key_changes_of_next(),
        })
    }
}

fn next(
    named: &[String],
    threshold: Option<usize>,
    before: Option<&TrustedKeys>,
    signers: &[Signer],
) -> Result<TrustedKeys, Failure> {
    let keys: Vec<VerifyingKey> = match (named, before) {
        ([], Some(before)) => return Ok(before.clone()),
        ([], None) => signers.iter().map(Signer::verifying_key).collect(),
        (named, _) => named.iter().map(|text| public_key(text)).collect::<Result<_, _>>()?,
    };
    let threshold = match (threshold, keys.len()) {
        (Some(threshold), _) => threshold,
        (None, 1) => 1,
        (None, 0) => return Err(Failure::usage("nobody could sign the next version").hint("name who may: --next-key PUBLIC-KEY")),
        (None, count) => {
            return Err(Failure::usage(format!("how many of {count} keys have to sign the next version?"))
                .hint("name all of them, and how many have to: --next-key … --next-threshold N"));
        }
    };
    TrustedKeys::new(keys, threshold).map_err(|error| Failure::usage(error.to_string()))
}

/// Says what is still missing for nodes to take it; whether anything is.
fn lacks(envelope: &Envelope, before: Option<&TrustedKeys>, output: Output) -> bool {
    let signed = &envelope.current;
    let next = &signed.statement().next;
    let mut lacks = false;
    for trusted in before.filter(|before| *before != next).into_iter().chain([next]) {
        let got = signed.signers(trusted).len();
        if got < trusted.threshold() {
            let wanted = trusted.threshold();
            output.aside(&format!("signed by {got} of the {wanted} that have to: add the others with --add-signature"));
            lacks = true;
        }
    }
    if let Some(fault) = verify::unusable(envelope).filter(|_| !lacks) {
        output.aside(&format!(
            "no node could use it: {fault}; let these sign that version (--add-signature), and pack this one anew after it"
        ));
        lacks = true;
    }
    lacks
}

async fn sign(statement: SignedStatement, signer: &Signer) -> Result<SignedStatement, Failure> {
    let scheme = signer.scheme();
    let signature = signer.sign(&statement.signing_bytes(scheme)).await?;
    Ok(statement.with_signature(signer.verifying_key(), signature, scheme))
}

async fn plain_signature(
    format: Format,
    payload: &[u8],
    signer: Option<&Signer>,
    enveloped: bool,
    output: Output,
) -> Result<Option<Signature>, Failure> {
    let Some(signer) = signer else { return Ok(None) };
    match signer.sign(&plain_signing_bytes(format, payload)?).await {
        Ok(signature) => Ok(Some(signature)),
        Err(error @ AgentError::TooLong(_)) if enveloped => {
            output.aside(&format!("no signature for Choria's readers: {error}"));
            Ok(None)
        }
        Err(error @ AgentError::TooLong(_)) => {
            Err(Failure::from(error)
                .hint("with an envelope only that is signed: --name --serial --expires; or sign with --ssh-key"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Adds signatures to a document's envelope.
async fn add(path: &Path, options: &PackSpec, signers: &[Signer], output: Output) -> Result<Exit, Failure> {
    let (_, document) = read_document(path)?;
    let Some(envelope) = document.envelope().cloned() else {
        return Err(Failure::new(format!("{} has no envelope, and room for one signature only", path.display())));
    };
    let Envelope { mut current, key_changes } = envelope;
    let refuse_twice = |signed: &SignedStatement, key: &VerifyingKey| {
        if signed.names_signer(key) { Err(Failure::new(format!("{key} has signed it already"))) } else { Ok(()) }
    };
    let mut added = Vec::new();
    for signer in signers {
        refuse_twice(&current, &signer.verifying_key())?;
        current = sign(current, signer).await?;
        added.push(signer.verifying_key());
    }
    for path in &options.signing.signatures {
        let armored = read(path, 16 * 1024)?;
        let named = |error: sshsig::SshSigError| Failure::new(format!("{}: {error}", path.display()));
        let (key, signature) = sshsig::read(&String::from_utf8_lossy(&armored), sshsig::NAMESPACE).map_err(named)?;
        let message = current.signing_bytes(toehold_specsign::Scheme::SshSig);
        if !key.verifies(&message, &signature) {
            return Err(Failure::new(format!("{}: this signature is over something else than the statement", path.display()))
                .hint("write the statement to a file and sign that: --statement FILE"));
        }
        refuse_twice(&current, &key)?;
        current = current.with_signature(key, signature, toehold_specsign::Scheme::SshSig);
        added.push(key);
    }
    if added.is_empty() {
        return Err(Failure::usage("nobody signs (KEY, --ssh-key, --agent, --signature)"));
    }
    if let Some(path) = &options.statement {
        statement::write(path, &current)?;
    }
    let serial = current.statement().serial;
    let plain = document.plain_signature().copied();
    let envelope = Envelope { current, key_changes };
    // Whom the version before has named, where it was another one's.
    let before = envelope.key_changes.last().map(|change| change.statement().next.clone());
    let is_complete = !lacks(&envelope, before.as_ref(), output);
    let text = rebuild(document, &envelope, plain)?;
    give(&text, options, output, (Some(serial), is_complete), &added)?;
    Ok(if is_complete { Exit::Done } else { Exit::Partly })
}

fn rebuild(document: Document, envelope: &Envelope, plain: Option<Signature>) -> Result<String, Failure> {
    let unsigned = document.dangerous_without_verification();
    Ok(seal(unsigned.payload(), envelope, plain.as_ref())?)
}

/// With which serial it was packed, and whether nodes take it as it is.
type Packed = (Option<u64>, bool);

fn give(text: &str, options: &PackSpec, output: Output, packed: Packed, signers: &[VerifyingKey]) -> Result<(), Failure> {
    let Some(path) = &options.output else {
        // It is a JSON document itself.
        output.raw(&format!("{text}\n"));
        return Ok(());
    };
    replace_shown(path, format!("{text}\n").as_bytes(), if has_secrets(text) { 0o600 } else { 0o644 })?;
    let (serial, is_complete) = packed;
    output.document(&json!({ "file": path, "serial": serial, "signers": signers, "complete": is_complete }));
    output.text(format_args!("Wrote {}", path.display()));
    Ok(())
}

/// Whether passwords stand in it, or nobody can tell. Otherwise a document is for everybody.
fn has_secrets(text: &str) -> bool {
    let payload = Document::parse(text.as_bytes()).map(Document::dangerous_without_verification);
    let list = payload.ok().and_then(|payload| MachineList::parse(payload.payload(), ANY_SOURCE).ok());
    list.is_none_or(|list| list.machines().iter().any(|machine| machine.credentials.is_some()))
}
