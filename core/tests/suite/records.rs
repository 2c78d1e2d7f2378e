//! Records of two neighbouring releases side by side, and records that cannot be read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toehold_core::testing::{MemoryStore, block_on, sample_public_key};
use toehold_core::{
    Entry, Expect, HostRecord, Key, KeyRole, ManagedKey, Record, Revision, Route, Store as _, StoreError, Stored, Timestamp,
};

/// A record as release 1 knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Record for Old {}

/// The same record in release 2: one more member, which older releases may do without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct New {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default)]
    colours: BTreeMap<String, u64>,
}

impl Record for New {
    const VERSION: u32 = 2;
}

/// The same record in release 3, which nobody before release 2 may read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newer {
    name: String,
    #[serde(default)]
    locked: bool,
}

impl Record for Newer {
    const VERSION: u32 = 3;
    const READABLE_FROM: u32 = 2;
}

fn key() -> Key {
    Key::parse("session/1").unwrap()
}

fn put(store: &MemoryStore, value: &[u8]) {
    let expect = block_on(store.get(&key())).unwrap().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    block_on(store.put(&key(), value, expect)).unwrap();
}

fn json_of(store: &MemoryStore) -> Value {
    serde_json::from_slice(&block_on(store.get(&key())).unwrap().unwrap().value).unwrap()
}

fn read<T: Record>(store: &MemoryStore) -> Stored<T> {
    block_on(Stored::read(store, &key())).unwrap().unwrap()
}

fn refusal<T: Record + std::fmt::Debug>(value: &[u8]) -> StoreError {
    let entry = Entry { key: key(), value: value.to_vec(), revision: Revision(1), written_at: Timestamp::UNIX_EPOCH };
    Stored::<T>::decode(&entry).unwrap_err()
}

fn host_record() -> HostRecord {
    let jump = "ops@bastion:2222".parse().unwrap();
    HostRecord {
        route: Route { account: "deploy@[2001:db8::1]".parse().unwrap(), jumps: vec![jump] },
        label: None,
        tags: BTreeMap::from([("site".to_owned(), "berlin".to_owned())]),
        home: None,
        keys: vec![ManagedKey {
            role: KeyRole::Master,
            public_key: sample_public_key("ssh-ed25519", "master"),
            options: String::new(),
            comment: "toehold-master".to_owned(),
        }],
        session: "000102030405060708090a0b0c0d0eff".parse().unwrap(),
        managed_since: Timestamp::UNIX_EPOCH,
        removing: false,
        without_expiry: false,
        settled: None,
    }
}

#[test]
fn a_record_says_which_releases_may_read_it() {
    let store = MemoryStore::new();
    let body = New { name: "a".to_owned(), note: None, colours: BTreeMap::from([("red".to_owned(), u64::MAX)]) };
    let stored = block_on(Stored::create(&store, key(), body.clone())).unwrap();
    assert_eq!(json_of(&store), json!({"v": 2, "readable_from": 1, "name": "a", "colours": {"red": u64::MAX}}));
    assert_eq!(read::<New>(&store), stored);
    assert_eq!(stored.body, body);
}

#[test]
fn what_a_newer_release_wrote_outlives_a_save_by_an_older_one() {
    let store = MemoryStore::new();
    let body = New { name: "a".to_owned(), note: Some("n".to_owned()), colours: BTreeMap::from([("red".to_owned(), 3)]) };
    block_on(Stored::create(&store, key(), body)).unwrap();

    let mut old = read::<Old>(&store);
    old.body.name = "b".to_owned();
    old.body.note = None;
    block_on(old.save(&store)).unwrap();
    // Twice: the second save starts from what the first one wrote.
    let mut old = read::<Old>(&store);
    old.body.name = "c".to_owned();
    block_on(old.save(&store)).unwrap();

    let new = read::<New>(&store);
    assert_eq!(new.body.name, "c", "the older release's change is there");
    assert_eq!(new.body.note, None, "what the older release took out is out");
    assert_eq!(new.body.colours, BTreeMap::from([("red".to_owned(), 3)]), "the newer release's member is kept");
    assert_eq!(json_of(&store)["v"], 2, "it still says that release 2 has written it");
}

#[test]
fn a_newer_release_reads_what_an_older_one_wrote() {
    let store = MemoryStore::new();
    block_on(Stored::create(&store, key(), Old { name: "a".to_owned(), note: None })).unwrap();
    let mut new = read::<New>(&store);
    assert_eq!(new.body.colours, BTreeMap::new());
    block_on(new.save(&store)).unwrap();
    assert_eq!(json_of(&store)["v"], 2);
}

#[test]
fn who_may_read_a_record_does_not_widen_when_an_older_release_saves_it() {
    let store = MemoryStore::new();
    block_on(Stored::create(&store, key(), Newer { name: "a".to_owned(), locked: true })).unwrap();
    let mut new = read::<New>(&store);
    new.body.name = "b".to_owned();
    block_on(new.save(&store)).unwrap();
    let written = json_of(&store);
    assert_eq!((&written["v"], &written["readable_from"], &written["locked"]), (&json!(3), &json!(2), &json!(true)));
    assert!(matches!(block_on(Stored::<Old>::read(&store, &key())), Err(StoreError::Newer { .. })));
}

#[test]
fn a_record_from_beyond_is_refused_whatever_it_holds() {
    let error = refusal::<Old>(br#"{"v": 3, "readable_from": 2, "name": ["another", "type"]}"#);
    assert!(matches!(error, StoreError::Newer { found: 3, supported: 1, .. }), "{error}");
    assert!(error.to_string().contains("session/1"), "{error}");
}

#[test]
fn a_record_that_flattens_something_is_saved_again_and_again() {
    let store = MemoryStore::new();
    block_on(Stored::create(&store, key(), host_record())).unwrap();
    let mut with_more = json_of(&store);
    with_more["added_later"] = json!({"deep": [1, 2]});
    put(&store, &serde_json::to_vec(&with_more).unwrap());
    for label in ["one", "two", "three"] {
        let mut stored = read::<HostRecord>(&store);
        stored.body.label = Some(label.to_owned());
        stored.body.route.jumps.clear();
        block_on(stored.save(&store)).unwrap();
    }
    let text = String::from_utf8(block_on(store.get(&key())).unwrap().unwrap().value).unwrap();
    assert_eq!(text.matches("\"account\"").count(), 1, "{text}");
    assert_eq!(json_of(&store)["added_later"], with_more["added_later"]);
    let mut wanted = host_record();
    wanted.label = Some("three".to_owned());
    wanted.route.jumps.clear();
    assert_eq!(read::<HostRecord>(&store).body, wanted);
}

#[test]
fn what_cannot_be_read_is_named_by_place_and_never_shown() {
    for corrupt in [
        "",
        "hunter2",
        "[\"hunter2\"]",
        "{\"name\": \"hunter2\"}",
        "{\"v\": 1, \"name\": \"hunter2\"}",
        "{\"v\": \"hunter2\", \"readable_from\": 1, \"name\": \"a\"}",
        "{\"v\": 1, \"readable_from\": 1, \"name\": [\"hunter2\"]}",
        "{\"v\": 1, \"readable_from\": 1, \"hunter2\": 1}",
        "{\"v\": 1, \"readable_from\": 1, \"name\": \"hunter2\"",
        "{\"v\": 1, \"readable_from\": 1, \"name\": \"a\", \"name\": \"hunter2\"}",
        "{\"v\": 1, \"readable_from\": -1, \"name\": \"hunter2\"}",
    ] {
        let error = refusal::<Old>(corrupt.as_bytes());
        assert!(matches!(error, StoreError::Corrupt { .. }), "{corrupt}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("session/1") && !shown.contains("hunter2"), "{shown}");
    }
    let error = refusal::<HostRecord>(br#"{"v": 1, "readable_from": 1, "account": "hunter2"}"#);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    let error = refusal::<Old>(&[0xff, 0xfe]);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn one_bad_record_does_not_hide_the_others() {
    let store = MemoryStore::new();
    for (name, value) in [("1", &b"{}"[..]), ("2", br#"{"v":1,"readable_from":1,"name":"ok"}"#), ("3", b"\0")] {
        block_on(store.put(&Key::new(["session", name]).unwrap(), value, Expect::Absent)).unwrap();
    }
    let listed = block_on(Stored::<Old>::list(&store, &Key::parse("session").unwrap())).unwrap();
    let readable: Vec<bool> = listed.iter().map(Result::is_ok).collect();
    assert_eq!(readable, [false, true, false]);
}

#[test]
fn a_save_over_somebody_elses_is_a_conflict_and_changes_nothing_here() {
    let store = MemoryStore::new();
    let mut mine = block_on(Stored::create(&store, key(), Old { name: "a".to_owned(), note: None })).unwrap();
    let mut theirs = read::<Old>(&store);
    block_on(theirs.save(&store)).unwrap();
    let before = mine.clone();
    assert!(matches!(block_on(mine.save(&store)), Err(StoreError::Conflict { .. })));
    assert_eq!(mine, before);
    let again = block_on(Stored::create(&store, key(), Old { name: "a".to_owned(), note: None }));
    assert!(matches!(again, Err(StoreError::Conflict { .. })));
}
