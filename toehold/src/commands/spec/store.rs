//! `toehold spec put` and `toehold spec get`.

use serde_json::json;
use toehold_core::{AuditEvent, Clock as _, StoreError};
use toehold_specsign::{Document, MAX_DOCUMENT, SpecName, TrustedKeys};

use super::{public_key, verify};
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::PutSpec;
use crate::cli::context::Context;
use crate::cli::{Exit, Failure};
use crate::spec_store::{self, SpecStoreError};

/// Puts a document into the store.
///
/// # Errors
/// Where it is older than the store's, or somebody else put one there meanwhile.
pub(super) async fn put(context: &Context, options: &PutSpec) -> Result<Exit, Failure> {
    let document = super::read(&options.file, MAX_DOCUMENT)?;
    let parsed = Document::parse(&document).map_err(|error| Failure::new(format!("{}: {error}", options.file.display())))?;
    let before = spec_store::record(context.store(), &options.name).await?.and_then(|record| record.vouched);
    let vouched = vouched(options, &parsed, before.as_ref())?;
    let put =
        spec_store::put_vouched(context.store(), &options.name, &document, vouched.as_ref()).await.map_err(
            |error| match error {
                SpecStoreError::Store(error @ StoreError::Conflict { .. }) => {
                    Failure::from(error).hint(format!("look which version it is: toehold spec get {}", options.name))
                }
                other => other.into(),
            },
        )?;
    if !put.unchanged {
        let event = AuditEvent::new(SystemClock.now(), "spec.put", options.name.as_str().to_owned());
        let serial = put.serial.map_or_else(|| "none".to_owned(), |serial| serial.to_string());
        context.put_on_record(event.with("serial", serial).with("bytes", document.len().to_string())).await;
    }
    context.output.document(&json!({
        "name": options.name.as_str(),
        "serial": put.serial,
        "bytes": document.len(),
        "pieces": put.pieces,
        "unchanged": put.unchanged,
        "verified": vouched.is_some(),
    }));
    let serial = put.serial.map_or_else(|| "without an envelope".to_owned(), |serial| format!("serial {serial}"));
    let what = if put.unchanged { "was in the store before" } else { "is in the store" };
    context.output.text(format_args!("{} {what}: {serial}, {} bytes", options.name, document.len()));
    if options.public_keys.is_empty() && vouched.is_some() {
        context.output.text("It is signed by the keys that were named before, and machines that join begin with these.");
    } else if before.is_some() && vouched.is_none() {
        context.output.text("Machines that join are told of no keys of it any more (--public-key).");
    } else if vouched.is_none() {
        context.output.text("Nobody was named who has to have signed it (--public-key): every node judges that for itself.");
    }
    Ok(Exit::Done)
}

/// The keys that were named, which have signed it: now, or when the version `before` was put there. Where none ever were, those that the
/// document names itself have to have, so that a node can take it at all.
fn vouched(options: &PutSpec, document: &Document, before: Option<&TrustedKeys>) -> Result<Option<TrustedKeys>, Failure> {
    if options.unverified {
        return Ok(None);
    }
    if options.public_keys.is_empty()
        && let Some(before) = before
    {
        return signed_by(document, before).map(|()| Some(before.clone())).map_err(|failure| {
            failure.hint(
                "the store's version was put there for other keys, and machines begin with these: name who has signed this one \
                 (--public-key), or say that it is meant whoever did (--unverified)",
            )
        });
    }
    if options.public_keys.is_empty() {
        let signed = document.envelope().map_or_else(
            || document.is_signed(),
            |envelope| {
                verify::signers(document, envelope, &envelope.current.statement().next).is_ok()
                    && verify::unusable(envelope).is_none()
            },
        );
        return if signed { Ok(None) } else { Err(nobody()) };
    }
    let keys = options.public_keys.iter().map(|text| public_key(text)).collect::<Result<Vec<_>, _>>()?;
    let trusted = TrustedKeys::new(keys, options.threshold).map_err(|error| Failure::usage(error.to_string()))?;
    signed_by(document, &trusted)?;
    Ok(Some(trusted))
}

fn signed_by(document: &Document, trusted: &TrustedKeys) -> Result<(), Failure> {
    match document.envelope() {
        Some(envelope) => {
            verify::signers(document, envelope, trusted)?;
            if let Some(fault) = verify::unusable(envelope) {
                return Err(Failure::new(format!("no node could use it: {fault}"))
                    .hint("let the new keys sign as well: toehold spec pack --add-signature"));
            }
        }
        None => _ = document.clone().verify_plain(trusted)?,
    }
    Ok(())
}

fn nobody() -> Failure {
    Failure::new("nobody vouches for this document: it is not signed by the keys that it names itself, and no node would take it")
        .hint("sign it (toehold spec pack), or say that this is meant (--unverified)")
}

/// Prints a document out of the store.
///
/// # Errors
/// Where there is none.
pub(super) async fn get(context: &Context, name: &SpecName) -> Result<Exit, Failure> {
    let Some(document) = spec_store::read(context.store(), name).await? else {
        return Err(Failure::new(format!("there is no specification {name} in the store"))
            .hint(format!("put one there: toehold spec put {name} FILE")));
    };
    context.output.raw(&String::from_utf8_lossy(&document));
    Ok(Exit::Done)
}
