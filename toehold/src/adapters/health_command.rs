//! A command of the operator's that tells whether a machine works in its place.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use toehold_specsign::{Health, MachineName};
use tokio::process::Command;

use super::node_facts::is_command;
use crate::child::{ProcessGroup, last_words, read, rest_of};
use crate::cli::printable;

/// The place of a command line where the machine's name goes.
const PLACE: &str = "{name}";

/// What says whether machines work: none, or a command that ends with 0 where one does.
///
/// It is split as a shell would and run without one, with the machine's directory as `TOEHOLD_MACHINE_DIRECTORY` and its name
/// as `TOEHOLD_MACHINE` and for each `{name}`. When it has ended, or its time is over, all of its process group is ended.
#[derive(Clone, Debug)]
pub struct HealthCommand {
    words: Vec<String>,
    root: PathBuf,
    patience: Duration,
}

impl HealthCommand {
    /// No command: every machine works.
    pub fn none() -> Self {
        Self { words: Vec::new(), root: PathBuf::new(), patience: Duration::ZERO }
    }

    /// Splits a command line, for machines in this root, each of which may be asked about for so long. Its program has to be there: one that
    /// cannot be started says nothing about a machine.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str, root: PathBuf, patience: Duration) -> Result<Self, String> {
        match shell_words::split(line) {
            Ok(words) if words.is_empty() => Err("the health command is empty".to_owned()),
            Ok(words) => {
                match words.first().filter(|program| !program.contains(PLACE)).map_or(Ok(true), |program| is_command(program)) {
                    Ok(true) => Ok(Self { words, root, patience }),
                    Ok(false) => Err(format!("the health command cannot be started: there is no such program in it: {line}")),
                    Err(error) => Err(format!("the health command cannot be started: {error}")),
                }
            }
            Err(error) => Err(format!("the health command cannot be read: {error}")),
        }
    }
}

/// Ends the group however the question ends, also when it is given up in the middle.
struct Ends(ProcessGroup);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Health for HealthCommand {
    fn asks(&self) -> bool {
        !self.words.is_empty()
    }

    async fn check(&self, name: &MachineName) -> Result<(), String> {
        let words: Vec<String> = self.words.iter().map(|word| word.replace(PLACE, name.as_str())).collect();
        let Some((program, arguments)) = words.split_first() else { return Ok(()) };
        let mut child = Command::new(program)
            .args(arguments)
            .env("TOEHOLD_MACHINE", name.as_str())
            .env("TOEHOLD_MACHINE_DIRECTORY", self.root.join(name.as_str()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        let group = Ends(ProcessGroup::of(&child));
        let printed = tokio::spawn(read(child.stdout.take()));
        let complaints = tokio::spawn(read(child.stderr.take()));
        let ended = tokio::time::timeout(self.patience, child.wait()).await;
        // Whatever it left behind holds its output open.
        drop(group);
        let status = match ended {
            Ok(status) => status.map_err(|error| format!("{program} was lost: {error}"))?,
            Err(_) => {
                drop(child.wait().await);
                return Err(format!("{program} did not end within {} s", self.patience.as_secs()));
            }
        };
        let (printed, complaints) = (rest_of(printed).await, rest_of(complaints).await);
        if status.success() { Ok(()) } else { Err(printable(&format!("{status}{}", last_words(&printed, &complaints)))) }
    }
}
