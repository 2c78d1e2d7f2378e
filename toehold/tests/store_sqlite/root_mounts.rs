//! Disks that are full or read-only.

use super::*;
use crate::other_process::{DIRECTORY, ROLE, finish, say, start};

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
    let said = mounted("fail to create", &format!("mount -t tmpfs -o ro,mode=0700 none \"${DIRECTORY}\""));
    assert!(said[0].contains("Read-only file system") && said[0].contains("state.db"), "{said:?}");
}

#[test]
fn an_existing_store_on_a_read_only_file_system_is_an_error_in_words() {
    let said = mounted(
        "fail to create",
        &format!(
            "mount -t tmpfs -o mode=0700 none \"${DIRECTORY}\" && {ROLE}='create with an open umask' \"$@\" > /dev/null &&
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

pub(crate) async fn full_disk(directory: &Path) {
    let store = SqliteStore::create(directory).unwrap();
    let small = store.put(&key("kept/small"), b"before", Expect::Absent).await.unwrap();
    let mut kept = 0;
    let error = loop {
        match store.put(&key(&format!("kept/{kept:04}")), &vec![0x77; 100_000], Expect::Absent).await {
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
        assert!(entries[..kept].iter().all(|entry| entry.value == vec![0x77; 100_000]));
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

#[test]
fn a_write_that_finds_no_room_does_not_take_others_with_it() {
    let said = mounted("share a commit on a full disk", &format!("mount -t tmpfs -o size=2M,mode=0700 none \"${DIRECTORY}\""));
    assert_eq!(said, ["survived"]);
}

pub(crate) async fn full_disk_for_some(directory: &Path) {
    let store = SqliteStore::create(directory).unwrap();
    // All are in the queue before the first can be written.
    let other = beside(directory);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writes: Vec<_> = (0..40)
        .map(|number| {
            let store = store.clone();
            let length = if number < 3 { 10 } else { 100_000 };
            tokio::spawn(async move { store.put(&key(&format!("a/{number:02}")), &vec![0x77; length], Expect::Absent).await })
        })
        .collect();
    tokio::task::yield_now().await;
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    let mut done = Vec::new();
    for (number, write) in writes.into_iter().enumerate() {
        match write.await.unwrap() {
            Ok(_) => done.push(key(&format!("a/{number:02}"))),
            Err(error) => assert!(in_words(&error).contains("is full"), "{}", in_words(&error)),
        }
    }
    let there: Vec<_> = store.list(&key("a")).await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(there, done, "what was answered is not what is there");
    // The small ones all fit, and some of the large ones.
    assert!((0..3).all(|number| done.contains(&key(&format!("a/{number:02}")))), "{done:?}");
    assert!((4..40).contains(&done.len()), "{done:?}");
    say("survived");
}

#[test]
fn no_half_made_store_is_left_on_a_full_disk() {
    let said = mounted("fail to create", &format!("mount -t tmpfs -o size=12k,mode=0700 none \"${DIRECTORY}\""));
    assert!(said[0].contains("is full") && said[0].contains("creating"), "{said:?}");
    assert_eq!(said[1..], ["left: 0"]);
}
