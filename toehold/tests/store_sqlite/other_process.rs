//! This test program, started again as a process of its own.

use super::*;
use crate::root_mounts::{full_disk, full_disk_for_some};

/// The environment variable by which this program, started again, knows its part and directory.
pub(crate) const ROLE: &str = "TOEHOLD_TEST_ROLE";
pub(crate) const DIRECTORY: &str = "TOEHOLD_TEST_DIRECTORY";

/// Starts this test program again as a process of its own that runs only `other_process` in the given role. `wrapper` is put
/// in front of its command line.
pub(crate) fn start(role: &str, directory: &Path, wrapper: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(std::ffi::OsStr::new).collect();
    words.push(program.as_os_str());
    Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "other_process::other_process", "--nocapture", "--quiet"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"))
}

/// Says something to the process that started this one.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

/// What the process said from here to its end, or to the first line that `until` is true of.
pub(crate) fn listen(child: &mut BufReader<std::process::ChildStdout>, until: impl Fn(&str) -> bool) -> Vec<String> {
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

pub(crate) fn finish(mut child: Child) -> Vec<String> {
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
        "share a commit on a full disk" => full_disk_for_some(&directory).await,
        "fail to create" => {
            let error = SqliteStore::create(&directory).unwrap_err();
            say(&in_words(&error));
            say(&format!("left: {}", fs::read_dir(&directory).unwrap().count()));
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

pub(crate) async fn increment(store: &SqliteStore, times: u64) {
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

pub(crate) async fn counted(store: &SqliteStore) -> u64 {
    u64::from_le_bytes(store.get(&key("counter/one")).await.unwrap().unwrap().value.try_into().unwrap())
}
