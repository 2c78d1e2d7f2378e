//! Notifications about passes: `CloudEvents`, one a line, appended to a file or on standard output.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Where notifications go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notifications {
    /// Standard output.
    Output,
    /// The end of this file, which is opened anew for each, so that it may be moved away meanwhile.
    File(PathBuf),
}

impl Notifications {
    /// As the command line says it: `-` or a file.
    pub fn named(target: PathBuf) -> Self {
        if target.as_os_str() == "-" { Self::Output } else { Self::File(target) }
    }

    /// Sends an event in one write, so that lines of several senders do not mix.
    ///
    /// # Errors
    /// Where it could not be written.
    pub fn send(&self, event: &str) -> io::Result<()> {
        let line = format!("{event}\n");
        match self {
            Self::Output => {
                let mut output = io::stdout().lock();
                output.write_all(line.as_bytes())?;
                output.flush()
            }
            Self::File(path) => {
                let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
                file.write_all(line.as_bytes())
            }
        }
    }
}
