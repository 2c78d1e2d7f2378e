//! The SSH host inside the process: who may log in, what it serves, and how it misbehaves when told to.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support;
use crate::support::server::{directory, write_private};
use crate::support::{Key, key};
use toehold::adapters::local_host::{Fault, LocalHost, LocalHostBuilder};
use toehold::adapters::russh_connector::{Limits, RusshConnector, RusshSession};
use toehold_core::{ConnectError, Connector as _, FileError, FileKind, HostFiles as _, HostKeyPolicy, HostSession as _, Login};
use toehold_keygen::authorized_keys::{Line, Options};
use toehold_keygen::replacement::{Plan, ReplaceError, STALE_NAMELESS_LOCK, replace};

const LOCK: &str = ".ssh/authorized_keys.toehold-lock";

struct Fixture {
    host: LocalHost,
    key: Key,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(options: impl FnOnce(LocalHostBuilder) -> LocalHostBuilder) -> Self {
        let directory = directory("local");
        let host = options(LocalHost::builder(directory.path(), "deploy")).start().await.unwrap();
        let key = key("ed25519");
        write_private(&host.authorized_keys_file(), key.line());
        Self { host, key, _directory: directory }
    }

    fn authorize(&self, lines: impl AsRef<[u8]>) {
        write_private(&self.host.authorized_keys_file(), lines);
    }

    async fn try_log_in(&self, key: &Key) -> Result<RusshSession, ConnectError> {
        self.try_log_in_with(&RusshConnector::default(), key).await
    }

    async fn try_log_in_with(&self, connector: &RusshConnector, key: &Key) -> Result<RusshSession, ConnectError> {
        let host_key = HostKeyPolicy::Exactly(self.host.host_key().clone());
        let login = Login { route: &self.host.route(), identity: &key.identity, host_key: &host_key, query: None };
        connector.log_in(&login).await
    }

    async fn log_in(&self) -> RusshSession {
        self.try_log_in(&self.key).await.unwrap()
    }

    async fn accepts(&self, key: &Key) -> bool {
        let policy = HostKeyPolicy::CallerDecides;
        let answer = RusshConnector::default().would_accept(&self.host.route(), &key.public_key, &policy).await.unwrap();
        assert_eq!(&answer.host_key, self.host.host_key());
        // A question and a login never differ.
        match self.try_log_in(key).await {
            Ok(_) | Err(ConnectError::NoSftp { .. }) => assert!(answer.accepted),
            Err(ConnectError::KeyRefused { .. }) => assert!(!answer.accepted),
            Err(error) => panic!("{error:?}"),
        }
        answer.accepted
    }
}

/// Waits for nothing long: only for what is going to hang.
fn quick() -> RusshConnector {
    let limit = Duration::from_secs(2);
    RusshConnector::new(Limits { connect: limit, login: limit, request: limit, ..Limits::default() })
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_file_decides_at_every_attempt() {
    let fixture = Fixture::new().await;
    let (line, public_key) = (fixture.key.line(), &fixture.key.public_key);
    assert!(fixture.accepts(&fixture.key).await);
    for (content, accepted) in [
        (String::new(), false),
        (format!("# comment\n\nrestrict {line}"), true),
        (format!("restrict,command=\"internal-sftp\",expiry-time=\"20990101Z\" {line}"), true),
        (format!("restrict,expiry-time=\"20200101Z\" {line}"), false),
        (format!("expiry-time=\"garbage\" {line}"), false),
        (format!("no-such-option {line}"), false),
        (format!("from=\"192.0.2.1\" {line}"), false),
        (format!("from=\"127.0.0.0/8\" {line}"), true),
        (format!("expiry-time=\"20200101Z\" {line}{line}"), true),
        (format!("cert-authority {line}"), false),
        (format!("ssh-ed25519 AAAA not {public_key}\n"), false),
        (format!("{public_key}"), true),
    ] {
        fixture.authorize(&content);
        assert_eq!(fixture.accepts(&fixture.key).await, accepted, "{content}");
    }
    fs::remove_file(fixture.host.authorized_keys_file()).unwrap();
    assert!(!fixture.accepts(&fixture.key).await);
    fs::write(fixture.host.home().join(".ssh/authorized_keys2"), line).unwrap();
    assert!(fixture.accepts(&fixture.key).await);
}

#[tokio::test]
async fn every_key_type_of_ours_logs_in() {
    let fixture = Fixture::new().await;
    for algorithm in ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048"] {
        let key = key(algorithm);
        fixture.authorize(key.line());
        fixture.try_log_in(&key).await.unwrap().close().await;
    }
}

#[tokio::test]
async fn only_the_one_account_is_there() {
    let fixture = Fixture::new().await;
    let mut route = fixture.host.route();
    route.account = toehold_core::Account::new("root", "127.0.0.1", route.account.port()).unwrap();
    let login = Login { route: &route, identity: &fixture.key.identity, host_key: &HostKeyPolicy::CallerDecides, query: None };
    assert!(matches!(RusshConnector::default().log_in(&login).await.unwrap_err(), ConnectError::KeyRefused { .. }));
}

#[tokio::test]
async fn a_command_that_serves_no_files_leaves_no_sftp() {
    let fixture = Fixture::new().await;
    fixture.authorize(fixture.key.line_with("command=\"/usr/lib/openssh/sftp-server\""));
    fixture.log_in().await.close().await;
    fixture.authorize(fixture.key.line_with("command=\"/bin/sh\""));
    let error = fixture.try_log_in(&fixture.key).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoSftp { .. }), "{error:?}");
}

#[tokio::test]
async fn files_are_the_real_ones() {
    let fixture = Fixture::new().await;
    let home = fixture.host.home().to_owned();
    let mut session = fixture.log_in().await;
    let files = session.files();
    assert!(files.capabilities().atomic_rename && files.capabilities().sync);
    assert_eq!(files.real_path(".").await.unwrap(), text(&home));
    let (one, two) = (text(&home.join("one")), text(&home.join("two")));
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    files.stage(&one, &content, 0o640).await.unwrap();
    assert!(fs::read(&one).unwrap() == content);
    assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(files.read("one", 2_000_000).await.unwrap() == content, "relative paths begin at the home");
    assert!(matches!(files.read(&one, 1_199_999).await.unwrap_err(), FileError::TooLarge { limit: 1_199_999, .. }));
    assert!(matches!(files.stage(&one, b"x", 0o600).await.unwrap_err(), FileError::AlreadyExists { .. }));
    files.sync(&one).await.unwrap();
    files.sync(&text(&home)).await.unwrap();
    fs::write(&two, "old").unwrap();
    files.rename(&one, &two).await.unwrap();
    assert!(fs::read(&two).unwrap() == content);
    let stat = files.stat(&two).await.unwrap().unwrap();
    assert_eq!((stat.kind, stat.size, stat.mode), (FileKind::Regular, content.len() as u64, 0o640));
    assert_eq!(files.stat(&one).await.unwrap(), None);
    let mut names = files.list(&text(&home)).await.unwrap();
    names.sort();
    assert_eq!(names, [".ssh", "two"]);
    files.remove(&two).await.unwrap();
    assert!(matches!(files.remove(&two).await.unwrap_err(), FileError::NotFound { .. }));
    fs::create_dir(home.join("empty")).unwrap();
    files.remove_directory(&text(&home.join("empty"))).await.unwrap();
    assert!(!home.join("empty").exists());
    session.close().await;
}

#[tokio::test]
async fn a_long_directory_is_told_in_parts() {
    let fixture = Fixture::new().await;
    for number in 0..1000 {
        fs::write(fixture.host.home().join(format!("file-{number}")), "").unwrap();
    }
    assert_eq!(fixture.log_in().await.files().list(".").await.unwrap().len(), 1001);
}

#[tokio::test]
async fn nothing_outside_of_the_home_is_reached() {
    for chroot in [false, true] {
        let fixture = Fixture::with(|builder| builder.chroot(chroot)).await;
        let home = fixture.host.home().to_owned();
        let outside = home.parent().unwrap().join("outside");
        fs::write(&outside, "secret").unwrap();
        symlink(&outside, home.join("link")).unwrap();
        symlink("/", home.join("up")).unwrap();
        let mut session = fixture.log_in().await;
        let files = session.files();
        for path in [text(&outside), "../outside".into(), "link".into(), format!("up{}", outside.display()), "/etc/passwd".into()]
        {
            let error = files.read(&path, 1000).await.unwrap_err();
            assert!(matches!(error, FileError::Denied { .. } | FileError::NotFound { .. }), "{path}: {error:?}");
        }
        let error = files.rename("link", "../moved").await.map(drop);
        assert!(!home.parent().unwrap().join("moved").exists(), "{error:?}");
        assert_eq!(files.stat("up").await.unwrap().map(|stat| stat.kind), Some(FileKind::Link));
        assert_eq!(fs::read(&outside).unwrap(), b"secret");
    }
}

#[tokio::test]
async fn a_chroot_calls_the_home_its_root() {
    let fixture = Fixture::with(|builder| builder.chroot(true)).await;
    let mut session = fixture.log_in().await;
    let files = session.files();
    assert_eq!(files.real_path(".").await.unwrap(), "/");
    assert_eq!(files.real_path("/../.ssh/../.ssh").await.unwrap(), "/.ssh");
    assert_eq!(files.read("/.ssh/authorized_keys", 1000).await.unwrap(), fixture.key.line().as_bytes());
}

#[tokio::test]
async fn extensions_can_be_left_out() {
    let fixture = Fixture::with(|builder| builder.posix_rename(false).fsync(false)).await;
    fs::write(fixture.host.home().join("from"), "x").unwrap();
    let mut session = fixture.log_in().await;
    let files = session.files();
    assert!(!files.capabilities().atomic_rename && !files.capabilities().sync);
    assert!(matches!(files.rename("from", "to").await.unwrap_err(), FileError::Unsupported { .. }));
    assert!(matches!(files.sync("from").await.unwrap_err(), FileError::Unsupported { .. }));
    let before = fs::read(fixture.host.authorized_keys_file()).unwrap();
    add_a_line(&mut session, "refused").await.unwrap_err();
    assert_eq!(fs::read(fixture.host.authorized_keys_file()).unwrap(), before);
    assert_eq!(files_in(&fixture), ["authorized_keys"]);
}

fn files_in(fixture: &Fixture) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(fixture.host.home().join(".ssh"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

async fn add_a_line(session: &mut RusshSession, holder: &str) -> Result<Key, ReplaceError> {
    let key = key("ed25519");
    let line = Line::new(Options::new().restrict(), key.public_key.clone(), "toehold-test").unwrap();
    let plan = Plan::new(&mut support::keys::rng(), ".", holder).unwrap();
    replace(session.files(), &plan, |_, document| {
        let _ = document.add(&line);
        Ok(())
    })
    .await
    .map(|_| key)
}

#[tokio::test]
async fn a_line_that_is_added_logs_in() {
    let fixture = Fixture::new().await;
    let mut session = fixture.log_in().await;
    let added = add_a_line(&mut session, "one").await.unwrap();
    session.close().await;
    assert!(fixture.accepts(&added).await && fixture.accepts(&fixture.key).await);
    assert_eq!(files_in(&fixture), ["authorized_keys"]);
}

/// At whatever request the host dies, before it or after it: the file is the old one or the new one, and the same holder
/// gets through afterwards.
#[tokio::test]
async fn a_replacement_survives_every_break() {
    let fixture = Fixture::new().await;
    let old = fs::read(fixture.host.authorized_keys_file()).unwrap();
    let mut session = fixture.log_in().await;
    fixture.host.set_fault(None);
    add_a_line(&mut session, "whole").await.unwrap();
    let requests = fixture.host.requests();
    assert!(requests > 15, "{requests}");
    session.close().await;
    let mut replaced = 0;
    for request in 0..requests {
        for fault in [Fault::DropBeforeRequest(request), Fault::DropAfterRequest(request)] {
            fixture.authorize(&old);
            let mut session = fixture.log_in().await;
            fixture.host.set_fault(Some(fault));
            let broken = add_a_line(&mut session, "same").await;
            fixture.host.set_fault(None);
            session.close().await;
            let found = fs::read(fixture.host.authorized_keys_file()).unwrap();
            assert!(found.starts_with(&old), "{fault:?}: {}", String::from_utf8_lossy(&found));
            // Only a break after the deed may pass for a success: the lock stays behind, for the same holder to clear away.
            assert!(broken.is_err() || found != old, "{fault:?} was not noticed");
            if found != old {
                assert!(found.ends_with(b" toehold-test\n"), "{fault:?}: {}", String::from_utf8_lossy(&found));
                replaced += 1;
            }
            let mut session = fixture.log_in().await;
            let mut added = add_a_line(&mut session, "same").await;
            if matches!(added, Err(ReplaceError::Locked { .. })) {
                // The lock was made and its content never written: it is nobody's until it is old.
                let lock = fs::File::options().write(true).open(fixture.host.home().join(LOCK)).unwrap();
                assert_eq!(lock.metadata().unwrap().len(), 0, "{fault:?}");
                lock.set_modified(SystemTime::now() - Duration::from_secs(STALE_NAMELESS_LOCK + 5)).unwrap();
                added = add_a_line(&mut session, "same").await;
            }
            let added = added.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            session.close().await;
            assert_eq!(files_in(&fixture), ["authorized_keys"], "{fault:?}");
            assert!(fixture.accepts(&added).await);
        }
    }
    assert!(replaced > 0, "no break came after the rename");
}

#[tokio::test]
async fn every_hang_ends_in_time_and_says_where() {
    let fixture = Fixture::new().await;
    for (fault, doing) in [
        (Fault::HangAtGreeting, "exchanging keys"),
        (Fault::HangAfterKeyExchange, "logging in"),
        (Fault::HangInLogin, "logging in"),
        (Fault::HangAtSftpStart, "starting SFTP"),
    ] {
        fixture.host.set_fault(Some(fault));
        let error = fixture.try_log_in_with(&quick(), &fixture.key).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { doing: what, .. } if what == doing), "{fault:?}: {error:?}");
    }
    // The login is not to hang, so its limit is the usual one.
    let connector = RusshConnector::new(Limits { request: Duration::from_secs(1), ..Limits::default() });
    for request in 0..3 {
        fixture.host.set_fault(None);
        let mut session = fixture.try_log_in_with(&connector, &fixture.key).await.unwrap();
        fixture.host.set_fault(Some(Fault::HangAtRequest(request)));
        let error = session.files().read(".ssh/authorized_keys", 1000).await.unwrap_err();
        assert!(error.is_lost(), "{error:?}");
        session.close().await;
    }
}

#[tokio::test]
async fn another_host_key_is_refused() {
    let fixture = Fixture::new().await;
    fixture.host.show_another_host_key(true);
    let error = fixture.try_log_in(&fixture.key).await.unwrap_err();
    assert!(matches!(error, ConnectError::HostKeyRefused { .. }), "{error:?}");
    let route = fixture.host.route();
    let answer =
        RusshConnector::default().would_accept(&route, &fixture.key.public_key, &HostKeyPolicy::CallerDecides).await.unwrap();
    assert_ne!(&answer.host_key, fixture.host.host_key());
    fixture.host.show_another_host_key(false);
    fixture.log_in().await.close().await;
}

#[tokio::test]
async fn its_host_key_lasts_and_its_port_does_not() {
    let directory = directory("local");
    let first = LocalHost::builder(directory.path(), "deploy").start().await.unwrap();
    let (key, port) = (first.host_key().clone(), first.account().port());
    let written: toehold_core::PublicKey = fs::read_to_string(first.host_key_file()).unwrap().parse().unwrap();
    assert_eq!(written, key);
    let private = directory.path().join("ssh_host_ed25519_key");
    assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(first.home().join(".ssh")).unwrap().permissions().mode() & 0o7777, 0o700);
    first.stop().await;
    let error = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let second = LocalHost::builder(directory.path(), "deploy").start().await.unwrap();
    assert_eq!(second.host_key(), &key);
}

#[tokio::test]
async fn stopping_cuts_what_is_open() {
    let fixture = Fixture::new().await;
    let mut session = fixture.log_in().await;
    fixture.host.stop().await;
    assert!(session.files().stat(".").await.unwrap_err().is_lost());
}

/// OpenSSH's own clients understand it: files go both ways, and commands are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_clients_work_with_it() {
    let fixture = Fixture::new().await;
    let scratch = directory("client");
    let identity = scratch.path().join("id");
    let toehold_core::Identity::PrivateKey { openssh, .. } = &fixture.key.identity else { panic!("another identity") };
    write_private(&identity, openssh.expose());
    let known_hosts = scratch.path().join("known_hosts");
    let port = fixture.host.account().port();
    fs::write(&known_hosts, format!("[127.0.0.1]:{port} {}\n", fixture.host.host_key())).unwrap();
    let options = |command: &mut Command| {
        command.args(["-F", "none", "-oBatchMode=yes", "-oIdentitiesOnly=yes", "-oStrictHostKeyChecking=yes"]);
        command.arg(format!("-oPort={port}")).arg(format!("-oUserKnownHostsFile={}", known_hosts.display()));
        command.arg(format!("-oIdentityFile={}", identity.display()));
    };
    let content: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
    fs::write(scratch.path().join("large"), &content).unwrap();
    let batch = scratch.path().join("batch");
    fs::write(
        &batch,
        format!(
            "put {0}/large\nget large {0}/back\nmkdir new\nrename large new/moved\nchmod 600 new/moved\nls -la new\nget -p new/moved {0}/again\nrm new/moved\nrmdir new\npwd\n",
            scratch.path().display()
        ),
    )
    .unwrap();
    let mut sftp = Command::new("sftp");
    options(&mut sftp);
    sftp.arg("-b").arg(&batch).arg("deploy@127.0.0.1").stdin(Stdio::null());
    let output =
        tokio::task::spawn_blocking(move || sftp.output().expect("sftp runs (apt-get install openssh-client)")).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&format!("Remote working directory: {}", fixture.host.home().display())), "{told}");
    assert!(
        fs::read(scratch.path().join("back")).unwrap() == content && fs::read(scratch.path().join("again")).unwrap() == content
    );
    assert_eq!(fs::metadata(scratch.path().join("again")).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fixture.host.home().join("new").exists());

    let mut ssh = Command::new("ssh");
    options(&mut ssh);
    ssh.args(["deploy@127.0.0.1", "true"]).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || ssh.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(255), "{}", String::from_utf8_lossy(&output.stderr));
}
