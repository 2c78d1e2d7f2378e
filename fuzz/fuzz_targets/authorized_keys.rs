//! The document of authorized keys under any edits: lines that hold none of the edited keys stay as they are and in order, adding twice
//! changes nothing, a removed key is gone, and adding then removing gives the very bytes again.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use toehold_core::{PublicKey, Timestamp};
use toehold_keygen::{Added, AuthorizedKeys, Line, Options};

/// Keys that stand in the seeds.
const KEYS: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV",
];

static LINES: LazyLock<Vec<Line>> = LazyLock::new(|| {
    let key = |text: &str| text.parse::<PublicKey>().expect("a valid key");
    let options = [Options::new(), Options::new().restrict().command("internal-sftp").expect("a valid command")];
    KEYS.iter()
        .flat_map(|text| options.iter().map(|options| Line::new(options.clone(), key(text), "ours").expect("a valid line")))
        .collect()
});

// The first byte is the number of edits (at most 7), the next ones are the edits, the rest is the file.
fuzz_target!(|bytes: &[u8]| {
    let Some((count, rest)) = bytes.split_first() else { return };
    let Some((edits, file)) = rest.split_at_checked(usize::from(count % 8)) else { return };
    let mut document = AuthorizedKeys::parse(file.to_vec());
    assert_eq!(document.as_bytes(), file, "parsing changes nothing");
    walk(&document);
    let foreign = foreign_lines(&document);
    for edit in edits {
        let line = &LINES[usize::from(edit >> 2) % LINES.len()];
        match edit % 4 {
            0 => add(&mut document, line),
            1 => add_and_remove(&document, line),
            2 => {
                let held = document.find(line.public_key()).count();
                assert_eq!(document.remove(line.public_key()), held);
                assert!(!document.contains(line.public_key()));
            }
            _ => {
                let held = document.find(line.public_key()).count();
                assert!(document.replace_options(line.public_key(), line.options()) <= held);
                assert_eq!(
                    document.replace_options(line.public_key(), line.options()),
                    0,
                    "a second time there is nothing to replace"
                );
            }
        }
        assert_eq!(foreign_lines(&document), foreign, "foreign bytes never change");
    }
});

fn add(document: &mut AuthorizedKeys, line: &Line) {
    let added = document.add(line);
    assert!(document.contains(line.public_key()));
    let before = document.as_bytes().to_vec();
    let again = document.add(line);
    assert_ne!(again, Added::Added);
    assert!(added == Added::Added || again == added);
    assert_eq!(document.as_bytes(), before, "adding twice changes nothing");
}

fn add_and_remove(document: &AuthorizedKeys, line: &Line) {
    if document.contains(line.public_key()) {
        return;
    }
    let mut edited = document.clone();
    assert_eq!(edited.add(line), Added::Added);
    assert_eq!(edited.remove(line.public_key()), 1);
    assert_eq!(edited.as_bytes(), document.as_bytes());
}

/// The lines that hold none of our keys.
fn foreign_lines(document: &AuthorizedKeys) -> Vec<Vec<u8>> {
    let is_ours = |text: &[u8]| {
        let line = AuthorizedKeys::parse(text.to_vec());
        LINES.iter().any(|ours| line.contains(ours.public_key()))
    };
    document.entries().map(|entry| entry.text().to_vec()).filter(|text| !is_ours(text)).collect()
}

/// Looks at every part of every line.
fn walk(document: &AuthorizedKeys) {
    let mut end = 0;
    for entry in document.entries() {
        assert_eq!(entry.start(), end);
        end = entry.end();
        let Some(key) = entry.key() else { continue };
        let _ = (key.algorithm(), key.base64(), key.comment(), key.openssh_reads_key());
        if let Some(public_key) = key.public_key() {
            assert!(key.is(&public_key) && document.contains(&public_key));
            let _ = document.authorizes(&public_key, Timestamp::UNIX_EPOCH);
        }
    }
    assert_eq!(end, document.as_bytes().len(), "every byte belongs to a line");
}
