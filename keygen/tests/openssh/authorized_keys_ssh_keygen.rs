//! Random files, and the keys that the installed `ssh-keygen` sees in them.

use std::collections::HashSet;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use toehold_core::PublicKey;
use toehold_keygen::authorized_keys::{AuthorizedKeys, KeyLine};

/// An Ed25519 key by its number; `ssh-keygen -l` does not ask whether the 32 bytes are a point of the curve.
fn key(number: u32) -> PublicKey {
    let parts: [&[u8]; 5] = [&[0, 0, 0, 11], b"ssh-ed25519", &[0, 0, 0, 32], &number.to_be_bytes(), &[7; 28]];
    PublicKey::from_blob(&parts.concat()).unwrap()
}

/// A line, with `{}` for the base64 of a key. Behind options there is one blank, for `ssh-keygen` passes over no more, other
/// than sshd, and no options begin with a number, which it takes for a key of SSH 1.
fn line() -> impl Strategy<Value = String> {
    let options = prop_oneof![
        3 => Just(String::new()),
        2 => "[a-c=,\"\\\\]{1,8} ",
        1 => "[a-c]{1,3}=\"[a-c=, \t\\\\]{0,8}\"[,a-c]{0,3} ",
        1 => "[!-*,./:-~][!-~]{0,12} ",
    ];
    let word = prop_oneof![6 => Just("ssh-ed25519"), 1 => Just("ssh-rsa"), 1 => Just("ssh-future"), 1 => Just("")];
    let tail = prop_oneof![8 => Just(""), 1 => Just("="), 1 => Just("A"), 1 => Just("\x0b"), 1 => Just("\r")];
    let parts = ("[ \t]{0,2}#?", options, word, "[ \t]{1,2}", tail, "([ \t][ -~]{0,12})?\r?");
    parts.prop_map(|(indent, options, word, blanks, tail, comment)| format!("{indent}{options}{word}{blanks}{{}}{tail}{comment}"))
}

#[test]
fn ssh_keygen_sees_the_same_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lines");
    let mut runner = TestRunner::deterministic();
    // The first one, so that ssh-keygen always has something to print.
    let mut lines = vec![format!("ssh-ed25519 {}", key(0).base64())];
    lines.extend((1..3000).map(|n| line().new_tree(&mut runner).unwrap().current().replace("{}", &key(n).base64())));
    let file = lines.join("\n");
    std::fs::write(&path, &file).unwrap();

    let output = Command::new("ssh-keygen").arg("-lf").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let theirs: HashSet<&str> = said.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert!(theirs.len() > 500, "{} keys", theirs.len());

    let document = AuthorizedKeys::parse(file.into_bytes());
    for (entry, n) in document.entries().zip(0..) {
        let expected = theirs.contains(key(n).fingerprint().to_string().as_str());
        let seen = entry.key().filter(KeyLine::openssh_reads_key).is_some_and(|found| found.is(&key(n)));
        assert_eq!(seen, expected, "{:?}", String::from_utf8_lossy(entry.text()));
    }
}
