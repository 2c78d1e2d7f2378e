//! Logging in to simulated hosts, and their files.

use std::time::Duration;

use toehold_core::testing::{
    ManualClock, SimulatedFleet, SimulatedSession, block_on, sample_identity as identity, sample_public_key,
};
use toehold_core::{
    Account, Clock as _, ConnectError, Connector as _, FileError, FileKind, HostFiles as _, HostKeyPolicy, HostSession as _,
    Login, PublicKey, Route,
};

fn account(text: &str) -> Account {
    text.parse().unwrap()
}

fn web() -> Account {
    account("deploy@web1")
}

fn key() -> PublicKey {
    sample_public_key("ssh-ed25519", "mine")
}

/// A fleet with one host that lets [`key`] in.
fn fleet() -> SimulatedFleet {
    let fleet = SimulatedFleet::new(ManualClock::default());
    fleet.add_host(&web());
    fleet.append_line(&web(), key().to_string());
    fleet
}

fn log_in_by(fleet: &SimulatedFleet, route: &Route, policy: &HostKeyPolicy) -> Result<SimulatedSession, ConnectError> {
    block_on(fleet.log_in(&Login { route, identity: &identity(&key()), host_key: policy, query: None }))
}

fn log_in(fleet: &SimulatedFleet, to: &Account) -> Result<SimulatedSession, ConnectError> {
    log_in_by(fleet, &Route::direct(to.clone()), &HostKeyPolicy::CallerDecides)
}

#[test]
fn logins_go_by_the_bytes_of_the_file_at_that_moment() {
    let fleet = fleet();
    assert_eq!(fleet.authorized_keys(&web()), format!("{}\n", key()).into_bytes());
    let mut session = log_in(&fleet, &web()).unwrap();
    assert_eq!(fleet.logins(&web()), [(key(), ManualClock::default().now())]);
    fleet.set_authorized_keys(&web(), "");
    assert!(
        matches!(log_in(&fleet, &web()), Err(ConnectError::KeyRefused { fingerprint, .. }) if fingerprint == key().fingerprint())
    );
    assert!(!fleet.would_log_in(&web(), &key(), ManualClock::default().now()));
    // A login that is open stays open.
    assert_eq!(block_on(session.files().read(".ssh/authorized_keys", 100)).unwrap(), b"");
    assert_eq!(fleet.logins(&web()).len(), 1);
}

#[test]
fn an_expiry_is_judged_by_the_hosts_own_clock() {
    let clock = ManualClock::default();
    let fleet = SimulatedFleet::new(clock.clone());
    fleet.add_host(&web());
    fleet.append_line(&web(), format!("restrict,command=\"internal-sftp\",expiry-time=\"20261123013000Z\" {}", key()));
    clock.advance(Duration::from_mins(30));
    assert!(log_in(&fleet, &web()).is_ok());
    fleet.configure(&web(), |settings| settings.clock_skew = 60);
    assert!(matches!(log_in(&fleet, &web()), Err(ConnectError::KeyRefused { .. })));
    fleet.configure(&web(), |settings| settings.clock_skew = -60);
    clock.advance(Duration::from_mins(1));
    let mut session = log_in(&fleet, &web()).unwrap();
    block_on(session.files().stage("now", b"", 0o600)).unwrap();
    let written = block_on(session.files().stat("now")).unwrap().unwrap().modified;
    assert_eq!(written, clock.now().unix_seconds() - 60, "files are dated by the host's clock");
    clock.advance(Duration::from_secs(1));
    assert!(!fleet.would_log_in(&web(), &key(), clock.now()));
    assert!(fleet.would_log_in(&web(), &key(), clock.now().saturating_sub(Duration::from_secs(1))));
}

#[test]
fn the_unsigned_query_is_answered_as_a_login_would_be() {
    let fleet = fleet();
    let (route, other) = (Route::direct(web()), sample_public_key("ssh-ed25519", "other"));
    let host_key = fleet.host_keys(&web()).remove(0);
    for (asked, accepted) in [(key(), true), (other, false)] {
        let answer = block_on(fleet.would_accept(&route, &asked, &HostKeyPolicy::CallerDecides)).unwrap();
        assert_eq!((answer.accepted, &answer.host_key), (accepted, &host_key));
        let login =
            Login { route: &route, identity: &identity(&key()), host_key: &HostKeyPolicy::CallerDecides, query: Some(&asked) };
        assert_eq!(block_on(fleet.log_in(&login)).unwrap().queried(), Some(accepted));
    }
    assert_eq!(log_in(&fleet, &web()).unwrap().queried(), None);
    assert_eq!(fleet.logins(&web()).len(), 3, "a query is no login");
}

#[test]
fn host_keys_are_checked_before_anything_else() {
    let fleet = fleet();
    let route = Route::direct(web());
    let [ed25519, rsa] = ["ssh-ed25519", "ssh-rsa"].map(|algorithm| sample_public_key(algorithm, "host"));
    let foreign = sample_public_key("ssh-ed25519", "foreign");
    fleet.set_host_keys(&web(), vec![ed25519.clone(), rsa.clone()]);
    for (policy, presented) in [
        (HostKeyPolicy::CallerDecides, Some(&ed25519)),
        (HostKeyPolicy::Exactly(ed25519.clone()), Some(&ed25519)),
        (HostKeyPolicy::Exactly(rsa.clone()), Some(&rsa)),
        (HostKeyPolicy::Exactly(foreign.clone()), None),
        (HostKeyPolicy::Exactly(sample_public_key("ecdsa-sha2-nistp256", "host")), None),
        (HostKeyPolicy::Fingerprint(rsa.fingerprint()), Some(&rsa)),
        (HostKeyPolicy::Fingerprint(foreign.fingerprint()), None),
    ] {
        let session = log_in_by(&fleet, &route, &policy);
        let answer = block_on(fleet.would_accept(&route, &key(), &policy));
        if let Some(host_key) = presented {
            assert_eq!(session.unwrap().host_key(), host_key, "{policy}");
            assert_eq!(&answer.unwrap().host_key, host_key, "{policy}");
        } else {
            assert!(matches!(session, Err(ConnectError::HostKeyRefused { .. })), "{policy}");
            assert!(matches!(answer, Err(ConnectError::HostKeyRefused { .. })), "{policy}");
        }
    }
    let refused = log_in_by(&fleet, &route, &HostKeyPolicy::Exactly(foreign)).unwrap_err().to_string();
    assert!(refused.contains(&ed25519.fingerprint().to_string()), "{refused}");
    assert_eq!(fleet.logins(&web()).len(), 4, "where the host key is refused nobody logs in");
}

#[test]
fn somebody_in_the_middle_has_another_key_and_other_files() {
    let fleet = fleet();
    let attacker = account("deploy@mallory:2222");
    fleet.add_host(&attacker);
    let pinned = HostKeyPolicy::Exactly(fleet.host_keys(&web()).remove(0));
    fleet.write_file(&web(), ".ssh/proof", "real", 0o600);
    fleet.write_file(&attacker, ".ssh/proof", "forged", 0o600);
    fleet.impersonate(&web(), &attacker);

    assert!(matches!(log_in_by(&fleet, &Route::direct(web()), &pinned), Err(ConnectError::HostKeyRefused { .. })));
    let mut session = log_in(&fleet, &web()).unwrap();
    assert_eq!(session.host_key(), &fleet.host_keys(&attacker)[0]);
    assert_eq!(block_on(session.files().read(".ssh/proof", 100)).unwrap(), b"forged");
    block_on(session.files().stage("secret", b"for the real host", 0o600)).unwrap();
    assert!(fleet.file(&web(), "secret").is_none());
    assert_eq!(fleet.file(&attacker, "secret").unwrap().content, b"for the real host");
    assert_eq!((fleet.logins(&web()).len(), fleet.logins(&attacker).len()), (0, 1));

    fleet.stop_impersonating(&web());
    assert!(log_in_by(&fleet, &Route::direct(web()), &pinned).is_ok());
}

#[test]
fn routes_pass_through_hosts_that_are_on() {
    let fleet = fleet();
    let (bastion, inner, alias) = (account("ops@bastion"), account("deploy@10.0.0.7"), account("deploy@[2001:db8::1]"));
    let jumped = Route { account: inner.clone(), jumps: vec![bastion.clone()] };
    assert!(matches!(log_in_by(&fleet, &jumped, &HostKeyPolicy::CallerDecides), Err(ConnectError::Unreachable { .. })));
    fleet.add_host(&bastion);
    fleet.lead(&jumped, &web());
    fleet.lead(&Route::direct(alias.clone()), &web());
    assert!(log_in_by(&fleet, &jumped, &HostKeyPolicy::CallerDecides).is_ok());
    assert!(log_in(&fleet, &alias).is_ok());
    assert!(matches!(log_in(&fleet, &inner), Err(ConnectError::Unreachable { .. })), "the way without the jump leads nowhere");
    fleet.switch_off(&bastion);
    assert!(matches!(log_in_by(&fleet, &jumped, &HostKeyPolicy::CallerDecides), Err(ConnectError::Unreachable { .. })));
    assert_eq!(fleet.logins(&web()).len(), 2);
}

#[test]
fn a_host_that_goes_off_loses_its_connections_and_keeps_its_files() {
    let fleet = fleet();
    let mut session = log_in(&fleet, &web()).unwrap();
    block_on(session.files().stage("a", b"1", 0o600)).unwrap();
    fleet.switch_off(&web());
    assert!(block_on(session.files().read("a", 10)).unwrap_err().is_lost());
    assert!(matches!(log_in(&fleet, &web()), Err(ConnectError::Unreachable { .. })));
    fleet.switch_on(&web());
    assert!(block_on(session.files().read("a", 10)).unwrap_err().is_lost(), "what is lost stays lost");
    let mut session = log_in(&fleet, &web()).unwrap();
    assert_eq!(block_on(session.files().read("a", 10)).unwrap(), b"1");
    block_on(session.close());
}

#[test]
fn sshds_settings_decide_who_gets_in() {
    let refused = |change: &dyn Fn(&SimulatedFleet)| {
        let fleet = fleet();
        change(&fleet);
        matches!(log_in(&fleet, &web()), Err(ConnectError::KeyRefused { .. }))
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|f| f.configure(&web(), |s| s.refused_algorithms.push("ssh-ed25519".to_owned()))));
    assert!(refused(&|f| f.configure(&web(), |s| s.revoked.push(key().fingerprint()))));
    assert!(refused(&|f| f.configure(&web(), |s| s.authorized_keys_files = vec!["/etc/ssh/keys/%u".to_owned()])));
    // StrictModes: the file, its directory, the home; not above the home; nobody else's file.
    for path in [".ssh/authorized_keys", ".ssh", "/home/deploy"] {
        for mode in [0o720, 0o702] {
            assert!(refused(&|f| f.set_mode(&web(), path, mode)), "{path} {mode:o}");
            let forgiving = |f: &SimulatedFleet| {
                f.set_mode(&web(), path, mode);
                f.configure(&web(), |s| s.strict_modes = false);
            };
            assert!(!refused(&forgiving), "{path} {mode:o}");
        }
    }
    assert!(!refused(&|f| f.set_mode(&web(), "/home", 0o777)));
    assert!(refused(&|f| f.set_owner(&web(), ".ssh/authorized_keys", 1234)));
    assert!(!refused(&|f| f.set_owner(&web(), ".ssh/authorized_keys", 0)));
    // Another AuthorizedKeysFile, and the second of the default ones.
    for (setting, path) in [("/etc/ssh/keys/%u", "/etc/ssh/keys/deploy"), ("%h/keys", "keys"), ("100%%", "100%")] {
        let moved = |f: &SimulatedFleet| {
            f.set_authorized_keys(&web(), "");
            f.write_file(&web(), path, key().to_string(), 0o600);
            f.configure(&web(), |s| s.authorized_keys_files = vec![setting.to_owned()]);
        };
        assert!(!refused(&moved), "{setting}");
    }
    assert!(!refused(&|f| {
        f.set_authorized_keys(&web(), "");
        f.write_file(&web(), ".ssh/authorized_keys2", key().to_string(), 0o600);
    }));
    assert!(refused(&|f| f.remove_path(&web(), ".ssh")));
    assert!(!refused(&|f| {
        f.write_file(&web(), "elsewhere", key().to_string(), 0o600);
        f.remove_path(&web(), ".ssh/authorized_keys");
        f.make_link(&web(), ".ssh/authorized_keys", "../elsewhere");
    }));
}

#[test]
fn a_login_without_sftp_is_told_apart() {
    let no_sftp = |options: &str, sftp: bool| {
        let fleet = fleet();
        fleet.set_authorized_keys(&web(), format!("{options} {}", key()));
        fleet.configure(&web(), |settings| settings.sftp = sftp);
        let result = log_in(&fleet, &web());
        assert_eq!(fleet.logins(&web()).len(), 1, "the login itself took place");
        matches!(result, Err(ConnectError::NoSftp { .. }))
    };
    assert!(no_sftp("restrict", false));
    assert!(!no_sftp("restrict", true));
    assert!(!no_sftp("command=\"internal-sftp -l INFO\"", true));
    assert!(!no_sftp("command=\"/usr/lib/openssh/sftp-server\"", true));
    assert!(no_sftp("command=\"echo not sftp-server\"", true));
    assert!(no_sftp("command=\"\"", true));
}

#[test]
fn files_are_staged_renamed_and_removed_as_over_sftp() {
    let fleet = fleet();
    let before = fleet.tree(&web());
    let mut session = log_in(&fleet, &web()).unwrap();
    let files = session.files();
    block_on(async {
        assert_eq!(files.real_path(".").await.unwrap(), "/home/deploy");
        assert_eq!(files.real_path(".ssh/../x").await.unwrap(), "/home/deploy/x");
        assert_eq!(files.real_path("/..//home/./deploy").await.unwrap(), "/home/deploy");

        files.stage(".ssh/new", b"content", 0o640).await.unwrap();
        let again = files.stage("/home/deploy/.ssh/new", b"other", 0o600).await;
        assert!(matches!(again, Err(FileError::AlreadyExists { .. })));
        let stat = files.stat(".ssh/new").await.unwrap().unwrap();
        assert_eq!((stat.kind, stat.size, stat.uid, stat.mode), (FileKind::Regular, 7, Some(1000), 0o640));
        assert_eq!(files.stat(".ssh/none").await.unwrap(), None);
        assert_eq!(files.stat("none/at/all").await.unwrap(), None);
        assert_eq!(files.read(".ssh/new", 7).await.unwrap(), b"content");
        assert!(matches!(files.read(".ssh/new", 6).await, Err(FileError::TooLarge { limit: 6, .. })));
        assert!(matches!(files.read(".ssh/none", 6).await, Err(FileError::NotFound { .. })));
        assert!(matches!(files.read(".ssh", 6).await, Err(FileError::Failed { .. })));
        files.sync(".ssh/new").await.unwrap();

        files.rename(".ssh/new", ".ssh/authorized_keys").await.unwrap();
        assert_eq!(files.read(".ssh/authorized_keys", 100).await.unwrap(), b"content");
        let swept = files.rename(".ssh/new", ".ssh/authorized_keys").await;
        assert!(matches!(swept, Err(FileError::NotFound { .. })), "a rename of a swept file fails");
        let mut names = files.list(".ssh").await.unwrap();
        names.sort();
        assert_eq!(names, ["authorized_keys"]);
        assert!(matches!(files.list(".ssh/authorized_keys").await, Err(FileError::NotFound { .. })));

        assert!(matches!(files.remove_directory(".ssh").await, Err(FileError::Failed { .. })), "not empty");
        assert!(matches!(files.remove(".ssh").await, Err(FileError::Failed { .. })), "not a file");
        assert!(matches!(files.rename(".ssh", "other").await, Err(FileError::Failed { .. })));
        files.remove(".ssh/authorized_keys").await.unwrap();
        assert!(matches!(files.remove(".ssh/authorized_keys").await, Err(FileError::NotFound { .. })));
        files.remove_directory(".ssh").await.unwrap();
        assert!(matches!(files.remove_directory(".ssh").await, Err(FileError::NotFound { .. })));
        assert!(matches!(files.stage(".ssh/new", b"", 0o600).await, Err(FileError::NotFound { .. })));
    });
    assert_ne!(fleet.tree(&web()), before);
    fleet.append_line(&web(), key().to_string());
    assert_eq!(fleet.tree(&web()), before, "content, modes and owners are as they were");
}

#[test]
fn links_are_followed_where_sftp_follows_them() {
    let fleet = fleet();
    fleet.write_file(&web(), "/srv/keys/authorized_keys", "elsewhere", 0o600);
    fleet.remove_path(&web(), ".ssh");
    fleet.make_link(&web(), ".ssh", "/srv/keys");
    fleet.make_link(&web(), "/srv/keys/link", "authorized_keys");
    fleet.make_link(&web(), "loop", "loop");
    fleet.write_file(&web(), "keys", key().to_string(), 0o600);
    fleet.configure(&web(), |settings| settings.authorized_keys_files = vec!["keys".to_owned()]);
    let mut session = log_in(&fleet, &web()).unwrap();
    let files = session.files();
    fleet.set_mode(&web(), "/srv/keys", 0o777);
    block_on(async {
        assert_eq!(files.stat(".ssh").await.unwrap().unwrap().kind, FileKind::Link);
        assert_eq!(files.stat(".ssh/link").await.unwrap().unwrap().kind, FileKind::Link);
        assert_eq!(files.read(".ssh/link", 100).await.unwrap(), b"elsewhere");
        assert_eq!(files.real_path(".ssh/link").await.unwrap(), "/srv/keys/authorized_keys");
        assert!(matches!(files.read("loop", 100).await, Err(FileError::NotFound { .. })));
        assert!(matches!(files.stage("loop", b"", 0o600).await, Err(FileError::AlreadyExists { .. })));
        files.stage("new", b"new", 0o600).await.unwrap();
        files.rename("new", ".ssh/link").await.unwrap();
        assert_eq!(files.stat(".ssh/link").await.unwrap().unwrap().kind, FileKind::Regular, "a rename replaces the link");
        assert_eq!(files.read(".ssh/authorized_keys", 100).await.unwrap(), b"elsewhere");
    });
}

#[test]
fn the_account_can_do_what_its_permissions_allow() {
    let fleet = fleet();
    fleet.write_file(&web(), "/etc/secret", "root's", 0o600);
    fleet.set_owner(&web(), "/etc/secret", 0);
    fleet.set_owner(&web(), "/etc", 0);
    fleet.write_file(&web(), "read only/file", "mine", 0o400);
    fleet.set_mode(&web(), "read only", 0o500);
    fleet.make_directory(&web(), "closed/inside", 0o700);
    fleet.set_mode(&web(), "closed", 0o600);
    let mut session = log_in(&fleet, &web()).unwrap();
    let files = session.files();
    let denied = |result: Result<(), FileError>| matches!(result, Err(FileError::Denied { .. }));
    block_on(async {
        assert!(denied(files.read("/etc/secret", 100).await.map(drop)));
        assert!(denied(files.stage("/etc/new", b"", 0o600).await));
        assert!(denied(files.remove("/etc/secret").await));
        assert_eq!(files.read("read only/file", 100).await.unwrap(), b"mine");
        assert!(denied(files.stage("read only/new", b"", 0o600).await));
        assert!(denied(files.remove("read only/file").await));
        assert!(denied(files.rename("read only/file", "file").await));
        assert!(denied(files.stat("closed/inside").await.map(drop)));
        assert!(denied(files.remove_directory("/").await));
    });
    let root = account("root@web1");
    fleet.add_host(&root);
    fleet.append_line(&root, key().to_string());
    let mut session = log_in(&fleet, &root).unwrap();
    assert_eq!(block_on(session.files().real_path(".")).unwrap(), "/home/root");
    block_on(session.files().stage("/etc/new", b"", 0o600)).unwrap();
    assert_eq!(fleet.file(&root, "/etc/new").unwrap().uid, 0);
    assert_eq!(fleet.logins(&web()).len(), 1, "two accounts of one host");
}

#[test]
fn a_chroot_hides_the_rest_of_the_host() {
    let fleet = fleet();
    fleet.write_file(&web(), "/srv/sftp/inside", "x", 0o644);
    fleet.make_link(&web(), "/srv/sftp/up", "/../../home/deploy/.ssh/authorized_keys");
    fleet.configure(&web(), |settings| settings.chroot = Some("/srv/sftp".to_owned()));
    let mut session = log_in(&fleet, &web()).unwrap();
    let files = session.files();
    block_on(async {
        assert_eq!(files.real_path(".").await.unwrap(), "/");
        assert_eq!(files.read("inside", 10).await.unwrap(), b"x");
        assert_eq!(files.read("/../../inside", 10).await.unwrap(), b"x");
        assert_eq!(files.stat("/home/deploy").await.unwrap(), None);
        assert!(matches!(files.read("up", 1000).await, Err(FileError::NotFound { .. })));
    });
    fleet.configure(&web(), |settings| settings.chroot = Some("/home/deploy".to_owned()));
    let mut session = log_in(&fleet, &web()).unwrap();
    assert_eq!(block_on(session.files().real_path(".ssh/authorized_keys")).unwrap(), "/.ssh/authorized_keys");
    assert!(block_on(session.files().read("/.ssh/authorized_keys", 1000)).is_ok());
}

#[test]
fn extensions_can_be_missing() {
    let fleet = fleet();
    fleet.configure(&web(), |settings| (settings.atomic_rename, settings.sync) = (false, false));
    let mut session = log_in(&fleet, &web()).unwrap();
    let capabilities = session.files().capabilities();
    assert!(!capabilities.atomic_rename && !capabilities.sync);
    block_on(async {
        let files = session.files();
        files.stage("a", b"", 0o600).await.unwrap();
        assert!(matches!(files.rename("a", "b").await, Err(FileError::Unsupported { .. })));
        assert!(matches!(files.sync("a").await, Err(FileError::Unsupported { .. })));
        assert_eq!(files.stat("b").await.unwrap(), None);
    });
}

#[test]
#[should_panic(expected = "nobody@nowhere was not added")]
fn an_account_that_was_not_added_is_a_mistake_in_the_test() {
    fleet().authorized_keys(&account("nobody@nowhere"));
}
