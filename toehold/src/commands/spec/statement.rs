//! The statement of an envelope in a file of its own, with its SSH signatures beside it: what `ssh-keygen -Y` signs and verifies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toehold_specsign::SignedStatement;

use crate::cli::Failure;
use crate::private::write_new;

/// Writes FILE, FILE.sig, FILE.2.sig and so on, none of which may be there; the files that it wrote.
///
/// # Errors
/// Where one is there, or cannot be written.
pub(super) fn write(path: &Path, signed: &SignedStatement) -> Result<Vec<PathBuf>, Failure> {
    let mut written = Vec::new();
    let mut add = |path: PathBuf, bytes: &[u8]| -> Result<(), Failure> {
        if !write_new(&path, bytes)? {
            return Err(Failure::new(format!("{} is there already, and was not touched", path.display())));
        }
        written.push(path);
        Ok(())
    };
    add(path.to_owned(), signed.bytes())?;
    for (number, signature) in signed.ssh_signatures().enumerate() {
        let end = if number == 0 { ".sig".to_owned() } else { format!(".{}.sig", number + 1) };
        let mut name = OsString::from(path);
        name.push(end);
        add(name.into(), signature.as_bytes())?;
    }
    Ok(written)
}
