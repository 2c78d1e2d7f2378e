//! A store, or one record in it, that a newer release has written: refused in words, and left as it is.

use std::fs;

use crate::support;
use crate::support::{Done, Inside, Toehold};

fn add(toehold: &Toehold, host: &Inside) -> Done {
    host.add(toehold, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_refuses_a_newer_store_and_leaves_it_alone() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    add(&toehold, &host).ends(0);
    let version: i64 = {
        let database = support::store::open(&toehold);
        let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        database.pragma_update(None, "user_version", version + 41).unwrap();
        version
    };
    let file = toehold.state().join("state.db");
    let (before, there) = (fs::read(&file).unwrap(), fs::read(host.authorized_keys_file()).unwrap());
    let account = host.account();
    let id = "00112233445566778899aabbccddeeff";
    let (shell, elsewhere) = toehold.shell_elsewhere();
    let commands: [&[&str]; 11] = [
        &["init"],
        &["host", "add", &account, "--via", &shell],
        &["host", "invite", &account],
        &["host", "ls"],
        &["host", "show", &account],
        &["host", "check"],
        &["host", "rm", &account],
        &["session", "ls"],
        &["session", "cancel", id],
        &["session", "recover"],
        &["key", "show"],
    ];
    for command in commands {
        let done = toehold.run(command.iter().copied()).ends(1);
        let words = &done.stderr;
        assert!(words.contains(&(version + 41).to_string()) && words.contains(&version.to_string()), "{command:?}: {words}");
        assert!(words.contains("newer"), "{command:?}: {words}");
        assert_eq!(fs::read(&file).unwrap(), before, "{command:?}");
    }
    assert_eq!(fs::read(host.authorized_keys_file()).unwrap(), there);
    assert_eq!(support::names_in(&elsewhere), Vec::<String>::new());
}

/// Raises what is needed to read the record whose key begins so.
fn newer(toehold: &Toehold, prefix: &str) -> String {
    let key = support::store::keys(toehold).into_iter().find(|key| key.starts_with(prefix)).expect(prefix);
    support::store::change(toehold, &key, |record| record["readable_from"] = 99.into());
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_shows_the_records_that_it_can_read_and_says_which_it_cannot() {
    let (toehold, first, second) = (Toehold::new(), Inside::start().await, Inside::start().await);
    add(&toehold, &first).ends(0);
    add(&toehold, &second).ends(0);
    newer(&toehold, "host/");
    let done = toehold.run(["--json", "host", "ls"]).ends(3);
    assert_eq!(done.json()["hosts"].as_array().unwrap().len(), 1, "{}", done.stdout);
    assert!(done.stderr.contains("newer"), "{}", done.stderr);
    let done = toehold.run(["--json", "host", "check"]).ends(3);
    assert_eq!(done.json()["hosts"][0]["state"], "as recorded", "{}", done.stdout);
    newer(&toehold, "session/");
    let done = toehold.run(["--json", "session", "ls", "--all"]).ends(3);
    assert_eq!(done.json()["sessions"].as_array().unwrap().len(), 1, "{}", done.stdout);
    assert!(done.stderr.contains("newer"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_was_nothing_begins_where_a_record_that_is_needed_is_newer() {
    for kind in ["masterkey/current", "masterkey/", "knownhost/", "claim/"] {
        let (toehold, host) = (Toehold::new(), Inside::start().await);
        add(&toehold, &host).ends(0);
        if kind == "claim/" {
            // An account has one as long as something is owed.
            host.show_another_host_key(true);
            toehold.run(["host", "rm", &host.account(), "--unreachable"]).ends(0);
            host.add(&toehold, &[]).ends(3);
            host.heal();
        }
        let (sessions, before) = (toehold.sessions(true).len(), fs::read(host.authorized_keys_file()).unwrap());
        let key = newer(&toehold, kind);
        let done = add(&toehold, &host);
        assert!(matches!(done.code, 1 | 3) && done.stderr.contains("newer"), "{key}: {} {}", done.code, done.stderr);
        assert_eq!(toehold.sessions(true).len(), sessions, "{key}: a session was begun");
        assert_eq!(fs::read(host.authorized_keys_file()).unwrap(), before, "{key}");
    }
}
