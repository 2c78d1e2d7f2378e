//! What commands print, and how they end.

use std::error::Error;
use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// How a command that did its work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed, and nothing is half done.
    Failed,
    /// Not begun: the command line cannot be meant as it stands.
    Usage,
    /// Done in part, or found otherwise than it should be.
    Partly,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
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
    /// What the command found out all the same, as a JSON object.
    found: Value,
}

impl Failure {
    /// A failure that left nothing half done.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: Exit::Failed, found: json!({}) }
    }

    /// A command line that cannot be meant as it stands; nothing was begun.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the command's own findings, an object: under `--json` they stand in the document that tells the failure.
    #[must_use]
    pub fn with(mut self, found: Value) -> Self {
        self.found = found;
        self
    }

    /// The document that tells it.
    fn document(&self) -> Value {
        let mut value = self.found.clone();
        if let Some(object) = value.as_object_mut() {
            object.insert("error".to_owned(), Value::from(self.message.clone()));
            object.insert("exit_code".to_owned(), Value::from(self.exit.code()));
            if let Some(hint) = &self.hint {
                object.insert("hint".to_owned(), Value::from(hint.clone()));
            }
        }
        value
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

/// Why something could not be printed, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// Where a command's results go: text for people, or JSON, on standard output.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether JSON was asked for.
    pub json: bool,
    /// Whether nothing is printed: it is somebody else's place to tell.
    is_mute: bool,
}

impl Output {
    /// Text for people, or JSON.
    pub fn new(json: bool) -> Self {
        Self { json, is_mute: false }
    }

    /// The same, which prints nothing on standard output, and what it says beside the result into the log.
    #[must_use]
    pub fn mute(self) -> Self {
        Self { is_mute: true, ..self }
    }

    /// Whether it prints nothing.
    pub fn is_mute(self) -> bool {
        self.is_mute
    }

    /// Prints a line for people; nothing under `--json`.
    pub fn text(self, line: impl fmt::Display) {
        if !self.json {
            self.raw(&format!("{line}\n"));
        }
    }

    /// Prints a paragraph for people, broken where the terminal ends; nothing under `--json`.
    pub fn paragraph(self, indent: usize, text: &str) {
        self.text(wrapped(text, indent, columns()));
    }

    /// Prints a JSON document on one line; nothing without `--json`.
    pub fn document(self, value: &Value) {
        if self.json {
            self.raw(&format!("{value}\n"));
        }
    }

    /// Prints `text` as it is. A reader that has gone away does not matter; any other trouble is told at the end ([`Output::end`]).
    pub fn raw(self, text: &str) {
        if self.is_mute {
            return;
        }
        let mut stdout = anstream::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => drop(LOST.set(error.to_string())),
            _ => {}
        }
    }

    /// How a command ends that would end like this: in part, where its result could not be printed, which may be all that there is of it.
    pub fn end(self, exit: Exit) -> Exit {
        let Some(reason) = LOST.get() else { return exit };
        self.aside(&format!("not everything could be written to standard output: {reason}"));
        if exit == Exit::Done { Exit::Partly } else { exit }
    }

    /// Says something that people should know beside the result, on standard error.
    pub fn aside(self, text: &str) {
        if self.is_mute {
            return tracing::info!("{}", printable(text));
        }
        drop(writeln!(anstream::stderr().lock(), "toehold: {}", printable(text)));
    }

    /// Says why a command failed: on standard error, and under `--json` in the last document on standard output.
    pub fn failure(self, failure: &Failure) {
        self.document(&failure.document());
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

/// How many columns the terminal on standard output has; `None` where there is none.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

/// Words in lines of at most `width` characters, `indent` blanks before each. A longer word stands alone.
fn wrapped(text: &str, indent: usize, width: Option<usize>) -> String {
    let (mut lines, mut line) = (String::new(), " ".repeat(indent));
    for word in printable(text).split(' ').filter(|word| !word.is_empty()) {
        let used = line.chars().count();
        if used > indent {
            if width.is_some_and(|width| used + 1 + word.chars().count() > width) {
                lines.push_str(&line);
                lines.push('\n');
                line = " ".repeat(indent);
            } else {
                line.push(' ');
            }
        }
        line.push_str(word);
    }
    lines + &line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_within_the_terminal_and_drive_it_not() {
        assert_eq!(wrapped("a host that hangs", 2, Some(10)), "  a host\n  that\n  hangs");
        assert_eq!(wrapped("longer-than-all of it", 2, Some(10)), "  longer-than-all\n  of it");
        assert_eq!(wrapped("as it is\r\u{1b}[2J", 2, None), "  as it is\u{fffd}\u{fffd}[2J");
    }

    #[test]
    fn columns_line_up_and_drive_no_terminal() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&[row(["ACCOUNT", "LABEL"]), row(["a@b", "x\u{1b}[31m"]), row(["someone@host", ""])]);
        assert_eq!(text, "ACCOUNT       LABEL\na@b           x\u{fffd}[31m\nsomeone@host\n");
    }
}
