//! The options before a key: no panic, and what was read is written as it stood or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_keygen::{ExpiryTime, Options};

fuzz_target!(|bytes: &[u8]| {
    let Ok(options) = Options::parse(bytes) else { return };
    let written = options.to_bytes();
    let again = Options::parse(&written).expect("what we write we can read");
    assert_eq!(again.to_bytes(), written);
    let _ = options.effect(0);
    let _ = options.effect(-43_200);
    if let Some(text) = options.value("expiry-time").and_then(|value| String::from_utf8(value).ok())
        && let Ok(expiry) = text.parse::<ExpiryTime>()
    {
        assert_eq!(expiry.to_string().parse::<ExpiryTime>().as_ref(), Ok(&expiry));
    }
    let mut edited = options.clone();
    edited.set_expiry_time(None);
    assert!(!edited.has("expiry-time"));
    Options::parse(&edited.to_bytes()).expect("what we edited we can read");
});
