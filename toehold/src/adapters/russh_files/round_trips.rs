//! How many round trips an operation takes, on a host that is far away by a clock of the test's own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a broken assumption is a failed test")]

use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tempfile::TempDir;
use toehold_core::testing::sample_public_key;
use toehold_core::{Change, FileError, HostFiles as _, Look, Seen};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Line, Options};
use toehold_keygen::replacement::{Plan, inspect, replace};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::RusshFiles;
use crate::adapters::local_host::serve_files;

const ROUND_TRIP: Duration = Duration::from_secs(10);
/// For one request: more than all of a test.
const LIMIT: Duration = Duration::from_secs(100_000);

/// Passes bytes on half a round trip later.
fn delay(from: impl AsyncRead + Unpin + Send + 'static, into: impl AsyncWrite + Unpin + Send + 'static) {
    let (late, mut arriving) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut from = from;
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            late.send((Instant::now() + ROUND_TRIP / 2, buffer.get(..length).unwrap().to_vec())).unwrap();
        }
    });
    tokio::spawn(async move {
        let mut into = into;
        while let Some((due, bytes)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            if into.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}

struct Far {
    home: TempDir,
    files: RusshFiles,
}

impl Far {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        for path in [home.path().to_owned(), home.path().join(".ssh")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::write(home.path().join(".ssh/authorized_keys"), "# the owner's\n").unwrap();
        fs::set_permissions(home.path().join(".ssh/authorized_keys"), fs::Permissions::from_mode(0o600)).unwrap();
        let (ours, here) = tokio::io::duplex(1 << 20);
        let (there, theirs) = tokio::io::duplex(1 << 20);
        let ((from_us, to_us), (from_them, to_them)) = (tokio::io::split(here), tokio::io::split(there));
        delay(from_us, to_them);
        delay(from_them, to_us);
        serve_files(theirs, &home.path().canonicalize().unwrap()).unwrap();
        let files = RusshFiles::open(ours, LIMIT).await.unwrap();
        Self { home, files }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().canonicalize().unwrap().join(name).to_str().unwrap().to_owned()
    }
}

/// What came of it, and how many round trips it took.
async fn counted<T>(work: impl Future<Output = T>) -> (T, u64) {
    let begun = Instant::now();
    let result = work.await;
    (result, u64::try_from(begun.elapsed().as_millis() / ROUND_TRIP.as_millis()).unwrap())
}

fn read(path: &str) -> Look {
    Look::Read { path: path.to_owned(), limit: 1000 }
}

#[tokio::test(start_paused = true)]
async fn an_operation_takes_a_round_trip_or_two() {
    let mut far = Far::new().await;
    let (file, new, directory) = (far.path(".ssh/authorized_keys"), far.path("new"), far.path(".ssh"));
    let files = &mut far.files;
    assert_eq!(counted(files.real_path(".")).await.1, 1);
    assert_eq!(counted(files.stat(&file)).await.1, 1);
    let (content, rounds) = counted(files.read(&file, 1000)).await;
    assert_eq!((content.unwrap().as_slice(), rounds), (&b"# the owner's\n"[..], 2));
    let (staged, rounds) = counted(files.stage(&new, &vec![7; 100_000], 0o600)).await;
    assert_eq!((staged.unwrap(), rounds), ((), 2));
    assert_eq!(counted(files.sync(&new)).await.1, 2);
    let (names, rounds) = counted(files.list(&directory)).await;
    assert_eq!((names.unwrap(), rounds), (vec!["authorized_keys".to_owned()], 2));
    let (renamed, rounds) = counted(files.rename(&new, &file)).await;
    assert_eq!((renamed.unwrap(), rounds), ((), 1));
    // Four chunks, of which the size is known with the first.
    let (content, rounds) = counted(files.read(&file, 1 << 20)).await;
    assert_eq!((content.unwrap(), rounds), (vec![7; 100_000], 3));
    assert_eq!(counted(files.remove(&file)).await.1, 1);
}

#[tokio::test(start_paused = true)]
async fn several_looks_take_no_longer_than_the_longest_and_see_what_one_after_the_other_would() {
    let mut far = Far::new().await;
    let (file, other, directory) = (far.path(".ssh/authorized_keys"), far.path(".ssh/other"), far.path(".ssh"));
    fs::write(&other, "theirs").unwrap();
    let looks = [
        Look::RealPath(".".to_owned()),
        Look::Stat(file.clone()),
        read(&file),
        read(&other),
        Look::Sync(file.clone()),
        read("none"),
    ];
    let (seen, rounds) = counted(far.files.look(&looks)).await;
    assert_eq!(rounds, 2);
    assert!(
        matches!(
            seen.as_slice(),
            [
                Seen::RealPath(Ok(_)),
                Seen::Stat(Ok(Some(_))),
                Seen::Read(Ok(own)),
                Seen::Read(Ok(theirs)),
                Seen::Sync(Ok(())),
                Seen::Read(Err(FileError::NotFound { .. })),
            ] if own == b"# the owner's\n" && theirs == b"theirs"
        ),
        "{seen:?}"
    );
    // What follows a directory is asked for once all of it was.
    let (seen, rounds) = counted(far.files.look(&[Look::List(directory), Look::Stat(file.clone()), read(&file)])).await;
    assert_eq!((seen.len(), rounds), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_large_directory_is_looked_at_again_when_all_of_it_was_listed() {
    let mut far = Far::new().await;
    let directory = far.path(".ssh");
    for number in 0..250 {
        fs::write(far.path(&format!(".ssh/{number}")), "").unwrap();
    }
    let file = far.path(".ssh/authorized_keys");
    let (seen, rounds) = counted(far.files.look(&[Look::List(directory), read(&file)])).await;
    match seen.as_slice() {
        [Seen::List(Ok(names)), Seen::Read(Ok(content))] => assert_eq!((names.len(), content.len()), (251, 14)),
        _ => panic!("{seen:?}"),
    }
    // The directory's four, and then two of the file's own.
    assert!(rounds >= 6, "{rounds}");
}

#[tokio::test(start_paused = true)]
async fn a_look_behind_a_change_sees_what_it_has_made() {
    let mut far = Far::new().await;
    let (file, new) = (far.path(".ssh/authorized_keys"), far.path("new"));
    let looks = [Look::Stat(new.clone()), read(&new), read(&file)];
    let change = Change::Stage { path: &new, content: b"new", mode: 0o640 };
    let ((changed, seen), rounds) = counted(far.files.change_and_look(change, &looks)).await;
    changed.unwrap();
    match seen.as_slice() {
        [Seen::Stat(Ok(Some(stat))), Seen::Read(Ok(content)), Seen::Read(Ok(_))] => {
            assert_eq!((stat.size, stat.mode, content.as_slice(), rounds), (3, 0o640, &b"new"[..], 3));
        }
        _ => panic!("{seen:?}"),
    }
    let change = Change::Rename { from: &new, to: &file };
    let ((changed, seen), rounds) = counted(far.files.change_and_look(change, &[read(&file)])).await;
    changed.unwrap();
    assert!(matches!(seen.as_slice(), [Seen::Read(Ok(content))] if content == b"new"), "{seen:?}");
    assert_eq!(rounds, 2);

    // One that is there already is told from other failures, and nobody waits for what would have come behind it.
    let change = Change::Stage { path: &file, content: b"new", mode: 0o640 };
    let ((changed, _), _) = counted(far.files.change_and_look(change, &looks)).await;
    assert!(matches!(changed, Err(FileError::AlreadyExists { .. })), "{changed:?}");
    let change = Change::Rename { from: &new, to: &file };
    let ((changed, _), _) = counted(far.files.change_and_look(change, &looks)).await;
    assert!(matches!(changed, Err(FileError::NotFound { .. })), "{changed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replacement_takes_eleven_round_trips() {
    let mut far = Far::new().await;
    let home = far.path("");
    let line = Line::new(Options::new().restrict(), sample_public_key("ssh-ed25519", "ours"), "toehold").unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    // An absolute home is looked at along with its name, one that the server names is not.
    for (home, most) in [(home.trim_end_matches('/'), 11), (".", 12)] {
        let plan = Plan::new(&mut rng, home, "session-1").unwrap().also_second_file();
        let work = replace(&mut far.files, &plan, |_, document: &mut AuthorizedKeys| {
            if document.remove(line.public_key()) == 0 {
                document.push(&line);
            }
            Ok(())
        });
        let (replaced, rounds) = counted(work).await;
        assert!(replaced.unwrap().changed());
        assert_eq!(rounds, most, "{home}");
    }
    let (inspection, rounds) = counted(inspect(&mut far.files, ".")).await;
    assert!(inspection.unwrap().objections.is_empty());
    assert!(rounds <= 5, "{rounds}");
    assert_eq!(far.home.path().join(".ssh").read_dir().unwrap().count(), 1);
}
