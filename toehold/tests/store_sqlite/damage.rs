//! Files that are not what they should be, or not private.

use super::*;
use crate::other_process::{finish, start};

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

#[tokio::test]
async fn damage_that_shows_later_is_an_error_in_words_and_hides_nothing_else() {
    let directory = directory();
    let path = directory.path().join(FILE_NAME);
    let store = SqliteStore::create(directory.path()).unwrap();
    for number in 0..60 {
        store.put(&key(&format!("a/{number:02}")), &[0x33; 2000], Expect::Absent).await.unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let from = bytes.len() - 3 * 4096;
    bytes[from..].fill(0xa5);
    fs::write(&path, &bytes).unwrap();

    let store = SqliteStore::open(directory.path()).unwrap();
    let words = in_words(&store.list(&key("a")).await.unwrap_err());
    assert!(words.contains("listing a") && words.contains("is damaged") && words.contains(path.to_str().unwrap()), "{words}");
    assert_eq!(store.get(&key("a/00")).await.unwrap().unwrap().value, [0x33; 2000]);
    drop(store);
    assert!(fs::read(&path).unwrap() == bytes, "the damaged file was changed");
}

/// A log that the last close could not put into the database is a part of it: moved without, the last writes would be gone.
#[test]
fn a_database_that_was_not_closed_whole_is_not_moved() {
    let (from, to) = (directory(), directory());
    drop(SqliteStore::create(from.path()).unwrap());
    fs::write(from.path().join("state.db-wal"), "frames").unwrap();
    let words = in_words(&SqliteStore::move_between(from.path(), to.path()).unwrap_err());
    assert!(words.contains("still in the log"), "{words}");
    assert!(!to.path().join(FILE_NAME).exists());
    fs::remove_file(from.path().join("state.db-wal")).unwrap();
    assert!(SqliteStore::move_between(from.path(), to.path()).unwrap());
}
