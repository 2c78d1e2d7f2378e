//! Several tasks, several processes, and processes that are killed.

use super::*;
use crate::other_process::{counted, finish, increment, listen, start};

#[tokio::test]
async fn concurrent_writes_of_one_process_share_a_commit_and_keep_their_own_answers() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let there = store.put(&key("a/there"), b"", Expect::Absent).await.unwrap();
    // The lock of another process holds the writer back until all are in the queue.
    let other = beside(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held_back = store.clone();
    let first = tokio::spawn(async move { held_back.put(&key("a/first"), b"", Expect::Absent).await });
    let mut writes = Vec::new();
    for number in 0..100 {
        let store = store.clone();
        writes.push(tokio::spawn(async move {
            match number % 4 {
                0 => store.put(&key("a/there"), b"", Expect::Absent).await,
                1 => store.put(&key("a/contended"), b"", Expect::Absent).await,
                _ => store.put(&key(&format!("a/{number}")), b"", Expect::Absent).await,
            }
        }));
    }
    tokio::task::yield_now().await;
    other.execute_batch("COMMIT").unwrap();
    let version = |connection: &rusqlite::Connection| -> i64 {
        connection.query_row("SELECT revision FROM counter", [], |row| row.get(0)).unwrap()
    };
    first.await.unwrap().unwrap();
    let (mut done, mut conflicts, mut revisions) = (0, 0, BTreeSet::new());
    for write in writes {
        match write.await.unwrap() {
            Ok(revision) => {
                done += 1;
                assert!(revision > there && revisions.insert(revision), "{revision:?} given twice");
            }
            Err(StoreError::Conflict { .. }) => conflicts += 1,
            Err(error) => panic!("{}", in_words(&error)),
        }
    }
    assert_eq!((done, conflicts), (51, 49));
    assert_eq!(version(&other), 53);
    // One for the first write; one, or a few, for the hundred and one that came together.
    let commits = commits_in_the_log(directory.path());
    assert!((2..=4).contains(&commits), "{commits} commits");
}

/// Counts the commits in the write-ahead log, from its start: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
fn commits_in_the_log(directory: &Path) -> usize {
    let log = fs::read(directory.join("state.db-wal")).unwrap();
    let page = usize::try_from(u32::from_be_bytes(log[8..12].try_into().unwrap())).unwrap();
    // Of the frames in use, those that end a commit say how many pages the database then has.
    let frames = log[32..].chunks_exact(24 + page).take_while(|frame| frame[8..16] == log[16..24]);
    frames.filter(|frame| frame[4..8] != [0; 4]).count()
}

#[tokio::test]
async fn a_write_waits_for_another_process_and_reads_do_not() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    store.put(&key("a/1"), b"one", Expect::Absent).await.unwrap();
    let other = beside(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writing = store.clone();
    let write = tokio::spawn(async move { writing.put(&key("a/2"), b"two", Expect::Absent).await });
    assert_eq!(store.get(&key("a/1")).await.unwrap().unwrap().value, b"one");
    assert_eq!(store.list(&key("a")).await.unwrap().len(), 1);
    assert!(!write.is_finished());
    other.execute_batch("ROLLBACK").unwrap();
    write.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lock_that_is_never_given_back_is_an_error_in_words() {
    let directory = directory();
    let options = Options { busy_limit: Duration::from_millis(50), ..Options::default() };
    let store = SqliteStore::create_with(directory.path(), options).unwrap();
    let other = beside(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.put(&key("a/1"), b"", Expect::Absent).await.unwrap_err();
    let words = in_words(&error);
    assert!(matches!(error, StoreError::Unavailable { .. }), "{words}");
    assert!(words.contains("writing a/1") && words.contains("another process has kept") && words.contains("0.05 s"), "{words}");
    other.execute_batch("ROLLBACK").unwrap();
    store.put(&key("a/1"), b"", Expect::Absent).await.unwrap();
}

#[tokio::test]
async fn a_store_that_waits_for_a_lock_can_be_closed() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let other = beside(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writing = store.clone();
    let write = tokio::spawn(async move { writing.put(&key("a/1"), b"", Expect::Absent).await });
    tokio::task::yield_now().await;
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    let started = std::time::Instant::now();
    drop(store);
    assert!(started.elapsed() < Duration::from_secs(5), "closing waited for the other process");
}

#[test]
fn every_acknowledged_write_survives_sigkill() {
    let directory = directory();
    drop(SqliteStore::create(directory.path()).unwrap());
    let mut acknowledged = 0;
    for round in 1..=3_u64 {
        let fresh = directory.path().join(format!("round-{round}"));
        fs::create_dir(&fresh).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o700)).unwrap();
        drop(SqliteStore::create(&fresh).unwrap());
        let mut child = start("write until killed", &fresh, &[]);
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let enough = (round * 37).to_string();
        let mut said = listen(&mut out, |line| line == enough);
        child.kill().unwrap();
        said.extend(listen(&mut out, |_| false));
        assert!(!child.wait().unwrap().success());

        let last: u64 = said.last().unwrap().parse().unwrap();
        assert!(last >= round * 37);
        let store = SqliteStore::open(&fresh).unwrap();
        let written = block_on(store.list(&key("written"))).unwrap();
        for (number, entry) in (1_u64..).zip(&written) {
            assert_eq!(entry.value, number.to_le_bytes());
        }
        let found = u64::try_from(written.len()).unwrap();
        // The write that was under way may or may not be there; of the acknowledged ones, each is.
        assert!(found == last || found == last + 1, "{last} writes were acknowledged and {found} are there");
        acknowledged += last;
    }
    assert!(acknowledged > 0);
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn no_lost_update_by_four_processes_that_also_make_one_store() {
    let directory = directory();
    // They also race to create it.
    let children: Vec<_> = (0..4).map(|_| start("increment", directory.path(), &[])).collect();
    for child in children {
        finish(child);
    }
    let store = SqliteStore::open(directory.path()).unwrap();
    assert_eq!(block_on(counted(&store)), 200);
    let leftovers: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".new-"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lost_update_among_many_tasks() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { increment(&store, 10).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(counted(&store).await, 80);
}
