//! `SHA256SUMS`: no panic, and what was read is written so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_specsign::Sums;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(sums) = Sums::parse(bytes) {
        assert!(sums.files().all(|(path, _)| !path.as_str().starts_with('/') && path.components().all(|part| part != "..")));
        assert_eq!(Sums::parse(&sums.to_bytes()).as_ref(), Ok(&sums));
    }
});
