//! The 774 expressions of the original: a truth value is its truth value, or the feature that we do not know is named; where
//! it sees an error, we never see a truth value.

use serde_json::Value;
use toehold_specsign::matcher::Problem;
use toehold_specsign::{Answer, KnownFacts, Matcher};

fn facts() -> KnownFacts {
    let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    KnownFacts {
        identity: Some("web1.example.net".to_owned()),
        files: set(&["/etc/passwd", "/etc/hosts", "/usr"]),
        directories: set(&["/usr", "/etc"]),
        commands: set(&["facter", "sh", "bash"]),
    }
}

#[test]
fn every_expression_has_the_answer_of_the_original() {
    let facts = facts();
    let (mut same, mut unsupported) = (0, Vec::new());
    let vectors = include_str!("../vectors/expr/matcher.jsonl");
    for line in vectors.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let (text, outcome) = (case["expr"].as_str().unwrap(), case["outcome"].as_str().unwrap());
        let ours = Matcher::compile(text).and_then(|matcher| matcher.evaluate(&facts));
        match (outcome, &ours) {
            ("true", Ok(Answer::Yes)) | ("false", Ok(Answer::No)) | ("error", Err(_)) => same += 1,
            ("true" | "false", Err(error)) if error.problem() == Problem::Unsupported => unsupported.push(text.to_owned()),
            _ => panic!("{text}\nthe original says {outcome}, we say {ours:?}"),
        }
    }
    assert_eq!(same + unsupported.len(), 774);
    // Closures, `if`, maps, ranges, `$env`, `?:`, patterns that Go cannot compile: nothing that a matcher needs.
    let expected = [
        "identity('[')",
        "any([1,2], # > 1)",
        "if true { true } else { false }",
        "true ?: false",
        "identity('^web(?=1)')",
        "{'a': true}.a",
        "1..3 == [1,2,3]",
        "2 in 1..3",
        "'identity' in $env",
    ];
    assert_eq!(unsupported, expected);
}
