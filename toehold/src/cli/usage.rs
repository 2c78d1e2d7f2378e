//! A command line that cannot be read: told as every other failure is.

use std::ffi::OsString;

use clap::error::ErrorKind;

use super::{Failure, Output};

/// Prints what clap has to say about a command line, and returns the exit code: its help and its version go to standard output,
/// its errors to standard error, and under `--json` they are told by the one document that every failure has.
pub fn report(error: &clap::Error, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let failed = error.use_stderr();
    if failed && asks_for_json(arguments) {
        let failure = failure(error);
        Output::new(true).failure(&failure);
        return failure.exit.code();
    }
    if failed {
        anstream::eprint!("{}", without_passwords(&error.render().ansi().to_string()));
        return super::Exit::Usage.code();
    }
    // A reader that has gone away does not matter.
    drop(error.print());
    0
}

/// A text of clap's, which repeats what was given, without what stands before the host of a URL.
fn without_passwords(text: &str) -> String {
    let mut parts = text.split("//");
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.find(['/', ' ', '\'', '"', '\n', '\u{1b}']).map_or(part, |end| part.get(..end).unwrap_or(part));
        let host = authority.rfind('@').unwrap_or(0);
        told.push_str("//");
        told.push_str(if host > 0 { "…" } else { "" });
        told.push_str(part.get(host..).unwrap_or_default());
    }
    told
}

/// The line could not be read, so that this is all there is to go by.
fn asks_for_json(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments.into_iter().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// Clap's error as ours: its first paragraph is what is wrong, the further ones are advice.
fn failure(error: &clap::Error) -> Failure {
    if matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand) {
        return Failure::usage("the command line names no command").hint("see which there are: --help");
    }
    let text = without_passwords(&error.render().to_string());
    let mut paragraphs = text.split("\n\n").map(on_one_line).filter(|paragraph| !paragraph.is_empty());
    let first = paragraphs.next().unwrap_or_default();
    let advice: Vec<String> = paragraphs.collect();
    let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(&first));
    if advice.is_empty() { failure } else { failure.hint(advice.join("\n")) }
}

fn on_one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser as _;

    fn failure_of(arguments: &[&str]) -> Failure {
        failure(&Cli::try_parse_from(arguments).unwrap_err())
    }

    #[test]
    fn what_is_wrong_and_what_to_do_are_told_apart() {
        let told = failure_of(&["toehold", "host", "add"]);
        assert!(told.message.starts_with("the following required arguments were not provided:"), "{told:?}");
        assert!(told.message.contains("ACCOUNT") && !told.message.contains("Usage"), "{told:?}");
        assert!(told.hint.as_deref().is_some_and(|hint| hint.contains("Usage: toehold host add")), "{told:?}");
        let told = failure_of(&["toehold", "host", "add", "web1"]);
        assert!(told.message.contains("invalid value 'web1'") && told.message.contains("has no user"), "{told:?}");
        assert_eq!((told.exit.code(), failure_of(&["toehold"]).message.as_str()), (2, "the command line names no command"));
    }

    #[test]
    fn no_password_of_a_url_is_repeated() {
        let told = failure_of(&["toehold", "--store", "nats://user:hunter2@127.0.0.1:4222/fleet", "host", "ls"]);
        assert!(!format!("{told:?}").contains("hunter2") && told.message.contains("nats://…@127.0.0.1:4222/fleet"), "{told:?}");
        for (text, expected) in [
            ("'nats://a@b' and nats://c/x@y", "'nats://…@b' and nats://c/x@y"),
            ("a // b", "a // b"),
            ("//", "//"),
            ("x://p@q@h/z", "x://…@h/z"),
            ("", ""),
        ] {
            assert_eq!(without_passwords(text), expected);
        }
    }

    #[test]
    fn json_is_asked_for_by_the_option_alone() {
        let asks = |arguments: &[&str]| asks_for_json(arguments.iter().map(OsString::from));
        assert!(asks(&["toehold", "host", "add", "--json"]));
        assert!(!asks(&["--json", "host"]));
        assert!(!asks(&["toehold", "host", "add", "--", "--json"]));
    }
}
