//! Whatever is in a file and whatever is done to it: the bytes that were not meant stay as they were.

use proptest::prelude::*;
use toehold_core::PublicKey;
use toehold_keygen::authorized_keys::{Added, AuthorizedKeys, Line, LineKind, Options};

/// Keys that the edits below use; each kind that is compared in its own way is among them.
fn key(n: u8) -> PublicKey {
    let number = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let blob = match n % 3 {
        0 => [number(b"ssh-ed25519"), number(&[n; 32])].concat(),
        1 => [number(b"ssh-rsa"), number(&[1, 0, 1]), number(&[&[0, 0x80 | n][..], &[n; 127]].concat())].concat(),
        _ => [number(b"ecdsa-sha2-nistp256"), number(b"nistp256"), number(&[4, n, n, n])].concat(),
    };
    PublicKey::from_blob(&blob).unwrap()
}

fn options() -> impl Strategy<Value = Options> {
    let value = "[ -~äöü\t]{0,20}".prop_filter("cannot be written", |value| !value.ends_with('\\'));
    (any::<bool>(), proptest::option::of(value.clone()), proptest::option::of(value)).prop_map(|(restrict, command, future)| {
        let mut options = if restrict { Options::new().restrict() } else { Options::new() };
        if let Some(command) = command {
            options = options.command(&command).unwrap();
        }
        if let Some(future) = future {
            options = options.value_of("future@example.net", &future).unwrap();
        }
        options
    })
}

fn line() -> impl Strategy<Value = Line> {
    (options(), 0..6_u8, "[ -~é]{0,12}").prop_map(|(options, n, comment)| Line::new(options, key(n), &comment).unwrap())
}

/// One line of a file without its end: noise, or a line with one of the keys in any dress.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..60).prop_map(|mut bytes| {
        bytes.retain(|byte| *byte != b'\n');
        bytes
    });
    let words = "[ \t\"\\\\,#=a-e\r]{0,30}".prop_map(String::into_bytes);
    let blanks = || "[ \t]{0,2}";
    let keyed = (blanks(), options(), blanks(), 0..6_u8, blanks(), "[ -~]{0,12}\r?").prop_map(
        |(indent, options, gap, n, space, comment)| {
            let options = if options.is_empty() { String::new() } else { format!("{options} {gap}") };
            let key = key(n);
            format!("{indent}{options}{} {space}{} {comment}", key.algorithm(), key.base64()).into_bytes()
        },
    );
    prop_oneof![2 => noise, 2 => words, 5 => keyed, 1 => Just(Vec::new())]
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(text(), 0..12), any::<bool>()).prop_map(|(lines, ended)| {
        let mut file = lines.join(&b'\n');
        if ended && !file.is_empty() {
            file.push(b'\n');
        }
        file
    })
}

#[derive(Clone, Debug)]
enum Edit {
    Add(Line),
    Remove(u8),
    ReplaceOptions(u8, Options),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        line().prop_map(Edit::Add),
        (0..6_u8).prop_map(Edit::Remove),
        (0..6_u8, options()).prop_map(|(n, options)| Edit::ReplaceOptions(n, options)),
    ]
}

/// The lines that hold none of the keys `touched`.
fn others(document: &AuthorizedKeys, touched: &[PublicKey]) -> Vec<Vec<u8>> {
    let holds = |kind: LineKind<'_>| matches!(kind, LineKind::Key(found) if touched.iter().any(|key| found.is(key)));
    document.entries().filter(|entry| !holds(entry.kind())).map(|entry| entry.text().to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn foreign_bytes_any_bytes_are_a_document_and_come_out_again(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let document = AuthorizedKeys::parse(bytes.clone());
        for entry in document.entries() {
            if let Some(found) = entry.key() {
                let _ = (found.options(), found.algorithm(), found.base64(), found.comment(), found.openssh_reads_key());
            }
        }
        let lines: Vec<_> = document.entries().map(|entry| bytes.get(entry.start()..entry.end()).unwrap()).collect();
        prop_assert_eq!(lines.concat(), bytes.clone());
        prop_assert_eq!(document.into_bytes(), bytes);
    }

    #[test]
    fn foreign_bytes_lines_that_no_edit_means_stay_and_in_order(file in file(), edits in prop::collection::vec(edit(), 1..6)) {
        let mut document = AuthorizedKeys::parse(file);
        let touched: Vec<PublicKey> = edits.iter().map(|edit| match edit {
            Edit::Add(line) => line.public_key().clone(),
            Edit::Remove(n) | Edit::ReplaceOptions(n, _) => key(*n),
        }).collect();
        let before = others(&document, &touched);
        for edit in &edits {
            match edit {
                Edit::Add(line) => {
                    let added = document.add(line);
                    prop_assert!(document.contains(line.public_key()));
                    let bytes = document.as_bytes().to_vec();
                    let again = document.add(line);
                    prop_assert_eq!(again, if added == Added::PresentWithOtherOptions { added } else { Added::Unchanged });
                    prop_assert_eq!(document.as_bytes(), bytes);
                }
                Edit::Remove(n) => {
                    let copies = document.find(&key(*n)).count();
                    prop_assert_eq!(document.remove(&key(*n)), copies);
                    prop_assert!(!document.contains(&key(*n)));
                }
                Edit::ReplaceOptions(n, options) => {
                    let copies = document.find(&key(*n)).count();
                    prop_assert!(document.replace_options(&key(*n), options) <= copies);
                    prop_assert_eq!(document.find(&key(*n)).count(), copies);
                    for entry in document.find(&key(*n)) {
                        prop_assert_eq!(entry.key().unwrap().options().unwrap_or_default(), options.to_bytes());
                    }
                }
            }
        }
        prop_assert_eq!(others(&document, &touched), before);
    }

    #[test]
    fn foreign_bytes_what_is_added_and_removed_leaves_no_trace(file in file(), lines in prop::collection::vec(line(), 1..4), turn in any::<usize>()) {
        let mut document = AuthorizedKeys::parse(file.clone());
        let mut ours: Vec<&Line> = lines.iter().filter(|line| !document.contains(line.public_key())).collect();
        for line in &ours {
            let _ = document.add(line);
        }
        if !ours.is_empty() {
            let by = turn % ours.len();
            ours.rotate_left(by);
        }
        for line in ours {
            document.remove(line.public_key());
        }
        prop_assert_eq!(document.into_bytes(), file);
    }

    #[test]
    fn an_added_line_is_a_line_of_its_own(file in file(), line in line()) {
        let mut document = AuthorizedKeys::parse(file);
        let before = document.entries().count();
        if document.add(&line).is_added() {
            let last = document.entries().last().unwrap();
            prop_assert_eq!(last.number(), before + 1);
            prop_assert_eq!(last.text(), line.to_bytes());
            let found = last.key().unwrap();
            prop_assert!(found.is(line.public_key()) && found.openssh_reads_key());
            prop_assert_eq!(found.options().unwrap_or_default(), line.options().to_bytes());
            prop_assert_eq!(found.comment(), line.comment().as_bytes());
        }
    }

    #[test]
    fn options_are_read_as_they_are_written(options in options(), value in "[ -~ä\t]{0,20}") {
        let bytes = options.to_bytes();
        prop_assert_eq!(Options::parse(&bytes).unwrap(), options);
        if let Ok(options) = Options::new().value_of("command", &value) {
            prop_assert_eq!(options.value("command").unwrap(), value.as_bytes());
            prop_assert_eq!(options.effect(0).unwrap().command.unwrap(), value.as_bytes());
        } else {
            prop_assert!(value.ends_with('\\'));
        }
    }

    #[test]
    fn options_of_others_are_kept_as_they_stand(text in "[a-c=,\"\\\\ \t]{0,24}") {
        if let Ok(options) = text.parse::<Options>() {
            prop_assert_eq!(options.to_string(), text);
        }
    }
}
