//! What any store promises, and what this one adds.

use super::*;

#[tokio::test]
async fn keeps_the_contract_of_a_store() {
    let directory = directory();
    store_conformance(&SqliteStore::create(directory.path()).unwrap()).await;
}

#[tokio::test]
async fn no_lost_update_for_every_write_says_what_it_replaces() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let a = key("a/1");
    assert_eq!(store.get(&a).await.unwrap(), None);
    let first = store.put(&a, b"one", Expect::Absent).await.unwrap();
    assert!(matches!(store.put(&a, b"x", Expect::Absent).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(store.put(&a, b"x", Expect::Revision(Revision(first.0 + 1))).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(store.put(&a, b"x", Expect::Revision(Revision(u64::MAX))).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(store.delete(&a, Revision(first.0 + 1)).await, Err(StoreError::Conflict { .. })));
    let entry = store.get(&a).await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision), (b"one".as_slice(), first));
    let second = store.put(&a, b"two", Expect::Revision(first)).await.unwrap();
    assert!(second > first);
    assert!(matches!(store.delete(&a, first).await, Err(StoreError::Conflict { .. })));
    store.delete(&a, second).await.unwrap();
    assert_eq!(store.get(&a).await.unwrap(), None);
    assert!(matches!(store.delete(&a, second).await, Err(StoreError::Conflict { .. })));
    let third = store.put(&a, b"three", Expect::Absent).await.unwrap();
    assert!(third > second, "a revision was used again after a delete");
}

#[tokio::test]
async fn values_up_to_the_limit_and_no_further() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let largest = vec![0x5a; store.max_value()];
    store.put(&key("a/largest"), &largest, Expect::Absent).await.unwrap();
    assert_eq!(store.get(&key("a/largest")).await.unwrap().unwrap().value, largest);
    let error = store.put(&key("a/larger"), &vec![0; MAX_VALUE + 1], Expect::Absent).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { got, limit, .. } if got == MAX_VALUE + 1 && limit == MAX_VALUE));
    assert_eq!(store.get(&key("a/larger")).await.unwrap(), None);
    store.put(&key("a/empty"), b"", Expect::Absent).await.unwrap();
    assert_eq!(store.get(&key("a/empty")).await.unwrap().unwrap().value, b"");
}

#[tokio::test]
async fn a_list_goes_by_whole_segments_in_order() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let below = ["session/1", "session/1/x", "session/%", "session/\u{10ffff}", "session/-", "session/a b", "session/é"];
    for name in below.iter().chain(&["session", "session0", "session-1/x", "sess/1", "Session/1", "sessionx/1"]) {
        store.put(&key(name), name.as_bytes(), Expect::Absent).await.unwrap();
    }
    let listed: Vec<_> = store.list(&key("session")).await.unwrap().into_iter().map(|entry| entry.key).collect();
    let expected: BTreeSet<_> = below.iter().map(|name| key(name)).collect();
    assert_eq!(listed, Vec::from_iter(expected));
}

#[tokio::test]
async fn what_was_written_is_there_for_the_next_process() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let revision = store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let written_at = store.get(&key("a/1")).await.unwrap().unwrap().written_at;
    assert!(written_at.unix_seconds() > 1_700_000_000);
    drop(store);
    assert!(!directory.path().join("state.db-wal").exists(), "the last to close leaves a log");
    let store = SqliteStore::create(directory.path()).unwrap();
    let entry = store.get(&key("a/1")).await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.revision, entry.written_at), (b"one".as_slice(), revision, written_at));
    assert!(store.put(&key("a/2"), b"", Expect::Absent).await.unwrap() > revision);
}
