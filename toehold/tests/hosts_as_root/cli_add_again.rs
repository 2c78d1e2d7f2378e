//! `host add` for an account that is managed already: what may change, and what is refused.

use std::fs;

use crate::support;
use crate::support::{Done, FOREIGN, RealSshd, Toehold};
use toehold::adapters::sqlite::SqliteStore;
use toehold_core::{Expect, Key, Store as _};

fn add(toehold: &Toehold, host: &RealSshd, more: &[&str]) -> Done {
    let (account, home) = (host.account().to_string(), host.home());
    let first = ["--json", "host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"];
    toehold.run(first.into_iter().chain(more.iter().copied()))
}

#[test]
fn a_plain_line_is_hardened_and_stays_so() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let before = [FOREIGN, b"\n"].concat();
    host.authorize(&before);
    add(&toehold, &host, &[]).ends(0);
    let ours = || {
        let file = fs::read(host.authorized_keys()).unwrap();
        assert!(file.starts_with(&before), "foreign_bytes");
        String::from_utf8_lossy(&file[before.len()..]).into_owned()
    };
    let plain = format!("{} toehold-master\n", toehold.master_key());
    assert_eq!(ours(), plain);
    // The line that is there gets the options; it does not get a neighbour.
    add(&toehold, &host, &["--harden"]).ends(0);
    let hardened = format!("restrict,command=\"internal-sftp\" {plain}");
    assert_eq!(ours(), hardened);
    toehold.run(["host", "check"]).ends(0);
    // Asked for nothing, it keeps them.
    add(&toehold, &host, &["--label", "again"]).ends(0);
    assert_eq!(ours(), hardened);
    toehold.run(["host", "check"]).ends(0);
}

#[test]
fn an_account_is_not_added_over_another_route() {
    let (toehold, jump, end) = (Toehold::new(), RealSshd::start(), RealSshd::start());
    let (jump_account, account) = (jump.account().to_string(), end.account().to_string());
    add(&toehold, &jump, &[]).ends(0);
    add(&toehold, &end, &[]).ends(0);
    let before = (fs::read(end.authorized_keys()).unwrap(), toehold.sessions(true).len());
    let refused = add(&toehold, &end, &["--jump", &jump_account]).ends(1).json();
    let words = refused["error"].as_str().unwrap();
    for part in [account.as_str(), jump_account.as_str(), "names one host", "toehold host rm"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!((fs::read(end.authorized_keys()).unwrap(), toehold.sessions(true).len()), before, "something was begun");
    let shown = toehold.run(["--json", "host", "show", &account]).ends(0).json();
    assert!(shown["jumps"].as_array().is_none_or(Vec::is_empty), "{shown}");
    toehold.run(["host", "check"]).ends(0);
}

#[test]
fn the_records_of_sessions_that_were_closed_long_ago_go_and_the_audit_record_stays() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    for _ in 0..4 {
        add(&toehold, &host, &[]).ends(0);
    }
    let sessions = || -> Vec<String> {
        let sessions = toehold.sessions(true);
        sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
    };
    let audited = || support::store::keys(&toehold).into_iter().filter(|key| key.starts_with("audit")).count();
    let (before, entries) = (sessions(), audited());
    assert_eq!(before.len(), 4);
    let old = "2026-01-01T00:00:00Z";
    let key = |id: &String| support::store::keys(&toehold).into_iter().find(|key| key.contains(id.as_str())).unwrap();
    // Closed long ago; open, however old; and one that a claim names.
    for (number, id) in before.iter().take(3).enumerate() {
        support::store::change(&toehold, &key(id), |record| {
            (record["created_at"], record["expires_at"], record["closed"]["at"]) = (old.into(), old.into(), old.into());
            if number == 1 {
                record["status"] = "orphaned".into();
                record.as_object_mut().unwrap().remove("closed");
            }
        });
    }
    let claim = serde_json::json!({ "v": 1, "readable_from": 1, "session": before[2], "attempt": 1, "managed": true });
    support::fleet::wait(async {
        let store = SqliteStore::open(&toehold.state()).unwrap();
        let key = Key::parse("claim/deploy@elsewhere").unwrap();
        store.put(&key, claim.to_string().as_bytes(), Expect::Absent).await.unwrap();
    });
    let another = RealSshd::start();
    add(&toehold, &another, &[]).ends(0);
    let after = sessions();
    assert_eq!(before.iter().map(|id| after.contains(id)).collect::<Vec<_>>(), [false, true, true, true]);
    assert!(audited() > entries, "the audit record has lost something");
}
