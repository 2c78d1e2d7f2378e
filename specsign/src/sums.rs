//! `SHA256SUMS`: the files of a machine, all of them.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::digest::Sha256Digest;
use crate::path::{MAX_PATH, TreePath, TreePathError};

/// The name of the file, at the top of a machine's directory.
pub const FILE_NAME: &str = "SHA256SUMS";

/// The most bytes of the file.
pub const MAX_SUMS: usize = 4 * 1024 * 1024;

/// Why bytes are no list of sums. Lines are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SumsError {
    /// More than [`MAX_SUMS`].
    #[error("the list of sums is over the limit of {MAX_SUMS} bytes")]
    TooLong,
    /// It lists nothing, so that nothing would be checked.
    #[error("the list of sums is empty")]
    Empty,
    /// A line that sha256sum would not have written.
    #[error("line {line} of the list of sums is not 64 hex digits, a blank, a blank or \"*\", and a name")]
    Line {
        /// Which line.
        line: usize,
    },
    /// A path that leads elsewhere, or could be read in two ways.
    #[error("line {line} of the list of sums: {error}")]
    Path {
        /// Which line.
        line: usize,
        /// What is wrong with it.
        error: TreePathError,
    },
    /// A file comes twice, or the list lists itself.
    #[error("line {line} of the list of sums lists a file again, or the list itself")]
    Twice {
        /// Which line.
        line: usize,
    },
}

/// A list of files with their sums, closed: what it does not list does not belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    files: BTreeMap<TreePath, Sha256Digest>,
}

impl Sums {
    /// A list of these files.
    ///
    /// # Errors
    /// [`SumsError::Empty`]; [`SumsError::Twice`] for the list itself.
    pub fn new(files: BTreeMap<TreePath, Sha256Digest>) -> Result<Self, SumsError> {
        if files.contains_key(FILE_NAME) {
            return Err(SumsError::Twice { line: 0 });
        }
        if files.is_empty() { Err(SumsError::Empty) } else { Ok(Self { files }) }
    }

    /// Reads what sha256sum writes: with either mark, with the escapes of names, and with `./` before them.
    ///
    /// # Errors
    /// [`SumsError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SumsError> {
        let mut files = BTreeMap::new();
        let mut fault = None;
        let mut each = |line: Line| {
            if fault.is_some() {
                return;
            }
            match line {
                Ok((line, path, digest)) => {
                    if path.as_str() == FILE_NAME || files.insert(path, digest).is_some() {
                        fault = Some(SumsError::Twice { line });
                    }
                }
                Err(error) => fault = Some(error),
            }
        };
        let mut lines = Lines::new();
        lines.push(bytes, &mut each);
        lines.finish(&mut each);
        match fault {
            Some(fault) => Err(fault),
            None => Self::new(files),
        }
    }

    /// The files with their sums, in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&TreePath, &Sha256Digest)> {
        self.files.iter()
    }

    /// The sum of a file.
    pub fn get(&self, path: &str) -> Option<&Sha256Digest> {
        self.files.get(path)
    }

    /// As sha256sum writes it, in the order of the paths.
    pub fn to_bytes(&self) -> Vec<u8> {
        // No path that we take has a character that sha256sum escapes.
        self.files.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect::<String>().into_bytes()
    }
}

/// A line: its number, a path and its sum.
pub(crate) type Line = Result<(usize, TreePath, Sha256Digest), SumsError>;

/// The most bytes of a line: a sum, its mark, and a path of which every character is escaped.
const MAX_LINE: usize = 1 + 64 + 2 + 2 + 2 * MAX_PATH;

/// The lines of a list as it comes, piece by piece, and its sum.
#[derive(Debug)]
pub(crate) struct Lines {
    hash: Sha256,
    length: usize,
    number: usize,
    /// Of the line that has begun; nothing past [`MAX_LINE`] and one byte.
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new() -> Self {
        Self { hash: Sha256::new(), length: 0, number: 0, line: Vec::new() }
    }

    /// The next piece; whole lines go to `each`.
    pub(crate) fn push(&mut self, piece: &[u8], each: &mut dyn FnMut(Line)) {
        self.hash.update(piece);
        self.length += piece.len();
        if self.length > MAX_SUMS {
            return each(Err(SumsError::TooLong));
        }
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, is_whole) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let free = (MAX_LINE + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(text.get(..free).unwrap_or(text));
            if is_whole {
                self.end_line(each);
            }
        }
    }

    fn end_line(&mut self, each: &mut dyn FnMut(Line)) {
        self.number += 1;
        each(if self.line.len() > MAX_LINE {
            Err(SumsError::Line { line: self.number })
        } else {
            parse_line(self.number, &self.line)
        });
        self.line.clear();
    }

    /// Nothing more comes: the last line, which needs no end, and the sum of all.
    pub(crate) fn finish(mut self, each: &mut dyn FnMut(Line)) -> Sha256Digest {
        if self.length == 0 {
            each(Err(SumsError::Empty));
        }
        if !self.line.is_empty() {
            self.end_line(each);
        }
        Sha256Digest(self.hash.finalize().into())
    }
}

fn parse_line(line: usize, bytes: &[u8]) -> Line {
    let bad = || SumsError::Line { line };
    let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
    let (escaped, text) = text.strip_prefix('\\').map_or((false, text), |text| (true, text));
    let (digest, rest) = text.split_at_checked(64).ok_or_else(bad)?;
    let digest: Sha256Digest = digest.parse().map_err(|_| bad())?;
    let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *")).ok_or_else(bad)?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let path = if escaped { unescape(name).ok_or_else(bad)?.parse() } else { name.parse() };
    Ok((line, path.map_err(|error| SumsError::Path { line, error })?, digest))
}

fn unescape(name: &str) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            c => c,
        });
    }
    Some(text)
}
