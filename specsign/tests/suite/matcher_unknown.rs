//! Three answers: a fact that cannot be had is neither a yes nor a no, unless the others decide.

use std::cell::Cell;

use toehold_specsign::matcher::{MAX_DEPTH, MAX_EXPRESSION, Problem};
use toehold_specsign::{Answer, CachedFacts, FactError, Facts, KnownFacts, Matcher};

/// `/yes` and `yes` are there, `/no` and `no` are not, nothing else can be told.
struct Partly {
    identity: Option<&'static str>,
    asked: Cell<usize>,
}

impl Partly {
    fn tell(&self, subject: &str) -> Result<bool, FactError> {
        self.asked.set(self.asked.get() + 1);
        match subject.trim_start_matches('/') {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => Err(FactError(format!("{other} may not be read"))),
        }
    }
}

impl Facts for Partly {
    fn identity(&self) -> Result<&str, FactError> {
        self.identity.ok_or_else(|| FactError("no identity".to_owned()))
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        self.tell(path)
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        self.tell(path)
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        self.tell(name)
    }
}

fn partly() -> Partly {
    Partly { identity: None, asked: Cell::new(0) }
}

fn answer(text: &str) -> Answer {
    Matcher::compile(text).and_then(|matcher| matcher.evaluate(&partly())).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn an_unknown_fact_is_no_answer_unless_the_others_decide() {
    let unknown = Answer::Unknown("dark may not be read".to_owned());
    for (text, expected) in [
        ("has_file('/dark')", &unknown),
        ("!has_file('/dark')", &unknown),
        ("!!has_file('/dark')", &unknown),
        ("has_file('/dark') && has_file('/yes')", &unknown),
        ("has_file('/dark') && has_file('/no')", &Answer::No),
        ("has_file('/no') && has_file('/dark')", &Answer::No),
        ("has_file('/dark') || has_file('/yes')", &Answer::Yes),
        ("has_file('/yes') || has_file('/dark')", &Answer::Yes),
        ("has_file('/dark') || has_file('/no')", &unknown),
        ("has_file('/dark') == has_file('/dark')", &unknown),
        ("has_file('/dark') != true", &unknown),
        ("has_file('/dark') in [true, false]", &unknown),
        ("has_file('/dark') ? true : false", &unknown),
        ("has_file('/dark') ? true : true", &Answer::Yes),
        ("has_file('/dark') ? has_file('/no') : has_file('/no')", &Answer::No),
        ("has_file(has_file('/dark') ? '/yes' : '/no')", &Answer::Unknown("dark may not be read".to_owned())),
        ("has_file(has_file('/dark') ? '/yes' : '/yes')", &Answer::Yes),
        ("(has_file('/dark') ? 1 : 2) < 3", &unknown),
        ("identity('x')", &Answer::Unknown("no identity".to_owned())),
        ("identity('x') || has_command('yes')", &Answer::Yes),
        ("has_file('/dark') && has_file('/darker')", &unknown),
    ] {
        assert_eq!(answer(text), *expected, "{text}");
    }
}

#[test]
fn what_fails_is_an_error_and_not_a_no() {
    for (text, problem) in [
        ("1 % 0 == 1", Problem::Fault),
        ("1 / 0 == 1", Problem::Unsupported),
        ("9223372036854775807 + 1 == 0", Problem::Unsupported),
        ("2 ** 0.5 == 1", Problem::Unsupported),
        ("has_file('/dark') && 1 % 0 == 1", Problem::Fault),
        ("'a' matches ('[' + '')", Problem::Unsupported),
        ("(true ? 1 : 'a') && true", Problem::Fault),
    ] {
        let error = Matcher::compile(text).and_then(|matcher| matcher.evaluate(&partly())).unwrap_err();
        assert_eq!(error.problem(), problem, "{text}: {error}");
    }
    // As with the original, what is not reached does not fail.
    assert_eq!(answer("has_file('/no') && 1 % 0 == 1"), Answer::No);
}

#[test]
fn errors_point_at_the_place() {
    // What is said stays in its line, whatever character it is about.
    for character in ['\n', '\r', '\u{1b}', '\u{85}'] {
        let error = Matcher::compile(&format!("identity(`web\\{character}`)")).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 3, "{error:?}");
        assert!(!error.message().contains(char::is_control), "{error:?}");
    }
    let shown = |text: &str| Matcher::compile(text).unwrap_err().to_string();
    assert_eq!(
        shown("identity('^web') && has_fiel('x')"),
        "there is nothing called \"has_fiel\"\n | identity('^web') && has_fiel('x')\n |                     ^"
    );
    assert_eq!(shown("true &&"), "the expression ends too early\n | true &&\n |        ^");
    assert_eq!(
        shown("identity('ü') && 'größe' == 1"),
        "a text and an integer cannot be compared\n | identity('ü') && 'größe' == 1\n |                          ^"
    );
    assert_eq!(shown("true\n&& 1"), "a truth value and an integer cannot be combined\n | && 1\n | ^");
    assert_eq!(shown("len('a') == 1"), "\"len\" is not supported\n | len('a') == 1\n | ^");
    let long = format!("{} && x", "true && ".repeat(100).trim_end_matches(" && "));
    assert!(shown(&long).lines().all(|line| line.len() < 130));
    assert!(!shown("'\u{1b}[2J' + 1").contains('\u{1b}'), "no terminal sequence of a stranger");
}

#[test]
fn large_expressions_are_refused_and_long_rows_are_not_deep() {
    let row = ["has_file('/yes')"; 600].join(" && ");
    assert_eq!(answer(&row), Answer::Yes);
    assert_eq!(answer(&format!("{}true", "!".repeat(5000))), Answer::Yes);
    assert_eq!(answer(&format!("{}true", "!".repeat(5001))), Answer::No);
    let problem = |text: &str| Matcher::compile(text).unwrap_err().problem();
    let deep = |levels: usize| format!("{}true{}", "(".repeat(levels), ")".repeat(levels));
    assert_eq!(answer(&deep(MAX_DEPTH - 1)), Answer::Yes);
    for text in [
        deep(MAX_DEPTH),
        "(".repeat(10_000),
        "[".repeat(10_000),
        "-".repeat(10_000),
        "!-".repeat(5_000),
        "has_file(".repeat(1_000),
        format!("{}1", "2 ** ".repeat(1_000)),
        format!("{}true", "true ? true : ".repeat(1_000)),
        format!("{}1 == 1", "1 + ".repeat(1_000)),
        format!("true{}", " == true".repeat(1_000)),
    ] {
        assert_eq!(problem(&text), Problem::TooLarge, "{}…", &text[..20]);
    }
    assert_eq!(problem(&" ".repeat(MAX_EXPRESSION + 1)), Problem::TooLarge);
}

#[test]
fn facts_are_asked_for_once_an_evaluation() {
    let partly = Partly { identity: Some("web1"), asked: Cell::new(0) };
    let cached = CachedFacts::new(&partly);
    let matcher = Matcher::compile("identity('^web') && has_command('yes') && !has_command('no') && !has_file('/no')").unwrap();
    for _ in 0..5 {
        assert_eq!(matcher.evaluate(&cached), Ok(Answer::Yes));
    }
    assert_eq!(partly.asked.get(), 3);
}

#[test]
fn facts_that_somebody_wrote_down() {
    let facts: KnownFacts = serde_json::from_str(r#"{"identity":"web1","commands":["sh"]}"#).unwrap();
    let answer = |text: &str| Matcher::compile(text).unwrap().evaluate(&facts).unwrap();
    assert_eq!(answer("identity('^web') && has_command('sh')"), Answer::Yes);
    assert_eq!(answer("has_command('facter')"), Answer::No);
    assert_eq!(answer("has_file('/etc/passwd')"), Answer::Unknown("the facts have no list of files".to_owned()));
    assert!(serde_json::from_str::<KnownFacts>(r#"{"comands":[]}"#).is_err());
}
