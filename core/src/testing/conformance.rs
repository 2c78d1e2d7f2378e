//! What every [`Store`] has to do, as a suite that any implementation can run.

#![allow(clippy::panic, reason = "a suite of assertions: a panic is how it says that a store failed")]

use std::collections::BTreeSet;

use super::join_all;
use crate::store::{Entry, Expect, Key, Revision, Store, StoreError, Watch as _};

/// The largest value that the suite writes, in bytes: a store with a higher limit is not driven up to it.
const LARGEST: usize = 16 * 1024 * 1024;

/// How many writers compete for one key.
const WRITERS: usize = 12;

/// Segments that an engine, a file system or a query language may take for something else.
const ODD: [&str; 26] = [
    "root@[2001:db8::1]:22",
    "bastion:2222>10.0.0.7:22",
    "fe80::1%eth0",
    "two words",
    " blank around ",
    "blank at the end ",
    "ünïcödé ключ 鍵 🔑",
    "e\u{301}",
    "\u{e9}",
    ".",
    "..",
    ".hidden",
    "a.b.c",
    "*",
    ">",
    "%",
    "%2F",
    "a_b",
    "axb",
    "A_B",
    "it's \"quoted\"",
    "back\\slash",
    "$KV",
    "-",
    "0",
    "null",
];

/// Holds `store` to the contract of [`Store`]: conditional writes, revisions that never come back, lists by whole segments in
/// order, names of any form, the limit on values, writers that compete, and watches.
///
/// It works below the key `conformance`, where nothing may be when it begins, and leaves what it wrote. Values of more than
/// 16 MiB are not tried. Competing writes are made by futures that are polled side by side.
///
/// # Panics
/// With the rule that was broken. A watch that reports nothing lets the suite wait for ever.
pub async fn store_conformance<S: Store>(store: &S) {
    let root = key(&["conformance"]);
    assert!(list(store, &root).await.is_empty(), "the suite begins with nothing below {root}");
    writes_are_conditional(store).await;
    revisions_never_come_back(store).await;
    lists_go_by_whole_segments(store).await;
    kinds_are_first_segments(store).await;
    any_segment_will_do(store).await;
    values_are_kept_as_they_are(store).await;
    the_limit_holds(store).await;
    one_of_many_writers_wins(store).await;
    no_update_is_lost(store).await;
    watches_report_what_is_below(store).await;
}

fn key(segments: &[&str]) -> Key {
    Key::new(segments).unwrap_or_else(|error| panic!("{error}"))
}

async fn get<S: Store>(store: &S, key: &Key) -> Option<Entry> {
    store.get(key).await.unwrap_or_else(|error| panic!("reading {key}: {error}"))
}

async fn put<S: Store>(store: &S, key: &Key, value: &[u8], expect: Expect) -> Revision {
    store.put(key, value, expect).await.unwrap_or_else(|error| panic!("writing {key} over {expect:?}: {error}"))
}

async fn delete<S: Store>(store: &S, key: &Key, revision: Revision) {
    store.delete(key, revision).await.unwrap_or_else(|error| panic!("deleting {key} at {revision:?}: {error}"));
}

async fn list<S: Store>(store: &S, prefix: &Key) -> Vec<Entry> {
    store.list(prefix).await.unwrap_or_else(|error| panic!("listing {prefix}: {error}"))
}

fn is_conflict<T>(result: &Result<T, StoreError>, wanted: &Key) -> bool {
    matches!(result, Err(StoreError::Conflict { key }) if key == wanted)
}

async fn assert_conflict<S: Store>(store: &S, key: &Key, expect: Expect, rule: &str) {
    let before = get(store, key).await;
    let result = store.put(key, b"must not be written", expect).await;
    assert!(is_conflict(&result, key), "{rule}: {key} over {expect:?} was {result:?}");
    assert_eq!(get(store, key).await, before, "{rule}: a conflict writes nothing");
}

async fn assert_holds<S: Store>(store: &S, key: &Key, value: &[u8], revision: Revision, rule: &str) {
    let entry = get(store, key).await.unwrap_or_else(|| panic!("{rule}: {key} is not there"));
    assert_eq!(entry.key, *key, "{rule}: an entry carries the key that was asked for");
    assert!(entry.value == value, "{rule}: {key} holds {} bytes that are not those written", entry.value.len());
    assert_eq!(entry.revision, revision, "{rule}: an entry carries the revision that its write returned");
}

async fn writes_are_conditional<S: Store>(store: &S) {
    let key = key(&["conformance", "conditional"]);
    assert_eq!(get(store, &key).await, None, "what was never written is not there");
    assert_conflict(store, &key, Expect::Revision(Revision(0)), "an absent key has no revision").await;
    assert_conflict(store, &key, Expect::Revision(Revision(1)), "an absent key has no revision").await;
    let result = store.delete(&key, Revision(1)).await;
    assert!(is_conflict(&result, &key), "an absent key cannot be deleted: {result:?}");

    let first = put(store, &key, b"first", Expect::Absent).await;
    assert_holds(store, &key, b"first", first, "what was written is read").await;
    assert_conflict(store, &key, Expect::Absent, "a key that is there is not absent").await;

    let second = put(store, &key, b"second", Expect::Revision(first)).await;
    assert!(second > first, "revisions grow: {second:?} after {first:?}");
    assert_holds(store, &key, b"second", second, "a value is replaced as a whole").await;
    assert_conflict(store, &key, Expect::Revision(first), "an old revision is not the present one").await;
    assert_conflict(store, &key, Expect::Revision(Revision(second.0 + 1)), "nor is one that was never given").await;

    let result = store.delete(&key, first).await;
    assert!(is_conflict(&result, &key), "an old revision does not delete: {result:?}");
    assert_holds(store, &key, b"second", second, "a conflict deletes nothing").await;
    delete(store, &key, second).await;
    assert_eq!(get(store, &key).await, None, "what was deleted is gone");
    let result = store.delete(&key, second).await;
    assert!(is_conflict(&result, &key), "what is gone cannot be deleted again: {result:?}");
}

async fn revisions_never_come_back<S: Store>(store: &S) {
    let key = key(&["conformance", "again"]);
    let mut seen = Vec::new();
    for round in 0..4 {
        let created = put(store, &key, b"same value", Expect::Absent).await;
        let replaced = put(store, &key, b"same value", Expect::Revision(created)).await;
        for old in &seen {
            assert!(created > *old, "round {round}: the new {created:?} is not after {old:?} of an earlier life");
            assert_conflict(store, &key, Expect::Revision(*old), "a revision of an earlier life is not the present one").await;
            let result = store.delete(&key, *old).await;
            assert!(is_conflict(&result, &key), "a revision of an earlier life does not delete: {result:?}");
        }
        seen.extend([created, replaced]);
        delete(store, &key, replaced).await;
        assert_conflict(store, &key, Expect::Revision(replaced), "a deleted value has no revision").await;
    }
}

async fn lists_go_by_whole_segments<S: Store>(store: &S) {
    let base = ["conformance", "list"];
    let named = |rest: &[&str]| key(&[&base, rest].concat());
    let inside: [&[&str]; 6] = [
        &["session", "2"],
        &["session", "1"],
        &["session", "1", "deep", "er"],
        &["session", "10"],
        &["session", "1", "a"],
        &["session", "é"],
    ];
    let outside: [&[&str]; 8] = [
        &["session"],
        &["sess", "1"],
        &["sessio_", "1"],
        &["session-1", "1"],
        &["session.1", "1"],
        &["session0"],
        &["Session", "1"],
        &["session ", "1"],
    ];
    for segments in inside.iter().chain(&outside) {
        put(store, &named(segments), segments.join("+").as_bytes(), Expect::Absent).await;
    }
    let gone = named(&["session", "gone"]);
    let revision = put(store, &gone, b"", Expect::Absent).await;
    delete(store, &gone, revision).await;

    let assert_lists = async |prefix: &Key, wanted: &[&[&str]], rule: &str| {
        let entries = list(store, prefix).await;
        let mut keys: Vec<Key> = wanted.iter().map(|segments| named(segments)).collect();
        keys.sort();
        let listed: Vec<&Key> = entries.iter().map(|entry| &entry.key).collect();
        assert_eq!(listed, keys.iter().collect::<Vec<_>>(), "{rule}: below {prefix}, in the order of the keys");
        for entry in &entries {
            assert_eq!(get(store, &entry.key).await.as_ref(), Some(entry), "{rule}: a list shows what a get does");
        }
    };
    assert_lists(&named(&["session"]), &inside, "by whole segments, and not the prefix itself").await;
    let below_one: [&[&str]; 2] = [&["session", "1", "a"], &["session", "1", "deep", "er"]];
    assert_lists(&named(&["session", "1"]), &below_one, "at any depth").await;
    assert_lists(&named(&["sess"]), &[&["sess", "1"]], "part of a segment is no prefix").await;
    assert_lists(&named(&["sessio_"]), &[&["sessio_", "1"]], "no character stands for another").await;
    assert_lists(&named(&["%"]), &[], "nothing is nothing").await;
    assert_lists(&named(&["session", "2"]), &[], "a value is not below itself").await;
}

async fn kinds_are_first_segments<S: Store>(store: &S) {
    let kinds = || async { store.kinds().await.unwrap_or_else(|error| panic!("listing the kinds: {error}")) };
    let before = kinds().await;
    assert!(before.contains(&key(&["conformance"])), "a kind has keys below it: {before:?}");
    let (alone, below) = (key(&["conformance-alone"]), key(&["conformance-b", "one", "two"]));
    let first = put(store, &alone, b"1", Expect::Absent).await;
    let second = put(store, &below, b"2", Expect::Absent).await;
    let mut wanted: BTreeSet<Key> = before.iter().cloned().collect();
    wanted.extend([alone.clone(), below.kind()]);
    assert_eq!(kinds().await, wanted.into_iter().collect::<Vec<_>>(), "the kinds are in order, and each is there once");
    delete(store, &alone, first).await;
    delete(store, &below, second).await;
    assert_eq!(kinds().await, before, "what is deleted has no kind");
}

async fn any_segment_will_do<S: Store>(store: &S) {
    let long = "k".repeat(512);
    let segments: Vec<&str> = ODD.into_iter().chain([long.as_str()]).collect();
    let mut written = Vec::new();
    for (index, odd) in segments.iter().enumerate() {
        // As the last segment, and as one on the way.
        for key in [key(&["conformance", "odd", odd]), key(&["conformance", "odd ways", odd, "end"])] {
            let revision = put(store, &key, index.to_string().as_bytes(), Expect::Absent).await;
            written.push((key, index.to_string(), revision));
        }
    }
    for (key, value, revision) in &written {
        assert_holds(store, key, value.as_bytes(), *revision, "every segment is a name of its own").await;
    }
    for odd in &segments {
        let prefix = key(&["conformance", "odd ways", odd]);
        let keys: Vec<Key> = list(store, &prefix).await.into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, [key(&["conformance", "odd ways", odd, "end"])], "a list below {odd:?} has what is below it");
    }
    let (listed, count) = (list(store, &key(&["conformance", "odd"])).await, segments.len());
    assert_eq!(listed.len(), count, "all of them are listed, each once");
    assert!(listed.is_sorted_by(|a, b| a.key < b.key), "and in the order of the keys");
    for (key, _, revision) in written {
        delete(store, &key, revision).await;
        assert_eq!(get(store, &key).await, None, "{key} is gone");
    }
}

async fn values_are_kept_as_they_are<S: Store>(store: &S) {
    let all_bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for (name, value) in
        [("empty", Vec::new()), ("all bytes", all_bytes), ("text", b"{\"v\":1}\r\n".to_vec()), ("zeros", vec![0; 4096])]
    {
        let key = key(&["conformance", "values", name]);
        let revision = put(store, &key, &value, Expect::Absent).await;
        assert_holds(store, &key, &value, revision, "values are bytes").await;
    }
}

async fn the_limit_holds<S: Store>(store: &S) {
    let limit = store.max_value();
    if limit > LARGEST {
        return;
    }
    let key = key(&["conformance", "limit"]);
    let too_large = vec![b'x'; limit + 1];
    let refused = |result: &Result<Revision, StoreError>| {
        matches!(result, Err(StoreError::TooLarge { key: named, got, limit: stated })
            if *named == key && *got == limit + 1 && *stated == limit)
    };
    let result = store.put(&key, &too_large, Expect::Absent).await;
    assert!(refused(&result), "a value of {} bytes is too large: {result:?}", limit + 1);
    assert_eq!(get(store, &key).await, None, "a value that is too large is not written");
    let largest = too_large.get(1..).unwrap_or_default();
    let revision = put(store, &key, largest, Expect::Absent).await;
    assert_holds(store, &key, largest, revision, "the largest value is taken").await;
    let result = store.put(&key, &too_large, Expect::Revision(revision)).await;
    assert!(refused(&result), "a value of {} bytes is too large: {result:?}", limit + 1);
    assert_holds(store, &key, largest, revision, "a value that is too large replaces nothing").await;
    delete(store, &key, revision).await;
}

/// Lets writers with the same expectation loose; the one that won.
async fn compete<S: Store>(store: &S, key: &Key, expect: Expect) -> Revision {
    let values: Vec<String> = (0..WRITERS).map(|writer| format!("writer {writer}")).collect();
    let results = join_all(values.iter().map(|value| store.put(key, value.as_bytes(), expect))).await;
    let mut winner = None;
    for (value, result) in values.iter().zip(results) {
        match result {
            Ok(revision) if winner.is_none() => winner = Some((value, revision)),
            Ok(_) => panic!("two writers were told that they replaced {expect:?} of {key}"),
            Err(_) => assert!(is_conflict(&result, key), "losing is a conflict: {result:?}"),
        }
    }
    let (value, revision) = winner.unwrap_or_else(|| panic!("of {WRITERS} writers over {expect:?} of {key} nobody won"));
    assert_holds(store, key, value.as_bytes(), revision, "the winner's value is there").await;
    revision
}

async fn one_of_many_writers_wins<S: Store>(store: &S) {
    let key = key(&["conformance", "race"]);
    let mut expect = Expect::Absent;
    for _ in 0..4 {
        expect = Expect::Revision(compete(store, &key, expect).await);
    }
    let Expect::Revision(revision) = expect else { unreachable!("every round ends with a revision") };
    let deletions = join_all((0..WRITERS).map(|_| store.delete(&key, revision))).await;
    let won = deletions.iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1, "of many deletions of one revision one takes place: {deletions:?}");
    compete(store, &key, Expect::Absent).await;
}

async fn no_update_is_lost<S: Store>(store: &S) {
    const ROUNDS: u64 = 5;
    let key = key(&["conformance", "counter"]);
    put(store, &key, &0_u64.to_be_bytes(), Expect::Absent).await;
    let key = &key;
    let value = |entry: &Entry| u64::from_be_bytes(entry.value.as_slice().try_into().unwrap_or_default());
    join_all((0..WRITERS).map(|_| async move {
        for _ in 0..ROUNDS {
            loop {
                let entry = get(store, key).await.unwrap_or_else(|| panic!("{key} has vanished"));
                let next = (value(&entry) + 1).to_be_bytes();
                match store.put(key, &next, Expect::Revision(entry.revision)).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("counting up {key}: {error}"),
                }
            }
        }
    }))
    .await;
    let counted = get(store, key).await.map(|entry| value(&entry));
    assert_eq!(counted, u64::try_from(WRITERS).ok().map(|writers| writers * ROUNDS), "every success counts");
}

async fn watches_report_what_is_below<S: Store>(store: &S) {
    let named = |rest: &[&str]| key(&[&["conformance", "watch"], rest].concat());
    let prefix = named(&["in"]);
    let (old, created) = (named(&["in", "old"]), named(&["in", "deep", "root@[::1]:22"]));
    let revision = put(store, &old, b"before the watch", Expect::Absent).await;
    let mut watch = store.watch(&prefix).await.unwrap_or_else(|error| panic!("watching {prefix}: {error}"));
    let mut next = async || watch.changed().await.unwrap_or_else(|error| panic!("watching {prefix}: {error}"));

    put(store, &named(&["inside", "x"]), b"beside it", Expect::Absent).await;
    put(store, &named(&["out"]), b"beside it", Expect::Absent).await;
    put(store, &prefix, b"the prefix itself", Expect::Absent).await;
    // Made before anybody waits.
    put(store, &created, b"1", Expect::Absent).await;
    assert_eq!(next().await, created, "the first report is of the first change below the prefix");

    delete(store, &old, revision).await;
    let mut wanted = BTreeSet::from([old.clone(), named(&["in", "b"]), named(&["in", "c"])]);
    for key in wanted.iter().filter(|key| **key != old) {
        put(store, key, b"2", Expect::Absent).await;
    }
    while !wanted.is_empty() {
        let key = next().await;
        assert!(key.is_below(&prefix), "{key} is not below {prefix}");
        wanted.remove(&key);
    }
}
