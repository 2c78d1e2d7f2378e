//! Where the document comes from.

use std::path::PathBuf;

use toehold_specsign::{MAX_DOCUMENT, SpecName};

use crate::adapters::sqlite::SqliteStore;
use crate::cli::Failure;
use crate::cli::args::ApplySpec;
use crate::spec_store;
use crate::state::State;

/// A file, or a name in the store.
#[derive(Debug)]
pub(super) enum DocumentSource {
    File(PathBuf),
    Store(SqliteStore, SpecName),
}

impl DocumentSource {
    /// `state`: the state directory, where there is one.
    pub(super) fn new(options: &ApplySpec, state: Option<&State>) -> Result<Self, Failure> {
        match (&options.file, &options.name, state) {
            (Some(file), _, _) => Ok(Self::File(file.clone())),
            (None, Some(name), Some(state)) => Ok(Self::Store(state.store().clone(), name.clone())),
            (None, Some(_), None) => {
                Err(Failure::new("there is no state directory to take the document from").hint("make one: toehold init"))
            }
            (None, None, _) => Err(Failure::usage("name a document, or the name of one in the store")),
        }
    }

    /// Reads what is there now.
    pub(super) async fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(path) => crate::commands::spec::read(path, MAX_DOCUMENT),
            Self::Store(store, name) => spec_store::read(store, name).await?.ok_or_else(|| {
                Failure::new(format!("there is no specification {name} in the store"))
                    .hint(format!("put one there: toehold spec put {name} FILE"))
            }),
        }
    }
}
