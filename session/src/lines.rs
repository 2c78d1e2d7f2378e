//! How a managed line stands in an account's file: what sshd makes of it, and whose it is.

use std::time::Duration;

use toehold_core::{ManagedKey, Timestamp};
use toehold_keygen::authorized_keys::KeyLine;
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, Line, Options, is_grant};

use crate::onboarder::describe_error;

/// More than the clocks and the time zones of two machines can be apart: what has ended for longer has ended everywhere.
const CERTAINLY: Duration = Duration::from_hours(48);

/// How a key that is to be managed stands in the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// sshd lets it in by no line that stays.
    Missing,
    /// It lets it in by a line with the options that were asked for.
    AsAsked,
    /// By a line of ours, as it stands here, with other options than the ones that were asked for.
    Ours(ManagedKey),
    /// By somebody else's line, with other options.
    Foreign(ForeignLine),
}

/// Somebody else's line with a key that is to be managed: not ours to change, and not to be passed over in silence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key {key} is there already, on line {line} of {file}, {} and not {}: take that line away, or ask for the key as it is there",
    with(.options), with(.asked)
)]
pub(crate) struct ForeignLine {
    key: String,
    file: KeyFile,
    line: usize,
    options: String,
    asked: String,
}

fn with(options: &str) -> String {
    if options.is_empty() { "without options".to_owned() } else { format!("with the options {options}") }
}

/// A managed line that cannot be written; never for those that were read from a record of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadLine(String);

/// The line as it is written.
pub(crate) fn line_of(key: &ManagedKey) -> Result<Line, BadLine> {
    let options = Options::parse(key.options.as_bytes()).map_err(|error| BadLine(describe_error(&error)))?;
    Line::new(options, key.public_key.clone(), &key.comment).map_err(|error| BadLine(describe_error(&error)))
}

/// Looks for a key in these files, which sshd reads in this order. `ours` are lines that we are known to have written to the
/// account.
///
/// Only what sshd would take for the key counts: a certificate authority does not, nor a line that it cannot read or whose
/// options it does not know, nor one that has ended. The line of a grant, or one that will end, is no line to rely on, and
/// counts only where it lets the key do more than was asked for.
pub(crate) fn look<'a>(
    files: impl IntoIterator<Item = (KeyFile, &'a AuthorizedKeys)>,
    asked: &ManagedKey,
    ours: &[ManagedKey],
    now: Timestamp,
) -> Result<Found, BadLine> {
    let options = line_of(asked)?.options().clone();
    let wanted = options.effect(0).map_err(|error| BadLine(describe_error(&error)))?;
    let (mut as_asked, mut of_ours, mut foreign) = (false, None, None);
    for (file, document) in files {
        for entry in document.find(&asked.public_key) {
            let Some(found) = entry.key().filter(|found| found.openssh_reads_key() && !is_grant(found)) else { continue };
            let theirs = found.options().unwrap_or_default();
            let Ok(parsed) = Options::parse(theirs) else { continue };
            let Ok(effect) = parsed.effect(0) else { continue };
            if parsed == options || effect == wanted {
                as_asked = true;
                continue;
            }
            if effect.certificate_authority || effect.principals.is_some() {
                continue;
            }
            let text = String::from_utf8_lossy(theirs).into_owned();
            let is_ours = |line: &&ManagedKey| {
                line.public_key == asked.public_key && line_of(line).is_ok_and(|line| is_line(&found, &line))
            };
            if let Some(line) = ours.iter().find(is_ours).filter(|_| file == KeyFile::AuthorizedKeys) {
                of_ours = of_ours.or_else(|| Some(line.clone()));
                continue;
            }
            if let Some(end) = effect.expires_at {
                let mut lasting = effect.clone();
                lasting.expires_at = None;
                if options.is_empty() || lasting == wanted || end.saturating_add(CERTAINLY) < now {
                    continue;
                }
            }
            foreign = foreign.or_else(|| {
                Some(ForeignLine {
                    key: asked.public_key.fingerprint().to_string(),
                    file,
                    line: entry.number(),
                    options: text,
                    asked: asked.options.clone(),
                })
            });
        }
    }
    Ok(match (foreign, of_ours) {
        // A line with options would void those that were asked for; beside one without, it takes nothing away.
        (Some(foreign), _) if !as_asked || !options.is_empty() => Found::Foreign(foreign),
        (_, Some(line)) => Found::Ours(line),
        _ if as_asked => Found::AsAsked,
        _ => Found::Missing,
    })
}

/// Whether a line of the file is this one, and no other with the same key. A carriage return does not matter: somebody may
/// have converted the file.
pub(crate) fn is_line(found: &KeyLine<'_>, line: &Line) -> bool {
    found.openssh_reads_key()
        && found.options().unwrap_or_default() == line.options().to_bytes()
        && found.comment() == line.comment().as_bytes()
}

/// Whether the line stands in the file.
pub(crate) fn stands(document: &AuthorizedKeys, line: &Line) -> bool {
    document.find(line.public_key()).filter_map(|entry| entry.key()).any(|found| is_line(&found, line))
}
