//! What goes wrong with a pass, or with one machine of it.

use std::io;

use crate::admission::AdmissionError;
use crate::machine::ListError;
use crate::plan::Verdict;
use crate::state::StateError;

/// Why a pass could not be made. What is in place stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// The document is not taken.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// Its list is none.
    #[error(transparent)]
    List(#[from] ListError),
    /// The root's memory cannot be believed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The root failed.
    #[error("{doing} failed in the root")]
    Root {
        /// What was being done, such as `writing the state`.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<crate::document::DocumentError> for PassError {
    fn from(error: crate::document::DocumentError) -> Self {
        Self::Admission(error.into())
    }
}

/// A failure of the root itself.
pub(crate) fn root(doing: &'static str) -> impl FnOnce(io::Error) -> PassError {
    move |source| PassError::Root { doing, source }
}

/// What ended the work on one machine; the others go on.
pub(super) enum Trouble {
    /// Something of that machine alone: it is busy, it cannot be read.
    Machine(Verdict),
    /// The root's memory: nothing goes on without it.
    Pass(PassError),
}

impl From<PassError> for Trouble {
    fn from(error: PassError) -> Self {
        Self::Pass(error)
    }
}

impl Trouble {
    pub(super) fn error(text: String) -> Self {
        Self::Machine(Verdict::Error(text))
    }

    /// A machine's trouble apart from that of the whole pass.
    pub(super) fn apart<T>(result: Result<T, Self>) -> Result<Result<T, Verdict>, PassError> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Self::Machine(verdict)) => Ok(Err(verdict)),
            Err(Self::Pass(error)) => Err(error),
        }
    }
}

/// A failure of one machine's place.
pub(super) fn machine(doing: &'static str) -> impl FnOnce(io::Error) -> Trouble {
    move |error| Trouble::error(format!("{doing} failed: {error}"))
}
