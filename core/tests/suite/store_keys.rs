//! Properties of store keys.

use proptest::prelude::*;
use toehold_core::Key;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![Just("session".to_owned()), Just("sess".to_owned()), Just("a".to_owned()), "[^/\\p{Cc}]{1,12}"]
}

fn segments() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(segment(), 1..5)
}

proptest! {
    #[test]
    fn a_key_is_its_segments_and_is_read_back(parts in segments()) {
        let key = Key::new(&parts).unwrap();
        prop_assert_eq!(key.segments().collect::<Vec<_>>(), parts.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(Some(key.name()), parts.last().map(String::as_str));
        prop_assert_eq!(key.as_str(), parts.join("/"));
        prop_assert_eq!(Key::parse(&key.to_string()), Ok(key));
    }

    #[test]
    fn below_is_what_has_more_segments_and_begins_with_the_same(left in segments(), right in segments()) {
        let wanted = left.len() > right.len() && left[..right.len()] == right[..];
        prop_assert_eq!(Key::new(&left).unwrap().is_below(&Key::new(&right).unwrap()), wanted);
        let below: Vec<String> = right.iter().chain(&left).cloned().collect();
        prop_assert!(Key::new(below).unwrap().is_below(&Key::new(&right).unwrap()));
    }

    #[test]
    fn a_text_is_a_key_or_an_error(text in "\\PC{0,30}|[a/\\x00-\\x1f]{0,8}") {
        let valid = text.split('/').all(|part| !part.is_empty() && !part.chars().any(char::is_control));
        prop_assert_eq!(Key::parse(&text).is_ok(), valid);
        prop_assert_eq!(Key::new([&text]).is_ok(), valid && !text.contains('/'));
    }
}

#[test]
fn a_segment_has_up_to_512_bytes() {
    assert!(Key::new(["k".repeat(512)]).is_ok());
    assert!(Key::new(["k".repeat(513)]).is_err());
    assert!(Key::new(["é".repeat(257)]).is_err(), "bytes, not characters");
}
