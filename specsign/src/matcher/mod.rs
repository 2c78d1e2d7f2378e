//! On which nodes a machine belongs: the part of expr-lang that matchers use, with a third answer for "cannot tell".
//!
//! `identity('^web') && has_command('facter')`. Calls of `identity`, `has_file`, `has_directory` and `has_command`, each with
//! one text; texts in `'…'`, `"…"` (escapes as in Go) and `` `…` ``; numbers, lists, `true`, `false`, `nil`; `and`, `or`,
//! `not` and `&& || !`; `== != < <= > >=` (which chain); `in`, `matches`, `contains`, `startsWith`, `endsWith` and their `not`
//! forms; `+ - * / % **`; `a ? b : c`; comments. Types are checked before anything is evaluated, as the original does.
//! Where this says yes or no, the original says the same; what it knows and we do not is refused by name.

mod eval;
mod facts;
mod lexer;
mod names;
mod parser;
mod pattern;
mod primary;
mod tree;

use std::fmt;

pub use facts::{CachedFacts, FactError, Facts, KnownFacts};

/// The most bytes of an expression.
pub const MAX_EXPRESSION: usize = 16 * 1024;

/// The most levels that an expression can be nested.
pub const MAX_DEPTH: usize = 100;

/// What a matcher says about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever acts on an answer must think of all three")]
pub enum Answer {
    /// The machine belongs here.
    Yes,
    /// The machine does not belong here; only this can ever lead to its removal.
    No,
    /// A fact that matters could not be had: nothing follows.
    Unknown(String),
}

/// Whose fault it is that an expression has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// It is no expression, or its types do not fit, for the original as for us.
    Invalid,
    /// It failed while it was evaluated, as it does for the original.
    Fault,
    /// It is larger or deeper than [`MAX_EXPRESSION`] or [`MAX_DEPTH`].
    TooLarge,
    /// The original knows it and we do not.
    Unsupported,
}

/// An expression that has no answer on any node, and why. Printed with a caret below the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatcherError {
    problem: Problem,
    message: String,
    line: String,
    column: usize,
}

impl MatcherError {
    fn new(problem: Problem, message: impl Into<String>, text: &str, place: usize) -> Self {
        let place = text.floor_char_boundary(place);
        let (before, after) = text.split_at(place);
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let head = before.get(start..).unwrap_or_default();
        let tail = after.split('\n').next().unwrap_or_default();
        // A window around the place is all that fits on a line; what could move a terminal's cursor is not shown.
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let head: Vec<char> = head.chars().rev().take(60).map(shown).collect();
        let column = head.len() + 1;
        let line = head.into_iter().rev().chain(tail.chars().take(60).map(shown)).collect();
        // It may name a character of the expression.
        let message = message.into();
        let message = if message.contains(char::is_control) { message.chars().map(shown).collect() } else { message };
        Self { problem, message, line, column }
    }

    /// Whose fault it is.
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for MatcherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, line, column, .. } = self;
        write!(f, "{message}\n | {line}\n | {:>column$}", '^')
    }
}

impl std::error::Error for MatcherError {}

/// A matcher that was read and whose types fit.
#[derive(Clone, Debug)]
pub struct Matcher {
    text: String,
    root: tree::Node,
}

impl Matcher {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`MatcherError`], with the place.
    pub fn compile(text: &str) -> Result<Self, MatcherError> {
        if text.len() > MAX_EXPRESSION {
            let message = format!("an expression of {} bytes is over the limit of {MAX_EXPRESSION}", text.len());
            return Err(MatcherError::new(Problem::TooLarge, message, "", 0));
        }
        parser::parse(text).map(|root| Self { text: text.to_owned(), root })
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Asks whether it holds with these facts. A fact that cannot be had makes the answer unknown unless the others decide.
    ///
    /// # Errors
    /// [`Problem::Fault`] or [`Problem::Unsupported`], where evaluating fails.
    pub fn evaluate<F: Facts + ?Sized>(&self, facts: &F) -> Result<Answer, MatcherError> {
        eval::evaluate(&self.text, &self.root, facts)
    }
}
