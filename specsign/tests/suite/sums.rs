//! `SHA256SUMS`, as sha256sum writes and reads it.

use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use toehold_specsign::{Sha256Digest, Sums, SumsError};

const SUM: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Sums, SumsError> {
    Sums::parse(text.as_bytes())
}

#[test]
fn every_form_that_sha256sum_writes() {
    for text in [
        format!("{SUM}  a\n"),
        format!("{SUM} *a\n"),
        format!("{SUM}  ./a\n"),
        format!("{SUM}  a"),
        format!("{}  a\n", SUM.to_uppercase()),
        format!("\\{SUM}  a\n"),
    ] {
        let sums = parse(&text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(sums.get("a"), Some(&Sha256Digest::of(b"")));
        assert_eq!(sums.to_bytes(), format!("{SUM}  a\n").into_bytes());
    }
}

#[test]
fn other_forms_are_refused() {
    for (text, line) in [
        (format!("{SUM} a\n"), 1),
        (format!("{SUM}\ta\n"), 1),
        (format!("{SUM}  a\n\n{SUM}  b\n"), 2),
        (format!("# comment\n{SUM}  a\n"), 1),
        (format!("SHA256 (a) = {SUM}\n"), 1),
        (format!(" {SUM}  a\n"), 1),
        (format!("\u{feff}{SUM}  a\n"), 1),
        (format!("{}  a\n", &SUM[1..]), 1),
        (format!("{SUM}0  a\n"), 1),
        (format!("\\{SUM}  a\\x\n"), 1),
    ] {
        assert_eq!(parse(&text), Err(SumsError::Line { line }), "{text:?}");
    }
    for name in ["", "/a", "../a", "a/../b", "a//b", "a/", ".", "././a", "a\r", "a\0b", "a\\b"] {
        assert!(matches!(parse(&format!("{SUM}  {name}\n")), Err(SumsError::Path { line: 1, .. })), "{name:?}");
    }
    assert!(parse(&format!("\\{SUM}  a\\nb\n")).is_err(), "a line end in a name");
    assert_eq!(parse(""), Err(SumsError::Empty));
    assert_eq!(parse("\n"), Err(SumsError::Line { line: 1 }));
    assert_eq!(parse(&format!("{SUM}  a\n{SUM}  ./a\n")), Err(SumsError::Twice { line: 2 }));
    assert_eq!(parse(&format!("{SUM}  SHA256SUMS\n")), Err(SumsError::Twice { line: 1 }));
    assert_eq!(Sums::parse(&vec![b'a'; 5 << 20]), Err(SumsError::TooLong));
}

#[test]
fn sha256sum_agrees() {
    let directory = tempfile::tempdir().unwrap();
    let names = ["a", "b c", "größe", "-x", "d/e"];
    std::fs::create_dir(directory.path().join("d")).unwrap();
    for name in names {
        std::fs::write(directory.path().join(name), name).unwrap();
    }
    let run =
        |program: &str, arguments: &[&str]| Command::new(program).args(arguments).current_dir(directory.path()).output().unwrap();
    for mark in ["--text", "--binary"] {
        let theirs = run("sha256sum", &[&[mark, "--"][..], &names].concat());
        let sums = Sums::parse(&theirs.stdout).unwrap();
        assert_eq!(sums.files().len(), names.len());
        std::fs::write(directory.path().join("SHA256SUMS"), sums.to_bytes()).unwrap();
        assert!(run("sha256sum", &["--check", "--strict", "SHA256SUMS"]).status.success());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, rng_seed: RngSeed::Fixed(20_261_125), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_well_and_what_is_read_is_written_and_read_again(bytes in prop::collection::vec(any::<u8>(), 0..200), name in "[ -~é]{1,20}") {
        let _ = Sums::parse(&bytes);
        if let Ok(sums) = Sums::parse(format!("{SUM}  {name}\n").as_bytes()) {
            prop_assert_eq!(Sums::parse(&sums.to_bytes()), Ok(sums));
        }
    }
}
