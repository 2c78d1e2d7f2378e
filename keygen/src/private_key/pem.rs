//! Finds the private key among the PEM blocks of a file (RFC 7468, and the headers of RFC 1421).

use base64ct::{Base64, Encoding as _};
use zeroize::Zeroizing;

use super::PrivateKeyError;

/// A PEM block with a private key.
pub(super) struct Block {
    /// What stands between `BEGIN` and the dashes.
    pub(super) label: String,
    /// Whether its headers say `Proc-Type: 4,ENCRYPTED`.
    pub(super) legacy_encryption: bool,
    /// The lines between, joined. ASCII without blanks.
    base64: Zeroizing<Vec<u8>>,
}

/// The first block whose label ends with `PRIVATE KEY`. Other blocks (curve parameters, certificates) and text around
/// them are skipped; line ends may be LF or CRLF and lines of any width.
///
/// # Errors
/// [`PrivateKeyError::PublicKey`] where there is a block of a public key and none of a private key;
/// [`PrivateKeyError::Damaged`] where the block does not end.
pub(super) fn find_private_key(bytes: &[u8]) -> Result<Option<Block>, PrivateKeyError> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut public = None;
    while let Some(line) = lines.next() {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        let Some(label) = boundary(line, b"-----BEGIN ") else { continue };
        if label.ends_with("PRIVATE KEY") {
            return read_block(label, &mut lines, bytes.len()).map(Some);
        }
        if label.ends_with("PUBLIC KEY") {
            public = Some(label);
        }
    }
    public.map_or(Ok(None), |label| {
        Err(PrivateKeyError::PublicKey { algorithm: super::printable(label.replace(' ', "-").as_bytes()) })
    })
}

fn read_block<'a>(label: &str, lines: &mut impl Iterator<Item = &'a [u8]>, capacity: usize) -> Result<Block, PrivateKeyError> {
    // Sized beforehand: a buffer that grows leaves its old halves in freed memory.
    let mut base64 = Zeroizing::new(Vec::with_capacity(capacity));
    let mut legacy_encryption = false;
    for line in lines {
        if boundary(line, b"-----END ") == Some(label) {
            return Ok(Block { label: label.to_owned(), legacy_encryption, base64 });
        }
        if let Some(value) = line.strip_prefix(b"Proc-Type:") {
            legacy_encryption |= value.ends_with(b"ENCRYPTED");
        } else if !line.contains(&b':') {
            base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    Err(PrivateKeyError::Damaged { format: "PEM", what: "the line that ends it is missing" })
}

impl Block {
    /// The bytes that the block holds.
    pub(super) fn decode(&self, format: &'static str) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
        let mut bytes = Zeroizing::new(vec![0; self.base64.len()]);
        let length = Base64::decode(&*self.base64, &mut bytes)
            .map_err(|_| PrivateKeyError::Damaged { format, what: "its base64 is not valid" })?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

fn boundary<'a>(line: &'a [u8], begin: &[u8]) -> Option<&'a str> {
    line.strip_prefix(begin)?.strip_suffix(b"-----").and_then(|label| std::str::from_utf8(label).ok())
}
