//! A store as a file: what was written is read, and nothing else.

use proptest::prelude::*;
use toehold_core::{ExportError, ExportedValue, Key, StoreExport, Timestamp};

fn export(values: &[(String, Vec<u8>)]) -> StoreExport {
    let values = values.iter().map(|(key, value)| ExportedValue {
        key: Key::new(["kind", key]).unwrap(),
        value: value.clone(),
        written_at: Timestamp::from_unix_seconds(1),
    });
    StoreExport::new(Timestamp::from_unix_seconds(1_764_000_000), values)
}

#[test]
fn a_file_looks_like_this() {
    let text = String::from_utf8(export(&[("a@b".to_owned(), b"{}".to_vec())]).to_bytes().unwrap()).unwrap();
    // printf '%s\n' (the first two lines) | sha256sum
    let wanted = concat!(
        r#"{"store_export":1,"made_at":"2025-11-24T16:00:00Z"}"#,
        "\n",
        r#"{"key":"kind/a@b","written_at":"1970-01-01T00:00:01Z","value":"e30="}"#,
        "\n",
    );
    assert!(text.starts_with(wanted), "{text}");
    let error = |text: &str| StoreExport::parse(text.as_bytes()).unwrap_err();
    assert_eq!(error(wanted), ExportError::CutOff);
    assert_eq!(error(&text.replace("e30=", "e31=")), ExportError::Line { line: 2, what: "no value of a store" });
    assert_eq!(error(&text.replace("e30=", "e319")), ExportError::Changed);
    assert_eq!(error(&text.replace("_export\":1", "_export\":7")), ExportError::Newer(7));
    assert_eq!(
        error(&text.replace("store_export", "audit_export")),
        ExportError::Line { line: 1, what: "not the first line of such a file" }
    );
    assert_eq!(error(&text.replace("\"entries\":1", "\"entries\":2")), ExportError::Count { got: 1, counted: 2 });
    assert_eq!(error(&format!("{text}\n")), ExportError::Line { line: 4, what: "behind the last one" });
    let second = text.lines().nth(1).unwrap();
    let doubled = text.replacen(second, &format!("{second}\n{second}"), 1);
    assert_eq!(error(&doubled), ExportError::Line { line: 3, what: "out of order" });
}

#[test]
fn a_file_that_another_program_made_is_read_as_it_says() {
    let file = include_bytes!("../vectors/store_export_v1.jsonl");
    let export = StoreExport::parse(file).unwrap();
    assert_eq!(export.values()[1].value, b"{\"v\":1}");
    assert_eq!(export.to_bytes().unwrap(), file);
}

#[test]
fn a_digest_knows_where_values_end() {
    let digest = |values: &[(&str, &[u8])]| {
        export(&values.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect::<Vec<_>>()).digest()
    };
    assert_eq!(digest(&[("b", b"2"), ("a", b"1")]), digest(&[("a", b"1"), ("b", b"2")]));
    assert_ne!(digest(&[("a", b"1kind/b2")]), digest(&[("a", b"1"), ("b", b"2")]));
    assert_ne!(digest(&[("a", b"12")]), digest(&[("a1", b"2")]));
}

proptest! {
    #[test]
    fn what_was_written_is_read_and_any_other_byte_is_seen(
        values in prop::collection::vec(("[^/\\p{Cc}]{1,12}", prop::collection::vec(any::<u8>(), 0..40)), 0..8), at: usize, to: u8,
    ) {
        let export = export(&values);
        let mut file = export.to_bytes().unwrap();
        prop_assert_eq!(&StoreExport::parse(&file).unwrap(), &export);
        let at = at % file.len();
        prop_assume!(file[at] != to);
        file[at] = to;
        if let Ok(other) = StoreExport::parse(&file) {
            // White space in the last line is the most that it can be.
            prop_assert_eq!(&other, &export);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Ok(export) = StoreExport::parse(bytes) {
                prop_assert_eq!(StoreExport::parse(&export.to_bytes().unwrap()).unwrap(), export);
            }
        }
    }
}
