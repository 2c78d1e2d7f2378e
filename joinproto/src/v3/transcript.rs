//! The hash over everything that both sides have seen.

use std::fmt;

use sha2::{Digest as _, Sha512};

/// What the TLS connection gives both of its ends and nobody else: 32 bytes for
/// [`EXPORTER_LABEL`](super::EXPORTER_LABEL). Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Exporter(pub [u8; 32]);

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter([redacted])")
    }
}

/// The running hash: SHA-512 over parts, each after its length as a u32.
#[derive(Clone)]
pub(crate) struct Transcript(Sha512);

pub(crate) type Digest = [u8; 64];

impl Transcript {
    pub(crate) fn new(exporter: &Exporter) -> Self {
        let mut transcript = Self(Sha512::new());
        transcript.absorb(b"toehold join v3 transcript");
        transcript.absorb(&exporter.0);
        transcript
    }

    pub(crate) fn absorb(&mut self, part: &[u8]) {
        // Frames are held to a few KiB before they come here.
        self.0.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.update(part);
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.clone().finalize().into()
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript").finish_non_exhaustive()
    }
}
