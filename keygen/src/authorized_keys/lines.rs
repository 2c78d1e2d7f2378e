//! Where the lines of a document begin and end, and what stands on them.

use toehold_core::PublicKey;

use super::base64::{Decoded, Name, Wanted, ends_field, looks_like_a_key, openssh_decodes};

/// One line of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    number: usize,
    start: usize,
    text: &'a [u8],
    terminated: bool,
}

/// What stands on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineKind<'a> {
    /// Nothing but blanks.
    Blank,
    /// The first character that is no blank is `#`.
    Comment,
    /// A public key, of any algorithm.
    Key(KeyLine<'a>),
    /// Anything else; sshd passes over it.
    Other,
}

/// The parts of a line that holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLine<'a> {
    line: &'a [u8],
    options_at: usize,
    key_at: usize,
    blob_at: usize,
}

impl<'a> Entry<'a> {
    /// The line's number, from 1, as sshd counts them in its log.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The line as it stands, without its line feed; a carriage return before that belongs to it.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Offset in the document of the line's first byte.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Offset in the document of the first byte after the line and its line feed.
    pub fn end(&self) -> usize {
        self.start + self.text.len() + usize::from(self.terminated)
    }

    /// What stands on it.
    pub fn kind(&self) -> LineKind<'a> {
        let blanks = leading_blanks(self.text);
        match self.text.get(blanks..) {
            None | Some([] | [0, ..] | [b'\r']) => LineKind::Blank,
            Some([b'#', ..]) => LineKind::Comment,
            Some(_) => KeyLine::at(self.text, blanks).map_or(LineKind::Other, LineKind::Key),
        }
    }

    /// Whether the line's key is the wanted one; quicker than [`Entry::key`] for one that is not.
    pub(super) fn holds(&self, wanted: &Wanted<'_>) -> bool {
        KeyLine::located(self.text, leading_blanks(self.text)).is_some_and(|found| found.holds(wanted))
            && self.kind() != LineKind::Comment
    }

    /// The parts of the line, where it holds a key.
    pub fn key(&self) -> Option<KeyLine<'a>> {
        match self.kind() {
            LineKind::Key(key) => Some(key),
            _ => None,
        }
    }
}

impl<'a> KeyLine<'a> {
    /// The line's key, where there is one.
    fn at(line: &'a [u8], blanks: usize) -> Option<Self> {
        Self::located(line, blanks).filter(|key| key.decoded().name().is_some())
    }

    /// Looks for what can be a key where sshd does: at the beginning of the line, else behind its options.
    fn located(line: &'a [u8], blanks: usize) -> Option<Self> {
        Self::with_key_at(line, blanks, blanks).or_else(|| {
            let options_end = blanks + options_length(line.get(blanks..)?)?;
            let key_at = options_end + leading_blanks(line.get(options_end..)?);
            Self::with_key_at(line, blanks, key_at)
        })
    }

    fn with_key_at(line: &'a [u8], options_at: usize, key_at: usize) -> Option<Self> {
        let word_end = key_at + algorithm_length(line.get(key_at..)?)?;
        let blob_at = word_end + leading_blanks(line.get(word_end..)?);
        let found = blob_at > word_end && looks_like_a_key(line.get(blob_at..)?);
        found.then_some(Self { line, options_at, key_at, blob_at })
    }

    /// The options in front of the key as they stand; `None` where there are none.
    pub fn options(&self) -> Option<&'a [u8]> {
        let text = self.line.get(self.options_at..self.key_at)?;
        (!text.is_empty()).then(|| text.trim_suffix_blanks())
    }

    /// The word before the base64, which names the key's algorithm.
    pub fn algorithm(&self) -> &'a [u8] {
        field(self.line.get(self.key_at..).unwrap_or_default())
    }

    /// The key's base64 as it stands.
    pub fn base64(&self) -> &'a [u8] {
        field(self.line.get(self.blob_at..).unwrap_or_default())
    }

    /// What stands behind the key, without the blanks between; a carriage return at its end is left out.
    pub fn comment(&self) -> &'a [u8] {
        let rest = self.line.get(self.blob_at + self.base64().len()..).unwrap_or_default();
        let rest = rest.get(leading_blanks(rest)..).unwrap_or_default();
        rest.strip_suffix(b"\r").unwrap_or(rest)
    }

    /// The key itself; `None` where it is longer than [`toehold_core::MAX_BLOB`].
    pub fn public_key(&self) -> Option<PublicKey> {
        let blob: Vec<u8> = self.decoded().take(toehold_core::MAX_BLOB + 1).collect();
        PublicKey::from_blob(&blob).ok()
    }

    /// Whether the key on this line is `key`, by its blob; see [`AuthorizedKeys`](super::AuthorizedKeys).
    pub fn is(&self, key: &PublicKey) -> bool {
        self.holds(&Wanted::new(key))
    }

    fn holds(&self, wanted: &Wanted<'_>) -> bool {
        self.line.get(self.blob_at..).is_some_and(|text| wanted.is_in(text))
    }

    /// Whether OpenSSH reads the key on this line: it knows the algorithm, the name before the base64 and the one inside
    /// mean the same kind of key, and the base64 is well-formed. What the options say is not asked.
    pub fn openssh_reads_key(&self) -> bool {
        let outside = openssh_kind(self.algorithm());
        let same_kind = |inside: Name| outside.is_some() && openssh_kind(inside.as_bytes()) == outside;
        self.decoded().name().is_some_and(same_kind) && openssh_decodes(self.base64())
    }

    /// The bytes of the line that are its options and the blanks behind them; empty where there are none.
    pub(super) fn options_range(&self) -> std::ops::Range<usize> {
        self.options_at..self.key_at
    }

    fn decoded(&self) -> Decoded<'a> {
        Decoded::new(self.line.get(self.blob_at..).unwrap_or_default())
    }
}

/// The kind of key that OpenSSH 10.5 takes a name for; several names may mean one kind. Certificates are no keys of their own.
fn openssh_kind(name: &[u8]) -> Option<&[u8]> {
    match name {
        b"ssh-ed25519"
        | b"sk-ssh-ed25519@openssh.com"
        | b"ssh-mldsa44-ed25519@openssh.com"
        | b"ecdsa-sha2-nistp256"
        | b"ecdsa-sha2-nistp384"
        | b"ecdsa-sha2-nistp521"
        | b"sk-ecdsa-sha2-nistp256@openssh.com"
        | b"ssh-rsa" => Some(name),
        b"rsa-sha2-256" | b"rsa-sha2-512" => Some(b"ssh-rsa"),
        b"webauthn-sk-ecdsa-sha2-nistp256@openssh.com" => Some(b"sk-ecdsa-sha2-nistp256@openssh.com"),
        _ => None,
    }
}

trait TrimBlanks {
    fn trim_suffix_blanks(&self) -> &Self;
}

impl TrimBlanks for [u8] {
    fn trim_suffix_blanks(&self) -> &Self {
        let kept = self.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
        self.get(..kept).unwrap_or_default()
    }
}

fn leading_blanks(text: &[u8]) -> usize {
    text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// The field that `text` begins with.
fn field(text: &[u8]) -> &[u8] {
    let length = text.iter().position(|byte| ends_field(*byte)).unwrap_or(text.len());
    text.get(..length).unwrap_or_default()
}

/// The length of the word that `text` begins with, where it can name an algorithm: OpenSSH's names have no other characters,
/// options with a value do. A word that can itself be a key is none, so that no line can be taken for two different keys.
fn algorithm_length(text: &[u8]) -> Option<usize> {
    let in_names = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'@' | b'.' | b'_' | b'+');
    let length = text.iter().take_while(|byte| in_names(byte)).count();
    let ends = text.get(length).is_none_or(|byte| ends_field(*byte));
    (length > 0 && ends && !looks_like_a_key(text)).then_some(length)
}

/// How many bytes of `text` are options: all up to the first blank outside quotes, where `\"` neither opens nor closes
/// one. `None` where a quote stays open.
fn options_length(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if text.get(at + 1) == Some(&b'"') => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            0 => return (!quoted).then_some(at),
            byte if ends_field(*byte) && !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

/// The lines of a document, in order.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    start: usize,
    number: usize,
}

impl<'a> Entries<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, start: 0, number: 0 }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let length = line_feed(self.rest);
        let (text, rest) = self.rest.split_at_checked(length.unwrap_or(self.rest.len()))?;
        self.number += 1;
        let entry = Entry { number: self.number, start: self.start, text, terminated: length.is_some() };
        self.start = entry.end();
        self.rest = rest.get(1..).unwrap_or_default();
        Some(entry)
    }
}

/// Where the first line feed stands. In blocks, which the compiler turns into vector instructions.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let (blocks, tail) = bytes.as_chunks::<BLOCK>();
    let is_line_feed = |byte: &u8| *byte == b'\n';
    match blocks.iter().position(|block| block.iter().fold(false, |found, byte| found | is_line_feed(byte))) {
        Some(block) => blocks.get(block)?.iter().position(is_line_feed).map(|at| block * BLOCK + at),
        None => tail.iter().position(is_line_feed).map(|at| blocks.len() * BLOCK + at),
    }
}
