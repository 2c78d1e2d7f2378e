//! `toehold spec verify`.

use serde_json::{Value, json};
use toehold_core::Clock as _;
use toehold_specsign::{Document, Envelope, MachineList, Sha256Digest, TrustedKeys, VerifyingKey};

use super::{ANY_SOURCE, public_key, read_document, statement};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::VerifySpec;
use crate::cli::{Exit, Failure, Output};

/// Checks a document's signatures.
///
/// # Errors
/// Where too few of the keys have signed it.
pub(super) fn verify(options: &VerifySpec, output: Output) -> Result<Exit, Failure> {
    let keys = options.keys.iter().map(|text| public_key(text)).collect::<Result<Vec<_>, _>>()?;
    let trusted = TrustedKeys::new(keys, options.threshold).map_err(|error| Failure::usage(error.to_string()))?;
    let (_, document) = read_document(&options.file)?;
    match document.envelope().cloned() {
        Some(envelope) => enveloped(options, output, document, &envelope, &trusted),
        None if options.statement.is_some() => Err(Failure::new("the document has no envelope, and so no statement")),
        None => plain(output, document, &trusted),
    }
}

/// What is wrong with the list, if something is: its signature is good all the same.
fn fault(payload: &[u8]) -> (Option<usize>, Option<String>) {
    match MachineList::parse(payload, ANY_SOURCE) {
        Ok(list) => (Some(list.machines().len()), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

fn plain(output: Output, document: Document, trusted: &TrustedKeys) -> Result<Exit, Failure> {
    let format = document.format();
    let verified = document.verify_plain(trusted)?;
    let signers: Vec<&VerifyingKey> = verified.signers().iter().collect();
    let (machines, fault) = fault(verified.payload());
    output.document(&json!({
        "format": format,
        "signers": signers,
        "envelope": null,
        "machines": machines,
        "fault": fault,
    }));
    for key in signers {
        output.text(format_args!("Good signature of {key}"));
    }
    output.text("There is no envelope: the document has no name, no serial and no end, and is good for ever.");
    Ok(listed(output, machines, fault))
}

fn listed(output: Output, machines: Option<usize>, fault: Option<String>) -> Exit {
    if let Some(machines) = machines {
        output.text(format_args!("Machines: {machines}"));
    }
    match fault {
        Some(fault) => {
            output.text(format_args!("No node could use it: {fault}"));
            Exit::Partly
        }
        None => Exit::Done,
    }
}

/// Which of these keys have signed the envelope, which is about the list beside it.
pub(super) fn signers(
    document: &Document,
    envelope: &Envelope,
    trusted: &TrustedKeys,
) -> Result<std::collections::BTreeSet<VerifyingKey>, Failure> {
    let signed = &envelope.current;
    let payload_digest = Sha256Digest(document.payload_digest());
    if signed.statement().payload != payload_digest || signed.statement().format != document.format() {
        return Err(Failure::new("the envelope is about another list than the one beside it"));
    }
    let signers = signed.signers(trusted);
    if signers.len() < trusted.threshold() {
        let (got, wanted) = (signers.len(), trusted.threshold());
        return Err(Failure::new(format!(
            "the envelope is signed by {got} of the named keys, and {wanted} have to have signed it"
        )));
    }
    Ok(signers)
}

/// Why a node that trusts whoever signed would not take it all the same: after a change of keys that the new ones have not signed,
/// nobody could sign.
pub(super) fn unusable(envelope: &Envelope) -> Option<String> {
    envelope.key_changes.iter().chain([&envelope.current]).find_map(|signed| {
        let (serial, next) = (signed.statement().serial, &signed.statement().next);
        let (got, wanted) = (signed.signers(next).len(), next.threshold());
        (got < wanted).then(|| format!("serial {serial} hands over to keys of which {got} signed it, and {wanted} have to"))
    })
}

fn enveloped(
    options: &VerifySpec,
    output: Output,
    document: Document,
    envelope: &Envelope,
    trusted: &TrustedKeys,
) -> Result<Exit, Failure> {
    let signed = &envelope.current;
    let statement = signed.statement();
    let signers = signers(&document, envelope, trusted)?;
    let now = SystemClock.now();
    let state = if now < statement.not_before {
        "not_yet"
    } else if now >= statement.expires {
        "expired"
    } else {
        "holds"
    };
    let has_plain = document.is_signed();
    let plain_signer = trusted.keys().find(|key| {
        let one = TrustedKeys::one(**key);
        document.clone().verify_plain(&one).is_ok()
    });
    let plain_signer = plain_signer.copied();
    let unsigned = document.dangerous_without_verification();
    let (machines, fault) = fault(unsigned.payload());
    let fault = fault.or_else(|| unusable(envelope));
    if let Some(path) = &options.statement {
        statement::write(path, signed)?;
    }
    let told: Value = json!({
        "format": statement.format,
        "signers": signers,
        "plain_signer": plain_signer,
        "machines": machines,
        "fault": fault,
        "state": state,
        "envelope": statement,
    });
    output.document(&told);
    for key in &signers {
        output.text(format_args!("Good signature of {key}"));
    }
    output.text(format_args!("Specification {}, serial {}", statement.name, statement.serial));
    output.text(format_args!("It holds from {} until {}", statement.not_before, statement.expires));
    match state {
        "not_yet" => output.text("It does not hold yet."),
        "expired" => output.text("It has expired: a node that has it holds what is there, and no other takes it."),
        _ => {}
    }
    output.text(format_args!("The next version is signed by {} of:", statement.next.threshold()));
    for key in statement.next.keys() {
        output.text(format_args!("  {key}"));
    }
    if statement.removals_meant {
        output.text("Removals beyond a node's guard are meant.");
    }
    output.text(match (plain_signer, has_plain) {
        (Some(key), _) => format!("For Choria's readers: good signature of {key}"),
        (None, true) => "For Choria's readers: a signature that is of none of the named keys".to_owned(),
        (None, false) => "For Choria's readers: not signed".to_owned(),
    });
    let exit = listed(output, machines, fault);
    Ok(if state == "holds" { exit } else { Exit::Partly })
}
