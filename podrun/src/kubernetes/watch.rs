//! A watch: JSON documents, one a line, each a change, a bookmark or the end.

use serde::Deserialize;
use serde_json::Value;

use super::failure::{ApiFailure, FailureKind};

/// The longest line that is read, in bytes: an object of etcd's limit of 1.5 MiB, and as much again.
pub const MAX_LINE: usize = 3 * 1024 * 1024;

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// An object is there: at the start, or new.
    Added(Value),
    /// An object changed.
    Modified(Value),
    /// An object is gone, or the selector no longer matches it; this is its last state.
    Deleted(Value),
    /// Nothing changed up to this version.
    Bookmark {
        /// From where to watch next.
        resource_version: String,
        /// Whether everything that was there at the start has been reported now (`k8s.io/initial-events-end`).
        initial_events_end: bool,
    },
    /// The version asked for is too old (410 Gone): list, then watch from there. No event follows.
    Expired,
    /// Anything else that ends the watch.
    Failed(ApiFailure),
}

/// Why the bytes are not those of a watch. The watch has to be opened again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A line that is longer than [`MAX_LINE`].
    #[error("the watch sent a line of more than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line that is not an event.
    #[error("the watch sent what is not an event: {0}")]
    Malformed(&'static str),
    /// The stream ended within a line.
    #[error("the watch ended within a line")]
    CutShort,
}

#[derive(Deserialize)]
struct Line {
    r#type: String,
    object: Value,
}

/// Cuts a watch's bytes into events, however they arrive.
#[derive(Debug, Default)]
pub struct WatchDecoder {
    buffer: Vec<u8>,
    /// How many bytes of the buffer were searched for the end of a line in vain.
    searched: usize,
    /// Where the next line begins.
    start: usize,
}

impl WatchDecoder {
    /// At the start of a watch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start.min(self.buffer.len()));
            self.searched = self.searched.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event; `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`WatchError::TooLong`] and [`WatchError::Malformed`]; nothing more is to be had from this watch then.
    pub fn next_event(&mut self) -> Result<Option<WatchEvent>, WatchError> {
        loop {
            let rest = self.buffer.get(self.searched.max(self.start)..).unwrap_or_default();
            let Some(offset) = rest.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                if self.buffer.len() - self.start > MAX_LINE {
                    return Err(WatchError::TooLong { limit: MAX_LINE });
                }
                return Ok(None);
            };
            let end = self.searched.max(self.start) + offset;
            let line = self.buffer.get(self.start..end).unwrap_or_default();
            if line.len() > MAX_LINE {
                return Err(WatchError::TooLong { limit: MAX_LINE });
            }
            let event = if line.iter().all(u8::is_ascii_whitespace) { None } else { Some(decode(line)?) };
            self.start = end + 1;
            self.searched = self.start;
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// To be called when the server has ended the response.
    ///
    /// # Errors
    /// [`WatchError::CutShort`] where it ended within a line.
    pub fn finish(&self) -> Result<(), WatchError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        if rest.iter().all(u8::is_ascii_whitespace) { Ok(()) } else { Err(WatchError::CutShort) }
    }
}

/// One line of a watch.
fn decode(line: &[u8]) -> Result<WatchEvent, WatchError> {
    let line: Line = serde_json::from_slice(line).map_err(|_| WatchError::Malformed("not JSON with type and object"))?;
    Ok(match line.r#type.as_str() {
        "ADDED" => WatchEvent::Added(line.object),
        "MODIFIED" => WatchEvent::Modified(line.object),
        "DELETED" => WatchEvent::Deleted(line.object),
        "BOOKMARK" => {
            let version = line.object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            let resource_version = version.ok_or(WatchError::Malformed("a bookmark without a version"))?.to_owned();
            let end = line.object.pointer("/metadata/annotations/k8s.io~1initial-events-end").and_then(Value::as_str);
            WatchEvent::Bookmark { resource_version, initial_events_end: end == Some("true") }
        }
        "ERROR" => {
            let failure = ApiFailure::from_status_object(&line.object);
            if failure.kind == FailureKind::Expired { WatchEvent::Expired } else { WatchEvent::Failed(failure) }
        }
        _ => return Err(WatchError::Malformed("an unknown type of event")),
    })
}
