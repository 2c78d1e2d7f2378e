//! Watches, over changes of this process and others.

use super::*;

#[tokio::test]
async fn a_watch_sees_this_process_and_others() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let other = SqliteStore::open(directory.path()).unwrap();
    store.put(&key("session/before"), b"", Expect::Absent).await.unwrap();
    let mut watch = store.watch(&key("session")).await.unwrap();
    let mut hosts = store.watch(&key("host")).await.unwrap();

    let first = store.put(&key("session/1"), b"", Expect::Absent).await.unwrap();
    assert_eq!(watch.changed().await.unwrap(), key("session/1"));
    other.put(&key("sessions/1"), b"", Expect::Absent).await.unwrap();
    other.put(&key("host/1"), b"", Expect::Absent).await.unwrap();
    other.delete(&key("session/1"), first).await.unwrap();
    assert_eq!(watch.changed().await.unwrap(), key("session/1"));
    assert_eq!(hosts.changed().await.unwrap(), key("host/1"));

    // The watch keeps what it needs.
    drop(store);
    other.put(&key("session/2"), b"", Expect::Absent).await.unwrap();
    assert_eq!(watch.changed().await.unwrap(), key("session/2"));
    // Nothing more of what was reported, and nothing from beside the prefix.
    other.put(&key("session-1/1"), b"", Expect::Absent).await.unwrap();
    other.put(&key("session/3"), b"", Expect::Absent).await.unwrap();
    assert_eq!(watch.changed().await.unwrap(), key("session/3"));
}

#[tokio::test]
async fn a_watch_that_missed_changes_says_so() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let mut watch = store.watch(&key("a")).await.unwrap();
    // More changes than the database names, in one commit.
    let other = beside(directory.path());
    other
        .execute_batch(
            "BEGIN IMMEDIATE;
             UPDATE counter SET revision = revision + 50000;
             INSERT INTO change (revision, key) SELECT revision, 'a/x' FROM counter;
             COMMIT;",
        )
        .unwrap();
    let error = watch.changed().await.unwrap_err();
    assert!(in_words(&error).contains("watch anew"), "{}", in_words(&error));
    let mut anew = store.watch(&key("a")).await.unwrap();
    store.put(&key("a/1"), b"", Expect::Absent).await.unwrap();
    assert_eq!(anew.changed().await.unwrap(), key("a/1"));
}

#[tokio::test]
async fn the_names_of_changes_are_not_kept_for_ever() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let other = beside(directory.path());
    other
        .execute_batch(
            "BEGIN IMMEDIATE;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
             INSERT INTO change (revision, key) SELECT i, 'a/x' FROM n;
             UPDATE counter SET revision = 40000;
             COMMIT;",
        )
        .unwrap();
    store.put(&key("a/1"), b"", Expect::Absent).await.unwrap();
    let kept: i64 = other.query_row("SELECT count(*) FROM change", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 16_384);
}

/// What another process writes in the moment in which somebody else begins to watch is told to whoever watches already.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_begins_takes_no_news_from_another() {
    const WRITES: usize = 300;
    let directory = directory();
    let (here, there) = (SqliteStore::create(directory.path()).unwrap(), SqliteStore::open(directory.path()).unwrap());
    let mut watch = here.watch(&key("a")).await.unwrap();
    let writing = tokio::spawn(async move {
        for number in 0..WRITES {
            there.put(&key(&format!("a/{number}")), b"", Expect::Absent).await.unwrap();
        }
    });
    while !writing.is_finished() {
        here.watch(&key("b")).await.unwrap();
    }
    writing.await.unwrap();
    let mut told = BTreeSet::new();
    while told.len() < WRITES {
        let news = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await;
        let missing =
            || (0..WRITES).map(|number| key(&format!("a/{number}"))).filter(|key| !told.contains(key)).collect::<Vec<_>>();
        told.insert(news.unwrap_or_else(|_| panic!("never told: {:?}", missing())).unwrap());
    }
}
