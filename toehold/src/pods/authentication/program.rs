//! The command line of a command for authorized keys, and whether its program is one to rely on.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Why a command line is not one for this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysCommandError {
    /// It is not split as a shell would.
    #[error("it cannot be read: {0}")]
    Syntax(String),
    /// A program without its whole path.
    #[error("it must begin with the absolute path of a program")]
    NotAbsolute,
    /// A token that stands for nothing here.
    #[error("\"{0}\" stands for nothing: there are %u, %t, %k, %f and %%")]
    Token(String),
    /// The program is not one to rely on.
    #[error("{}: {reason}", path.display())]
    Program {
        /// Its path, or that of a directory above it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A user name that a command is asked for: not to be taken for an option, nor for more than a line.
pub(super) fn is_user(user: &str) -> bool {
    !user.is_empty() && user.len() <= 256 && !user.starts_with('-') && !user.chars().any(char::is_control)
}

pub(super) fn expand(argument: &str, value: impl Fn(char) -> Option<String>) -> Result<String, KeysCommandError> {
    let mut expanded = String::new();
    let mut characters = argument.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            expanded.push(character);
            continue;
        }
        let token = characters.next();
        let unknown = || KeysCommandError::Token(token.map_or_else(|| "%".to_owned(), |token| format!("%{token}")));
        match token {
            Some('%') => expanded.push('%'),
            Some(token) if "utkf".contains(token) => expanded.push_str(&value(token).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        }
    }
    Ok(expanded)
}

/// Where the program really is, once it was seen that nobody but root and the gateway's user can put another in its place.
pub(super) fn safe(program: &Path) -> Result<PathBuf, KeysCommandError> {
    let refused = |path: &Path, reason: String| KeysCommandError::Program { path: path.to_owned(), reason };
    let real = fs::canonicalize(program).map_err(|error| refused(program, error.to_string()))?;
    let us = rustix::process::geteuid().as_raw();
    for path in real.ancestors() {
        let metadata = fs::symlink_metadata(path).map_err(|error| refused(path, error.to_string()))?;
        let (is_program, mode) = (path == real, metadata.mode());
        // In a directory with this bit others can add entries, and not touch those that are there.
        let is_sticky = metadata.is_dir() && mode & 0o1000 != 0;
        let reason = if is_program && !metadata.is_file() {
            "it is no regular file"
        } else if is_program && mode & 0o111 == 0 {
            "it cannot be executed"
        } else if metadata.uid() != 0 && metadata.uid() != us {
            "it is neither root's nor this user's"
        } else if mode & 0o022 != 0 && !is_sticky {
            "others than its owner can write it"
        } else {
            continue;
        };
        return Err(refused(path, reason.to_owned()));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_others_can_change_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&path, 0o700);
        assert_eq!(safe(&path), Ok(path.canonicalize().unwrap()));
        for (bits, said) in [(0o720, "others"), (0o702, "others"), (0o600, "executed")] {
            mode(&path, bits);
            assert!(safe(&path).unwrap_err().to_string().contains(said), "{bits:o}");
        }
        mode(&path, 0o755);
        mode(directory.path(), 0o775);
        assert!(safe(&path).unwrap_err().to_string().contains("others"), "its directory");
        // By a link as well: what counts is where it leads.
        let other = tempfile::tempdir().unwrap();
        let link = other.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(safe(&link).is_err());
        mode(directory.path(), 0o755);
        assert!(safe(&link).is_ok());
        assert!(safe(Path::new("/nowhere/program")).is_err() && safe(Path::new("/etc")).is_err());
    }

    #[test]
    fn tokens_stand_for_what_they_say_and_nothing_else_does() {
        let value = |token: char| (token != 'f').then(|| format!("<{token}>"));
        assert_eq!(expand("a%ub%%%k %t", value).as_deref(), Ok("a<u>b%<k> <t>"));
        for (text, token) in [("%h", "%h"), ("100%", "%"), ("%f", "%f"), ("% u", "% ")] {
            assert_eq!(expand(text, value), Err(KeysCommandError::Token(token.to_owned())));
        }
        for (user, may) in [("alice", true), ("a b", true), ("josé", true), ("", false), ("-x", false), ("a\nb", false)] {
            assert_eq!(is_user(user), may, "{user:?}");
        }
    }
}
