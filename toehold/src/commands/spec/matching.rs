//! `toehold spec match`.

use std::io::BufRead as _;
use std::path::Path;

use serde_json::{Value, json};
use toehold_specsign::matcher::Problem;
use toehold_specsign::{Answer, CachedFacts, FactError, Facts, KnownFacts, Matcher};

use crate::adapters::node_facts::NodeFacts;
use crate::cli::args::MatchSpec;
use crate::cli::{Exit, Failure, Output, printable};

/// The most bytes of a file of facts.
const MAX_FACTS: usize = 64 * 1024 * 1024;

/// This node, or one that somebody described.
pub(super) enum AnyFacts {
    Here(NodeFacts),
    Known(KnownFacts),
}

impl AnyFacts {
    /// This node's, under a name of its own or the host's.
    pub(super) fn here(identity: Option<&str>) -> Self {
        Self::Here(NodeFacts::new(identity.map(str::to_owned)))
    }

    /// Those of a file.
    ///
    /// # Errors
    /// Where it cannot be read, or has anything else in it.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let bytes = super::read(path, MAX_FACTS)?;
        // A list would be read as a node of which nothing is known.
        let object = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes);
        let facts = object.and_then(|object| serde_json::from_value(Value::Object(object))).map_err(|error| {
            Failure::new(format!("{}: these are no facts: {error}", path.display()))
                .hint("write {\"identity\": \"web1\", \"files\": [], \"directories\": [], \"commands\": []}")
        })?;
        Ok(Self::Known(facts))
    }

    fn inner(&self) -> &dyn Facts {
        match self {
            Self::Here(facts) => facts,
            Self::Known(facts) => facts,
        }
    }
}

impl Facts for AnyFacts {
    fn identity(&self) -> Result<&str, FactError> {
        self.inner().identity()
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        self.inner().has_file(path)
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        self.inner().has_directory(path)
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        self.inner().has_command(name)
    }
}

/// Says whether expressions hold.
///
/// # Errors
/// Where the facts or the expressions cannot be read.
pub(super) fn answer(options: &MatchSpec, output: Output) -> Result<Exit, Failure> {
    let facts = match &options.facts {
        Some(path) => AnyFacts::of(path)?,
        None => AnyFacts::here(options.identity.as_deref()),
    };
    let facts = CachedFacts::new(facts);
    if options.expression != "-" {
        let told = Told::of(&options.expression, &facts);
        output.document(&told.document(&options.expression));
        output.text(told.text());
        return Ok(told.exit());
    }
    let mut exit = Exit::Done;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Failure::new(format!("reading standard input failed: {error}")))?;
        let told = Told::of(&line, &facts);
        output.document(&told.document(&line));
        match &told {
            // Its own text shows the expression.
            Told::Invalid { .. } => output.text(told.text()),
            _ => output.text(format_args!("{}\t{}", told.text(), printable(&line))),
        }
        if told.exit() != Exit::Done {
            exit = Exit::Partly;
        }
    }
    Ok(exit)
}

/// What is said of an expression.
enum Told {
    Yes,
    No,
    Unknown(String),
    Invalid { problem: Problem, reason: String, shown: String },
}

impl Told {
    fn of<F: Facts>(expression: &str, facts: &F) -> Self {
        match Matcher::compile(expression).and_then(|matcher| matcher.evaluate(facts)) {
            Ok(Answer::Yes) => Self::Yes,
            Ok(Answer::No) => Self::No,
            Ok(Answer::Unknown(reason)) => Self::Unknown(reason),
            Err(error) => {
                Self::Invalid { problem: error.problem(), reason: error.message().to_owned(), shown: error.to_string() }
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown(_) => "unknown",
            Self::Invalid { .. } => "invalid",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Yes | Self::No => self.word().to_owned(),
            Self::Unknown(reason) => format!("unknown: {}", printable(reason)),
            // The place is shown in lines of its own, which the error has freed of what would drive a terminal.
            Self::Invalid { shown, .. } => format!("invalid: {shown}"),
        }
    }

    fn document(&self, expression: &str) -> Value {
        match self {
            Self::Yes | Self::No => json!({ "expression": expression, "answer": self.word() }),
            Self::Unknown(reason) => json!({ "expression": expression, "answer": "unknown", "reason": reason }),
            Self::Invalid { problem, reason, shown } => {
                let problem = match problem {
                    Problem::Unsupported => "unsupported",
                    Problem::TooLarge => "too_large",
                    Problem::Fault => "fault",
                    _ => "invalid",
                };
                json!({ "expression": expression, "answer": "invalid", "problem": problem, "reason": reason, "shown": shown })
            }
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Yes | Self::No => Exit::Done,
            Self::Unknown(_) => Exit::Partly,
            Self::Invalid { .. } => Exit::Failed,
        }
    }
}
