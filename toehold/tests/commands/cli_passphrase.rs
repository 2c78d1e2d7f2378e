//! A state directory under a passphrase: what is needed of it, and what is said where it is wrong, loose or missing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support;
use crate::support::server::write_private;
use crate::support::{FOREIGN, Inside, Toehold};

fn file(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    write_private(&path, content);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_was_a_wrong_loose_empty_or_missing_passphrase_begins_nothing() {
    let (toehold, host) = (Toehold::bare(), Inside::start().await);
    let directory = support::server::directory("passphrases");
    let right = file(directory.path(), "right", "open sesame\n");
    let wrong = file(directory.path(), "wrong", "open barley\n");
    let empty = file(directory.path(), "empty", "");
    let loose = file(directory.path(), "loose", "open sesame\n");
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).unwrap();
    let missing = directory.path().join("missing");
    let given = |path: &Path| ["--passphrase-file".to_owned(), path.to_str().unwrap().to_owned()];
    let right = given(&right);
    let right: Vec<&str> = right.iter().map(String::as_str).collect();
    toehold.run(["init"].into_iter().chain(right.iter().copied())).ends(0);

    // A host on record and an open session, so that every command has something to do.
    let (account, home, key) = (host.account(), host.home().to_owned(), host.host_key_file());
    let add = ["host", "add", &account, "--home", &home, "--via", "sh", "--host-key-file", key.to_str().unwrap()];
    toehold.run(add.iter().copied().chain(right.iter().copied())).ends(0);
    let sessions = toehold.sessions(true).len();
    let before = fs::read(host.authorized_keys_file()).unwrap();

    for (path, words) in [
        (Some(&wrong), "passphrase"),
        (Some(&empty), "passphrase"),
        (Some(&loose), "chmod 600"),
        (Some(&missing), "missing"),
        // Nobody is at a terminal.
        (None, "--passphrase-file"),
    ] {
        let option: Vec<String> = path.map(|path| given(path).to_vec()).unwrap_or_default();
        let commands: [&[&str]; 4] = [&add, &["session", "recover"], &["host", "check"], &["host", "rm", &account]];
        for command in commands {
            let done = toehold.run(command.iter().copied().chain(option.iter().map(String::as_str))).ends(1);
            assert!(done.stderr.contains(words), "{command:?} {path:?}: {}", done.stderr);
            assert!(!done.stderr.contains("sesame") && !done.stderr.contains("barley"), "{}", done.stderr);
        }
        assert_eq!(toehold.sessions(true).len(), sessions, "a session was begun: {path:?}");
        assert_eq!(fs::read(host.authorized_keys_file()).unwrap(), before, "{path:?}");
    }
    // What needs no private half asks for nothing.
    toehold.run(["host", "ls"]).ends(0);
    toehold.run(["key", "show"]).ends(0);
    for command in [&["session", "recover"][..], &["host", "check"], &["host", "rm", &account]] {
        toehold.run(command.iter().copied().chain(right.iter().copied())).ends(0);
    }
    assert!(fs::read(host.authorized_keys_file()).unwrap().starts_with(FOREIGN));
}
