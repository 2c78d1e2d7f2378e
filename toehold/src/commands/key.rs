//! `toehold key show`.

use serde_json::json;

use crate::cli::context::Context;
use crate::cli::{Exit, Failure};
use crate::master_key;
use crate::recovery::CopyRecord;

/// Shows the master key's public half.
///
/// # Errors
/// Where there is none.
pub(super) async fn show(context: &Context) -> Result<Exit, Failure> {
    let Some(record) = master_key::current_master_key(context.store()).await? else {
        return Err(Failure::new("there is no master key").hint("make one: toehold init"));
    };
    let fingerprint = record.public_key.fingerprint();
    let copy = CopyRecord::of(context.store(), &fingerprint).await?;
    context.output.document(&json!({
        "public_key": record.public_key,
        "fingerprint": fingerprint,
        "algorithm": record.public_key.algorithm(),
        "comment": record.comment,
        "created_at": record.created_at,
        "recovery_copy": copy,
    }));
    context.output.text(format_args!("{} {}", record.public_key, record.comment));
    context.output.text(format_args!("{fingerprint}, made {}", record.created_at));
    match copy {
        Some(CopyRecord { tested_at: Some(at), .. }) => context.output.text(format_args!("Recovery copy: tested {at}")),
        Some(copy) => context.output.text(format_args!("Recovery copy: made {}, not tested", copy.made_at)),
        None => context.output.text("Recovery copy: none"),
    }
    Ok(Exit::Done)
}
