//! The replacement of `authorized_keys` on real hosts: foreign bytes, full disks, and several writers at once.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support;
use crate::support::dropbear::RealDropbear;
use crate::support::server::write_private;
use crate::support::{Key, RealSshd, key};
use toehold::adapters::russh_connector::{RusshConnector, RusshSession};
use toehold_core::{Connector as _, HostKeyPolicy, HostSession as _, Login, PublicKey, Route};
use toehold_keygen::authorized_keys::{Line, MAX_AUTHORIZED_KEYS, Options};
use toehold_keygen::replacement::{Plan, ReplaceError, Replaced, replace};

/// A line that no program of ours would write: CRLF, NUL, bytes that are no UTF-8, an unknown option, no last newline.
const FOREIGN: &[u8] = b"# mine\r\n\r\n  \tno-such-option=\"a,\\\"b\" ssh-ed25519 AAAA \xff\xfe\0 x\r\nssh-foo AAAA=\n#last";

async fn log_in(route: &Route, key: &Key, host_key: &HostKeyPolicy) -> RusshSession {
    let login = Login { route, identity: &key.identity, host_key, query: None };
    RusshConnector::default().log_in(&login).await.unwrap()
}

async fn add(session: &mut RusshSession, home: &str, holder: &str, key: &PublicKey) -> Result<Replaced, ReplaceError> {
    let line = Line::new(Options::new().restrict(), key.clone(), "toehold-test").unwrap();
    let plan = Plan::new(&mut support::keys::rng(), home, holder).unwrap();
    replace(session.files(), &plan, |_, document| {
        let _ = document.add(&line);
        Ok(())
    })
    .await
}

async fn remove(session: &mut RusshSession, home: &str, key: &PublicKey) -> Result<Replaced, ReplaceError> {
    let plan = Plan::new(&mut support::keys::rng(), home, "remove").unwrap();
    replace(session.files(), &plan, |_, document| {
        document.remove(key);
        Ok(())
    })
    .await
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn foreign_bytes_and_modes_stay_as_they_are() {
    let host = RealSshd::builder().own_home().start();
    let (login, added) = (key("ed25519"), key("ed25519"));
    let before = [login.line().as_bytes(), FOREIGN].concat();
    let home = host.home();
    for (home, mode) in [(".", 0o600), (home.to_str().unwrap(), 0o644)] {
        host.authorize(&before);
        fs::set_permissions(host.authorized_keys(), fs::Permissions::from_mode(mode)).unwrap();
        let mut session = log_in(&host.route(), &login, &host.pin()).await;
        assert!(add(&mut session, home, "one", &added.public_key).await.unwrap().changed());
        assert!(!add(&mut session, home, "one", &added.public_key).await.unwrap().changed(), "twice changes nothing");
        let after = fs::read(host.authorized_keys()).unwrap();
        assert!(after.starts_with(&before) && after.len() > before.len());
        assert_eq!(fs::metadata(host.authorized_keys()).unwrap().permissions().mode() & 0o7777, mode);
        let mut session_of_added = log_in(&host.route(), &added, &host.pin()).await;
        assert!(remove(&mut session_of_added, home, &added.public_key).await.unwrap().changed());
        let back = fs::read(host.authorized_keys()).unwrap();
        // The newline that the foreign last line lacked is ours to keep, not a byte more.
        assert!(back == before || back == [before.as_slice(), b"\n"].concat(), "{}", String::from_utf8_lossy(&back));
        assert_eq!(names(&host.home().join(".ssh")), ["authorized_keys"]);
        session.close().await;
        session_of_added.close().await;
        assert!(!RusshConnector::default().would_accept(&host.route(), &added.public_key, &host.pin()).await.unwrap().accepted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_once_lose_nothing() {
    const WRITERS: usize = 6;
    let host = RealSshd::builder().own_home().start();
    let login = key("ed25519");
    let before = [login.line().as_bytes(), FOREIGN].concat();
    host.authorize(&before);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..WRITERS {
        let mut session = log_in(&host.route(), &login, &host.pin()).await;
        writers.spawn(async move {
            let added = key("ed25519");
            loop {
                match add(&mut session, ".", &format!("writer-{number}"), &added.public_key).await {
                    Ok(_) => break,
                    Err(ReplaceError::Locked { .. } | ReplaceError::KeepsChanging { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error:?}"),
                }
            }
            session.close().await;
            added
        });
    }
    let added = writers.join_all().await;
    let after = fs::read(host.authorized_keys()).unwrap();
    assert!(after.starts_with(&before));
    for key in &added {
        log_in(&host.route(), key, &host.pin()).await.close().await;
    }
    assert_eq!(String::from_utf8_lossy(&after).matches("toehold-test").count(), WRITERS);
    assert_eq!(names(&host.home().join(".ssh")), ["authorized_keys"]);
}

/// The staged file does not fit: the old one stays, byte for byte, and nothing is left behind.
#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let host = RealSshd::builder().small_disk("128k").start();
    let login = key("ed25519");
    host.authorize(login.line());
    let home = host.home().join("small");
    let ssh = host.seen_by_server(&home).join(".ssh");
    fs::DirBuilder::new().mode(0o700).create(&ssh).unwrap();
    let before = [login.line().into_bytes(), b"# padding\n".repeat(8_000)].concat();
    write_private(&ssh.join("authorized_keys"), &before);
    let mut session = log_in(&host.route(), &login, &host.pin()).await;
    let error = add(&mut session, home.to_str().unwrap(), "one", &key("ed25519").public_key).await.unwrap_err();
    assert!(matches!(error, ReplaceError::File { .. }), "{error:?}");
    assert!(fs::read(ssh.join("authorized_keys")).unwrap() == before);
    assert_eq!(names(&ssh), ["authorized_keys"]);
}

#[tokio::test]
async fn a_host_without_the_extension_is_left_alone() {
    let host = RealSshd::builder().own_home().subsystem("sftp internal-sftp -P posix-rename").start();
    let login = key("ed25519");
    host.authorize(login.line());
    let mut session = log_in(&host.route(), &login, &host.pin()).await;
    let error = add(&mut session, ".", "one", &key("ed25519").public_key).await.unwrap_err();
    assert!(matches!(error, ReplaceError::NoAtomicRename { .. }), "{error:?}");
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), login.line().as_bytes());
    assert_eq!(names(&host.home().join(".ssh")), ["authorized_keys"]);
}

#[tokio::test]
async fn links_and_giants_are_refused() {
    let host = RealSshd::builder().own_home().start();
    let login = key("ed25519");
    host.authorize(login.line());
    let mut session = log_in(&host.route(), &login, &host.pin()).await;
    let (file, other) = (host.authorized_keys(), host.home().join(".ssh/elsewhere"));
    fs::rename(&file, &other).unwrap();
    symlink("elsewhere", &file).unwrap();
    let error = add(&mut session, ".", "one", &key("ed25519").public_key).await.unwrap_err();
    assert!(matches!(error, ReplaceError::WrongKind { .. }), "{error:?}");
    assert_eq!(fs::read_link(&file).unwrap(), Path::new("elsewhere"));
    fs::remove_file(&file).unwrap();
    fs::rename(&other, &file).unwrap();

    fs::File::options().write(true).open(&file).unwrap().set_len(MAX_AUTHORIZED_KEYS + 1).unwrap();
    let error = add(&mut session, ".", "one", &key("ed25519").public_key).await.unwrap_err();
    assert!(matches!(error, ReplaceError::File { .. }), "{error:?}");
    assert_eq!(fs::metadata(&file).unwrap().len(), MAX_AUTHORIZED_KEYS + 1);
    assert_eq!(names(&host.home().join(".ssh")), ["authorized_keys"]);
}

#[tokio::test]
async fn dropbear_is_no_different() {
    let host = RealDropbear::start();
    let (login, added) = (key("ed25519"), key("ed25519"));
    host.authorize(login.line());
    let mut session = log_in(&host.route(), &login, &host.pin()).await;
    assert!(add(&mut session, ".", "one", &added.public_key).await.unwrap().changed());
    log_in(&host.route(), &added, &host.pin()).await.close().await;
    assert!(remove(&mut session, ".", &added.public_key).await.unwrap().changed());
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), login.line().as_bytes());
    assert_eq!(names(&host.home().join(".ssh")), ["authorized_keys"]);
}
