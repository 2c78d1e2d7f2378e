//! Everything with a text form: no panic, and what was read prints to a text that reads as the same value.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use toehold_core::{Account, Fingerprint, Key, PublicKey, SessionId, Timestamp};
use toehold_keygen::{ExpiryTime, FromPatterns, KeyAlgorithm};

fuzz_target!(|text: &str| {
    round_trip::<Account>(text);
    round_trip::<Fingerprint>(text);
    round_trip::<PublicKey>(text);
    round_trip::<SessionId>(text);
    round_trip::<Timestamp>(text);
    round_trip::<FromPatterns>(text);
    round_trip::<KeyAlgorithm>(text);
    round_trip::<ExpiryTime>(text);
    if let Ok(key) = Key::parse(text) {
        assert_eq!(Key::parse(&key.to_string()).as_ref(), Ok(&key));
    }
});

fn round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().as_ref().ok(), Some(&value), "{text}");
    }
}
