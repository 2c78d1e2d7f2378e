//! The subset of tar with one meaning (POSIX.1-2017 pax, and what GNU tar writes), piece by piece.

use crate::document::folded;
use crate::path::TreePath;

use super::{ArchiveError, Contents, Refusal, UnpackSink};

const BLOCK: usize = 512;
/// The most bytes of a pax header or a GNU long name.
const MAX_EXTENSION: u64 = 64 * 1024;
/// The most zeros behind the end: a record of GNU tar's default is 10 KiB, of others up to 1 MiB.
const MAX_TAIL: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Reader {
    top: String,
    entry: usize,
    /// What that is called, for whoever is told of it; empty where it is not known.
    called: Vec<u8>,
    block: Vec<u8>,
    state: State,
    /// The name that the next entry has, from an extension before it.
    name: Option<Vec<u8>>,
    /// The size that a pax header says; the header has to say the same.
    size: Option<u64>,
    extended: bool,
    global_seen: bool,
    top_seen: bool,
}

#[derive(Debug)]
enum State {
    Header,
    /// Content of a file, then its padding.
    File {
        left: u64,
        padding: usize,
    },
    Extension {
        kind: Extension,
        left: u64,
        padding: usize,
        bytes: Vec<u8>,
    },
    Padding(usize),
    /// One block of zeros was seen.
    HalfEnd,
    /// The end was seen; so many bytes of zeros have followed.
    End(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    Pax,
    Global,
    LongName,
}

impl Reader {
    pub(super) fn new(top: &str) -> Self {
        Self {
            top: top.to_owned(),
            entry: 0,
            called: Vec::new(),
            block: Vec::with_capacity(BLOCK),
            state: State::Header,
            name: None,
            size: None,
            extended: false,
            global_seen: false,
            top_seen: false,
        }
    }

    fn refuse(&self, reason: impl Into<String>) -> ArchiveError {
        let path = Some(self.called.as_slice()).filter(|called| !called.is_empty()).map(shown);
        ArchiveError::Tar { entry: self.entry.max(1), path, reason: reason.into() }
    }

    fn refused(&self, refusal: Refusal) -> ArchiveError {
        match refusal {
            Refusal::Entry(reason) => self.refuse(reason),
            Refusal::TooMuch { what, limit } => ArchiveError::TooMuch { what, limit },
            Refusal::Sink(error) => ArchiveError::Sink(error),
        }
    }

    pub(super) fn push<S: UnpackSink + ?Sized>(
        &mut self,
        mut bytes: &[u8],
        contents: &mut Contents,
        sink: &mut S,
    ) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header | State::HalfEnd => {
                    let taken = bytes.get(..bytes.len().min(BLOCK - self.block.len())).unwrap_or_default();
                    self.block.extend_from_slice(taken);
                    bytes = bytes.get(taken.len()..).unwrap_or_default();
                    if self.block.len() == BLOCK {
                        let block = std::mem::take(&mut self.block);
                        self.block(&block, contents, sink)?;
                        self.block = block;
                        self.block.clear();
                    }
                }
                State::File { left, padding } => {
                    let taken = bytes.get(..bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX))).unwrap_or_default();
                    *left -= taken.len() as u64;
                    bytes = bytes.get(taken.len()..).unwrap_or_default();
                    let (ended, padding) = (*left == 0, *padding);
                    contents.write(taken, sink).map_err(|refusal| self.refused(refusal))?;
                    if ended {
                        contents.end_file(sink).map_err(|refusal| self.refused(refusal))?;
                        self.pad(padding);
                    }
                }
                State::Extension { left, padding, bytes: content, kind } => {
                    let taken = bytes.get(..bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX))).unwrap_or_default();
                    *left -= taken.len() as u64;
                    bytes = bytes.get(taken.len()..).unwrap_or_default();
                    content.extend_from_slice(taken);
                    if *left == 0 {
                        let (kind, padding, content) = (*kind, *padding, std::mem::take(content));
                        self.extension(kind, &content)?;
                        self.pad(padding);
                    }
                }
                State::Padding(left) => {
                    let taken = bytes.get(..bytes.len().min(*left)).unwrap_or_default();
                    bytes = bytes.get(taken.len()..).unwrap_or_default();
                    let left = *left - taken.len();
                    if taken.iter().any(|byte| *byte != 0) {
                        return Err(self.refuse("has something in its padding"));
                    }
                    self.pad(left);
                }
                State::End(tail) => {
                    *tail += bytes.len();
                    if bytes.iter().any(|byte| *byte != 0) {
                        return Err(self.refuse("has something behind the end"));
                    }
                    if *tail > MAX_TAIL {
                        return Err(ArchiveError::TooMuch { what: "zeros behind the end", limit: MAX_TAIL as u64 });
                    }
                    bytes = &[];
                }
            }
        }
        Ok(())
    }

    fn pad(&mut self, padding: usize) {
        self.state = if padding == 0 { State::Header } else { State::Padding(padding) };
    }

    pub(super) fn finish(self) -> Result<(), ArchiveError> {
        match self.state {
            // Whole blocks: what is cut in the middle of its zeros is cut.
            State::End(tail) if tail.is_multiple_of(BLOCK) => Ok(()),
            State::End(_) => Err(self.refuse("ends in the middle of a block")),
            _ => Err(self.refuse("is cut short: two blocks of zeros end an archive")),
        }
    }

    fn block<S: UnpackSink + ?Sized>(&mut self, block: &[u8], contents: &mut Contents, sink: &mut S) -> Result<(), ArchiveError> {
        let zero = block.iter().all(|byte| *byte == 0);
        let half = matches!(self.state, State::HalfEnd);
        match (zero, half) {
            (true, false) if self.extended => return Err(self.refuse("is an extension of nothing")),
            (true, false) => {
                self.called.clear();
                self.state = State::HalfEnd;
            }
            (true, true) => self.state = State::End(0),
            (false, true) => return Err(self.refuse("follows a block of zeros")),
            (false, false) => return self.header(block, contents, sink),
        }
        Ok(())
    }

    fn header<S: UnpackSink + ?Sized>(
        &mut self,
        block: &[u8],
        contents: &mut Contents,
        sink: &mut S,
    ) -> Result<(), ArchiveError> {
        self.entry += 1;
        self.called.clear();
        Header::check(block).map_err(|reason| self.refuse(reason))?;
        if !matches!(block.get(156), Some(b'x' | b'g' | b'L')) {
            match &self.name {
                Some(name) => self.called.extend_from_slice(name),
                None => self.called.extend(Header::called(block)),
            }
        }
        let header = Header::parse(block).map_err(|reason| self.refuse(reason))?;
        let padding = usize::try_from((BLOCK as u64 - header.size % BLOCK as u64) % BLOCK as u64).unwrap_or_default();
        let extension = match header.kind {
            b'x' => Some(Extension::Pax),
            b'g' => Some(Extension::Global),
            b'L' => Some(Extension::LongName),
            _ => None,
        };
        if let Some(kind) = extension {
            if self.extended {
                return Err(self.refuse("is an extension of an extension"));
            }
            if kind == Extension::Global && (self.global_seen || self.entry != 1) {
                return Err(self.refuse("is a global header that is not the first entry"));
            }
            if header.size > MAX_EXTENSION {
                return Err(ArchiveError::TooMuch { what: "bytes of an extension header", limit: MAX_EXTENSION });
            }
            if header.size == 0 {
                return Err(self.refuse("is an empty extension"));
            }
            self.global_seen |= kind == Extension::Global;
            self.extended = kind != Extension::Global;
            self.state = State::Extension { kind, left: header.size, padding, bytes: Vec::new() };
            return Ok(());
        }
        self.extended = false;
        if self.size.take().is_some_and(|size| size != header.size) {
            return Err(self.refuse("has two sizes"));
        }
        let name = self.name.take().unwrap_or(header.name);
        let name = String::from_utf8(name).map_err(|_| self.refuse("has a name that is not UTF-8"))?;
        let directory = header.kind == b'5';
        match self.path(&name, directory)? {
            None if directory => {}
            None => return Err(self.refuse("is a file with the name of the top directory")),
            Some(path) if directory => contents.directory(&path, sink).map_err(|refusal| self.refused(refusal))?,
            Some(path) => {
                let executable = header.mode & 0o111 != 0;
                contents.begin_file(path, executable, header.size, sink).map_err(|refusal| self.refused(refusal))?;
                if header.size == 0 {
                    contents.end_file(sink).map_err(|refusal| self.refused(refusal))?;
                } else {
                    self.state = State::File { left: header.size, padding };
                }
            }
        }
        Ok(())
    }

    /// The path below the top directory; `None` for the top directory itself, and for `./` above it.
    fn path(&mut self, name: &str, directory: bool) -> Result<Option<TreePath>, ArchiveError> {
        let refuse = |reason: &str| self.refuse(reason);
        let name = match name.strip_suffix('/') {
            Some(name) if directory => name,
            Some(_) => return Err(refuse("is a file whose name ends with \"/\"")),
            None => name,
        };
        if name == "." && directory && self.entry <= 2 && !self.top_seen {
            return Ok(None);
        }
        let name = name.strip_prefix("./").unwrap_or(name);
        TreePath::check(name).map_err(|error| refuse(&error.to_string()))?;
        let (top, rest) = name.split_once('/').map_or((name, None), |(top, rest)| (top, Some(rest)));
        if top != self.top {
            let other = if folded(top) == folded(&self.top) { "another spelling of it" } else { "another" };
            return Err(refuse(&format!("is not below the directory {:?} but {other}", self.top)));
        }
        match rest {
            Some(rest) => {
                let path = rest.parse().map(Some).map_err(|error: crate::path::TreePathError| refuse(&error.to_string()));
                self.top_seen = true;
                path
            }
            None if self.top_seen => Err(refuse("names the top directory late or again")),
            None => {
                self.top_seen = true;
                Ok(None)
            }
        }
    }

    fn extension(&mut self, kind: Extension, bytes: &[u8]) -> Result<(), ArchiveError> {
        if kind == Extension::LongName {
            let name = bytes.strip_suffix(b"\0").unwrap_or_default();
            if name.is_empty() || name.contains(&0) {
                return Err(self.refuse("is a long name that does not end with one NUL"));
            }
            self.name = Some(name.to_vec());
            return Ok(());
        }
        let mut seen = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (key, value, after) = pax_record(rest).ok_or_else(|| self.refuse("is a damaged pax header"))?;
            rest = after;
            if seen.contains(&key) {
                return Err(self.refuse(format!("says {key} twice")));
            }
            seen.push(key);
            let number = |text: &[u8]| !text.is_empty() && text.len() <= 20 && text.iter().all(u8::is_ascii_digit);
            let text = |value: &[u8]| !value.is_empty() && !value.contains(&0) && std::str::from_utf8(value).is_ok();
            let fits = match key {
                "comment" => true,
                _ if kind == Extension::Global => false,
                "path" => {
                    self.name = Some(value.to_vec());
                    text(value)
                }
                "size" => {
                    let digits = value.iter().all(u8::is_ascii_digit);
                    self.size = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
                    self.size.is_some()
                }
                "mtime" | "atime" | "ctime" => {
                    let value = value.strip_prefix(b"-").unwrap_or(value);
                    let mut parts = value.splitn(2, |byte| *byte == b'.');
                    parts.all(number)
                }
                // GNU tar fails on an owner that the system cannot have.
                "uid" | "gid" => number(value) && std::str::from_utf8(value).is_ok_and(|text| text.parse::<u32>().is_ok()),
                "uname" | "gname" => text(value),
                // Attributes that nobody restores unasked.
                _ => key.starts_with("SCHILY.xattr.") || key.starts_with("LIBARCHIVE."),
            };
            if !fits {
                return Err(self.refuse(format!("has a pax header that is not taken ({})", key.escape_debug())));
            }
        }
        Ok(())
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself; and what follows.
fn pax_record(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let blank = bytes.iter().position(|byte| *byte == b' ').filter(|at| (1..=5).contains(at))?;
    let digits = bytes.get(..blank)?;
    if digits.first() == Some(&b'0') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.strip_suffix(b"\n")?.get(blank + 1..)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty() && key.is_ascii())?;
    Some((key, value, rest))
}

struct Header {
    name: Vec<u8>,
    mode: u64,
    size: u64,
    kind: u8,
}

/// The field at a place of the header.
fn field(block: &[u8], start: usize, length: usize) -> &[u8] {
    block.get(start..start + length).unwrap_or_default()
}

impl Header {
    /// Whether it is a header at all.
    fn check(block: &[u8]) -> Result<(), &'static str> {
        let stored = octal(field(block, 148, 8)).ok_or("has no check sum, or is no header")?;
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = field(block, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
        if stored != sum - own + 8 * u64::from(b' ') {
            return Err("has a wrong check sum, or is no header");
        }
        Ok(())
    }

    /// What it calls its entry, of a header that may be refused.
    fn called(block: &[u8]) -> Vec<u8> {
        let until_nul = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let name = until_nul(field(block, 0, 100));
        let prefix = if field(block, 257, 8) == b"ustar\x0000" { until_nul(field(block, 345, 155)) } else { Vec::new() };
        if prefix.is_empty() { name } else { [prefix, b"/".to_vec(), name].concat() }
    }

    /// Reads one that is a header.
    fn parse(block: &[u8]) -> Result<Self, String> {
        let posix = match field(block, 257, 8) {
            b"ustar\x0000" => true,
            b"ustar  \0" => false,
            _ => return Err("has a header of an old or unknown form; POSIX and GNU are taken".to_owned()),
        };
        let kind = block.get(156).copied().unwrap_or_default();
        if !matches!(kind, b'0' | b'5' | b'x' | b'g' | b'L') {
            return Err(format!("is {}; regular files and directories are taken", kind_in_words(kind)));
        }
        let mode = octal(field(block, 100, 8)).filter(|mode| *mode <= 0o7777).ok_or("has a bad mode")?;
        let size = octal(field(block, 124, 12)).ok_or("has a bad size")?;
        for (start, length, what) in
            [(108, 8, "owner"), (116, 8, "group"), (136, 12, "time"), (329, 8, "device"), (337, 8, "device")]
        {
            let value = field(block, start, length);
            // GNU's binary form, as far as every reader can hold the value: 32 bits for an owner, 40 for a time.
            let zeros = length - if length == 8 { 4 } else { 5 };
            let binary = what != "device"
                && value.split_at_checked(zeros).is_some_and(|(high, _)| {
                    high.split_first().is_some_and(|(mark, rest)| *mark == 0x80 && rest.iter().all(|byte| *byte == 0))
                });
            if !binary && octal(value).is_none() && !value.iter().all(|byte| matches!(byte, 0 | b' ')) {
                return Err(format!("has a bad {what}"));
            }
        }
        if kind == b'5' && size != 0 {
            return Err("is a directory with a size".to_owned());
        }
        if text(field(block, 157, 100)).is_none_or(|target| !target.is_empty()) {
            return Err("has the target of a link".to_owned());
        }
        if field(block, 500, 12).iter().any(|byte| *byte != 0) {
            return Err("has something behind its header".to_owned());
        }
        let name = text(field(block, 0, 100)).ok_or("has something behind its name")?;
        let prefix = text(field(block, 345, 155)).ok_or("has something behind its name")?;
        if !posix && !prefix.is_empty() {
            return Err("has GNU's fields of an incremental archive".to_owned());
        }
        if name.is_empty() {
            return Err("has no name".to_owned());
        }
        let name = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        Ok(Self { name, mode, size, kind })
    }
}

/// The most characters of a path that are shown.
const MAX_SHOWN: usize = 200;

/// A path as it can be shown on a terminal, whatever somebody has put into it.
fn shown(path: &[u8]) -> String {
    // No character has more bytes, and nothing is looked at that is not shown.
    let path = path.get(..path.len().min(MAX_SHOWN * 4 + 4)).unwrap_or_default();
    let text = String::from_utf8_lossy(path);
    let mut characters = text.chars().flat_map(char::escape_debug);
    let mut shown: String = characters.by_ref().take(MAX_SHOWN).collect();
    if characters.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Octal digits, then at least one NUL or blank unless the field is full, and nothing else.
fn octal(field: &[u8]) -> Option<u64> {
    let length = field.iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(field.len());
    let (digits, rest) = field.split_at_checked(length)?;
    if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| value.checked_mul(8)?.checked_add(u64::from(digit - b'0')))
}

/// Bytes up to the first NUL, behind which only NULs may be.
fn text(field: &[u8]) -> Option<&[u8]> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at_checked(end)?;
    rest.iter().all(|byte| *byte == 0).then_some(text)
}

fn kind_in_words(kind: u8) -> &'static str {
    match kind {
        0 => "a file of the old kind",
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'6' => "a pipe",
        b'7' => "a contiguous file",
        b'S' => "a sparse file",
        b'K' => "a long link",
        _ => "of an unknown kind",
    }
}
