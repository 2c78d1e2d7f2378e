//! The start of a command: its environment, its files, its arguments.

use std::fmt;
use std::str::FromStr;

use toehold_core::SecretBytes;

use super::SHELL;
use crate::name::Nonce;

/// All names and values of the environment together, in bytes.
pub const MAX_ENVIRONMENT: usize = 64 * 1024;

/// All files' content together, in bytes. The shell reads it byte by byte.
pub const MAX_FILES: usize = 1024 * 1024;

/// Everything that a line of the preamble may hold: a terminal takes 4,095 bytes.
const MAX_LINE: usize = 1024;

/// Names that a shell does not let go of, or that change how it reads what follows.
const REFUSED: [&str; 12] =
    ["BASHOPTS", "BASH_ENV", "BASH_VERSINFO", "ENV", "EUID", "IFS", "OPTIND", "PPID", "PS4", "SHELLOPTS", "UID", "_"];

/// The name of an environment variable: a letter or `_`, then letters, digits and `_`, at most 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentName(String);

/// Why something cannot be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Not a name that a variable may have here.
    #[error("an environment variable cannot have this name")]
    BadName,
    /// A value or argument with a NUL in it.
    #[error("{0} has a NUL in it")]
    Nul(&'static str),
    /// No program was named.
    #[error("there is no program to start")]
    NoProgram,
    /// A path that has another meaning than the one it seems to have, or none.
    #[error("a file's path begins with \"/\" or \"~/\" and has no empty part, no \".\", no \"..\" and no control characters")]
    BadPath,
    /// Too much of something.
    #[error("{what}: {got} bytes are over the limit of {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many bytes there are.
        got: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl EnvironmentName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EnvironmentName {
    type Err = LaunchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let characters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let first = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        // Those that begin with `t_` are the supervisor's own.
        if !characters || !first || text.len() > 256 || REFUSED.contains(&text) || text.starts_with("t_") {
            return Err(LaunchError::BadName);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a file goes in a pod: `/…`, or `~/…` for what is below the home directory that the image sets (`HOME`). It has one meaning: no
/// part of it is empty, `.` or `..`, and it has no control characters; at most 4,000 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(String);

impl FilePath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands behind `~/`, where it is below the home directory.
    fn below_home(&self) -> Option<&str> {
        self.0.strip_prefix("~/")
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FilePath {
    type Err = LaunchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let below = text.strip_prefix("~/").or_else(|| text.strip_prefix('/')).ok_or(LaunchError::BadPath)?;
        let has_one_meaning = below.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !has_one_meaning || text.len() > 4000 || text.chars().any(char::is_control) {
            return Err(LaunchError::BadPath);
        }
        Ok(Self(text.to_owned()))
    }
}

/// A file to be there before the command starts: written beside its place, then renamed.
#[derive(Debug)]
pub struct FileToWrite {
    /// Where.
    pub path: FilePath,
    /// Its permissions; bits above 0o777 are dropped.
    pub mode: u16,
    /// What is in it.
    pub content: SecretBytes,
}

/// A command to start in a pod that has a shell.
#[derive(Debug)]
pub struct Launch {
    /// Marks the answer as the one to this start.
    pub nonce: Nonce,
    /// The environment beside the image's own. Values may be secret.
    pub environment: Vec<(EnvironmentName, SecretBytes)>,
    /// Files to write first.
    pub files: Vec<FileToWrite>,
    /// Program and arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Whether `/bin/sh` takes the place of a program that is not there.
    pub or_sh: bool,
    /// Whether the shell, once it has answered, waits for [`Launch::GO`] before it becomes the program. It ends without having run it where
    /// its input ends before. So nothing runs that is not on a [`Leash`](super::Leash) yet.
    pub held: bool,
}

impl Launch {
    /// A program with its arguments and nothing else.
    pub fn new(nonce: Nonce, arguments: Vec<Vec<u8>>) -> Self {
        Self { nonce, environment: Vec::new(), files: Vec::new(), arguments, or_sh: false, held: false }
    }

    /// What goes to the stdin of a start that is held, before anything that is the program's own.
    pub const GO: &[u8] = b"g \n";

    /// What ends a start that is held, wherever in its preamble it is: nothing runs.
    pub const NEVER: &[u8] = b"-\n-\n";

    /// What goes to the stdin before a preamble, where the shell is to stay beside the program: it tells on stderr when the program has ended
    /// ([`Epilogue`](super::Epilogue)) and how, takes what still comes of its input, and ends the same way once the input has ended. For streams
    /// that lose what a process said last while input is on its way to it. Not for terminals.
    pub const TELL_END: &[u8] = b"t \n";

    /// The command of the exec: the same for every start, whatever it starts.
    pub fn command() -> Vec<String> {
        [SHELL, "-c", include_str!("launch.sh"), "toehold"].map(str::to_owned).to_vec()
    }

    /// What goes to the exec's stdin before anything else. The shell reads exactly this much.
    ///
    /// # Errors
    /// [`LaunchError`] where something cannot be passed on; nothing was cut or left out.
    pub fn preamble(&self) -> Result<SecretBytes, LaunchError> {
        self.check()?;
        // Sized beforehand, so that no half of it stays behind in freed memory.
        let values = self.environment.iter().map(|(name, value)| name.0.len() + value.len());
        let files = self.files.iter().map(|file| file.path.0.len() + file.content.len() + 16);
        let bytes: usize = values.chain(files).chain(self.arguments.iter().map(Vec::len)).sum();
        let items = self.environment.len() + self.files.len() + self.arguments.len();
        let mut lines = Lines(Vec::with_capacity(bytes * 5 + (bytes * 5 / (MAX_LINE - 8) + items * 4 + 4) * 8 + 64));
        lines.line("n", &self.nonce.to_string());
        // Before the environment, which a client may have set: the image's own HOME and PATH count.
        for file in &self.files {
            match file.path.below_home() {
                Some(path) => {
                    lines.chunks("v", path.as_bytes());
                    lines.line("h", "");
                }
                None => {
                    lines.chunks("v", file.path.0.as_bytes());
                    lines.line("p", "");
                }
            }
            lines.chunks("w", file.content.expose());
            lines.line("c", &format!("{:04o}", file.mode & 0o777));
        }
        for (name, value) in &self.environment {
            lines.chunks("v", value.expose());
            lines.line("e", &name.0);
        }
        for argument in &self.arguments {
            lines.chunks("v", argument);
            lines.line("a", "");
        }
        if self.or_sh {
            lines.line("i", "");
        }
        lines.line(if self.held { "r" } else { "g" }, "");
        Ok(SecretBytes::new(lines.0))
    }

    fn check(&self) -> Result<(), LaunchError> {
        let within = |what, got, limit| if got > limit { Err(LaunchError::TooLarge { what, got, limit }) } else { Ok(()) };
        let environment = self.environment.iter().map(|(name, value)| name.0.len() + value.len()).sum();
        within("the environment", environment, MAX_ENVIRONMENT)?;
        within("the files", self.files.iter().map(|file| file.content.len()).sum(), MAX_FILES)?;
        // What Linux takes as one argument (MAX_ARG_STRLEN).
        for argument in &self.arguments {
            within("the command", argument.len(), 128 * 1024 - 1)?;
        }
        if self.environment.iter().any(|(_, value)| value.expose().contains(&0)) {
            return Err(LaunchError::Nul("the environment"));
        }
        if self.arguments.iter().any(|argument| argument.contains(&0)) {
            return Err(LaunchError::Nul("the command"));
        }
        if self.arguments.first().is_none_or(Vec::is_empty) {
            return Err(LaunchError::NoProgram);
        }
        Ok(())
    }
}

struct Lines(Vec<u8>);

impl Lines {
    fn line(&mut self, kind: &str, rest: &str) {
        self.0.extend_from_slice(kind.as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(rest.as_bytes());
        self.0.push(b'\n');
    }

    /// `bytes` for `printf %b`: what is surely plain as it is, the rest in octal.
    fn chunks(&mut self, kind: &str, bytes: &[u8]) {
        let mut length = MAX_LINE;
        for byte in bytes {
            let plain = byte.is_ascii_alphanumeric() || b"/.,:_-".contains(byte);
            let needs = if plain { 1 } else { 5 };
            if length + needs > MAX_LINE - 4 {
                if length != MAX_LINE {
                    self.0.push(b'\n');
                }
                self.0.extend_from_slice(kind.as_bytes());
                self.0.push(b' ');
                length = 0;
            }
            if plain {
                self.0.push(*byte);
            } else {
                self.0.extend_from_slice(&[b'\\', b'0', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
            }
            length += needs;
        }
        if length != MAX_LINE {
            self.0.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_names_are_checked() {
        for good in ["LANG", "LC_ALL", "_x", "PATH", "A1"] {
            assert!(good.parse::<EnvironmentName>().is_ok(), "{good}");
        }
        for bad in ["", "1A", "A B", "A=B", "A;B", "A\n", "é", "IFS", "UID", "ENV", "t_v", "$(x)", &"A".repeat(257)] {
            assert_eq!(bad.parse::<EnvironmentName>(), Err(LaunchError::BadName), "{bad}");
        }
    }

    #[test]
    fn the_preamble_fits_what_was_set_aside_and_its_lines_a_terminal() {
        let mut launch = Launch::new("0".repeat(32).parse().unwrap(), vec![b"/bin/sh".to_vec(), vec![b'\''; 5000], Vec::new()]);
        launch.environment.push(("A".parse().unwrap(), SecretBytes::new(vec![0xff; 3000])));
        launch.files.push(FileToWrite { path: "/a b".parse().unwrap(), mode: 0o4755, content: SecretBytes::new(vec![0; 3000]) });
        let preamble = launch.preamble().unwrap();
        assert!(preamble.expose().split(|b| *b == b'\n').all(|line| line.len() <= MAX_LINE));
        assert!(preamble.expose().iter().all(|b| *b == b'\n' || (b' '..=b'~').contains(b)));
        let content: usize = 3000 * 5 + 3000 * 5 + 5000 * 5;
        assert!(preamble.len() < content + 1000, "{}", preamble.len());
    }

    #[test]
    fn what_cannot_be_passed_on_is_refused() {
        let nonce = || "0".repeat(32).parse().unwrap();
        assert_eq!(Launch::new(nonce(), vec![]).preamble(), Err(LaunchError::NoProgram));
        assert_eq!(Launch::new(nonce(), vec![b"a\0".to_vec()]).preamble(), Err(LaunchError::Nul("the command")));
        let mut launch = Launch::new(nonce(), vec![b"a".to_vec()]);
        let content = SecretBytes::new(vec![0; MAX_FILES + 1]);
        launch.files.push(FileToWrite { path: "/a".parse().unwrap(), mode: 0o600, content });
        assert!(matches!(launch.preamble(), Err(LaunchError::TooLarge { what: "the files", .. })));
    }

    #[test]
    fn p6_a_files_path_has_one_meaning() {
        for good in ["/a", "/a b/c", "~/.netrc", "/..a/b..", "/$(x)/`y`", "~/~", "/-n"] {
            assert_eq!(good.parse::<FilePath>().unwrap().as_str(), good);
        }
        for bad in [
            "", "a", "~", "~/", "/", "//a", "/a/", "/a//b", "/./a", "/a/..", "~/../x", "~root/x", "/a\nb", "/a\0", "/\u{85}",
            "./a",
        ] {
            assert_eq!(bad.parse::<FilePath>(), Err(LaunchError::BadPath), "{bad:?}");
        }
        assert!(format!("/{}", "a".repeat(4000)).parse::<FilePath>().is_err());
    }
}
