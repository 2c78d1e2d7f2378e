//! The store by itself: checked, moved to another directory, and rid of what is long over.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::{Value, json};

use super::cli_audit::old_chain;
use crate::support;
use crate::support::{Inside, Toehold, eventually, names_in};

fn insert(toehold: &Toehold, key: &str, value: &Value) {
    let mut database = support::store::open(toehold);
    let transaction = database.transaction().unwrap();
    support::store::insert(&transaction, key, value);
    transaction.commit().unwrap();
}

fn delete(toehold: &Toehold, key: &str) {
    assert_eq!(support::store::open(toehold).execute("DELETE FROM entry WHERE key = ?1", [key]).unwrap(), 1, "{key}");
}

fn key_of(toehold: &Toehold, prefix: &str) -> String {
    let keys = support::store::keys(toehold);
    keys.into_iter().find(|key| key.starts_with(prefix) && key != "masterkey/current").expect(prefix)
}

fn findings(toehold: &Toehold) -> Vec<(String, String)> {
    let done = toehold.run(["--json", "store", "check"]).ends(3).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    done["findings"].as_array().unwrap().iter().map(|finding| (text(&finding["key"]), text(&finding["what"]))).collect()
}

/// Something that is put into a store, or taken away.
type Change<'a> = Box<dyn Fn(&Toehold) + 'a>;

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_which_something_is_wrong_is_told_record_by_record() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    let done = toehold.run(["--json", "store", "check"]).ends(0).json();
    assert!(done["records"]["host"] == 1 && done["records"]["rotation"].as_u64() >= Some(2), "{done}");
    assert!(toehold.run(["store", "check"]).ends(0).stdout.contains("can be read"));

    // Each by itself: what is put in, or taken away, and the key that is told.
    let known = key_of(&toehold, "knownhost/");
    let (host_key, key) = (key_of(&toehold, "host/"), key_of(&toehold, "masterkey/"));
    let put = |key: &'static str, value: Value| -> Change<'_> { Box::new(move |toehold: &Toehold| insert(toehold, key, &value)) };
    let piece = format!("spec/web/{}", "0".repeat(64));
    let record = json!({ "v": 1, "readable_from": 1 });
    let cases: Vec<(Change<'_>, String, &str)> = vec![
        (put("token/0123456789ab/00000", record.clone()), "token/0123456789ab/00000".into(), "there is no token/0123456789ab"),
        (put("host/a@b", json!({})), "host/a@b".into(), "not a record of this kind"),
        (
            put("agentpins/x", json!({ "v": 1, "readable_from": 1, "pins": [], "since": "2026-01-01T00:00:00Z" })),
            "agentpins/x".into(),
            "there is no agent/x",
        ),
        (put("slot/web/0", json!({ "v": 9, "readable_from": 9 })), "slot/web/0".into(), "newer"),
        (put("future/x", record.clone()), "future/x".into(), "no such records"),
        (put("audit/gateway/00000000000000000002", record.clone()), "audit/gateway/00000000000000000002".into(), "not a record"),
        (Box::new(|toehold| insert(toehold, &piece, &record)), piece.clone(), "piece of no document"),
        (Box::new(|toehold| delete(toehold, &known)), host_key.clone(), "there is no knownhost/"),
        (Box::new(|toehold| delete(toehold, &key)), "masterkey/current".into(), "there is no masterkey/"),
        (Box::new(|toehold| delete(toehold, "masterkey/current")), "masterkey/current".into(), "it is not there"),
        (Box::new(|toehold| delete(toehold, "rotation/1")), "rotation/1/".into(), "there is no rotation/1"),
        (
            Box::new(|toehold| {
                support::store::change(toehold, "rotation/1", |record| record["phase"] = "proving".into());
                delete(toehold, &host_key);
            }),
            "rotation/1/".into(),
            "there is no host/",
        ),
    ];
    let file = toehold.state().join("state.db");
    support::store::open(&toehold).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let before = fs::read(&file).unwrap();
    for (change, wanted, words) in cases {
        change(&toehold);
        let found = findings(&toehold);
        assert!(found.iter().any(|(key, what)| key.starts_with(&wanted) && what.contains(words)), "{wanted}: {found:?}");
        support::store::open(&toehold).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        fs::write(&file, &before).unwrap();
    }
    toehold.run(["store", "check"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_another_directory_as_it_is() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    let file = toehold.state().join("everything");
    let path = file.to_str().unwrap();
    let exported = toehold.run(["--json", "store", "export", path]).ends(0).json();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert!(toehold.run(["store", "export", path]).ends(1).stderr.contains("exists already"));
    let sealed = fs::read(toehold.state().join("identity")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let secret = String::from_utf8_lossy(&sealed);
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    assert!(!text.contains(secret), "the identity is not in it");

    let other = Toehold::bare();
    let imported = other.run(["--json", "store", "import", path]).ends(0);
    assert!(imported.stderr.contains("identity"), "{}", imported.stderr);
    let document = imported.json();
    assert_eq!((&document["digest"], &document["values"]), (&exported["digest"], &exported["values"]), "{document}");
    // With the identity, and not without it, all is as it was.
    let account = host.account();
    assert!(other.run(["host", "check", &account]).ends(1).stderr.contains("identity"));
    support::server::write_private(&other.state().join("identity"), &sealed);
    other.run(["host", "check", &account]).ends(0);
    other.run(["audit", "verify"]).ends(0);
    // What has been used since is another store.
    let again = other.run(["--json", "store", "import", path]);
    assert!(again.code == 0 && again.json()["written"] == 0, "{}", again.stderr);
    other.run(["host", "rm", &account]).ends(0);
    let refused = other.run(["store", "import", path]).ends(1);
    assert!(refused.stderr.contains("only an empty store"), "{}", refused.stderr);
    let initialised = Toehold::new();
    let before = support::store::keys(&initialised);
    assert!(initialised.run(["store", "import", path]).ends(1).stderr.contains("only an empty store"));
    assert_eq!(support::store::keys(&initialised), before);

    // Anything else than what was written is refused before anything is made.
    let third = Toehold::bare();
    for broken in [text.replacen('e', "f", 200), text[..text.len() / 2].to_owned(), String::new(), "{}\n".to_owned()] {
        fs::write(&file, broken).unwrap();
        assert!(third.run(["store", "import", path]).ends(1).stderr.contains("nothing was written"));
        assert!(!third.state().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_leaves_no_half_store_and_is_run_again() {
    let toehold = Toehold::new();
    old_chain(&toehold, "gateway", 20_000);
    let file = toehold.state().join("everything");
    let path = file.to_str().unwrap();
    let exported = toehold.run(["--json", "store", "export", path]).ends(0).json();
    let other = Toehold::bare();
    let database = other.state().join("state.db");
    let staged = || other.state().exists() && names_in(&other.state()).iter().any(|name| name.starts_with("import.new-"));
    for _ in 0..3 {
        let mut child = other.spawn(["store", "import", path]);
        eventually("the import begins", staged);
        child.kill().unwrap();
        child.wait().unwrap();
        // It may have been fast: then the store is there, and whole.
        if database.exists() {
            break;
        }
        assert!(other.run(["host", "ls"]).ends(1).stderr.contains("toehold init"));
    }
    let imported = other.run(["--json", "store", "import", path]).ends(0).json();
    assert_eq!(imported["digest"], exported["digest"]);
    assert!(!staged(), "{:?}", names_in(&other.state()));

    // A store that was filled in part goes on.
    {
        let database = support::store::open(&other);
        database.execute("DELETE FROM entry WHERE key > 'audit/gateway/00000000000000000300'", []).unwrap();
    }
    let imported = other.run(["--json", "store", "import", path]).ends(0).json();
    assert_eq!(imported["digest"], exported["digest"]);
    assert!(imported["written"].as_u64() > Some(19_000), "{imported}");
}

/// How many entries of the audit log there are.
fn entries(toehold: &Toehold, writer: &str) -> usize {
    support::store::keys(toehold).iter().filter(|key| key.starts_with(&format!("audit/{writer}/"))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_over_goes_and_nothing_else() {
    let (toehold, host, open) = (Toehold::new(), Inside::start().await, Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    // A session that still owes something, however old it says to be.
    open.add(&toehold, &[]).ends(0);
    open.show_another_host_key(true);
    toehold.run(["host", "rm", &open.account(), "--unreachable"]).ends(0);
    open.add(&toehold, &[]).ends(3);
    open.heal();
    let sessions = |toehold: &Toehold| toehold.sessions(true).len();
    let of_before = sessions(&toehold);
    for session in toehold.sessions(true) {
        let key = format!("session/{}", session["id"].as_str().unwrap());
        support::store::change(&toehold, &key, |record| {
            if record.get("closed").is_some_and(|closed| !closed.is_null()) {
                record["closed"]["at"] = "2020-01-01T00:00:00Z".into();
            }
        });
    }
    let open_sessions = toehold.sessions(false).len();
    assert_eq!((of_before, open_sessions), (3, 1));
    old_chain(&toehold, "gateway", 50);
    let all = support::store::keys(&toehold);
    let gone = ["--json", "store", "gc", "--audit-older-than", "30d", "--dry-run"];
    let planned = toehold.run(gone).ends(0).json();
    assert_eq!(support::store::keys(&toehold), all, "a dry run removes nothing");
    assert_eq!(planned["sessions"].as_array().unwrap().len(), of_before - open_sessions, "{planned}");
    assert_eq!(planned["audit"], json!({ "gateway": 49 }), "{planned}");

    let done = toehold.run(gone[..5].iter().copied()).ends(0).json();
    assert_eq!((&done["sessions"], &done["audit"]), (&planned["sessions"], &planned["audit"]));
    assert_eq!((sessions(&toehold), toehold.sessions(false).len()), (open_sessions, open_sessions));
    assert_eq!(entries(&toehold, "gateway"), 1, "the last one stays");
    let verified = toehold.run(["--json", "audit", "verify"]).ends(0).json();
    let gateway = verified["chains"].as_array().unwrap().iter().find(|chain| chain["writer"] == "gateway").unwrap();
    assert!(gateway["first"] == 50 && gateway["pruned_by"].is_string(), "{verified}");
    assert!(toehold.run(["audit", "verify"]).ends(0).stdout.contains("were removed by"));
    let rows = toehold.run(["audit", "ls", "--what", "audit.pruned"]).ends(0).stdout;
    assert!(rows.contains("gateway"), "{rows}");
    // Again there is nothing, and nothing new is said in the log.
    let count = support::store::keys(&toehold).len();
    assert_eq!(toehold.run(gone[..5].iter().copied()).ends(0).json()["audit"], json!({}));
    assert_eq!(support::store::keys(&toehold).len(), count);
    toehold.run(["host", "check", &host.account()]).ends(0);
    // Of a log in which something is wrong nothing goes.
    old_chain(&toehold, "pods", 5);
    delete(&toehold, "audit/pods/00000000000000000003");
    let refused = toehold.run(gone[..5].iter().copied()).ends(3);
    assert!(refused.stderr.contains("entry 3 of pods"), "{}", refused.stderr);
    assert_eq!(entries(&toehold, "pods"), 4);
    toehold.run(["store", "gc", "--audit-older-than", "1h"]).ends(2);
}

/// Doubt about one account, and about a token, keeps what belongs to those.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_gc_cannot_read_is_named_and_keeps_only_what_it_concerns() {
    let toehold = Toehold::new();
    let hosts = [Inside::start().await, Inside::start().await];
    for host in &hosts {
        host.add(&toehold, &[]).ends(0);
    }
    for session in toehold.sessions(true) {
        let key = format!("session/{}", session["id"].as_str().unwrap());
        support::store::change(&toehold, &key, |record| record["closed"]["at"] = "2020-01-01T00:00:00Z".into());
    }
    let claim = format!("claim/{}", hosts[0].account());
    let unreadable = [claim.as_str(), "token/00000000000000000000000000000000"];
    for key in unreadable {
        insert(&toehold, key, &json!({}));
    }
    for options in [&["--dry-run"][..], &[], &[]] {
        let done = toehold.run(["--json", "store", "gc"].into_iter().chain(options.iter().copied())).ends(3);
        for key in unreadable {
            assert!(done.stderr.contains(&format!("{key} in the store cannot be read")), "{}", done.stderr);
        }
        assert_eq!(done.json()["unreadable"].as_array().unwrap().len(), unreadable.len());
    }
    let left: Vec<_> = toehold.sessions(true).iter().map(|session| session["account"].clone()).collect();
    assert_eq!(left, [hosts[0].account()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gc_that_is_killed_leaves_a_log_that_verifies_and_is_run_again() {
    let toehold = Toehold::new();
    old_chain(&toehold, "gateway", 2_000);
    toehold.run(["audit", "verify"]).ends(0);
    for _ in 0..3 {
        let before = entries(&toehold, "gateway");
        let mut child = toehold.spawn(["store", "gc", "--audit-older-than", "30d"]);
        eventually("entries go", || entries(&toehold, "gateway") < before || before == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        let done = toehold.run(["--json", "audit", "verify"]).ends(0).json();
        assert_eq!(done["faults"], json!([]), "{done}");
    }
    toehold.run(["store", "gc", "--audit-older-than", "30d"]).ends(0);
    assert_eq!(entries(&toehold, "gateway"), 1);
    toehold.run(["audit", "verify"]).ends(0);
}
