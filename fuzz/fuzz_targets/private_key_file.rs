//! Private key files of any format: no panic, and what was read is the same key when written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_keygen::read_private_key_file;

// Without a passphrase: with one, a file may ask for as much key derivation as a real one does, which tells nothing here.
fuzz_target!(|bytes: &[u8]| {
    let Ok(pair) = read_private_key_file(bytes, None) else { return };
    let written = pair.to_openssh("again").expect("a key that was read can be written");
    let again = read_private_key_file(written.expose(), None).expect("what we write we can read");
    assert_eq!(again.public_key(), pair.public_key());
});
