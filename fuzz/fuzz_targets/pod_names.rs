//! Labels and names: valid whatever the text, different for different texts; what is read as a name is printed the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_podrun::{LabelValue, MAX_LABEL, PodName, Signal, Uid, metadata_key};

fuzz_target!(|texts: (String, String)| {
    let (one, other) = texts;
    let label = LabelValue::encode(&one);
    let text = label.as_str();
    let edges = [text.bytes().next(), text.bytes().last()];
    assert!(text.len() <= MAX_LABEL && edges.iter().flatten().all(u8::is_ascii_alphanumeric));
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    assert_eq!(one == other, label == LabelValue::encode(&other));
    assert_eq!(one == other, metadata_key(&one) == metadata_key(&other));
    if let Ok(name) = one.parse::<PodName>() {
        assert_eq!(name.to_string(), one);
    }
    if let Ok(uid) = one.parse::<Uid>() {
        assert_eq!(uid.as_str(), one);
    }
    drop(one.parse::<Signal>());
});
