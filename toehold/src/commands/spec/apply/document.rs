//! Where the document comes from.

use std::io::Read as _;
use std::path::PathBuf;

use toehold_specsign::{MAX_DOCUMENT, SpecName};

use crate::cli::Failure;
use crate::cli::args::{ApplySpec, Global};

/// A file, or a name in the store.
#[derive(Debug)]
pub(super) enum DocumentSource {
    File(PathBuf),
    Store(SpecName),
}

impl DocumentSource {
    pub(super) fn new(_: &Global, options: &ApplySpec) -> Result<Self, Failure> {
        match (&options.file, &options.name) {
            (Some(file), _) => Ok(Self::File(file.clone())),
            (None, Some(name)) => Ok(Self::Store(name.clone())),
            (None, None) => Err(Failure::usage("name a document, or the name of one in the store")),
        }
    }

    /// Reads what is there now.
    #[expect(clippy::unused_async, reason = "the store is asked")]
    pub(super) async fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(path) => {
                let failed = |error| Failure::new(format!("the document {} cannot be read: {error}", path.display()));
                let file = std::fs::File::open(path).map_err(failed)?;
                let mut document = Vec::new();
                // One byte more than is allowed tells that there is more.
                file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut document).map_err(failed)?;
                Ok(document)
            }
            Self::Store(_) => Err(Failure::new("not in this build")),
        }
    }
}
