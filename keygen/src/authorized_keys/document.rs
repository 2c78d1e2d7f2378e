//! The document itself: a file's bytes, and the edits to them.

use std::fmt;
use std::ops::Range;

use sha2::{Digest as _, Sha256};
use toehold_core::PublicKey;

use super::base64::Wanted;
use super::line::Line;
use super::lines::{Entries, Entry, KeyLine};
use super::options::Options;

/// The most bytes of an `authorized_keys` file that are read from a host: 16 MiB, some 100,000 keys.
pub const MAX_AUTHORIZED_KEYS: u64 = 16 * 1024 * 1024;

/// An `authorized_keys` file; see the [module](super).
///
/// Holds the bytes once, without an index: edits happen in place, so that beyond the input there is at most one copy of the
/// file in memory, and that only while a file that has grown is moved to a larger buffer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthorizedKeys {
    bytes: Vec<u8>,
}

/// What [`AuthorizedKeys::add`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Added {
    /// The key was nowhere; its line is now the last.
    Added,
    /// The key is there with these very options; nothing was changed.
    Unchanged,
    /// The key is there with other options; nothing was changed. [`AuthorizedKeys::replace_options`] would.
    PresentWithOtherOptions,
}

impl Added {
    /// Whether the document was changed.
    pub fn is_added(self) -> bool {
        self == Self::Added
    }
}

/// The SHA-256 of a file's bytes; printed in lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl AuthorizedKeys {
    /// Takes a file's bytes over; every sequence of bytes is a document.
    pub fn parse(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The bytes as they stand now.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes as they stand now, without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The digest of the bytes as they stand now.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All lines in order.
    pub fn entries(&self) -> Entries<'_> {
        Entries::new(&self.bytes)
    }

    /// The lines that hold `key`, in order.
    pub fn find<'a>(&'a self, key: &'a PublicKey) -> impl Iterator<Item = Entry<'a>> {
        let wanted = Wanted::new(key);
        self.entries().filter(move |entry| entry.holds(&wanted))
    }

    /// Whether any line holds `key`.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.find(key).next().is_some()
    }

    /// Adds a line at the end, unless its key is there already.
    ///
    /// Lines that OpenSSH passes over, since the algorithm before the base64 is not the key's or the base64 is malformed, do
    /// not count as having the key; neither does a certificate authority where `line` is none.
    pub fn add(&mut self, line: &Line) -> Added {
        let options = line.options().to_bytes();
        let authority = line.options().has("cert-authority");
        let mut present = None;
        for found in self.find(line.public_key()).filter_map(|entry| entry.key()).filter(KeyLine::openssh_reads_key) {
            let theirs = found.options().unwrap_or_default();
            if theirs == options {
                present = present.or(Some(Added::Unchanged));
            } else if Options::parse(theirs).is_ok_and(|theirs| theirs.has("cert-authority")) == authority {
                present = Some(Added::PresentWithOtherOptions);
            }
        }
        present.unwrap_or_else(|| {
            self.append(&line.to_bytes());
            Added::Added
        })
    }

    /// Adds a line at the end, whether its key is there already or not. sshd takes the first line that admits a login, so
    /// that a second line with the same key adds to what the others allow only where they refuse.
    pub fn push(&mut self, line: &Line) {
        self.append(&line.to_bytes());
    }

    fn append(&mut self, line: &[u8]) {
        self.bytes.reserve_exact(line.len() + 1);
        if self.ends_mid_line() {
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(line);
        } else {
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
        }
    }

    fn ends_mid_line(&self) -> bool {
        self.bytes.last().is_some_and(|byte| *byte != b'\n')
    }

    /// Removes every line that holds `key`; returns how many there were.
    pub fn remove(&mut self, key: &PublicKey) -> usize {
        self.remove_where(key, |_| true)
    }

    /// Removes those lines that hold `key` and are `meant`; returns how many there were.
    pub fn remove_where(&mut self, key: &PublicKey, meant: impl Fn(&KeyLine<'_>) -> bool) -> usize {
        let found = self.find(key).filter(|entry| entry.key().is_some_and(|line| meant(&line)));
        let ranges: Vec<_> = found.map(|entry| entry.start()..entry.end()).collect();
        let ended_mid_line = self.ends_mid_line();
        self.cut(&ranges);
        let last_gone = ended_mid_line && ranges.last().is_some() && !self.ends_mid_line();
        // Only a line feed that an addition can have put there: the one between two lines.
        if last_gone && matches!(self.bytes.as_slice(), [.., before, b'\n'] if *before != b'\n') {
            self.bytes.pop();
        }
        ranges.len()
    }

    /// Takes ranges out, which are in order and do not overlap, moving each byte at most once.
    fn cut(&mut self, ranges: &[Range<usize>]) {
        let mut kept = ranges.first().map_or(self.bytes.len(), |first| first.start);
        for (at, range) in ranges.iter().enumerate() {
            let next = ranges.get(at + 1).map_or(self.bytes.len(), |next| next.start);
            self.bytes.copy_within(range.end..next, kept);
            kept += next - range.end;
        }
        self.bytes.truncate(kept);
    }

    /// Gives every line that holds `key` these options in place of those that it has; the rest of the line stays. Returns how
    /// many lines were changed: those that had these very options are not counted.
    pub fn replace_options(&mut self, key: &PublicKey, options: &Options) -> usize {
        self.edit_options(key, |_| Some(options.clone()))
    }

    /// Gives every line that holds `key` the options that `edit` makes of those that it has; `None` leaves the line alone,
    /// and so do options that cannot be read. Returns how many lines were changed.
    ///
    /// So, for example, an expiry is set while whatever else somebody wrote there is carried over:
    /// `document.edit_options(&key, |options| { let mut new = options.clone(); new.set_expiry_time(Some(&end)); Some(new) })`.
    pub fn edit_options(&mut self, key: &PublicKey, mut edit: impl FnMut(&Options) -> Option<Options>) -> usize {
        let mut changes = Vec::new();
        for entry in self.find(key) {
            let Some(found) = entry.key() else { continue };
            let old = found.options().unwrap_or_default();
            let Some(new) = Options::parse(old).ok().and_then(|options| edit(&options)) else { continue };
            let new = new.to_bytes();
            if new != old {
                changes.push(change(entry.start(), found.options_range(), old.len(), new));
            }
        }
        self.replace(&changes);
        changes.len()
    }

    /// Puts other bytes in the place of ranges, which are in order and do not overlap. However many they are, each byte is
    /// moved at most twice.
    fn replace(&mut self, changes: &[(Range<usize>, Vec<u8>)]) {
        let Some((first, _)) = changes.first() else { return };
        let (from, length) = (first.start, self.bytes.len());
        let growth = changes.iter().map(|(range, new)| new.len().saturating_sub(range.len())).sum::<usize>();
        self.bytes.reserve_exact(growth);
        self.bytes.resize(length + growth, 0);
        // What stands behind the first change moves out of the way: what is read is then ahead of what is written by at least
        // what the changes to come will add.
        self.bytes.copy_within(from..length, from + growth);
        let (mut read, mut written) = (from, from);
        for (range, new) in changes {
            self.bytes.copy_within(read + growth..range.start + growth, written);
            written += range.start - read;
            if let Some(place) = self.bytes.get_mut(written..written + new.len()) {
                place.copy_from_slice(new);
            }
            written += new.len();
            read = range.end;
        }
        self.bytes.copy_within(read + growth..length + growth, written);
        self.bytes.truncate(written + length - read);
    }
}

/// What takes the place of what, in a line that begins at `start`, for its options to be `new`. The blanks behind the
/// options stay, unless the options come or go as a whole.
fn change(start: usize, range: Range<usize>, old_length: usize, mut new: Vec<u8>) -> (Range<usize>, Vec<u8>) {
    let (start, end) = (start + range.start, start + range.end);
    if old_length == 0 {
        new.push(b' ');
    }
    let end = if old_length == 0 || new.is_empty() { end } else { start + old_length };
    (start..end, new)
}

impl fmt::Debug for AuthorizedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorizedKeys({} bytes, {} lines)", self.bytes.len(), self.entries().count())
    }
}

impl From<Vec<u8>> for AuthorizedKeys {
    fn from(bytes: Vec<u8>) -> Self {
        Self::parse(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
