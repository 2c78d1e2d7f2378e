//! `toehold spec put` and `toehold spec get`.

use serde_json::json;
use toehold_core::StoreError;
use toehold_specsign::{MAX_DOCUMENT, SpecName};

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
    let put = spec_store::put(context.store(), &options.name, &document).await.map_err(|error| match error {
        SpecStoreError::Store(error @ StoreError::Conflict { .. }) => {
            Failure::from(error).hint(format!("look which version it is: toehold spec get {}", options.name))
        }
        other => other.into(),
    })?;
    context.output.document(&json!({
        "name": options.name.as_str(),
        "serial": put.serial,
        "bytes": document.len(),
        "pieces": put.pieces,
        "unchanged": put.unchanged,
    }));
    let serial = put.serial.map_or_else(|| "without an envelope".to_owned(), |serial| format!("serial {serial}"));
    let what = if put.unchanged { "was in the store before" } else { "is in the store" };
    context.output.text(format_args!("{} {what}: {serial}, {} bytes", options.name, document.len()));
    Ok(Exit::Done)
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
