//! What matchers ask about a node.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A fact that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FactError(pub String);

/// The node, as matchers see it. A wrong "no" here can remove a machine; when in doubt, an error is the right answer.
pub trait Facts {
    /// The node's name, for `identity`.
    ///
    /// # Errors
    /// [`FactError`], where it is not known.
    fn identity(&self) -> Result<&str, FactError>;

    /// Whether a regular file is at `path` (a link to one counts).
    ///
    /// # Errors
    /// [`FactError`], where that cannot be told: a directory on the way that may not be read, a stalled file system.
    fn has_file(&self, path: &str) -> Result<bool, FactError>;

    /// Whether a directory is at `path` (a link to one counts).
    ///
    /// # Errors
    /// As [`Facts::has_file`].
    fn has_directory(&self, path: &str) -> Result<bool, FactError>;

    /// Whether `name` is a program on the search path, or an executable file where it has a `/`.
    ///
    /// # Errors
    /// As [`Facts::has_file`].
    fn has_command(&self, name: &str) -> Result<bool, FactError>;
}

impl<F: Facts + ?Sized> Facts for &F {
    fn identity(&self) -> Result<&str, FactError> {
        (**self).identity()
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        (**self).has_file(path)
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        (**self).has_directory(path)
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        (**self).has_command(name)
    }
}

type Cache = Mutex<HashMap<String, Result<bool, FactError>>>;

/// Facts that are asked for once: all matchers of one evaluation see the same node. Make a new one for the next.
#[derive(Debug)]
pub struct CachedFacts<F> {
    inner: F,
    files: Cache,
    directories: Cache,
    commands: Cache,
}

impl<F: Facts> CachedFacts<F> {
    /// Nothing is asked for yet.
    pub fn new(inner: F) -> Self {
        Self { inner, files: Cache::default(), directories: Cache::default(), commands: Cache::default() }
    }
}

fn cached(cache: &Cache, subject: &str, ask: impl FnOnce(&str) -> Result<bool, FactError>) -> Result<bool, FactError> {
    if let Some(answer) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(subject) {
        return answer.clone();
    }
    let answer = ask(subject);
    cache.lock().unwrap_or_else(PoisonError::into_inner).insert(subject.to_owned(), answer.clone());
    answer
}

impl<F: Facts> Facts for CachedFacts<F> {
    fn identity(&self) -> Result<&str, FactError> {
        self.inner.identity()
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        cached(&self.files, path, |path| self.inner.has_file(path))
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        cached(&self.directories, path, |path| self.inner.has_directory(path))
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        cached(&self.commands, name, |name| self.inner.has_command(name))
    }
}

/// Facts that somebody wrote down, perhaps about another node: JSON with `identity`, `files`, `directories` and `commands`.
/// A list that is not there is unknown; one that is there is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFacts {
    /// The node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// All regular files that matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<BTreeSet<String>>,
    /// All directories that matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directories: Option<BTreeSet<String>>,
    /// All commands that matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<BTreeSet<String>>,
}

fn listed(list: Option<&BTreeSet<String>>, subject: &str, what: &str) -> Result<bool, FactError> {
    list.map(|list| list.contains(subject)).ok_or_else(|| FactError(format!("the facts have no list of {what}")))
}

impl Facts for KnownFacts {
    fn identity(&self) -> Result<&str, FactError> {
        self.identity.as_deref().ok_or_else(|| FactError("the facts have no identity".to_owned()))
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        listed(self.files.as_ref(), path, "files")
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        listed(self.directories.as_ref(), path, "directories")
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        listed(self.commands.as_ref(), name, "commands")
    }
}
