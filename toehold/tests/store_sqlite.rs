//! The SQLite store against crashes, other processes, full disks and files that are not what they should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use toehold::adapters::sqlite::{APPLICATION_ID, FILE_NAME, MAX_VALUE, Options, SCHEMA, SqliteStore};
use toehold_core::testing::store_conformance;
use toehold_core::{Expect, Key, Revision, Store, StoreError, Watch};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// A private directory.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An error with all its sources, as a person gets to see it.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A connection beside the store's, as another program would make it.
fn beside(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join(FILE_NAME)).unwrap()
}

/// The environment variable by which this program, started again, knows its part and directory.
const ROLE: &str = "TOEHOLD_TEST_ROLE";
const DIRECTORY: &str = "TOEHOLD_TEST_DIRECTORY";

/// Starts this test program again as a process of its own that runs only `other_process` in the given role. `wrapper` is put
/// in front of its command line.
fn start(role: &str, directory: &Path, wrapper: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
    words.push(program.as_os_str());
    Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "other_process", "--nocapture", "--quiet"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"))
}

/// Says something to the process that started this one.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// What the process said from here to its end, or to the first line that `until` is true of.
fn listen(child: &mut BufReader<std::process::ChildStdout>, until: impl Fn(&str) -> bool) -> Vec<String> {
    let mut said = Vec::new();
    let mut line = String::new();
    while child.read_line(&mut line).unwrap() > 0 {
        // A line that the kill cut short was not acknowledged.
        if let Some(text) = line.strip_prefix('@').and_then(|text| text.strip_suffix('\n')) {
            said.push(text.to_owned());
            if until(text) {
                break;
            }
        }
        line.clear();
    }
    said
}

fn finish(mut child: Child) -> Vec<String> {
    let said = listen(&mut BufReader::new(child.stdout.take().unwrap()), |_| false);
    assert!(child.wait().unwrap().success(), "the other process failed after {said:?}");
    said
}

/// Not a test of its own: what this program does when another test starts it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let directory = std::path::PathBuf::from(std::env::var(DIRECTORY).unwrap());
    match role.as_str() {
        "write until killed" => {
            let store = SqliteStore::open(&directory).unwrap();
            for number in 1_u64.. {
                store.put(&key(&format!("written/{number:08}")), &number.to_le_bytes(), Expect::Absent).await.unwrap();
                say(&number.to_string());
            }
        }
        "increment" => {
            let store = SqliteStore::create(&directory).unwrap();
            increment(&store, 50).await;
        }
        "write into a full disk" => full_disk(&directory).await,
        "open read-only" => {
            let error = SqliteStore::create(&directory).unwrap_err();
            say(&in_words(&error));
        }
        "create with an open umask" => {
            rustix::process::umask(rustix::fs::Mode::empty());
            let store = SqliteStore::create(&directory).unwrap();
            store.put(&key("a/b"), b"1", Expect::Absent).await.unwrap();
            for name in [FILE_NAME, "state.db-wal", "state.db-shm"] {
                assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
            }
            say("private");
        }
        other => panic!("no role {other:?}"),
    }
}

async fn increment(store: &SqliteStore, times: u64) {
    let counter = key("counter/one");
    let mut done = 0;
    while done < times {
        let entry = store.get(&counter).await.unwrap();
        let (value, expect) = match &entry {
            Some(entry) => (u64::from_le_bytes(entry.value.clone().try_into().unwrap()), Expect::Revision(entry.revision)),
            None => (0, Expect::Absent),
        };
        match store.put(&counter, &(value + 1).to_le_bytes(), expect).await {
            Ok(_) => done += 1,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("{}", in_words(&error)),
        }
    }
}

async fn counted(store: &SqliteStore) -> u64 {
    u64::from_le_bytes(store.get(&key("counter/one")).await.unwrap().unwrap().value.try_into().unwrap())
}

#[tokio::test]
async fn keeps_the_contract_of_a_store() {
    let directory = directory();
    store_conformance(&SqliteStore::create(directory.path()).unwrap()).await;
}

#[tokio::test]
async fn every_write_says_what_it_replaces() {
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
    let nothing = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(nothing.is_err(), "reported {nothing:?}");
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
fn four_processes_lose_no_update_and_make_one_store() {
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
async fn many_tasks_lose_no_update() {
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

#[test]
fn all_files_are_private_whatever_the_umask() {
    let directory = directory();
    assert_eq!(finish(start("create with an open umask", directory.path(), &[])), ["private"]);
}

#[test]
fn loose_permissions_are_refused_in_words() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    drop(SqliteStore::create(directory.path()).unwrap());
    for (loose, bits, advice) in [
        (path.as_path(), 0o640, "chmod 600"),
        (path.as_path(), 0o602, "chmod 600"),
        (directory.path(), 0o750, "chmod 700"),
        (directory.path(), 0o701, "chmod 700"),
    ] {
        let before = mode(loose);
        fs::set_permissions(loose, fs::Permissions::from_mode(bits)).unwrap();
        for opened in [SqliteStore::open(directory.path()), SqliteStore::create(directory.path())] {
            let words = in_words(&opened.unwrap_err());
            assert!(words.contains(advice) && words.contains(loose.to_str().unwrap()), "{words}");
        }
        fs::set_permissions(loose, fs::Permissions::from_mode(before)).unwrap();
    }
    drop(SqliteStore::open(directory.path()).unwrap());
}

#[test]
fn a_link_in_place_of_the_database_is_refused() {
    let directory = directory();
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, directory.path().join(FILE_NAME)).unwrap();
    let words = in_words(&SqliteStore::create(directory.path()).unwrap_err());
    assert!(words.contains("not a regular file"), "{words}");
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
}

#[test]
fn no_store_names_the_command_that_makes_one() {
    let directory = directory();
    let words = in_words(&SqliteStore::open(directory.path()).unwrap_err());
    assert!(words.contains(FILE_NAME) && words.contains("toehold init"), "{words}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_store_of_a_newer_release_is_refused_and_left_alone() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    drop(SqliteStore::create(directory.path()).unwrap());
    beside(directory.path()).pragma_update(None, "user_version", SCHEMA + 6).unwrap();
    let before = fs::read(&path).unwrap();
    for opened in [SqliteStore::open(directory.path()), SqliteStore::create(directory.path())] {
        let error = opened.unwrap_err();
        assert!(
            matches!(&error, StoreError::Newer { what, found, supported }
                if *found == SCHEMA + 6 && *supported == SCHEMA && what == path.to_str().unwrap()),
            "{error:?}"
        );
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_release_whose_writes_are_still_in_the_log_is_left_alone_too() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    let log = directory.path().join("state.db-wal");
    drop(SqliteStore::create(directory.path()).unwrap());
    let newer = beside(directory.path());
    newer.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    let kept = [fs::read(&path).unwrap(), fs::read(&log).unwrap()];
    drop(newer);
    // As it is after that process was killed: the change is in the log alone.
    fs::write(&path, &kept[0]).unwrap();
    fs::write(&log, &kept[1]).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{}", in_words(&error));
    assert_eq!([fs::read(&path).unwrap(), fs::read(&log).unwrap()], kept);
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let ours = directory();
    drop(SqliteStore::create(ours.path()).unwrap());
    let ours = fs::read(ours.path().join(FILE_NAME)).unwrap();
    let foreign = {
        let directory = directory();
        let other = beside(directory.path());
        other.execute_batch("CREATE TABLE recipe (name TEXT); PRAGMA user_version = 1;").unwrap();
        drop(other);
        fs::read(directory.path().join(FILE_NAME)).unwrap()
    };
    let mut scrambled = ours.clone();
    scrambled[4096..].fill(0xa5);
    let cases: [(&str, Vec<u8>, &str); 5] = [
        ("another program's database", foreign, "not one of Toehold's"),
        ("a text", b"dear diary\n".repeat(500), "damaged"),
        ("nothing", Vec::new(), "damaged (it is empty)"),
        ("cut short", ours[..5000].to_vec(), "damaged"),
        ("scrambled", scrambled, "damaged"),
    ];
    for (what, content, expected) in cases {
        let directory = directory();
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, &content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for opened in [SqliteStore::open(directory.path()), SqliteStore::create(directory.path())] {
            let words = in_words(&opened.expect_err(what));
            assert!(words.contains(expected) && words.contains(path.to_str().unwrap()), "{what}: {words}");
        }
        assert!(fs::read(&path).unwrap() == content, "{what} was changed");
    }
}

#[test]
fn a_log_without_its_database_is_not_mixed_into_a_new_store() {
    let directory = directory();
    fs::write(directory.path().join("state.db-wal"), b"the last writes").unwrap();
    let words = in_words(&SqliteStore::create(directory.path()).unwrap_err());
    assert!(words.contains("state.db-wal") && words.contains("restore"), "{words}");
    assert!(!directory.path().join(FILE_NAME).exists());
}

#[test]
fn the_file_names_its_maker() {
    let directory = directory();
    drop(SqliteStore::create(directory.path()).unwrap());
    let bytes = fs::read(directory.path().join(FILE_NAME)).unwrap();
    // https://www.sqlite.org/fileformat2.html#the_database_header
    assert_eq!(&bytes[68..72], APPLICATION_ID.to_be_bytes());
    assert_eq!(&bytes[68..72], b"Toeh");
    assert_eq!(&bytes[60..64], SCHEMA.to_be_bytes());
}

/// Runs a role of `other_process` in a mount namespace of its own, where the directory is a file system made by `mount`.
fn mounted(role: &str, mount: &str) -> Vec<String> {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts a file system in a mount namespace of its own, and has to be run by root for that"
    );
    let directory = directory();
    let script = format!("{mount} && exec \"$@\"");
    finish(start(role, directory.path(), &["unshare", "--mount", "sh", "-c", &script, "sh"]))
}

#[test]
fn a_read_only_directory_is_an_error_in_words() {
    let said = mounted("open read-only", &format!("mount -t tmpfs -o ro,mode=0700 none \"${DIRECTORY}\""));
    assert!(said[0].contains("Read-only file system") && said[0].contains("state.db"), "{said:?}");
}

#[test]
fn an_existing_store_on_a_read_only_file_system_is_an_error_in_words() {
    let said = mounted(
        "open read-only",
        &format!(
            "mount -t tmpfs -o mode=0700 none \"${DIRECTORY}\" && {ROLE}='create with an open umask' \"$@\" >&2 &&
             mount -o remount,ro \"${DIRECTORY}\""
        ),
    );
    assert!(said[0].contains("read-only") && said[0].contains("state.db"), "{said:?}");
}

#[test]
fn a_full_disk_is_an_error_in_words_and_nothing_is_lost() {
    let said = mounted("write into a full disk", &format!("mount -t tmpfs -o size=2M,mode=0700 none \"${DIRECTORY}\""));
    assert_eq!(said, ["survived"]);
}

async fn full_disk(directory: &Path) {
    let store = SqliteStore::create(directory).unwrap();
    let small = store.put(&key("kept/small"), b"before", Expect::Absent).await.unwrap();
    let mut kept = 0;
    let error = loop {
        match store.put(&key(&format!("kept/{kept:04}")), &[0x77; 100_000], Expect::Absent).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100, "the disk does not fill up");
    };
    let words = in_words(&error);
    assert!(words.contains(&format!("writing kept/{kept:04}")) && words.contains("is full"), "{words}");
    assert!(kept > 0);
    let check = async |store: &SqliteStore| {
        let entries = store.list(&key("kept")).await.unwrap();
        assert_eq!(entries.len(), kept + 1);
        assert!(entries[..kept].iter().all(|entry| entry.value == [0x77; 100_000]));
        assert_eq!((entries[kept].value.as_slice(), entries[kept].revision), (b"before".as_slice(), small));
    };
    check(&store).await;
    // Also for whoever opens it next, and a disk with room again is written to again.
    drop(store);
    let store = SqliteStore::open(directory).unwrap();
    check(&store).await;
    let status = Command::new("mount").args(["-o", "remount,size=20M"]).arg(directory).status().unwrap();
    assert!(status.success());
    store.put(&key("kept/small"), b"after", Expect::Revision(small)).await.unwrap();
    assert_eq!(store.get(&key("kept/small")).await.unwrap().unwrap().value, b"after");
    say("survived");
}
