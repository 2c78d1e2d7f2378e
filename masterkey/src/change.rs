//! The changes to a host's files: each of them concerns one master key.

use std::time::Duration;

use toehold_core::{Account, PublicKey, Timestamp};
use toehold_keygen::authorized_keys::{KeyLine, Line, Options};
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, ExpiryTime, GENERATION_COMMENT_PREFIX, HostExpiry, is_grant};

use crate::host::ARRIVING;
use crate::observe::{Files, LineEnd, line_end, options_end};

/// One change to the lines of one master key (R2). Keys go by their place in the machine's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to know them all")]
pub enum Change {
    /// Put the arriving key on lines of its own, with the options of those of the key that logged in.
    Add {
        /// Whether the line gets an end, which its proof takes away.
        provisional: bool,
    },
    /// Move the end of the arriving key's lines, or of those of them with the last end, away from now.
    Extend,
    /// Take the end away from the arriving key's lines, or from those of them with the last end.
    Promote,
    /// Give every line of this key an end, unless it has an earlier one.
    Expire(usize),
    /// Take every line of this key away; of the arriving one, where the host refuses it.
    Delete(usize),
}

impl Change {
    /// Whose lines are changed.
    pub fn key(self) -> usize {
        match self {
            Self::Add { .. } | Self::Extend | Self::Promote => ARRIVING,
            Self::Expire(key) | Self::Delete(key) => key,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add { .. } => "adding the new line",
            Self::Extend => "moving the new line's end",
            Self::Promote => "making the new line permanent",
            Self::Expire(_) => "giving the old line an end",
            Self::Delete(ARRIVING) => "taking the unproven line away",
            Self::Delete(_) => "removing the old line",
        }
    }
}

/// What a change needs to know besides the files.
#[derive(Clone, Debug)]
pub struct Making {
    /// The machine's keys, the arriving one first.
    pub keys: Vec<PublicKey>,
    /// The number of the rotation, which the new line's comment carries; `None` where rotations are not counted.
    pub generation: Option<u64>,
    /// The account, which the new line's comment carries: another account that finds it there has the same file.
    pub account: Account,
    /// How the host wants an end to be written.
    pub expiry: HostExpiry,
    /// How long the new line is good until it is proven.
    pub provisional: Duration,
    /// How long the old line is still good.
    pub grace: Duration,
}

/// What begins the word in a comment that says for which account the line was written.
const ACCOUNT: &str = "toehold-account=";

impl Making {
    /// What `change` makes of `file`, which is one of `files`; `over` is the key that logged in.
    pub fn apply(
        &self,
        change: Change,
        over: usize,
        host_now: Timestamp,
        files: &Files,
        file: KeyFile,
        document: &mut AuthorizedKeys,
    ) {
        let Some(key) = self.keys.get(change.key()) else { return };
        let set_end = |document: &mut AuthorizedKeys, end: Option<ExpiryTime>, which: &dyn Fn(LineEnd) -> bool| {
            document.edit_options(key, |options| {
                if !which(options_end(options)) {
                    return None;
                }
                let mut new = options.clone();
                new.set_expiry_time(end.as_ref());
                Some(new)
            });
        };
        let after = |wait| self.expiry.at(host_now.saturating_add(wait));
        match change {
            Change::Add { provisional } => {
                let end = if provisional { after(self.provisional) } else { None };
                let Some(anchor) = self.keys.get(over) else { return };
                // All of them into one file: two are two writes. The observation says that no line with the key is of any use.
                if first_with(files, anchor, |end| end == LineEnd::Never) == Some(file) {
                    self.lines(over, files, end.as_ref()).iter().for_each(|line| document.push(line));
                }
            }
            // The lines whose end is the last are ours: an end that somebody gave others stays.
            Change::Extend => {
                let Some(end) = after(self.provisional) else { return };
                let last = last_end(files, key);
                set_end(document, Some(end), &|line| line == last);
            }
            Change::Promote => {
                let last = last_end(files, key);
                // One line without an end is enough, and two files are two writes.
                if first_with(files, key, |end| end == last) == Some(file) {
                    set_end(document, None, &|line| line == last);
                }
            }
            Change::Expire(_) => {
                let Some(end) = after(self.grace) else { return };
                let at = end.instant(0);
                let is_later = |line| line == LineEnd::Never || matches!(line, LineEnd::At(other) if other > at);
                set_end(document, Some(end), &is_later);
            }
            Change::Delete(_) => {
                document.remove_where(key, |line| !is_grant(line));
            }
        }
    }

    /// The arriving key's lines: for each line of the key that logged in, and that has no end, one with its options and its
    /// comment. Which of them sshd went by does not show, and from elsewhere it goes by another; none is there twice.
    fn lines(&self, over: usize, files: &Files, end: Option<&ExpiryTime>) -> Vec<Line> {
        let (Some(anchor), Some(arriving)) = (self.keys.get(over), self.keys.get(ARRIVING)) else { return Vec::new() };
        let mut seen: Vec<Options> = Vec::new();
        let mut lines = Vec::new();
        for entry in files.copies(anchor) {
            let Some(line) = entry.key().filter(|line| line_end(line) == LineEnd::Never) else { continue };
            let Ok(mut options) = Options::parse(line.options().unwrap_or_default()) else { continue };
            if seen.contains(&options) {
                continue;
            }
            seen.push(options.clone());
            options.set_expiry_time(end);
            let comment = self.comment(&String::from_utf8_lossy(line.comment()));
            lines.extend(Line::new(options, arriving.clone(), &comment));
        }
        lines
    }

    /// A line's comment for its successor: with the words that say which rotation wrote it, and for which account.
    fn comment(&self, before: &str) -> String {
        let words =
            before.split_whitespace().filter(|word| !word.starts_with(GENERATION_COMMENT_PREFIX) && !word.starts_with(ACCOUNT));
        let mut comment = words.collect::<Vec<_>>().join(" ");
        comment.retain(|character| !character.is_control());
        let generation = self.generation.map(|number| format!("{GENERATION_COMMENT_PREFIX}{number}"));
        let account = format!("{ACCOUNT}{}", self.account);
        let words = [Some(comment), generation, Some(account)].into_iter().flatten().filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    /// Another account that wrote the arriving key's line in these files.
    pub(crate) fn other_account(&self, files: &Files) -> Option<Account> {
        other_writer(files, self.keys.get(ARRIVING)?, &self.account)
    }
}

/// Another account than `account` that wrote a line of `key` in these files.
pub(crate) fn other_writer(files: &Files, key: &PublicKey, account: &Account) -> Option<Account> {
    files.copies(key).find_map(|entry| {
        let comment = String::from_utf8_lossy(entry.key()?.comment()).into_owned();
        let writer: Account = comment.split_whitespace().find_map(|word| word.strip_prefix(ACCOUNT))?.parse().ok()?;
        (writer != *account).then_some(writer)
    })
}

/// The last end that a line of the key has.
fn last_end(files: &Files, key: &PublicKey) -> LineEnd {
    let ends = files.copies(key).filter_map(|entry| match line_end(&entry.key()?) {
        LineEnd::At(end) => Some(end),
        _ => None,
    });
    ends.max().map_or(LineEnd::Unclear, LineEnd::At)
}

/// The first file with a line of the key that is as wanted.
fn first_with(files: &Files, key: &PublicKey, wanted: impl Fn(LineEnd) -> bool) -> Option<KeyFile> {
    let is_wanted = |line: KeyLine<'_>| !is_grant(&line) && wanted(line_end(&line));
    let has = |document: &AuthorizedKeys| document.find(key).any(|entry| entry.key().is_some_and(is_wanted));
    KeyFile::ALL.into_iter().find(|file| files.file(*file).is_some_and(has))
}
