//! A file that somebody moves away, removes or replaces while it is in use. SQLite goes on in it without a word: what is written would be in no
//! store that anybody else sees.

use super::*;

async fn is_refused(store: &SqliteStore) {
    let put = store.put(&key("a/after"), b"", Expect::Absent).await.unwrap_err();
    let got = store.get(&key("a/before")).await.unwrap_err();
    let listed = store.list(&key("a")).await.unwrap_err();
    let watched = store.watch(&key("a")).await.map(drop).unwrap_err();
    for error in [put, got, listed, watched, store.kinds().await.unwrap_err(), store.check_place().unwrap_err()] {
        let words = in_words(&error);
        assert!(words.contains("moved, removed or replaced") && words.contains("state.db-wal"), "{words}");
    }
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_no_store_until_it_is_back() {
    let directory = directory();
    let (path, away) = (directory.path().join(FILE_NAME), directory.path().join("away"));
    let store = SqliteStore::create(directory.path()).unwrap();
    store.put(&key("a/before"), b"1", Expect::Absent).await.unwrap();
    let mut watch = store.watch(&key("a")).await.unwrap();
    store.check_place().unwrap();
    fs::rename(&path, &away).unwrap();
    is_refused(&store).await;
    // Who waits for changes is told as well, with nobody asking anything.
    let broken = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.expect("it waits for ever").unwrap_err();
    assert!(in_words(&broken).contains("watch anew"), "{}", in_words(&broken));
    fs::rename(&away, &path).unwrap();
    assert!(store.get(&key("a/after")).await.unwrap().is_none(), "nothing was written meanwhile");
    store.put(&key("a/after"), b"2", Expect::Absent).await.unwrap();
    drop((watch, store));
    let store = SqliteStore::open(directory.path()).unwrap();
    assert_eq!(store.list(&key("a")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_file_that_is_removed_or_replaced_or_whose_directory_is_moved_is_no_store_any_more() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let other = tempfile::tempdir_in(directory.path()).unwrap();
    fs::set_permissions(other.path(), fs::Permissions::from_mode(0o700)).unwrap();
    drop(SqliteStore::create(other.path()).unwrap());
    fs::rename(other.path().join(FILE_NAME), directory.path().join(FILE_NAME)).unwrap();
    is_refused(&store).await;
    fs::remove_file(directory.path().join(FILE_NAME)).unwrap();
    is_refused(&store).await;

    let below = directory.path().join("below");
    fs::create_dir(&below).unwrap();
    fs::set_permissions(&below, fs::Permissions::from_mode(0o700)).unwrap();
    let store = SqliteStore::create(&below).unwrap();
    fs::rename(&below, directory.path().join("elsewhere")).unwrap();
    is_refused(&store).await;
}
