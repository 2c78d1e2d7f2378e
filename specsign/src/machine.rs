//! The list inside a document: what should run, from where, and on which nodes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use toehold_core::SecretBytes;

use crate::digest::Sha256Digest;
use crate::document::{Text, folded, json_reason, known, set};
use crate::source::{Source, SourceError, SourcePolicy};

/// The most machines in a list.
pub const MAX_MACHINES: usize = 100_000;

/// The most bytes of a machine's name: with a prefix and a suffix it still is one file name.
pub const MAX_NAME: usize = 200;

/// A machine's name, which is also that of its directory: one path component that no reader takes for anything else.
///
/// Letters and digits of any script, and `.`, `_`, `+`, `@` and `-` but not at its beginning (`_` may be).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineName(String);

/// A text that is no [`MachineName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no machine's name: letters, digits, \"_\", and behind the first also \".\", \"+\", \"@\" and \"-\"; up to {MAX_NAME} bytes"
)]
pub struct MachineNameError(String);

impl MachineName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = MachineNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits =
            |(place, c): (usize, char)| c.is_alphanumeric() || c == '_' || (place > 0 && matches!(c, '.' | '+' | '@' | '-'));
        if text.is_empty() || text.len() > MAX_NAME || !text.char_indices().all(fits) {
            return Err(MachineNameError(text.chars().take(64).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl std::borrow::Borrow<str> for MachineName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MachineName {
    type Error = MachineNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Basic authentication for a machine's source.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password, in UTF-8.
    pub password: SecretBytes,
}

/// One machine (or plugin) as the list describes it.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagedMachine {
    /// Its name, and that of its directory and of its archive's top directory.
    pub name: MachineName,
    /// Where its archive is.
    pub source: Source,
    /// What to say there; see [`ManagedMachine::credentials_for`].
    pub credentials: Option<Credentials>,
    /// SHA-256 of its `SHA256SUMS` (`verify_checksum`).
    pub sums: Sha256Digest,
    /// SHA-256 of its archive (`checksum`).
    pub archive: Sha256Digest,
    /// On which nodes it belongs (`match`): an expression for [`Matcher`](crate::Matcher); on all where there is none.
    pub matcher: Option<String>,
    /// Whose slots it takes while it is updated.
    pub governor: Option<String>,
}

impl ManagedMachine {
    /// What to say to `target`: nothing unless that is the source's own scheme, host and port. A redirect leads there or
    /// elsewhere.
    pub fn credentials_for(&self, target: &Source) -> Option<&Credentials> {
        self.credentials.as_ref().filter(|_| self.source.same_origin(target))
    }
}

/// Why a payload is no list of machines. Entries are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// Not a JSON list of objects with texts as members.
    #[error("the list cannot be read: {reason} (line {line}, column {column})")]
    Json {
        /// What is wrong; never a member's value.
        reason: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// A member that an entry must have.
    #[error("{member} is required for {machine}")]
    Missing {
        /// Which member.
        member: &'static str,
        /// The entry's name or number.
        machine: String,
    },
    /// The name is not one that can be a directory's.
    #[error("entry {entry}: {error}")]
    Name {
        /// Which entry.
        entry: usize,
        /// What is wrong with it.
        error: MachineNameError,
    },
    /// Two entries have one name.
    #[error("{0} comes twice")]
    Twice(MachineName),
    /// A member's value cannot be used.
    #[error("{member} of {machine} {reason}")]
    Value {
        /// Which member.
        member: &'static str,
        /// Of which machine.
        machine: MachineName,
        /// What is wrong; never the value itself.
        reason: String,
    },
    /// The source cannot be fetched from.
    #[error("source of {machine}: {error}")]
    Source {
        /// Of which machine.
        machine: MachineName,
        /// What is wrong with it.
        #[source]
        error: SourceError,
    },
}

/// A member of an entry that means nothing to this release.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownMember {
    /// What it is called; the first 64 characters.
    pub name: String,
    /// The first machine that has it.
    pub machine: MachineName,
    /// The member that may be meant, where there is one of nearly the same name.
    pub meant: Option<&'static str>,
}

/// A list of machines, each valid, no name twice.
#[derive(Debug, PartialEq, Eq)]
pub struct MachineList {
    machines: Vec<ManagedMachine>,
    unknown_members: Vec<UnknownMember>,
}

impl MachineList {
    /// Reads and checks a payload.
    ///
    /// Members that this release does not know are passed over and remembered, for who packs to see; a known one in other
    /// letters, or twice, is refused, and so is `null` for anything.
    ///
    /// # Errors
    /// [`ListError`]; one bad entry refuses the list, for a list without it would be another one.
    pub fn parse(payload: &[u8], policy: SourcePolicy) -> Result<Self, ListError> {
        let Entries(entries) = serde_json::from_slice(payload).map_err(|error| ListError::Json {
            reason: json_reason(&error),
            line: error.line(),
            column: error.column(),
        })?;
        let mut unknown_members: Vec<UnknownMember> = Vec::new();
        let mut machines = Vec::with_capacity(entries.len());
        for (place, mut entry) in entries.into_iter().enumerate() {
            let unknown = std::mem::take(&mut entry.unknown);
            let machine = entry.check(place + 1, policy)?;
            for name in unknown {
                if unknown_members.len() < 16 && unknown_members.iter().all(|member| member.name != name) {
                    let meant = meant(&name);
                    unknown_members.push(UnknownMember { name, machine: machine.name.clone(), meant });
                }
            }
            machines.push(machine);
        }
        let mut names = HashSet::with_capacity(machines.len());
        if let Some(twice) = machines.iter().find(|machine| !names.insert(machine.name.as_str())) {
            return Err(ListError::Twice(twice.name.clone()));
        }
        Ok(Self { machines, unknown_members })
    }

    /// The machines, in the order of the list.
    pub fn machines(&self) -> &[ManagedMachine] {
        &self.machines
    }

    /// Members that were passed over (the first 16): a misspelt `match` is one, and would mean "on every node".
    pub fn unknown_members(&self) -> &[UnknownMember] {
        &self.unknown_members
    }
}

/// The member whose name is nearly this: one letter in three may be another one, too much or missing.
fn meant(name: &str) -> Option<&'static str> {
    let name = folded(name);
    let near = |known: &'static str| {
        let distance = strsim::levenshtein(&name, known);
        (distance * 3 <= name.chars().count().max(known.len())).then_some((distance, known))
    };
    NAMES.iter().copied().filter_map(near).min().map(|(_, known)| known)
}

#[derive(Default)]
struct Entry<'a> {
    name: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    username: Option<Cow<'a, str>>,
    password: Option<SecretBytes>,
    verify: Option<Cow<'a, str>>,
    verify_checksum: Option<Cow<'a, str>>,
    checksum: Option<Cow<'a, str>>,
    matcher: Option<Cow<'a, str>>,
    governor: Option<Cow<'a, str>>,
    unknown: Vec<String>,
}

const NAMES: &[&str] = &["name", "source", "username", "password", "verify", "verify_checksum", "checksum", "match", "governor"];

impl Entry<'_> {
    fn check(self, number: usize, policy: SourcePolicy) -> Result<ManagedMachine, ListError> {
        let name = given(self.name, "name", || format!("entry {number}"))?;
        let name: MachineName = name.parse().map_err(|error| ListError::Name { entry: number, error })?;
        let value = |member, reason: &str| ListError::Value { member, machine: name.clone(), reason: reason.to_owned() };

        let source = given(self.source, "source", || name.to_string())?;
        let source = Source::parse(&source, policy).map_err(|error| ListError::Source { machine: name.clone(), error })?;
        let digest = |text: Option<Cow<'_, str>>, member| -> Result<Sha256Digest, ListError> {
            // Choria compares lower-case texts; an upper-case one names the same file.
            given(text, member, || name.to_string())?.parse().map_err(|_| value(member, "is not 64 hex digits"))
        };
        let archive = digest(self.checksum, "checksum")?;
        let sums = digest(self.verify_checksum, "verify_checksum")?;
        if self.verify.is_some_and(|verify| verify != crate::sums::FILE_NAME) {
            return Err(value("verify", "can only be SHA256SUMS"));
        }
        let username = self.username.filter(|text| !text.is_empty());
        let credentials = match (username, self.password.filter(|password| !password.is_empty())) {
            (None, None) => None,
            (Some(username), Some(password)) => {
                // RFC 7617 §2: the first colon ends the user's name.
                if username.contains(|c: char| c == ':' || c.is_control()) {
                    return Err(value("username", "has a colon or a control character"));
                }
                Some(Credentials { username: username.into_owned(), password })
            }
            (Some(_), None) => return Err(ListError::Missing { member: "password", machine: name.to_string() }),
            (None, Some(_)) => return Err(ListError::Missing { member: "username", machine: name.to_string() }),
        };
        if credentials.is_some() && !source.takes_credentials() {
            return Err(value("username", "is of no use for a file"));
        }
        let governor = self.governor.filter(|text| !text.is_empty());
        if governor.as_ref().is_some_and(|text| toehold_core::Key::new([text.as_ref()]).is_err()) {
            return Err(value("governor", "has \"/\" or a control character, or is over 512 bytes"));
        }
        let governor = governor.map(Cow::into_owned);
        let matcher = self.matcher.filter(|text| !text.is_empty()).map(Cow::into_owned);
        Ok(ManagedMachine { name, source, credentials, sums, archive, matcher, governor })
    }
}

fn given<'a>(
    value: Option<Cow<'a, str>>,
    member: &'static str,
    machine: impl FnOnce() -> String,
) -> Result<Cow<'a, str>, ListError> {
    value.filter(|text| !text.is_empty()).ok_or_else(|| ListError::Missing { member, machine: machine() })
}

struct Entries<'a>(Vec<Entry<'a>>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of machines")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    if entries.len() == MAX_MACHINES {
                        return Err(de::Error::custom(format_args!("more than {MAX_MACHINES} machines")));
                    }
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

impl<'de> Deserialize<'de> for Entry<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a machine")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entry = Entry::default();
                while let Some(Text(name)) = map.next_key()? {
                    let Some(name) = known::<A::Error>(&name, NAMES)? else {
                        map.next_value::<IgnoredAny>()?;
                        entry.unknown.push(name.chars().take(64).collect());
                        continue;
                    };
                    let text = map.next_value::<Text<'de>>()?.0;
                    match name {
                        "name" => set(&mut entry.name, text, name)?,
                        "source" => set(&mut entry.source, text, name)?,
                        "username" => set(&mut entry.username, text, name)?,
                        "password" => set(&mut entry.password, SecretBytes::new(text.into_owned().into_bytes()), name)?,
                        "verify" => set(&mut entry.verify, text, name)?,
                        "verify_checksum" => set(&mut entry.verify_checksum, text, name)?,
                        "checksum" => set(&mut entry.checksum, text, name)?,
                        "match" => set(&mut entry.matcher, text, name)?,
                        _ => set(&mut entry.governor, text, name)?,
                    }
                }
                Ok(entry)
            }
        }
        deserializer.deserialize_map(EntryVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_member_is_told_from_one_of_another_meaning() {
        for (name, known) in [
            ("matcher", Some("match")),
            ("mach", Some("match")),
            ("govenor", Some("governor")),
            ("checksums", Some("checksum")),
            ("verifychecksum", Some("verify_checksum")),
            ("interval", None),
            ("mode", None),
            ("", None),
        ] {
            assert_eq!(meant(name), known, "{name}");
        }
    }
}
