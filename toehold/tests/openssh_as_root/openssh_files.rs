//! Files of a real host over SFTP: every operation and every refusal.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::{Key, RealSshd, key};
use toehold::adapters::russh_connector::{RusshConnector, RusshSession};
use toehold_core::{Connector as _, FileError, FileKind, HostFiles as _, HostSession as _, Login};

struct Fixture {
    host: RealSshd,
    key: Key,
    session: RusshSession,
}

impl Fixture {
    async fn new() -> Self {
        Self::on(RealSshd::start()).await
    }

    async fn on(host: RealSshd) -> Self {
        let key = key("ed25519");
        host.authorize(key.line());
        let session = log_in(&host, &key).await;
        Self { host, key, session }
    }

    fn path(&self, name: &str) -> (PathBuf, String) {
        let path = self.host.home().join(name);
        let text = path.to_str().unwrap().to_owned();
        (path, text)
    }
}

async fn log_in(host: &RealSshd, key: &Key) -> RusshSession {
    let (route, host_key) = (host.route(), host.pin());
    let login = Login { route: &route, identity: &key.identity, host_key: &host_key, query: None };
    RusshConnector::default().log_in(&login).await.unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Bytes that repeat nowhere, so that a chunk at a wrong place is seen.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

#[tokio::test]
async fn what_a_host_can_do_is_known_from_its_greeting() {
    let mut fixture = Fixture::new().await;
    let capabilities = fixture.session.files().capabilities();
    assert!(capabilities.atomic_rename && capabilities.sync);
}

#[tokio::test]
async fn files_of_all_sizes_come_back_as_they_were() {
    let mut fixture = Fixture::new().await;
    // Around the size of one request, and with many requests on their way.
    for length in [0, 1, 300, 32_767, 32_768, 32_769, 65_536, 600_000, 10_000_000] {
        let (path, text) = fixture.path(&format!("file-{length}"));
        let content = noise(length);
        let files = fixture.session.files();
        files.stage(&text, &content, 0o600).await.unwrap();
        assert!(fs::read(&path).unwrap() == content, "{length} bytes were written as something else");
        assert!(files.read(&text, length as u64).await.unwrap() == content, "{length} bytes were read as something else");
        let stat = files.stat(&text).await.unwrap().unwrap();
        assert_eq!((stat.kind, stat.size, stat.mode), (FileKind::Regular, length as u64, 0o600));
        assert_eq!(stat.uid, Some(fs::metadata(&path).unwrap().uid()));
        assert_eq!(stat.modified, fs::metadata(&path).unwrap().mtime());
        if length > 0 {
            let error = files.read(&text, length as u64 - 1).await.unwrap_err();
            assert!(matches!(error, FileError::TooLarge { limit, .. } if limit == length as u64 - 1), "{error:?}");
        }
    }
}

/// Files of `/proc` say that they are empty, and are not.
#[tokio::test]
async fn the_limit_holds_where_the_size_is_a_lie() {
    let mut fixture = Fixture::new().await;
    let files = fixture.session.files();
    let whole = files.read("/proc/cpuinfo", 1 << 20).await.unwrap();
    assert!(whole.len() > 100);
    let error = files.read("/proc/cpuinfo", 100).await.unwrap_err();
    assert!(matches!(error, FileError::TooLarge { limit: 100, .. }), "{error:?}");
    let error = files.read("/dev/zero", 1_000_000).await.unwrap_err();
    assert!(matches!(error, FileError::TooLarge { limit: 1_000_000, .. }), "{error:?}");
    assert!(files.read("/proc/cpuinfo", u64::MAX).await.unwrap().len() > 100);
}

#[tokio::test]
async fn modes_are_exact_whatever_the_umask() {
    let mut fixture = Fixture::on(RealSshd::builder().subsystem("sftp internal-sftp -u 0077").start()).await;
    for wanted in [0o600, 0o640, 0o644, 0o400, 0o755, 0o777] {
        let (path, text) = fixture.path(&format!("mode-{wanted:o}"));
        fixture.session.files().stage(&text, b"x", wanted).await.unwrap();
        assert_eq!(mode(&path), wanted);
        assert_eq!(fixture.session.files().stat(&text).await.unwrap().unwrap().mode, wanted);
    }
}

#[tokio::test]
async fn nothing_is_overwritten_by_staging() {
    let mut fixture = Fixture::new().await;
    let (path, text) = fixture.path("there");
    fs::write(&path, "old").unwrap();
    let (link, link_text) = fixture.path("link");
    symlink("/nowhere/at/all", &link).unwrap();
    let (directory, directory_text) = fixture.path("directory");
    fs::create_dir(&directory).unwrap();
    for taken in [&text, &link_text, &directory_text] {
        let error = fixture.session.files().stage(taken, b"new", 0o600).await.unwrap_err();
        assert!(matches!(&error, FileError::AlreadyExists { path } if path == taken), "{error:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let (_, below) = fixture.path("no-such-directory/file");
    let error = fixture.session.files().stage(&below, b"new", 0o600).await.unwrap_err();
    assert!(matches!(&error, FileError::NotFound { path } if *path == below), "{error:?}");
}

#[tokio::test]
async fn a_rename_replaces_its_target() {
    let mut fixture = Fixture::new().await;
    let ((from, from_text), (to, to_text)) = (fixture.path("from"), fixture.path("to"));
    fs::write(&from, "new").unwrap();
    fs::write(&to, "old").unwrap();
    fixture.session.files().rename(&from_text, &to_text).await.unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"new");
    assert!(!from.exists());
    let error = fixture.session.files().rename(&from_text, &to_text).await.unwrap_err();
    assert!(matches!(&error, FileError::NotFound { path } if *path == from_text), "{error:?}");
    assert_eq!(fs::read(&to).unwrap(), b"new");
}

#[tokio::test]
async fn contents_and_directories_are_synced() {
    let mut fixture = Fixture::new().await;
    let (path, text) = fixture.path("durable");
    fs::write(&path, "x").unwrap();
    fixture.session.files().sync(&text).await.unwrap();
    let home = fixture.host.home();
    fixture.session.files().sync(home.to_str().unwrap()).await.unwrap();
    let (_, absent) = fixture.path("absent");
    let error = fixture.session.files().sync(&absent).await.unwrap_err();
    assert!(matches!(error, FileError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn things_are_removed_and_listed() {
    let mut fixture = Fixture::new().await;
    let (directory, text) = fixture.path("directory");
    fs::create_dir(&directory).unwrap();
    for number in 0..300 {
        fs::write(directory.join(format!("file-{number}")), "").unwrap();
    }
    fs::write(directory.join("with blanks, \u{fc}mlauts and \"quotes\""), "").unwrap();
    let files = fixture.session.files();
    let names = files.list(&text).await.unwrap();
    assert_eq!(names.len(), 301);
    assert!(names.contains(&"with blanks, \u{fc}mlauts and \"quotes\"".to_owned()) && !names.iter().any(|name| name == "."));
    let error = files.remove_directory(&text).await.unwrap_err();
    assert!(matches!(error, FileError::Failed { .. }), "{error:?}");
    for name in names {
        files.remove(&format!("{text}/{name}")).await.unwrap();
    }
    assert_eq!(files.list(&text).await.unwrap(), [""; 0]);
    files.remove_directory(&text).await.unwrap();
    assert!(!directory.exists());
    for error in [
        files.remove(&text).await.unwrap_err(),
        files.remove_directory(&text).await.unwrap_err(),
        files.list(&text).await.unwrap_err(),
        files.read(&text, 10).await.unwrap_err(),
    ] {
        assert!(matches!(&error, FileError::NotFound { path } if *path == text), "{error:?}");
    }
    assert_eq!(files.stat(&text).await.unwrap(), None);
}

#[tokio::test]
async fn links_are_seen_and_not_followed_by_a_look() {
    let mut fixture = Fixture::new().await;
    let ((path, _), (link, link_text)) = (fixture.path("target"), fixture.path("link"));
    fs::write(&path, "content").unwrap();
    symlink(&path, &link).unwrap();
    let files = fixture.session.files();
    assert_eq!(files.stat(&link_text).await.unwrap().unwrap().kind, FileKind::Link);
    assert_eq!(files.read(&link_text, 100).await.unwrap(), b"content");
    assert_eq!(files.stat("/").await.unwrap().unwrap().kind, FileKind::Directory);
    assert_eq!(files.stat("/dev/null").await.unwrap().unwrap().kind, FileKind::Other);
    assert_eq!(files.real_path(&link_text).await.unwrap(), path.to_str().unwrap());
    assert_eq!(files.real_path("/usr/../etc/.").await.unwrap(), "/etc");
}

#[tokio::test]
async fn an_account_without_the_right_is_told_so() {
    // As root nothing is denied, so the server lets nobody write.
    let mut fixture = Fixture::on(RealSshd::builder().subsystem("sftp internal-sftp -R").start()).await;
    let ((path, text), (_, new)) = (fixture.path("file"), fixture.path("new"));
    fs::write(&path, "content").unwrap();
    let files = fixture.session.files();
    assert_eq!(files.read(&text, 100).await.unwrap(), b"content");
    for (doing, error) in
        [("creating", files.stage(&new, b"x", 0o600).await.unwrap_err()), ("removing", files.remove(&text).await.unwrap_err())]
    {
        assert!(matches!(error, FileError::Denied { doing: what, .. } if what == doing), "{error:?}");
    }
    // Nor does that server offer what changes something.
    assert!(!files.capabilities().atomic_rename);
    let error = files.rename(&text, &new).await.unwrap_err();
    assert!(matches!(error, FileError::Unsupported { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), b"content");
}

#[tokio::test]
async fn a_full_disk_is_reported() {
    let mut fixture = Fixture::on(RealSshd::builder().small_disk("64k").start()).await;
    let (_, text) = fixture.path("small/file");
    let files = fixture.session.files();
    let error = files.stage(&text, &noise(1_000_000), 0o600).await.unwrap_err();
    assert!(matches!(&error, FileError::Failed { doing: "creating", path, .. } if *path == text), "{error:?}");
    // A part of it is there, and the session goes on.
    files.remove(&text).await.unwrap();
    files.stage(&text, &noise(10_000), 0o600).await.unwrap();
}

#[tokio::test]
async fn sftp_starts_in_the_home() {
    let mut fixture = Fixture::on(RealSshd::builder().own_home().start()).await;
    let home = fixture.host.home();
    assert_eq!(fixture.session.files().real_path(".").await.unwrap(), home.to_str().unwrap());
    let content = fixture.session.files().read(".ssh/authorized_keys", 1000).await.unwrap();
    assert_eq!(content, fixture.key.line().as_bytes());
}

/// OpenSSH's server ends the session over a NUL in a path; ours never gets there.
#[tokio::test]
async fn a_path_with_a_nul_is_refused_here() {
    let mut fixture = Fixture::new().await;
    let files = fixture.session.files();
    let error = files.read("/etc/pass\0wd", 100).await.unwrap_err();
    assert!(matches!(error, FileError::Failed { .. }), "{error:?}");
    let error = files.rename("/nowhere", "/no\0where").await.unwrap_err();
    assert!(matches!(error, FileError::Failed { .. }), "{error:?}");
    assert!(files.stat("/").await.unwrap().is_some(), "the session goes on");
}

#[tokio::test]
async fn a_directory_is_no_content() {
    let mut fixture = Fixture::new().await;
    let error = fixture.session.files().read("/etc", 1000).await.unwrap_err();
    assert!(matches!(error, FileError::Failed { .. }), "{error:?}");
}

/// What a killed server did with the last request is unknown, and nothing more is asked of it.
#[tokio::test]
async fn a_killed_server_is_lost() {
    let mut fixture = Fixture::new().await;
    let (_, text) = fixture.path("file");
    drop(fixture.host);
    for _ in 0..2 {
        let error = fixture.session.files().stage(&text, b"x", 0o600).await.unwrap_err();
        assert!(error.is_lost(), "{error:?}");
    }
    fixture.session.close().await;
    drop(fixture.key);
}
