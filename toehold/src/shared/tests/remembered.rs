//! What a machine remembers of a store, with several processes that have one memory (N3).

use std::path::Path;

use toehold_core::testing::block_on;

use super::backups::Unsteady;
use super::*;

const BUCKET: &str = "fleet";

fn begin(directory: &Path, world: &World, chain: &Chain) -> Marks {
    Marks::begin(directory, BUCKET, world.marks(1, chain).seen()).unwrap()
}

fn read(directory: &Path) -> Marks {
    Marks::read(directory, BUCKET).unwrap().unwrap()
}

fn write(marks: &Marks, revision: u64) {
    marks.note(|seen| seen.note_written(revision));
    marks.save().unwrap();
}

/// What this process has written, and written down, is taken back by a backup.
async fn is_put_back_under(running: &SignedStore<Unsteady, SigningKey>, world: &World) {
    let backup = world.server.entries();
    put(running, "host/a@a", b"one").await;
    running.marks().save().unwrap();
    world.server.restore(backup);
}

#[test]
fn processes_of_one_memory_remember_the_later_of_what_they_have_seen() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let one = begin(directory.path(), &world, &world.chain().await);
        let (two, three) = (read(directory.path()), read(directory.path()));
        write(&one, 9);
        write(&two, 7);
        assert_eq!(two.seen().written, Some(9));
        assert_eq!(read(directory.path()).seen().written, Some(9));
        // Also one that writes nothing down.
        assert_eq!(three.seen().written, None);
        assert!(three.catch_up().unwrap());
        assert_eq!(three.seen().written, Some(9));
    });
}

#[test]
fn n3_what_was_seen_before_the_store_was_taken_as_it_is_does_not_come_back() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let chain = world.chain().await;
        let accepting = begin(directory.path(), &world, &chain);
        let (running, silent) = (read(directory.path()), read(directory.path()));
        write(&running, 20);
        accepting.reset(world.marks(1, &chain).seen()).unwrap();
        // One that has something to write down finds out by that, and one that has not, when it looks.
        write(&running, 30);
        assert!(!running.catch_up().unwrap() && !silent.catch_up().unwrap());
        assert_eq!(running.seen().written, Some(30), "what it has seen itself it does not forget");
        assert_eq!(read(directory.path()).seen().written, None);
        write(&running, 40);
        write(&silent, 50);
        // Whoever accepted it, and whoever begins then, remember together.
        write(&accepting, 3);
        let next = read(directory.path());
        write(&next, 5);
        write(&accepting, 4);
        assert_eq!(read(directory.path()).seen().written, Some(5));
        assert!(accepting.catch_up().unwrap() && next.catch_up().unwrap());
        // And once more.
        next.reset(world.marks(1, &chain).seen()).unwrap();
        write(&accepting, 60);
        assert!(!accepting.catch_up().unwrap());
        assert_eq!(read(directory.path()).seen().written, None);
    });
}

/// A release that knows of no times leaves the count away.
#[test]
fn n3_a_memory_of_before_that_is_written_back_does_not_count() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let chain = world.chain().await;
        let marks = begin(directory.path(), &world, &chain);
        write(&marks, 20);
        let path = marks.path().unwrap().to_owned();
        let before = std::fs::read_to_string(&path).unwrap();
        let before = before.replace("\"epoch\":0,", "");
        assert!(!before.contains("epoch"), "{before}");
        marks.reset(world.marks(1, &chain).seen()).unwrap();
        std::fs::write(&path, before).unwrap();
        write(&marks, 3);
        assert!(marks.catch_up().unwrap());
        assert_eq!(read(directory.path()).seen().written, Some(3));
    });
}

#[test]
fn n3_a_process_that_ran_while_the_store_was_taken_as_it_is_writes_nothing_until_it_is_started_anew() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let server = Unsteady::new(&world.server);
        let opened = async |marks| SignedStore::open(server.clone(), signing(1), marks).await.unwrap();
        let running = opened(begin(directory.path(), &world, &world.chain().await)).await;
        is_put_back_under(&running, &world).await;
        let accepting = opened(read(directory.path())).await;
        assert!(!accepting.look().await.unwrap().is_empty());
        accepting.accept_as_it_is().await.unwrap();
        // Others have written since, so that it is not behind by what this one has seen.
        for number in 0..3 {
            put(&accepting, &format!("host/{number}@b"), b"").await;
        }
        running.look_was_long_ago();
        let refused = running.put(&key("host/b@b"), b"", Expect::Absent).await;
        assert!(matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.contains("start it anew")), "{refused:?}");
        drop(running);
        let anew = opened(read(directory.path())).await;
        assert!(anew.look().await.unwrap().is_empty());
        put(&anew, "host/b@b", b"").await;
    });
}

/// It said that the store is behind; that it was accepted meanwhile is what is to be done about it then.
#[test]
fn n3_a_process_that_has_seen_the_store_behind_says_when_it_is_to_be_started_anew() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let server = Unsteady::new(&world.server);
        let opened = async |marks| SignedStore::open(server.clone(), signing(1), marks).await.unwrap();
        let running = opened(begin(directory.path(), &world, &world.chain().await)).await;
        is_put_back_under(&running, &world).await;
        running.look_was_long_ago();
        let reason = running.read_only_by_now().await.unwrap().unwrap();
        assert!(reason.contains("and then: toehold store accept-rollback"), "{reason}");
        opened(read(directory.path())).await.accept_as_it_is().await.unwrap();
        let reason = running.read_only_by_now().await.unwrap().unwrap();
        assert!(reason.contains("start it anew"), "{reason}");
    });
}

/// Nobody has a last word who is killed.
#[test]
fn n3_what_was_written_is_remembered_also_by_the_next_of_one_who_was_killed() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let remembered = || read(directory.path()).seen();
        let marks = begin(directory.path(), &world, &world.chain().await);
        marks.saved_long_ago();
        let store = SignedStore::open(Unsteady::new(&world.server), signing(1), marks).await.unwrap();
        // The first at once, then one in a second, of whatever kind; and the last of a process that goes on, while it does.
        let first = put(&store, "host/a@a", b"one").await;
        assert_eq!(remembered().written, Some(first.0));
        store.marks().saved_just_now();
        let second = put(&store, "host/a@a", b"two").await;
        assert_eq!(remembered().written, Some(first.0));
        store.marks().saved_long_ago();
        store.delete(&key("host/a@a"), second).await.unwrap();
        assert_eq!(remembered().written, Some(second.0 + 1));
        store.marks().saved_just_now();
        StoreAudit::new(store.clone(), "writer 1").record(AuditEvent::new(NOW, "one", "x")).await.unwrap();
        assert_eq!(remembered().audit, None);
        assert_eq!(store.read_only_by_now().await.unwrap(), None);
        assert_eq!(remembered().audit, None, "not so soon");
        store.marks().saved_long_ago();
        assert_eq!(store.read_only_by_now().await.unwrap(), None);
        assert_eq!(remembered().audit.map(|head| head.number), Some(1));
    });
}

/// Such as the part of `serve` that only looks.
#[test]
fn n3_who_writes_nothing_himself_misses_what_others_of_his_machine_have_written() {
    block_on(async {
        let (world, directory) = (World::new().await, tempfile::tempdir().unwrap());
        let server = Unsteady::new(&world.server);
        let opened = async |marks| SignedStore::open(server.clone(), signing(1), marks).await.unwrap();
        let writing = opened(begin(directory.path(), &world, &world.chain().await)).await;
        let looking = opened(read(directory.path())).await;
        is_put_back_under(&writing, &world).await;
        looking.look_was_long_ago();
        assert!(looking.read_only_by_now().await.unwrap().is_some());
    });
}
