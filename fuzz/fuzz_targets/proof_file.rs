//! The proof that a host leaves for us to read: no panic, and no bytes pass for a proof under a secret that they do not know.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use toehold_core::PublicKey;
use toehold_keygen::install::{ProofFile, ProofSecret};

static HOST_KEY: LazyLock<PublicKey> = LazyLock::new(|| {
    let text = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";
    text.parse().expect("a valid key")
});

/// Nobody tells the fuzzer.
static SECRET: LazyLock<ProofSecret> =
    LazyLock::new(|| ProofSecret::from_hex(&"5ec7e7".repeat(11)[..62]).expect("a valid secret"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(proof) = ProofFile::parse(bytes) else { return };
    assert!(proof.verify(&SECRET, &HOST_KEY).is_err());
    let _ = (proof.created_directory(), proof.created_file(), proof.added_newline());
});
