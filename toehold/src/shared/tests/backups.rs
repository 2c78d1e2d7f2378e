//! Stores that are put back to an earlier state (N3).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use toehold_core::testing::{MemoryStore, block_on};
use toehold_core::{
    AuditEvent, AuditSink as _, CurrentMasterKey, Entry, Expect, Key, Revision, Store, StoreAudit, StoreError, Stored,
};
use toehold_specsign::SigningKey;

use super::*;

#[test]
fn n3_a_store_that_was_put_back_is_told() {
    block_on(async {
        let world = World::new().await;
        let current = |generation: u64| {
            let fingerprint = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
            CurrentMasterKey { fingerprint, generation }
        };
        let audit = |store: &Store1| StoreAudit::new(store.clone(), "writer 1");
        let store = world.open(1).await;
        audit(&store).record(AuditEvent::new(NOW, "one", "x")).await.unwrap();
        let mut record = Stored::create(&store, CurrentMasterKey::key().unwrap(), current(1)).await.unwrap();
        let backup = world.server.entries();
        assert!(store.behind().await.unwrap().is_empty());

        // Each by itself: an entry of the log, a rotation, a list of members.
        let reopened =
            async |seen: Seen| SignedStore::open(world.server.clone(), signing(1), Marks::in_memory(seen)).await.unwrap();
        audit(&store).record(AuditEvent::new(NOW, "two", "x")).await.unwrap();
        let seen = store.marks().seen();
        world.server.restore(backup.clone());
        assert_eq!(reopened(seen).await.behind().await.unwrap(), [Behind::Audit { number: 2 }]);

        let store = reopened(world.open(1).await.marks().seen()).await;
        record.revision = store.get(&record.key).await.unwrap().unwrap().revision;
        record.body = current(2);
        record.save(&store).await.unwrap();
        let seen = store.marks().seen();
        world.server.restore(backup.clone());
        let behind = reopened(seen).await.behind().await.unwrap();
        assert!(behind.contains(&Behind::Generation { seen: 2, found: 1 }), "{behind:?}");
        assert!(behind.contains(&Behind::Record { key: "masterkey/current".to_owned() }), "{behind:?}");

        let store = world.open(1).await;
        world.change(1, |members| members.push(someone(6, Role::Operator))).await;
        store.refresh().await.unwrap();
        let seen = store.marks().seen();
        world.server.restore(backup);
        let store = reopened(seen).await;
        let there = store.chain().hashes().len();
        assert_eq!(store.behind().await.unwrap(), [Behind::Members { seen: there + 1, found: there }]);
        store.forbid_writes("it is behind".to_owned());
        let refused = store.put(&key("host/a@a"), b"", Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Refused { reason, .. }) if reason == "it is behind"));
        let next = store.chain().next(store.chain().members().members.clone(), NOW);
        assert!(matches!(store.continue_chain(&next, &signing(1)).await, Err(StoreError::Refused { .. })));
        store.accept_as_it_is().await.unwrap();
        assert!(store.behind().await.unwrap().is_empty());
        put(&store, "host/a@a", b"").await;
    });
}

/// A server that is put back in the middle of an operation, and one that knows less than all for so many looks.
#[derive(Clone)]
pub(super) struct Unsteady {
    server: MemoryStore,
    now: Arc<Mutex<Now>>,
}

#[derive(Default)]
struct Now {
    connections: u64,
    /// What is there once somebody reads again.
    backup: Option<Vec<Entry>>,
    /// For how many more looks it has not come to what was written.
    lags: u32,
    /// How long an answer takes.
    takes: Duration,
    /// Whether it does not answer then.
    is_silent: bool,
    /// The revision of the last deletion.
    deleted: u64,
    /// How often somebody has looked.
    looks: u32,
}

impl Unsteady {
    pub(super) fn new(server: &MemoryStore) -> Self {
        Self { server: server.clone(), now: Arc::default() }
    }

    async fn opened(&self, world: &World) -> SignedStore<Self, SigningKey> {
        SignedStore::open(self.clone(), signing(1), world.marks(1, &world.chain().await)).await.unwrap()
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap()
    }
}

impl Store for Unsteady {
    type Watch = <MemoryStore as Store>::Watch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let backup = self.now().backup.take();
        if let Some(backup) = backup {
            self.server.restore(backup);
            self.now().connections += 1;
        }
        self.server.get(key).await
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        self.server.put(key, value, expect).await
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.server.delete(key, revision).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        self.server.list(prefix).await
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        self.server.kinds().await
    }

    async fn watch(&self, prefix: &Key) -> Result<Self::Watch, StoreError> {
        self.server.watch(prefix).await
    }

    fn max_value(&self) -> usize {
        self.server.max_value()
    }
}

impl Backing for Unsteady {
    fn connections(&self) -> u64 {
        self.now().connections
    }

    async fn last_revision(&self) -> Result<Option<u64>, StoreError> {
        let (takes, is_silent) = {
            let mut now = self.now();
            now.looks += 1;
            (now.takes, now.is_silent)
        };
        if takes > Duration::ZERO {
            tokio::time::sleep(takes).await;
        }
        if is_silent {
            return Err(StoreError::Unavailable { doing: "asking".to_owned(), source: "no answer came".into() });
        }
        let (behind, deleted) = {
            let mut now = self.now();
            let behind = now.lags > 0;
            now.lags = now.lags.saturating_sub(1);
            (behind, now.deleted)
        };
        let last = self.server.entries().iter().map(|entry| entry.revision.0).max().unwrap_or_default();
        Ok(Some(if behind { 0 } else { last.max(deleted) }))
    }

    async fn remove(&self, key: &Key, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let last = self.last_revision().await?.unwrap_or_default();
        self.server.delete(key, revision).await?;
        self.now().deleted = last + 1;
        Ok(Some(Revision(last + 1)))
    }
}

#[test]
fn n3_what_waits_for_its_list_of_members_is_not_written_to_what_was_put_back_meanwhile() {
    block_on(async {
        let world = World::new().await;
        let server = Unsteady::new(&world.server);
        let store = SignedStore::open(server.clone(), signing(1), world.marks(1, &world.chain().await)).await.unwrap();
        let backup = world.server.entries();
        put(&store, "host/a@a", b"one").await;
        server.now().backup = Some(backup);
        // Before it is written, who the members are is read anew, by way of another connection.
        let refused = store.put(&key("session/a"), b"{}", Expect::Absent).await;
        assert!(matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.contains("backup")), "{refused:?}");
        assert!(world.server.get(&key("session/a")).await.unwrap().is_none());
    });
}

#[test]
fn n3_a_leader_that_does_not_know_all_yet_is_waited_for() {
    block_on(async {
        let world = World::new().await;
        let server = Unsteady::new(&world.server);
        let store = SignedStore::open(server.clone(), signing(1), world.marks(1, &world.chain().await)).await.unwrap();
        put(&store, "host/a@a", b"one").await;
        let lag = |looks| {
            let mut now = server.now();
            now.lags = looks;
            now.connections += 1;
        };
        lag(30);
        put(&store, "host/a@a", b"two").await;
        assert_eq!(store.read_only_by_now().await.unwrap(), None);
        lag(1_000);
        let refused = store.put(&key("host/b@b"), b"", Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    });
}

#[test]
fn n3_what_somebody_has_planted_at_the_end_of_a_log_is_no_backup() {
    block_on(async {
        let world = World::new().await;
        let store = world.open(1).await;
        StoreAudit::new(store.clone(), "writer 1").record(AuditEvent::new(NOW, "one", "x")).await.unwrap();
        world.plant("audit/writer 1/00000000000000000001", b"planted").await;
        assert_eq!(store.behind().await.unwrap(), []);
        put(&store, "host/a@a", b"").await;
    });
}

#[test]
fn n3_a_log_whose_beginning_was_removed_is_not_behind() {
    block_on(async {
        let world = World::new().await;
        let store = world.open(1).await;
        let audit = StoreAudit::new(store.clone(), "writer 1");
        audit.record(AuditEvent::new(NOW, "one", "x")).await.unwrap();
        let seen = store.marks().seen();
        let mut writer = Stored::<toehold_core::AuditWriter>::read(&store, &key("auditwriter/writer 1")).await.unwrap().unwrap();
        writer.body.first = 2;
        writer.save(&store).await.unwrap();
        let first = key("audit/writer 1/00000000000000000001");
        let entry = store.get(&first).await.unwrap().unwrap();
        store.delete(&first, entry.revision).await.unwrap();
        let store = SignedStore::open(world.server.clone(), signing(1), Marks::in_memory(seen)).await.unwrap();
        assert!(store.behind().await.unwrap().is_empty());
    });
}

/// A server may be replaced behind a connection that holds.
#[test]
fn n3_it_is_looked_again_from_time_to_time_on_the_same_connection() {
    block_on(async {
        let world = World::new().await;
        let server = Unsteady::new(&world.server);
        let store = server.opened(&world).await;
        let backup = world.server.entries();
        put(&store, "host/a@a", b"one").await;
        world.server.restore(backup);
        assert_eq!(store.read_only_by_now().await.unwrap(), None, "it was looked a moment ago");
        store.look_was_long_ago();
        assert!(store.read_only_by_now().await.unwrap().is_some());
        let refused = store.put(&key("host/a@a"), b"", Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn of_many_who_write_while_the_store_does_not_answer_none_waits_for_all_before_him() {
    let world = World::new().await;
    let server = Unsteady::new(&world.server);
    let store = server.opened(&world).await;
    put(&store, "host/a@a", b"").await;
    store.look_was_long_ago();
    let patience = Duration::from_secs(10);
    server.now().takes = patience;
    server.now().is_silent = true;
    let (begun, before) = (tokio::time::Instant::now(), server.now().looks);
    let writing = async |number: u64| {
        // One after the other, while the first is looking.
        tokio::time::sleep(Duration::from_millis(number)).await;
        store.put(&key(&format!("session/{number}")), b"{}", Expect::Absent).await
    };
    let written = futures_util::future::join_all((0..50).map(writing)).await;
    for refused in written {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable { .. }), "{refused:?}");
        assert!(crate::cli::chain(&refused).contains("no answer came"), "{refused:?}");
    }
    assert_eq!(server.now().looks - before, 2, "the one under way, and one for all who came meanwhile");
    assert!(begun.elapsed() < patience * 3, "{:?}", begun.elapsed());
    // Who comes later looks himself.
    server.now().is_silent = false;
    put(&store, "host/a@a", b"anew").await;
}

/// What is done to hosts and clusters is done on the word of records that are read after that.
#[test]
fn n3_before_something_is_done_that_cannot_be_taken_back_it_is_looked_now() {
    block_on(async {
        let world = World::new().await;
        let server = Unsteady::new(&world.server);
        let store = server.opened(&world).await;
        let backup = world.server.entries();
        put(&store, "host/a@a", b"one").await;
        assert_eq!(store.read_only_now().await.unwrap(), None);
        world.server.restore(backup);
        assert_eq!(store.read_only_by_now().await.unwrap(), None, "it was looked a moment ago");
        assert!(store.read_only_now().await.unwrap().is_some());
    });
}

#[tokio::test(start_paused = true)]
async fn of_many_who_want_a_look_of_now_two_look() {
    let world = World::new().await;
    let server = Unsteady::new(&world.server);
    let store = server.opened(&world).await;
    put(&store, "host/a@a", b"").await;
    let before = server.now().looks;
    server.now().takes = Duration::from_secs(1);
    let wanting = async |number: u64| {
        tokio::time::sleep(Duration::from_millis(number)).await;
        store.read_only_now().await
    };
    for looked in futures_util::future::join_all((0..50).map(wanting)).await {
        assert_eq!(looked.unwrap(), None);
    }
    assert_eq!(server.now().looks - before, 2, "the one under way, and one for all who came meanwhile");
}

/// What is written last before a backup is put in the store's place may be a deletion, such as that of a token.
#[test]
fn n3_a_deletion_that_a_backup_does_not_have_is_missed_like_any_write() {
    block_on(async {
        let world = World::new().await;
        let server = Unsteady::new(&world.server);
        let store = server.opened(&world).await;
        let revision = put(&store, "host/a@a", b"one").await;
        let backup = world.server.entries();
        store.delete(&key("host/a@a"), revision).await.unwrap();
        assert_eq!(store.behind().await.unwrap(), []);
        // What nobody takes is removed with its own command.
        world.plant("host/b@b", b"planted").await;
        assert!(store.discard(&key("host/b@b")).await.unwrap());
        let seen = store.marks().seen().written.unwrap();
        assert_eq!(seen, revision.0 + 3);
        world.server.restore(backup);
        server.now().deleted = 0;
        assert_eq!(store.behind().await.unwrap(), [Behind::Revision { seen, found: revision.0 }]);
    });
}
