//! The stream beside the commands: signals go through it, and when it ends, so do they.

use std::fmt;

use super::SHELL;
use crate::signal::Signal;

/// A process in a pod, as the pod counts them; it leads a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessNumber(u32);

impl ProcessNumber {
    /// `None` for 0 and 1: everything and the pod's first process are not to be signalled.
    pub fn new(number: u32) -> Option<Self> {
        (2..=0x7fff_ffff).contains(&number).then_some(Self(number))
    }
}

impl fmt::Display for ProcessNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An order to the leash: a line for its stdin.
///
/// The leash is one exec of [`Leash::command`] for each pod that outlives its connections or runs several, without a terminal.
/// Its stdin is kept open. When it ends, because the gateway closed it or died, every session that is still watched is sent
/// HUP and CONT, and KILL a second later. It says on its stdout what it watches ([`Leash::confirmed`]): from then on that holds. A process that made a session of its own (`setsid`) is not reached; in a pod that
/// goes with its connection it goes with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leash {
    /// End this session when the stream ends.
    Watch(ProcessNumber),
    /// It has ended by itself.
    Unwatch(ProcessNumber),
    /// End this session now, as all that are watched are when the stream ends: whatever groups it has made. It is not watched any more.
    End(ProcessNumber),
    /// Send this signal to its process group, as `sshd` does.
    Signal(ProcessNumber, Signal),
}

impl Leash {
    /// The command of the exec.
    pub fn command() -> Vec<String> {
        [SHELL, "-c", include_str!("leash.sh"), "toehold"].map(str::to_owned).to_vec()
    }

    /// What a line of the leash's stdout, without its end, says to be watched.
    pub fn confirmed(line: &[u8]) -> Option<ProcessNumber> {
        let number = line.strip_prefix(b"w ")?;
        ProcessNumber::new(std::str::from_utf8(number).ok()?.parse().ok()?)
    }

    /// The line.
    pub fn line(self) -> String {
        match self {
            Self::Watch(process) => format!("w {process}\n"),
            Self::Unwatch(process) => format!("u {process}\n"),
            Self::End(process) => format!("e {process}\n"),
            Self::Signal(process, signal) => format!("s {process} {signal}\n"),
        }
    }
}
