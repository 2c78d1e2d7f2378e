//! Any text ends in an answer or an error, and trees that are printed are read as what they are.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use toehold_specsign::{Answer, KnownFacts, Matcher};

fn facts() -> KnownFacts {
    let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    KnownFacts { identity: Some("web1".to_owned()), files: set(&["/f"]), directories: set(&["/d"]), commands: None }
}

/// A tree of truth values with what it should say.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(&'static str, Option<bool>),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Equal(Box<Tree>, Box<Tree>),
    Choice(Box<Tree>, Box<Tree>, Box<Tree>),
}

const LEAVES: &[(&str, Option<bool>)] = &[
    ("true", Some(true)),
    ("false", Some(false)),
    ("has_file('/f')", Some(true)),
    ("has_file('/g')", Some(false)),
    ("has_directory(\"/d\")", Some(true)),
    ("identity(`^web\\d`)", Some(true)),
    ("identity('db')", Some(false)),
    ("has_command('sh')", None),
    ("1 < 2 <= 2", Some(true)),
    ("'a' not in ['b', 'c']", Some(true)),
    ("'abc' contains 'd'", Some(false)),
    ("2 + 3 * 4 == 14", Some(true)),
    ("-2 ** 2 == -4", Some(true)),
    ("7 % 4 - 1 > 2", Some(false)),
];

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop::sample::select(LEAVES).prop_map(|(text, value)| Tree::Leaf(text, value));
    leaf.prop_recursive(6, 40, 3, |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            inner.clone().prop_map(|a| Tree::Not(Box::new(a))),
            two.clone().prop_map(|(a, b)| Tree::And(a, b)),
            two.clone().prop_map(|(a, b)| Tree::Or(a, b)),
            two.clone().prop_map(|(a, b)| Tree::Equal(a, b)),
            (two, inner).prop_map(|((a, b), c)| Tree::Choice(a, b, Box::new(c))),
        ]
    })
}

impl Tree {
    fn text(&self, words: bool) -> String {
        let (and, or, not) = if words { ("and", "or", "not ") } else { ("&&", "||", "!") };
        match self {
            Self::Leaf(text, _) => format!("({text})"),
            Self::Not(a) => format!("{not}{}", a.text(words)),
            // The weaker one is put into brackets, the stronger is not.
            Self::And(a, b) => format!("({} {and} {})", a.text(words), b.text(words)),
            Self::Or(a, b) => format!("({} {or} {})", a.text(words), b.text(words)),
            Self::Equal(a, b) => format!("({} == {})", a.text(words), b.text(words)),
            Self::Choice(a, b, c) => format!("({} ? {} : {})", a.text(words), b.text(words), c.text(words)),
        }
    }

    fn value(&self) -> Option<bool> {
        match self {
            Self::Leaf(_, value) => *value,
            Self::Not(a) => a.value().map(|value| !value),
            Self::And(a, b) => match (a.value(), b.value()) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.value(), b.value()) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Self::Equal(a, b) => a.value().zip(b.value()).map(|(a, b)| a == b),
            Self::Choice(a, b, c) => match a.value() {
                Some(true) => b.value(),
                Some(false) => c.value(),
                None => b.value().zip(c.value()).and_then(|(b, c)| (b == c).then_some(b)),
            },
        }
    }
}

const SEED: RngSeed = RngSeed::Fixed(20_261_125);

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: SEED, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn says_what_the_tree_says(tree in tree(), words in any::<bool>()) {
        let text = tree.text(words);
        let answer = Matcher::compile(&text).and_then(|matcher| matcher.evaluate(&facts()));
        let expected = tree.value();
        match answer {
            Ok(Answer::Yes) => prop_assert_eq!(expected, Some(true), "{}", text),
            Ok(Answer::No) => prop_assert_eq!(expected, Some(false), "{}", text),
            Ok(Answer::Unknown(_)) => prop_assert_eq!(expected, None, "{}", text),
            Err(error) => prop_assert!(false, "{}: {}", text, error),
        }
    }

    #[test]
    fn any_text_ends_well(text in "[a-z_()'\"`\\\\!&|<>=?:\\[\\], .0-9*/+%-]{0,60}") {
        if let Ok(matcher) = Matcher::compile(&text) {
            let _ = matcher.evaluate(&facts());
        }
    }

    #[test]
    fn any_pattern_ends_well(pattern in "[a-z.*+?(){}\\[\\]|^$\\\\<>:=!0-9,-]{0,24}", text in "[a-z0-9.-]{0,12}") {
        let expression = format!("{} matches `{pattern}`", serde_json::to_string(&text).unwrap());
        if let Ok(matcher) = Matcher::compile(&expression) {
            let _ = matcher.evaluate(&facts());
        }
    }
}
