//! What commands print, and how they end.

use std::error::Error;
use std::fmt;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

/// How a command that did its work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed, and nothing is half done.
    Failed,
    /// Done in part, or found otherwise than it should be.
    Partly,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Partly => 3,
        }
    }
}

/// Why a command failed, for the person who reads it, and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong, sources included.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// How the command ends.
    pub exit: Exit,
    /// Whether a document on standard output says so already; `--json` promises one.
    documented: bool,
}

impl Failure {
    /// A failure that left nothing half done.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Failed, documented: false }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same where the command's document, which tells as much, is printed already.
    #[must_use]
    pub fn documented(mut self) -> Self {
        self.documented = true;
        self
    }

    /// The same where something is owed.
    #[must_use]
    pub fn partly(mut self) -> Self {
        self.exit = Exit::Partly;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(chain(&error))
    }
}

/// An error and its sources, joined by colons; a source that the error's own words already hold is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    text
}

/// Whether a document was printed.
static DOCUMENT: AtomicBool = AtomicBool::new(false);

/// Where a command's results go: text for people, or JSON, on standard output.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether JSON was asked for.
    pub json: bool,
}

impl Output {
    /// Prints a line for people; nothing under `--json`.
    pub fn text(self, line: impl fmt::Display) {
        if !self.json {
            self.raw(&format!("{line}\n"));
        }
    }

    /// Prints a JSON document on one line; nothing without `--json`.
    pub fn document(self, value: &Value) {
        if self.json {
            DOCUMENT.store(true, Ordering::Relaxed);
            self.raw(&format!("{value}\n"));
        }
    }

    /// Prints `text` as it is. A reader that has gone away does not matter.
    pub fn raw(self, text: &str) {
        let mut stdout = anstream::stdout().lock();
        drop(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()));
    }

    /// Says why a command failed: on standard error, and as a document under `--json` unless the command's own tells it.
    pub fn failure(self, failure: &Failure) {
        let mut value = serde_json::json!({ "error": failure.message });
        if let (Some(hint), Some(object)) = (&failure.hint, value.as_object_mut()) {
            object.insert("hint".to_owned(), Value::from(hint.clone()));
        }
        // A command that has printed its findings has said all there is to say.
        if !DOCUMENT.load(Ordering::Relaxed) {
            self.document(&value);
        }
        let mut stderr = anstream::stderr().lock();
        drop(writeln!(stderr, "toehold: {}", printable(&failure.message)));
        if let Some(hint) = &failure.hint {
            for line in hint.lines() {
                drop(writeln!(stderr, "         {}", printable(line)));
            }
        }
    }
}

/// What a host or a file said, without what would drive a terminal or pass for a line of ours.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Rows as columns that line up, two blanks between them; the first row is the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let cell = printable(cell);
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_drive_no_terminal() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["ACCOUNT", "LABEL"]), row(["a@b", "x\u{1b}[31m"]), row(["someone@host", ""])]);
        assert_eq!(text, "ACCOUNT       LABEL\na@b           x\u{fffd}[31m\nsomeone@host\n");
    }
}
