//! The frames of version 3: no panic, and one spelling for each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_joinproto::v3::frame::{Accept, Answer, Confirm, Done, Hello, Offer, Proof, Refuse, Retry};

fuzz_target!(|bytes: &[u8]| {
    macro_rules! same {
        ($($frame:ident)*) => { $(
            if let Ok(frame) = $frame::decode(bytes) {
                assert_eq!(frame.encode(), bytes);
            }
        )* };
    }
    same!(Accept Answer Confirm Done Hello Offer Proof Refuse Retry);
});
