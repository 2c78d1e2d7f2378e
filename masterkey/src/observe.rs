//! What a host's files say about the master keys, as read at one moment.

use toehold_core::{PublicKey, Timestamp};
use toehold_keygen::authorized_keys::{Digest, Entry, KeyLine, Options};
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, is_grant};

/// The files in which sshd looks for an account's keys, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// `authorized_keys`; empty where there is none.
    pub first: AuthorizedKeys,
    /// `authorized_keys2`, where there is one.
    pub second: Option<AuthorizedKeys>,
}

impl Files {
    /// Both files' lines in the order in which sshd reads them.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.first.entries().chain(self.second.iter().flat_map(AuthorizedKeys::entries))
    }

    /// The lines that hold `key`, whatever else is on them, except those of grants: these are not ours.
    pub fn copies<'a>(&'a self, key: &'a PublicKey) -> impl Iterator<Item = Entry<'a>> {
        let all = self.first.find(key).chain(self.second.iter().flat_map(move |second| second.find(key)));
        all.filter(|entry| !entry.key().is_some_and(|line| is_grant(&line)))
    }

    /// One of the two.
    pub fn file(&self, file: KeyFile) -> Option<&AuthorizedKeys> {
        match file {
            KeyFile::AuthorizedKeys => Some(&self.first),
            KeyFile::AuthorizedKeys2 => self.second.as_ref(),
        }
    }
}

/// What becomes of one line with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    /// sshd passes over it, or takes it for something else than a key that logs in.
    Unusable,
    /// It has an end.
    At(Timestamp),
    /// It has an end that cannot be read.
    Unclear,
    /// It has none.
    Never,
}

pub(crate) fn line_end(line: &KeyLine<'_>) -> LineEnd {
    let options = Options::parse(line.options().unwrap_or_default());
    let Ok(options) = options else { return LineEnd::Unusable };
    if !line.openssh_reads_key() || options.has("cert-authority") {
        return LineEnd::Unusable;
    }
    options_end(&options)
}

/// The end that these options give a line.
pub(crate) fn options_end(options: &Options) -> LineEnd {
    if !options.has("expiry-time") {
        return LineEnd::Never;
    }
    options.effect(0).ok().and_then(|effect| effect.expires_at).map_or(LineEnd::Unclear, LineEnd::At)
}

/// The bytes of a line without its line feed, by their digest: what "these very bytes" means.
pub(crate) fn line_id(entry: &Entry<'_>) -> Digest {
    Digest::of(entry.text())
}

/// How a key stands in a host's files, all copies of it together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Presence {
    /// On no line.
    Absent,
    /// Only on lines that sshd passes over.
    Unusable,
    /// On lines that all have an end.
    Expiring {
        /// Whether the last of these ends has passed by the host's own clock.
        passed: bool,
    },
    /// On a line without an end. A copy that has one beside it does not matter: the plain one logs in.
    Permanent,
}

impl Presence {
    /// Whether any line holds it.
    pub fn is_there(self) -> bool {
        self != Self::Absent
    }
}

/// One key as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How it stands there.
    pub presence: Presence,
    /// Its lines without an end, by the digests of their bytes.
    pub permanent: Vec<Digest>,
}

/// What was seen of all keys that a machine has to do with, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    keys: Vec<Seen>,
}

const NOWHERE: &Seen = &Seen { presence: Presence::Absent, permanent: Vec::new() };

impl Observation {
    /// Looks for `keys` in the files of a host whose clock shows `host_now`.
    pub fn of(files: &Files, keys: &[PublicKey], host_now: Timestamp) -> Self {
        Self { keys: keys.iter().map(|key| see(files, key, host_now)).collect() }
    }

    /// One key, by its place in the machine's order.
    pub fn key(&self, index: usize) -> &Seen {
        self.keys.get(index).unwrap_or(NOWHERE)
    }

    /// How one key stands there.
    pub fn presence(&self, index: usize) -> Presence {
        self.key(index).presence
    }

    /// How many keys were looked for.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none were.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

fn see(files: &Files, key: &PublicKey, host_now: Timestamp) -> Seen {
    let mut seen = Seen { presence: Presence::Absent, permanent: Vec::new() };
    for entry in files.copies(key) {
        let end = entry.key().map_or(LineEnd::Unusable, |line| line_end(&line));
        let presence = match end {
            LineEnd::Unusable => Presence::Unusable,
            LineEnd::At(end) => Presence::Expiring { passed: end < host_now },
            LineEnd::Unclear => Presence::Expiring { passed: true },
            LineEnd::Never => {
                seen.permanent.push(line_id(&entry));
                Presence::Permanent
            }
        };
        seen.presence = match (seen.presence, presence) {
            (Presence::Expiring { passed: one }, Presence::Expiring { passed: other }) => {
                Presence::Expiring { passed: one && other }
            }
            (one, other) => one.max(other),
        };
    }
    seen
}
