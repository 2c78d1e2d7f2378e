//! An audit log as JSON lines.
//!
//! One line for each entry, by writer and number, with its hash. A file is read as one that anybody may have written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AuditEntry, AuditEvent, AuditFlaw, AuditHead, AuditLog};
use crate::export_file::{ExportError, ExportReader, ExportWriter};
use crate::store::Key;
use crate::time::Timestamp;

/// What the first line says that the file is.
const NAME: &str = "audit_export";

/// An audit log that was, or is about to be, written to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditExport {
    /// When.
    pub made_at: Timestamp,
    /// The log.
    pub log: AuditLog,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Entry(Box<EntryLine>),
    Unreadable(UnreadableLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    writer: String,
    number: u64,
    hash: String,
    previous: String,
    event: AuditEvent,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    heads: BTreeMap<String, AuditHead>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnreadableLine {
    writer: String,
    number: u64,
    unreadable: String,
}

impl AuditExport {
    /// As a file. What cannot be read stands in it as that.
    ///
    /// # Errors
    /// None in practice: all of it can be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut file = ExportWriter::new(NAME, self.made_at);
        for (writer, number, found) in self.log.places() {
            let writer = writer.to_owned();
            let line = match found {
                Ok(entry) if entry.number == number => {
                    let AuditEntry { number, previous, event, heads } = entry.clone();
                    Line::Entry(Box::new(EntryLine { writer, number, hash: entry.hash(), previous, event, heads }))
                }
                Ok(entry) => {
                    let unreadable = AuditFlaw::Misnumbered { says: entry.number }.to_string();
                    Line::Unreadable(UnreadableLine { writer, number, unreadable })
                }
                Err(flaw) => Line::Unreadable(UnreadableLine { writer, number, unreadable: flaw.to_string() }),
            };
            file.line(&line)?;
        }
        Ok(file.finish())
    }

    /// Reads a file, whoever wrote it. An entry that is not what its hash says is in the log as one that cannot be read; nothing
    /// else of the log is verified.
    ///
    /// # Errors
    /// [`ExportError`], with what could be read of the file where that is something.
    pub fn parse(bytes: &[u8]) -> Result<Self, (Option<Self>, ExportError)> {
        let mut file = ExportReader::new(bytes);
        let made_at = file.first(NAME).map_err(|error| (None, error))?;
        let mut export = Self { made_at, log: AuditLog::default() };
        let error = loop {
            let text = match file.next() {
                Ok(Some(text)) => text,
                Ok(None) => return Ok(export),
                Err(error) => break error,
            };
            let Some((writer, number, found)) = entry_line(text) else {
                break file.wrong("no entry of an audit log");
            };
            if export.log.put(&writer, number, found).is_some() {
                break file.wrong("about an entry that another line is about");
            }
        };
        Err((Some(export), error))
    }
}

fn entry_line(text: &[u8]) -> Option<(String, u64, Result<AuditEntry, AuditFlaw>)> {
    let line = serde_json::from_slice(text).ok()?;
    let (writer, number, found) = match line {
        Line::Entry(line) => {
            let EntryLine { writer, number, hash, previous, event, heads } = *line;
            let entry = AuditEntry { number, previous, event, heads };
            let is_right = entry.hash() == hash;
            let found = if is_right {
                Ok(entry)
            } else {
                Err(AuditFlaw::Unreadable { why: "it is not what the hash beside it says".to_owned() })
            };
            (writer, number, found)
        }
        Line::Unreadable(line) => (line.writer, line.number, Err(AuditFlaw::Unreadable { why: line.unreadable })),
    };
    let is_place = number > 0 && Key::new(["audit", &writer]).is_ok();
    is_place.then_some((writer, number, found))
}
