//! Expressions: no panic, no hang, and a fact that is known instead of unknown never turns a yes into a no.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_specsign::{Answer, KnownFacts, Matcher};

fuzz_target!(|text: &str| {
    let matcher = match Matcher::compile(text) {
        Ok(matcher) => matcher,
        Err(error) => {
            // What is printed is for a terminal.
            assert!(error.to_string().lines().count() == 3 && !error.to_string().contains('\u{1b}'));
            return;
        }
    };
    let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let dark = KnownFacts { identity: Some("web1".to_owned()), ..KnownFacts::default() };
    let known = KnownFacts { files: set(&["/f"]), directories: set(&["/d"]), commands: set(&["c"]), ..dark.clone() };
    let none = KnownFacts { files: set(&[]), directories: set(&[]), commands: set(&[]), ..dark.clone() };
    if let Ok(answer @ (Answer::Yes | Answer::No)) = matcher.evaluate(&dark) {
        for facts in [&known, &none] {
            // It may still fail, where it looks at more.
            if let Ok(other) = matcher.evaluate(facts) {
                assert_eq!(other, answer, "{text}");
            }
        }
    }
});
