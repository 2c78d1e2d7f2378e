//! The audit log on the command line: listed, verified, exported, and remembered beside the store.

use std::fs;

use serde_json::{Value, json};
use toehold_core::{AuditEntry, AuditEvent, Timestamp};

use crate::support;
use crate::support::{Inside, Toehold};

/// Puts a chain of `count` entries into the store, as a release before cross links wrote it, an entry for each day from 2020 on.
pub(crate) fn old_chain(toehold: &Toehold, writer: &str, count: u64) {
    let mut database = support::store::open(toehold);
    let transaction = database.transaction().unwrap();
    let mut previous = "0".repeat(64);
    for number in 1..=count {
        let at = Timestamp::from_unix_seconds(1_577_836_800 + 86_400 * i64::try_from(number - 1).unwrap());
        let event = AuditEvent::new(at, "pods.started", format!("alice@{number}"));
        let entry = AuditEntry { number, previous, event, heads: std::collections::BTreeMap::default() };
        let record = json!({ "v": 1, "readable_from": 1, "number": number, "previous": entry.previous, "event": entry.event });
        support::store::insert(&transaction, &format!("audit/{writer}/{number:020}"), &record);
        previous = entry.hash();
    }
    transaction.commit().unwrap();
}

fn audit_keys(toehold: &Toehold) -> Vec<String> {
    support::store::keys(toehold).into_iter().filter(|key| key.starts_with("audit/")).collect()
}

fn delete(toehold: &Toehold, key: &str) {
    assert_eq!(support::store::open(toehold).execute("DELETE FROM entry WHERE key = ?1", [key]).unwrap(), 1);
}

/// What is wrong, as `writer`, `number` and words.
fn faults(document: &Value) -> Vec<(String, u64, String)> {
    let fault = |fault: &Value| {
        (
            fault["writer"].as_str().unwrap().to_owned(),
            fault["number"].as_u64().unwrap(),
            fault["what"].as_str().unwrap().to_owned(),
        )
    };
    document["faults"].as_array().unwrap().iter().map(fault).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_listed_in_the_order_of_time_and_by_what_is_asked_for() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    old_chain(&toehold, "gateway", 3);
    host.add(&toehold, &[]).ends(0);
    let list = |more: &[&str]| -> Vec<Value> {
        let arguments = ["--json", "audit", "ls"].iter().chain(more).copied();
        toehold.run(arguments).ends(0).json()["entries"].as_array().unwrap().clone()
    };
    let all = list(&[]);
    let whats: Vec<&str> = all.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    assert!(whats.starts_with(&["pods.started"; 3]) && whats.last() == Some(&"session.completed"), "{whats:?}");
    let times: Vec<&str> = all.iter().map(|entry| entry["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(list(&["--writer", "gateway"]).len(), 3);
    assert_eq!(list(&["--what", "session.comp"]).len(), 1);
    assert_eq!(list(&["--subject", "alice@2"]).len(), 1);
    assert_eq!(list(&["--until", "2020-01-02T00:00:00Z"]).len(), 2);
    assert_eq!(list(&["--since", "2020-01-03T00:00:00Z", "--writer", "gateway"]).len(), 1);
    assert_eq!(list(&["--since", "1h"]).len(), all.len() - 3);
    let done = toehold.run(["audit", "ls"]).ends(0);
    assert!(done.stdout.starts_with("TIME") && done.stdout.contains("alice@3"), "{}", done.stdout);
    toehold.run(["audit", "ls", "--since", "yesterday"]).ends(2);

    // One that cannot be read hides no other.
    let key = &audit_keys(&toehold).into_iter().find(|key| key.contains("gateway")).unwrap();
    support::store::change(&toehold, key, |record| record["previous"] = 7.into());
    let done = toehold.run(["--json", "audit", "ls"]).ends(3).json();
    assert_eq!(done["entries"].as_array().unwrap().len(), all.len() - 1);
    assert_eq!((&done["unreadable"][0]["writer"], &done["unreadable"][0]["number"]), (&"gateway".into(), &1.into()), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_as_it_was_written_is_told_by_writer_and_number() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let done = toehold.run(["audit", "verify"]).ends(0);
    assert!(done.stdout.contains("empty"), "{}", done.stdout);
    old_chain(&toehold, "gateway", 4);
    old_chain(&toehold, "pods", 2);
    // Of a release of before: it verifies, and it is said what it has not.
    let done = toehold.run(["audit", "verify"]).ends(0);
    assert!(done.stdout.contains("no cross links"), "{}", done.stdout);
    host.add(&toehold, &[]).ends(0);
    let done = toehold.run(["--json", "audit", "verify"]).ends(0).json();
    assert_eq!((&done["linked"], &done["faults"]), (&true.into(), &json!([])), "{done}");
    assert!(!toehold.run(["audit", "verify"]).ends(0).stdout.contains("no cross links"));

    let third = "audit/gateway/00000000000000000003";
    support::store::change(&toehold, third, |record| record["event"]["subject"] = "mallory".into());
    let done = toehold.run(["--json", "audit", "verify"]).ends(3).json();
    let found = faults(&done);
    assert!(found.iter().any(|(writer, number, _)| writer == "gateway" && *number == 4), "{done}");
    assert!(done["error"].as_str().unwrap().contains("entry 4 of gateway"), "{done}");
    let done = toehold.run(["audit", "verify"]).ends(3);
    assert!(done.stdout.contains("entry 4 of gateway") && done.stderr.contains("entry 4 of gateway"), "{}", done.stdout);
    support::store::change(&toehold, third, |record| record["event"]["subject"] = "alice@3".into());
    toehold.run(["audit", "verify"]).ends(0);
    delete(&toehold, third);
    let done = toehold.run(["--json", "audit", "verify"]).ends(3).json();
    let found = faults(&done);
    assert_eq!((found[0].0.as_str(), found[0].1), ("gateway", 3), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn n4_a_log_that_does_not_descend_from_what_was_seen_is_told_until_somebody_accepts_it() {
    let toehold = Toehold::new();
    old_chain(&toehold, "gateway", 4);
    toehold.run(["audit", "verify"]).ends(0);
    // Nobody in the store has seen the last one: what lies beside the store has.
    delete(&toehold, "audit/gateway/00000000000000000004");
    for _ in 0..2 {
        let done = toehold.run(["--json", "audit", "verify"]).ends(3).json();
        let found = faults(&done);
        assert_eq!((found.len(), found[0].0.as_str(), found[0].1), (1, "gateway", 4), "{done}");
        assert!(found[0].2.contains("seen here up to entry 4"), "{done}");
    }
    toehold.run(["audit", "verify", "--accept"]).ends(0);
    toehold.run(["audit", "verify"]).ends(0);
    let memory = toehold.state().join("audit-seen.json");
    fs::write(&memory, "{").unwrap();
    let done = toehold.run(["audit", "verify"]).ends(1);
    assert!(done.stderr.contains("--accept"), "{}", done.stderr);
    fs::write(&memory, r#"{"v":2,"heads":{}}"#).unwrap();
    assert!(toehold.run(["audit", "verify"]).ends(1).stderr.contains("newer"));
    fs::write(&memory, r#"{"v":1,"heads":{"gateway":{"number":3,"hash":"00"}}}"#).unwrap();
    let done = toehold.run(["--json", "audit", "verify"]).ends(3).json();
    assert!(faults(&done)[0].2.contains("not the one that was seen here"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_log_is_verified_without_a_store() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    old_chain(&toehold, "gateway", 3);
    host.add(&toehold, &[]).ends(0);
    let file = toehold.state().join("log.jsonl");
    let path = file.to_str().unwrap();
    toehold.run(["audit", "export", "--output", path]).ends(0);
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o7777, 0o600);
    assert!(toehold.run(["audit", "export", "--output", path]).ends(1).stderr.contains("exists already"));
    let printed = toehold.run(["audit", "export"]).ends(0);
    let entries = |lines: Vec<Value>| lines.into_iter().filter(|line| line.get("writer").is_some()).collect::<Vec<_>>();
    let text = fs::read_to_string(&file).unwrap();
    let in_file = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries(printed.lines()), entries(in_file));

    let elsewhere = Toehold::bare();
    let done = elsewhere.run(["--json", "audit", "verify", "--file", path]).ends(0).json();
    assert_eq!(done["linked"], true, "{done}");
    assert!(!elsewhere.state().exists());
    fs::write(&file, text.replace("alice@2", "mallory")).unwrap();
    let done = elsewhere.run(["--json", "audit", "verify", "--file", path]).ends(3).json();
    let found = faults(&done);
    assert_eq!((found[0].0.as_str(), found[0].1), ("gateway", 2), "{done}");
    assert!(done["file"].as_str().unwrap().contains("another digest"), "{done}");
    let lines: Vec<&str> = text.lines().collect();
    fs::write(&file, lines[..lines.len() - 1].join("\n")).unwrap();
    assert!(elsewhere.run(["audit", "verify", "--file", path]).ends(3).stderr.contains("cut off"));
    fs::write(&file, "anything\n").unwrap();
    assert!(elsewhere.run(["audit", "verify", "--file", path]).ends(1).stderr.contains("line 1"));
    assert!(elsewhere.run(["audit", "verify", "--file", "no such file"]).ends(1).stderr.contains("cannot be read"));
}
