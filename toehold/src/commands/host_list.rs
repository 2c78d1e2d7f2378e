//! `toehold host ls` and `toehold host show`.

use serde_json::{Value, json};
use toehold_core::{Account, HostRecord, KeyRole, KnownHost, Stored};

use crate::cli::context::Context;
use crate::cli::{Exit, Failure, table};

/// Reads every host's record; one that cannot be read is an error of its own.
///
/// # Errors
/// What the store says.
pub(super) async fn hosts(context: &Context) -> Result<Vec<Result<HostRecord, Failure>>, Failure> {
    let listed = Stored::<HostRecord>::list(context.store(), &HostRecord::prefix()).await?;
    Ok(listed.into_iter().map(|stored| stored.map(|stored| stored.body).map_err(Failure::from)).collect())
}

/// Reads the record of one host.
///
/// # Errors
/// Where it is not managed.
pub(super) async fn host(context: &Context, account: &Account) -> Result<Stored<HostRecord>, Failure> {
    Stored::<HostRecord>::read(context.store(), &HostRecord::key(account)?)
        .await?
        .ok_or_else(|| Failure::new(format!("{account} is not managed")).hint("see which hosts are: toehold host ls"))
}

/// `toehold host ls`.
///
/// # Errors
/// What the store says.
pub(super) async fn list(context: &Context) -> Result<Exit, Failure> {
    let mut rows = vec![["ACCOUNT", "LABEL", "TAGS", "KEYS", "MANAGED SINCE"].map(str::to_owned).to_vec()];
    let mut documents = Vec::new();
    let mut unreadable = Vec::new();
    for record in hosts(context).await? {
        match record {
            Ok(record) => {
                let tags: Vec<String> = record.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
                rows.push(vec![
                    record.route.to_string(),
                    record.label.clone().unwrap_or_default(),
                    tags.join(" "),
                    record.keys.len().to_string(),
                    record.managed_since.to_string(),
                ]);
                documents.push(serde_json::to_value(&record)?);
            }
            Err(failure) => unreadable.push(failure.message),
        }
    }
    let found = json!({ "hosts": documents, "unreadable": unreadable });
    if rows.len() == 1 && unreadable.is_empty() {
        context.output.text("No host is managed yet. Bring one in: toehold host add user@host");
    } else {
        context.output.text(table(&rows).trim_end());
    }
    if !unreadable.is_empty() {
        return Err(Failure::new(unreadable.join("; ")).partly().with(found));
    }
    context.output.document(&found);
    Ok(Exit::Done)
}

/// `toehold host show`.
///
/// # Errors
/// Where the host is not managed.
pub(super) async fn show(context: &Context, account: &Account) -> Result<Exit, Failure> {
    let record = host(context, account).await?.body;
    let known = Stored::<KnownHost>::read(context.store(), &KnownHost::key(&record.route)?).await?;
    let mut document = serde_json::to_value(&record)?;
    if let (Some(object), Some(known)) = (document.as_object_mut(), &known) {
        object.insert("host_key".to_owned(), serde_json::to_value(&known.body)?);
        object.insert("host_key_fingerprint".to_owned(), Value::from(known.body.host_key.fingerprint().to_string()));
    }
    context.output.document(&document);
    let say = |name: &str, value: String| context.output.text(format_args!("{name:<14} {}", crate::cli::printable(&value)));
    say("account", record.route.to_string());
    if let Some(label) = &record.label {
        say("label", label.clone());
    }
    for (name, value) in &record.tags {
        say("tag", format!("{name}={value}"));
    }
    if let Some(known) = &known {
        let how = serde_json::to_value(known.body.trust)?;
        let how = how.as_str().unwrap_or_default().replace('_', " ");
        say("host key", format!("{} ({}, by {how})", known.body.host_key.fingerprint(), known.body.host_key.algorithm()));
    }
    if let Some(home) = &record.home {
        say("home", home.clone());
    }
    say("managed since", record.managed_since.to_string());
    for key in &record.keys {
        let role = if key.role == KeyRole::Master { "master key" } else { "selected key" };
        say(role, format!("{} {}", key.public_key.fingerprint(), key.comment));
        if !key.options.is_empty() {
            say("", format!("with {}", key.options));
        }
    }
    Ok(Exit::Done)
}
