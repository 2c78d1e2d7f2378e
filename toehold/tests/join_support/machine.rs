//! A machine that joins: the program with a state directory of its own, and what it then has.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::Value;
use toehold_joinproto::keyring::Keyring;
use toehold_joinproto::line::JoinLine;

use crate::support::cli::{Done, Toehold};
use crate::support::eventually;

/// A new machine, on which nothing was initialised.
#[derive(Debug)]
pub struct Machine(pub Toehold);

impl Machine {
    pub fn new() -> Self {
        Self(Toehold::bare())
    }

    /// Where its files are.
    pub fn directory(&self) -> PathBuf {
        self.0.state().join("agent")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Joins with a line, which comes by standard input and stands in no process list.
    pub fn join(&self, line: &JoinLine) -> Done {
        self.join_with(line, &[])
    }

    pub fn join_with(&self, line: &JoinLine, more: &[&str]) -> Done {
        Toehold::wait(self.joining(line, more))
    }

    /// Joins with a token for Opni's agents that was made a moment ago: until the gateway has signed it, it may still answer with others.
    pub fn join_once_signed(&self, line: &JoinLine, more: &[&str]) -> Value {
        let mut joined = Value::Null;
        eventually("the token is signed", || {
            let done = self.join_with(line, more);
            if done.stderr.contains("no valid signature") {
                return false;
            }
            joined = done.ends(0).json();
            true
        });
        joined
    }

    /// A join that is at work.
    pub fn joining(&self, line: &JoinLine, more: &[&str]) -> Child {
        let arguments = ["--json", "agent", "join", "-"].into_iter().chain(more.iter().copied());
        let mut command = self.0.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(line.expose().as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
        child
    }

    pub fn ping(&self) -> Done {
        self.0.run(["--json", "agent", "ping"])
    }

    /// What it authenticates with, once it has joined.
    pub fn keyring(&self) -> Option<Keyring> {
        let json = fs::read(self.file("keyring.json")).ok()?;
        Some(Keyring::parse(&json).unwrap())
    }
}

/// The agents of a gateway's store.
pub fn agents(operator: &Toehold) -> Vec<Value> {
    operator.run(["--json", "agents", "ls"]).ends(0).json()["agents"].as_array().unwrap().clone()
}

/// How many uses of a line's token are taken.
pub fn uses_taken(operator: &Toehold, line: &JoinLine) -> u64 {
    let document = operator.run(["--json", "token", "ls"]).ends(0).json();
    let id = line.token.id().to_string();
    let token = document["tokens"].as_array().unwrap().iter().find(|token| token["id"] == id.as_str()).unwrap();
    token["uses_taken"].as_u64().unwrap()
}
