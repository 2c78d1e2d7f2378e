//! How a process in a pod ended.

use serde::Deserialize;

use crate::kubernetes::cleaned;

/// The longest status that is read, in bytes.
pub const MAX_STATUS: usize = 64 * 1024;

/// How a process in a pod ended, or why nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with this exit code. Death by a signal is 128 and its number.
    Exited(u8),
    /// There is no such command in the image.
    NotFound(String),
    /// There is, and it cannot be executed.
    NotExecutable(String),
    /// It could not be run, or the cluster does not say how it ended. Never to be taken for success.
    Failed(String),
    /// The stream ended without a status: the API server, the node or the network went away. Never to be taken for success.
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(rename = "status")]
    result: String,
    message: String,
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

impl Outcome {
    /// Reads what came on the status channel. The exit code stands in the causes alone; the message differs between versions.
    pub fn decode(payload: &[u8]) -> Self {
        if payload.len() > MAX_STATUS {
            return Self::Failed(format!("the cluster sent a status of {} bytes", payload.len()));
        }
        let Ok(status) = serde_json::from_slice::<Status>(payload) else {
            return Self::Failed("the cluster sent a status that cannot be read".to_owned());
        };
        if status.result == "Success" {
            return Self::Exited(0);
        }
        let causes = status.details.unwrap_or_default().causes.unwrap_or_default();
        if status.reason == "NonZeroExitCode" {
            let code = causes.iter().find(|cause| cause.reason == "ExitCode").and_then(|cause| cause.message.parse().ok());
            // A code of 0 in a failure is no success, and one over 255 is none that a process can have.
            return match code.filter(|code| *code != 0) {
                Some(code) => Self::Exited(code),
                None => Self::Failed("the cluster does not say with which exit code the command has ended".to_owned()),
            };
        }
        let message = cleaned(&status.message);
        let says = |text: &str| status.message.contains(text);
        if says("executable file not found in $PATH") || says("no such file or directory") {
            Self::NotFound(message)
        } else if says("permission denied") || says("exec format error") || says("is a directory") {
            Self::NotExecutable(message)
        } else {
            Self::Failed(message)
        }
    }

    /// The exit status that goes to the SSH client: as a shell has it for what could not be run, and 255, as `ssh` itself, where
    /// nobody knows. 0 only where the process ended with 0.
    pub fn exit_status(&self) -> u32 {
        match self {
            Self::Exited(code) => u32::from(*code),
            Self::NotFound(_) => 127,
            Self::NotExecutable(_) => 126,
            Self::Failed(_) | Self::Unknown => 255,
        }
    }

    /// As [`Outcome::words`], of a command that has begun to run.
    pub fn words_of_running(&self, command: &str) -> Option<String> {
        match self {
            Self::Failed(reason) => Some(format!("{}: it was ended: {reason}", cleaned(command))),
            other => other.words(command),
        }
    }

    /// What is said on stderr, where something has to be said: one line, without its end.
    pub fn words(&self, command: &str) -> Option<String> {
        let command = cleaned(command);
        match self {
            Self::Exited(_) => None,
            Self::NotFound(_) => Some(format!("{command}: there is no such command in the image")),
            Self::NotExecutable(_) => Some(format!("{command}: it cannot be executed")),
            Self::Failed(reason) => Some(format!("{command}: it cannot be run in the pod: {reason}")),
            Self::Unknown => {
                Some(format!("{command}: the connection to the pod is lost, and how the command ended is not known"))
            }
        }
    }
}

/// Follows one exec to its end: whatever comes, there is an outcome when the stream is over.
#[derive(Clone, Debug, Default)]
pub struct ExecEnd(Option<Outcome>);

impl ExecEnd {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A status came; the first counts.
    pub fn status(&mut self, payload: &[u8]) {
        if self.0.is_none() {
            self.0 = Some(Outcome::decode(payload));
        }
    }

    /// The stream is over: by a close frame, by an end without one, by an error.
    pub fn finish(self) -> Outcome {
        self.0.unwrap_or(Outcome::Unknown)
    }
}
