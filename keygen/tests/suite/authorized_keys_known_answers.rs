//! The document against lines on which OpenSSH's own tools were asked for their opinion (`vectors/authorized_keys`).

use std::collections::BTreeMap;

use toehold_core::{Fingerprint, PublicKey};
use toehold_keygen::authorized_keys::{Added, AuthorizedKeys, KeyLine, Line, LineKind, Options};

const LINES: &[u8] = include_bytes!("../vectors/authorized_keys/lines.txt");
const FINGERPRINTS: &str = include_str!("../vectors/authorized_keys/fingerprints.txt");

fn document() -> AuthorizedKeys {
    AuthorizedKeys::parse(LINES.to_vec())
}

/// The keys of which OpenSSH gives a fingerprint.
fn keys() -> BTreeMap<Fingerprint, PublicKey> {
    let known: Vec<Fingerprint> = FINGERPRINTS.lines().map(|line| line.parse().unwrap()).collect();
    let document = document();
    let keys = document.entries().filter_map(|entry| entry.key()?.public_key()).map(|key| (key.fingerprint(), key));
    keys.filter(|(fingerprint, _)| known.contains(fingerprint)).collect()
}

fn with_comment<'a>(document: &'a AuthorizedKeys, comment: &str) -> KeyLine<'a> {
    document.entries().filter_map(|entry| entry.key()).find(|key| key.comment() == comment.as_bytes()).unwrap()
}

#[test]
fn the_keys_are_those_that_ssh_keygen_sees() {
    let (document, keys) = (document(), keys());
    let seen: Vec<String> = document
        .entries()
        .filter_map(|entry| entry.key())
        .filter(KeyLine::openssh_reads_key)
        .filter_map(|found| keys.iter().find(|(_, key)| found.is(key)).map(|(fingerprint, _)| fingerprint.to_string()))
        .collect();
    assert_eq!(seen, FINGERPRINTS.lines().collect::<Vec<_>>());
}

#[test]
fn bytes_are_kept_and_lines_are_counted() {
    let document = document();
    assert_eq!(document.as_bytes(), LINES);
    assert_eq!(document.entries().count(), LINES.split(|byte| *byte == b'\n').count());
    let mut end = 0;
    for (entry, number) in document.entries().zip(1..) {
        assert_eq!((entry.number(), entry.start()), (number, end));
        end = entry.end();
    }
    assert_eq!(end, LINES.len());
    assert_eq!(document.into_bytes(), LINES);
}

#[test]
fn lines_are_told_apart() {
    let kind = |line: &str| match AuthorizedKeys::parse(line.as_bytes().to_vec()).entries().next().unwrap().kind() {
        LineKind::Blank => "blank",
        LineKind::Comment => "comment",
        LineKind::Key(_) => "key",
        _ => "other",
    };
    for (line, expected) in [
        ("\n", "blank"),
        (" \t\r\n", "blank"),
        ("\0anything", "blank"),
        ("#", "comment"),
        (" # ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==", "comment"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==", "key"),
        ("restrict", "other"),
        ("ssh-ed25519", "other"),
        ("AAAAC3NzaC1lZDI1NTE5AAAAIA==", "other"),
        ("ssh-ed25519 BBBBC3NzaC1lZDI1NTE5AAAAIA==", "other"),
        ("1024 35 1234567890 of protocol 1", "other"),
        ("\r", "blank"),
    ] {
        assert_eq!(kind(line), expected, "{line:?}");
    }
}

#[test]
fn the_parts_of_a_line() {
    let document = document();
    let quoted = with_comment(&document, "escaped quotes");
    assert_eq!(quoted.options(), Some(br#"command="echo \"a, b\" c",no-pty"#.as_slice()));
    assert_eq!(quoted.algorithm(), b"ssh-ed25519");
    assert!(quoted.base64().starts_with(b"AAAAC3"));
    let options = Options::parse(quoted.options().unwrap()).unwrap();
    assert_eq!(options.value("command").unwrap(), br#"echo "a, b" c"#);
    assert!(options.has("no-pty") && !options.has("pty"));
    let plain = with_comment(&document, "plain");
    assert_eq!(plain.options(), None);
    let foreign = with_comment(&document, "unknown algorithm");
    assert_eq!(foreign.public_key().unwrap().algorithm(), "ssh-future@example.net");
    assert!(!foreign.openssh_reads_key());
    assert!(with_comment(&document, "carriage return").openssh_reads_key());
}

#[test]
fn a_key_is_found_by_its_blob_however_it_is_written() {
    let (document, keys) = (document(), keys());
    let with = |comment: &str| with_comment(&document, comment);
    let key = |algorithm: &str| keys.values().find(|key| key.algorithm() == algorithm).unwrap();
    for (comment, algorithm) in [
        ("other algorithm than in the blob", "ssh-ed25519"),
        ("foreign character", "ssh-ed25519"),
        ("other white space", "ssh-ed25519"),
        ("an authority", "ssh-ed25519"),
        ("a signature algorithm for the key type", "ssh-rsa"),
        ("superfluous zeros", "ssh-rsa"),
        ("without padding", "ecdsa-sha2-nistp256"),
    ] {
        assert!(with(comment).is(key(algorithm)), "{comment}");
    }
    for comment in ["more behind the key", "cut off"] {
        assert!(!with(comment).is(key("ssh-ed25519")), "{comment}");
    }
}

#[test]
fn every_copy_goes_and_nothing_else() {
    for key in keys().values() {
        let mut document = document();
        let copies = document.find(key).count();
        assert!(copies > 0);
        let others: Vec<Vec<u8>> = document
            .entries()
            .filter(|entry| !entry.key().is_some_and(|found| found.is(key)))
            .map(|entry| entry.text().to_vec())
            .collect();
        assert_eq!(document.remove(key), copies);
        assert_eq!(document.remove(key), 0);
        assert!(!document.contains(key));
        assert_eq!(document.as_bytes(), others.join(&b'\n'));
    }
}

#[test]
fn a_key_behind_another_one_or_in_a_comment_is_not_the_lines_key() {
    let (document, keys) = (document(), keys());
    let both = document.entries().find(|entry| entry.text().windows(16).any(|part| part == b"first key, then ")).unwrap();
    let holds = |algorithm: &str| both.key().unwrap().is(keys.values().find(|key| key.algorithm() == algorithm).unwrap());
    assert!(holds("ssh-ed25519") && !holds("ssh-rsa"));
    assert_eq!(document.entries().next().unwrap().kind(), LineKind::Comment);
}

#[test]
fn options_change_and_the_rest_of_the_line_does_not() {
    let key: PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV".parse().unwrap();
    let restrict = Options::new().restrict();
    for (before, options, after) in [
        ("{}\n", &restrict, "restrict {}\n"),
        (" \t{}  c\r\n", &restrict, " \trestrict {}  c\r\n"),
        ("pty,command=\"a b\" \t {} c", &restrict, "restrict \t {} c"),
        ("restrict {}\n", &restrict, "restrict {}\n"),
        ("  pty \t{} c\nx\n", &Options::new(), "  {} c\nx\n"),
        ("#{}\npty {}\n{}\n", &restrict, "#{}\nrestrict {}\nrestrict {}\n"),
    ] {
        let fill = |text: &str| text.replace("{}", &key.to_string()).into_bytes();
        let mut document = AuthorizedKeys::parse(fill(before));
        assert_eq!(document.replace_options(&key, options) > 0, before != after);
        assert_eq!(document.as_bytes(), fill(after), "{before:?}");
        assert_eq!(document.replace_options(&key, options), 0);
    }
}

#[test]
fn adding_looks_at_the_options() {
    let key: PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV".parse().unwrap();
    let line = Line::new(Options::new().restrict(), key.clone(), " ours ").unwrap();
    for (before, outcome) in [
        ("", Added::Added),
        ("# restrict {}\n", Added::Added),
        ("restrict {} other comment\n", Added::Unchanged),
        ("{}\n", Added::PresentWithOtherOptions),
        ("restrict {}\npty {}\n", Added::PresentWithOtherOptions),
        ("restrict,pty {}", Added::PresentWithOtherOptions),
        ("cert-authority {}\n", Added::Added),
        // Neither of these lets anybody in.
        ("restrict ssh-rsa {base64}\n", Added::Added),
        ("restrict ssh-ed25519 {base64}=\n", Added::Added),
    ] {
        let before = before.replace("{base64}", &key.base64()).replace("{}", &key.to_string());
        let mut document = AuthorizedKeys::parse(before.clone().into_bytes());
        assert_eq!(document.add(&line), outcome, "{before:?}");
        if outcome == Added::Added {
            assert_eq!(document.as_bytes(), format!("{before}restrict {key} ours\n").as_bytes());
            assert_eq!(document.add(&line), Added::Unchanged);
        } else {
            assert_eq!(document.as_bytes(), before.as_bytes());
        }
    }
}

#[test]
fn the_end_of_the_file_keeps_its_form() {
    let key = |n: u8| PublicKey::from_blob(&[&[0, 0, 0, 1, b'k'][..], &[n; 32]].concat()).unwrap();
    let line = |n: u8| Line::new(Options::new(), key(n), "").unwrap();
    for original in ["", "\n", "\n\n", "a", "a\n", "a\r\n", "a\r", "a\n\n", "\na", "ssh-rsa AAAA", "# \r\nb"] {
        let mut document = AuthorizedKeys::parse(original.as_bytes().to_vec());
        let ended_mid_line = !original.is_empty() && !original.ends_with('\n');
        for n in 1..=3 {
            assert!(document.add(&line(n)).is_added());
            assert_eq!(document.as_bytes().ends_with(b"\n"), !ended_mid_line, "{original:?}");
        }
        // Gone in another order than they came in.
        for n in [2, 1, 3] {
            assert_eq!(document.remove(&key(n)), 1);
        }
        assert_eq!(document.as_bytes(), original.as_bytes(), "{original:?}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let key: PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV".parse().unwrap();
    for comment in ["a\nb", "a\rb", "a\0b", "\u{85}"] {
        assert!(Line::new(Options::new(), key.clone(), comment).is_err());
    }
    for value in ["a\nb", "a\rb", "a\0b", "ends with \\"] {
        assert!(Options::new().command(value).is_err(), "{value:?}");
    }
    for name in ["", "a b", "a=b", "a,b", "a\"b", "ä"] {
        assert!(Options::new().flag(name).is_err() && Options::new().value_of(name, "v").is_err(), "{name:?}");
    }
    for text in ["a b", "a\tb", "command=\"open", "a\nb", "a\0b", "command=\"x\\\""] {
        assert!(text.parse::<Options>().is_err(), "{text:?}");
    }
}

#[test]
fn an_expiry_is_set_and_taken_away_among_other_options() {
    use toehold_core::Timestamp;
    use toehold_keygen::authorized_keys::ExpiryTime;
    let end = ExpiryTime::utc(Timestamp::from_unix_seconds(1_795_395_600));
    for (before, with, without) in [
        ("", "expiry-time=\"20261123010000Z\"", ""),
        ("restrict", "restrict,expiry-time=\"20261123010000Z\"", "restrict"),
        ("Expiry-Time=\"x\",future=\"a,b\",,pty", "expiry-time=\"20261123010000Z\",future=\"a,b\",,pty", "future=\"a,b\",,pty"),
        ("a,expiry-time=\"1\",b,expiry-time=\"2\",c", "a,expiry-time=\"20261123010000Z\",b,c", "a,b,c"),
        (
            "command=\"expiry-time=\\\"\"",
            "command=\"expiry-time=\\\"\",expiry-time=\"20261123010000Z\"",
            "command=\"expiry-time=\\\"\"",
        ),
    ] {
        let mut options: Options = before.parse().unwrap();
        options.set_expiry_time(Some(&end));
        assert_eq!(options.to_string(), with);
        options.set_expiry_time(None);
        assert_eq!(options.to_string(), without);
    }
}
