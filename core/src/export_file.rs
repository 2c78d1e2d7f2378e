//! Files of JSON lines that say whether they are whole.
//!
//! The first line says what the file is, and when it was made; the last one how many lines are between them, and what the SHA-256 of
//! all lines before it is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::time::Timestamp;

/// The format that this release writes and reads.
const FORMAT: u32 = 1;

/// A file that is no export, or not one as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The digest in the last line is not that of the lines before.
    #[error("the file is not as it was written: its last line has another digest")]
    Changed,
    /// The last line counts other than what is there.
    #[error("the file has {got} entries, and was written with {counted}")]
    Count {
        /// What is there.
        got: u64,
        /// What the last line says.
        counted: u64,
    },
    /// There is no last line.
    #[error("the file was cut off: its last line is missing")]
    CutOff,
    /// A line that cannot stand where it stands.
    #[error("line {line} is {what}")]
    Line {
        /// Which, from 1.
        line: usize,
        /// What it is.
        what: &'static str,
    },
    /// The file is one of a newer release.
    #[error(
        "the file was written by a newer release of Toehold (format {0}, this release reads up to {FORMAT}); upgrade this machine"
    )]
    Newer(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    entries: u64,
    sha256: String,
}

/// Writes a file into memory.
pub(crate) struct ExportWriter {
    bytes: Vec<u8>,
    entries: u64,
}

impl ExportWriter {
    /// A file whose first line has a member `name` with the format's number.
    pub(crate) fn new(name: &str, made_at: Timestamp) -> Self {
        // A name and a time have nothing that JSON would escape.
        Self { bytes: format!("{{\"{name}\":{FORMAT},\"made_at\":\"{made_at}\"}}\n").into_bytes(), entries: 0 }
    }

    pub(crate) fn line(&mut self, line: &impl Serialize) -> serde_json::Result<()> {
        serde_json::to_writer(&mut self.bytes, line)?;
        self.bytes.push(b'\n');
        self.entries += 1;
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        let sha256 = base16(&Sha256::digest(&self.bytes));
        self.bytes.extend_from_slice(format!("{{\"entries\":{},\"sha256\":\"{sha256}\"}}\n", self.entries).as_bytes());
        self.bytes
    }
}

/// Reads a file, whoever wrote it.
pub(crate) struct ExportReader<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
    line: usize,
    entries: u64,
}

impl<'a> ExportReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, rest: bytes, line: 0, entries: 0 }
    }

    /// That the line just read cannot stand there.
    pub(crate) fn wrong(&self, what: &'static str) -> ExportError {
        ExportError::Line { line: self.line, what }
    }

    /// The first line: when the file was made.
    pub(crate) fn first(&mut self, name: &str) -> Result<Timestamp, ExportError> {
        let text = self.text().ok_or(ExportError::CutOff)?;
        let wrong = self.wrong("not the first line of such a file");
        let Ok(Value::Object(members)) = serde_json::from_slice(text) else { return Err(wrong) };
        match members.get(name).and_then(Value::as_u64) {
            None => return Err(wrong),
            Some(format) if format != u64::from(FORMAT) => return Err(ExportError::Newer(format)),
            Some(_) if members.len() != 2 => return Err(wrong),
            Some(_) => {}
        }
        made_at(&members).ok_or(wrong)
    }

    /// The next line; `None` behind the last one, where the file is as it was written.
    pub(crate) fn next(&mut self) -> Result<Option<&'a [u8]>, ExportError> {
        let before = self.bytes.len() - self.rest.len();
        let text = self.text().ok_or(ExportError::CutOff)?;
        let Ok(last) = serde_json::from_slice::<Last>(text) else {
            self.entries += 1;
            return Ok(Some(text));
        };
        if self.text().is_some() {
            return Err(self.wrong("behind the last one"));
        }
        if last.sha256 != base16(&Sha256::digest(self.bytes.get(..before).unwrap_or_default())) {
            return Err(ExportError::Changed);
        }
        if last.entries != self.entries {
            return Err(ExportError::Count { got: self.entries, counted: last.entries });
        }
        Ok(None)
    }

    /// A line without its line feed; what comes behind the last line feed counts as one.
    fn text(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.line += 1;
        let (line, rest) = match self.rest.iter().position(|byte| *byte == b'\n') {
            Some(at) => (self.rest.get(..at)?, self.rest.get(at + 1..)?),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        Some(line)
    }
}

fn made_at(members: &Map<String, Value>) -> Option<Timestamp> {
    members.get("made_at")?.as_str()?.parse().ok()
}

/// Bytes as hex digits.
pub(crate) fn base16(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or_default()));
        text
    })
}
