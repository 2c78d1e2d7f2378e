//! The records of a real state directory from engine to engine: SQLite, memory, NATS and back.

use toehold::adapters::sqlite::SqliteStore;
use toehold::store_copy::{CopyError, copy, snapshot};
use toehold_core::testing::MemoryStore;
use toehold_core::{Expect, Store, Timestamp};

use crate::key;
use crate::server::Nats;
use crate::support::server::directory;
use crate::support::{Inside, Toehold};

async fn digest<S: Store>(store: &S) -> String {
    snapshot(store, Timestamp::UNIX_EPOCH).await.unwrap().digest()
}

fn empty() -> (tempfile::TempDir, SqliteStore) {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = directory("copy");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let store = SqliteStore::create(directory.path()).unwrap();
    (directory, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_goes_from_engine_to_engine_and_back_and_is_the_same() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &["--tag", "site=berlin"]).ends(0);
    toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    let real = SqliteStore::open(&toehold.state()).unwrap();
    let wanted = digest(&real).await;

    let memory = MemoryStore::new();
    let copied = copy(&real, &memory).await.unwrap();
    assert_eq!(copied.digest, wanted);
    assert!(copied.values > 6 && copied.written == copied.values, "{copied:?}");
    let (_directory, sqlite) = empty();
    copy(&memory, &sqlite).await.unwrap();

    let nats = Nats::start("");
    let shared = nats.store().await;
    // As after a run that was cut off: the first of them are there.
    for entry in memory.entries().iter().take(3) {
        shared.put(&entry.key, &entry.value, Expect::Absent).await.unwrap();
    }
    let copied = copy(&sqlite, &shared).await.unwrap();
    assert_eq!((copied.digest.as_str(), copied.values - copied.written), (wanted.as_str(), 3));
    assert_eq!(copy(&sqlite, &shared).await.unwrap().written, 0);
    let (back, (_other, restored)) = (MemoryStore::new(), empty());
    copy(&shared, &back).await.unwrap();
    copy(&back, &restored).await.unwrap();
    assert_eq!([digest(&shared).await, digest(&back).await, digest(&restored).await], [wanted.clone(), wanted.clone(), wanted]);
    // What comes later in one of them is no part of the other.
    shared.put(&key("host/late@x"), b"{}", Expect::Absent).await.unwrap();
    assert!(matches!(copy(&sqlite, &shared).await, Err(CopyError::Occupied { key: late }) if late == key("host/late@x")));
}
