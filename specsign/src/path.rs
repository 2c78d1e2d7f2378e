//! Paths inside a machine's directory.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The most bytes of a path.
pub const MAX_PATH: usize = 1024;

/// The most components of a path.
pub const MAX_PATH_DEPTH: usize = 64;

/// The most bytes of a component: what Linux' file systems take.
const MAX_COMPONENT: usize = 255;

/// A path below a machine's directory that has one reading: UTF-8, components with `/` between them, none of them empty,
/// `.` or `..`, no control character, no backslash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TreePath(Arc<str>);

/// A text that is no [`TreePath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path {0}")]
pub struct TreePathError(pub(crate) &'static str);

impl TreePath {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The directory that it is in; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    pub(crate) fn check(text: &str) -> Result<(), TreePathError> {
        if text.len() > MAX_PATH {
            return Err(TreePathError("is too long"));
        }
        if text.starts_with('/') {
            return Err(TreePathError("is absolute"));
        }
        if text.chars().any(|c| c.is_control() || c == '\\') {
            return Err(TreePathError("has a control character or a backslash"));
        }
        let mut depth = 0;
        for component in text.split('/') {
            depth += 1;
            match component {
                "" => return Err(TreePathError("has an empty component")),
                "." | ".." => return Err(TreePathError("has \".\" or \"..\" as a component")),
                _ if component.len() > MAX_COMPONENT => return Err(TreePathError("has a component of more than 255 bytes")),
                _ if depth > MAX_PATH_DEPTH => return Err(TreePathError("is too deep")),
                _ => {}
            }
        }
        Ok(())
    }
}

impl FromStr for TreePath {
    type Err = TreePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl std::borrow::Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}
