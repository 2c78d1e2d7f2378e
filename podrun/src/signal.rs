//! Signals, as SSH names them (RFC 4254 §6.10).

use std::fmt;
use std::str::FromStr;

/// A signal that SSH has a name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is named for the signal")]
pub enum Signal {
    Abrt,
    Alrm,
    Fpe,
    Hup,
    Ill,
    Int,
    Kill,
    Pipe,
    Quit,
    Segv,
    Term,
    Usr1,
    Usr2,
}

/// A name that is not one of RFC 4254's signals.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SSH knows no signal of this name")]
pub struct UnknownSignal;

const SIGNALS: [(Signal, &str, u8); 13] = [
    (Signal::Abrt, "ABRT", 6),
    (Signal::Alrm, "ALRM", 14),
    (Signal::Fpe, "FPE", 8),
    (Signal::Hup, "HUP", 1),
    (Signal::Ill, "ILL", 4),
    (Signal::Int, "INT", 2),
    (Signal::Kill, "KILL", 9),
    (Signal::Pipe, "PIPE", 13),
    (Signal::Quit, "QUIT", 3),
    (Signal::Segv, "SEGV", 11),
    (Signal::Term, "TERM", 15),
    (Signal::Usr1, "USR1", 10),
    (Signal::Usr2, "USR2", 12),
];

impl Signal {
    /// Its name without `SIG`.
    pub fn name(self) -> &'static str {
        SIGNALS.iter().find(|(signal, _, _)| *signal == self).map_or("TERM", |(_, name, _)| name)
    }

    /// Which signal a process died by whose exit code is reported as 128 and its number, as runtimes and shells do.
    pub fn from_exit_code(code: u8) -> Option<Self> {
        let number = code.checked_sub(128)?;
        SIGNALS.iter().find(|(_, _, known)| *known == number).map(|(signal, _, _)| *signal)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        SIGNALS.iter().find(|(_, name, _)| *name == text).map(|(signal, _, _)| *signal).ok_or(UnknownSignal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_its_name_and_number() {
        for (signal, name, number) in SIGNALS {
            assert_eq!(signal.name(), name);
            assert_eq!(name.parse(), Ok(signal));
            assert_eq!(Signal::from_exit_code(128 + number), Some(signal));
        }
        assert_eq!("SIGTERM".parse::<Signal>(), Err(UnknownSignal));
        assert_eq!(Signal::from_exit_code(1), None);
        assert_eq!(Signal::from_exit_code(128), None);
    }
}
