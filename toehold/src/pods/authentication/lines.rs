//! What a line of `authorized_keys` says of a login, wherever the line is from.

use std::sync::Arc;

use toehold_core::{Clock as _, PublicKey};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Effect, Entry, LineKind, Login, Options};

use super::answer::LoginMetadata;
use super::{Admission, Applicant};
use crate::adapters::system_clock::SystemClock;

/// What a source of keys says of a login.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It may.
    Admitted(Admission),
    /// There is a line for this key that lets nobody in; no other source is asked.
    Refused,
    /// There is no line for this key, or none that admits it now.
    Unknown,
}

/// Looks for the line that admits the key. `whence` names the lines for the operator, `principal` who it is, where that is not said by the
/// key's comment.
pub(super) fn judge(
    keys: &AuthorizedKeys,
    whence: &str,
    applicant: Applicant<'_>,
    principal: Option<&str>,
    metadata: &Arc<LoginMetadata>,
) -> Verdict {
    let login = Login { now: SystemClock.now(), utc_offset: 0, peer: Some(applicant.address) };
    let Some(found) = keys.authorizes_login(applicant.key, &login) else { return Verdict::Unknown };
    if let Some(reason) = unenforced(&found.effect, applicant.key) {
        tracing::warn!("{whence}, line {}, lets nobody in: {reason}", found.line);
        return Verdict::Refused;
    }
    let named = || comment(keys.entries().find(|entry| entry.number() == found.line)?);
    let principal = principal.map(str::to_owned).or_else(named);
    Verdict::Admitted(Admission {
        principal: principal.unwrap_or_else(|| applicant.key.fingerprint().to_string()),
        command: found.effect.command,
        terminal: found.effect.pty,
        metadata: Arc::clone(metadata),
    })
}

/// A key's comment, where it can name somebody.
pub(super) fn comment(entry: Entry<'_>) -> Option<String> {
    let comment = String::from_utf8_lossy(entry.key()?.comment()).trim().to_owned();
    is_principal(&comment).then_some(comment)
}

/// Whether a text can name somebody.
pub(super) fn is_principal(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// Why a line lets nobody in whatever the login; `None` for one that may, and for one that holds no key and is none.
pub(super) fn flaw(entry: Entry<'_>) -> Option<String> {
    match (entry.kind(), entry.key()) {
        (LineKind::Key(_), Some(line)) => match line.public_key() {
            None => Some("there is no key in it that can be read".to_owned()),
            Some(key) => match Options::parse(line.options().unwrap_or_default()).and_then(|options| options.effect(0)) {
                Err(error) => Some(error.to_string()),
                Ok(effect) => unenforced(&effect, &key).map(str::to_owned),
            },
        },
        (LineKind::Blank | LineKind::Comment, _) => None,
        _ => Some("it cannot be read".to_owned()),
    }
}

/// What a line demands that is not enforced here. Forwarding and `~/.ssh/rc` are not to be had by anybody, so that what limits them holds.
fn unenforced(effect: &Effect, key: &PublicKey) -> Option<&'static str> {
    if effect.certificate_authority || effect.principals.is_some() {
        Some("certificates are not known here")
    } else if !effect.environment.is_empty() {
        Some("environment= is not enforced here")
    } else if effect.tunnel.is_some() {
        Some("tunnel= is not enforced here")
    } else if effect.verify_required || key.algorithm().starts_with("sk-") {
        Some("whether a security key was touched is not seen here")
    } else {
        None
    }
}
