//! Frames of an exec or attach over WebSocket: one byte that names the channel, then its data.

use serde_json::json;

/// What to offer as `Sec-WebSocket-Protocol`, best first. A server that knows neither answers 403 with an empty body; both together
/// are understood by every server that has exec over WebSocket.
pub const OFFERED: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The largest piece of input that goes into one frame, in bytes.
pub const MAX_INPUT: usize = 32 * 1024;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// The subprotocol that the server has chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `v4.channel.k8s.io`: stdin cannot be closed.
    V4,
    /// `v5.channel.k8s.io`: stdin can be closed, and the process goes on.
    V5,
}

/// A size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What the server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Output of the process. May be empty, as the first frame of a stream is.
    Stdout(&'a [u8]),
    /// Its output of errors. May be empty.
    Stderr(&'a [u8]),
    /// How it ended, for [`Outcome::decode`](super::Outcome::decode).
    Status(&'a [u8]),
    /// The server closes a channel (v5).
    Closed(u8),
    /// Nothing that means something here: an empty message, a channel that is not known. To be passed over.
    Unknown,
}

impl Protocol {
    /// Out of the answer's `Sec-WebSocket-Protocol`; `None` for a server that chose none or one that was not offered. Without
    /// one of these no exit status would come.
    pub fn chosen(header: Option<&str>) -> Option<Self> {
        match header.map(str::trim) {
            Some("v5.channel.k8s.io") => Some(Self::V5),
            Some("v4.channel.k8s.io") => Some(Self::V4),
            _ => None,
        }
    }

    /// Reads one binary message. Every message has a meaning, if only that of [`Frame::Unknown`].
    pub fn decode(self, message: &[u8]) -> Frame<'_> {
        match message.split_first() {
            Some((&STDOUT, data)) => Frame::Stdout(data),
            Some((&STDERR, data)) => Frame::Stderr(data),
            Some((&STATUS, data)) => Frame::Status(data),
            Some((&CLOSE, [channel, ..])) if self == Self::V5 => Frame::Closed(*channel),
            _ => Frame::Unknown,
        }
    }

    /// The message that closes stdin, where this protocol has one.
    pub fn close_stdin(self) -> Option<[u8; 2]> {
        (self == Self::V5).then_some([CLOSE, STDIN])
    }
}

/// The message that carries `input` to stdin: its channel goes before it, into the same buffer. At most [`MAX_INPUT`] bytes are
/// taken; the number of those comes back.
pub fn encode_stdin(input: &[u8], message: &mut Vec<u8>) -> usize {
    let taken = input.get(..MAX_INPUT).unwrap_or(input);
    message.clear();
    message.reserve(taken.len() + 1);
    message.push(STDIN);
    message.extend_from_slice(taken);
    taken.len()
}

/// The message that tells the terminal's size.
pub fn encode_resize(size: TerminalSize) -> Vec<u8> {
    let mut message = vec![RESIZE];
    message.extend_from_slice(json!({ "Width": size.columns, "Height": size.rows }).to_string().as_bytes());
    message
}
