//! Logins to a real `sshd`: keys, host keys, and the question whether a key would be accepted.

use crate::support;
use crate::support::dropbear::RealDropbear;
use crate::support::{Key, RealSshd, key};
use toehold::adapters::russh_connector::{RusshConnector, RusshSession};
use toehold_core::{ConnectError, Connector as _, HostFiles as _, HostKeyPolicy, HostSession as _, Login, PublicKey, Route};

async fn log_in(route: &Route, key: &Key, host_key: &HostKeyPolicy) -> Result<RusshSession, ConnectError> {
    let login = Login { route, identity: &key.identity, host_key, query: None };
    RusshConnector::default().log_in(&login).await
}

async fn log_in_and_query(route: &Route, key: &Key, query: &PublicKey) -> Result<RusshSession, ConnectError> {
    let login = Login { route, identity: &key.identity, host_key: &HostKeyPolicy::CallerDecides, query: Some(query) };
    RusshConnector::default().log_in(&login).await
}

#[tokio::test]
async fn every_key_type_logs_in() {
    let host = RealSshd::start();
    for algorithm in ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072"] {
        let key = key(algorithm);
        host.authorize(key.line());
        let mut session = log_in(&host.route(), &key, &host.pin()).await.unwrap_or_else(|error| panic!("{algorithm}: {error}"));
        assert_eq!(session.host_key(), host.host_key());
        assert_eq!(session.queried(), None);
        assert!(session.files().real_path(".").await.unwrap().starts_with('/'));
        session.close().await;
    }
}

#[tokio::test]
async fn rsa_keys_sign_with_sha_256_where_the_host_wants_that() {
    let host = RealSshd::builder().config("PubkeyAcceptedAlgorithms rsa-sha2-256").start();
    let key = key("rsa-2048");
    host.authorize(key.line());
    log_in(&host.route(), &key, &host.pin()).await.unwrap().close().await;
}

/// A host that takes the key with SHA-1 only does not refuse it.
#[tokio::test]
async fn rsa_signatures_with_sha_1_are_not_made() {
    let host = RealSshd::builder().config("PubkeyAcceptedAlgorithms ssh-rsa").start();
    let (there, absent) = (key("rsa-2048"), key("rsa-2048"));
    host.authorize(there.line());
    let error = log_in(&host.route(), &there, &host.pin()).await.unwrap_err();
    let ConnectError::Broken { doing: "logging in", source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("SHA-1"), "{source}");
    let error = log_in(&host.route(), &absent, &host.pin()).await.unwrap_err();
    assert!(matches!(error, ConnectError::KeyRefused { .. }), "{error:?}");
    assert!(!host.log().contains("Accepted publickey"), "{}", host.log());
}

/// A question makes no signature, and the line still grants something: every algorithm is asked about, even where the
/// server hangs up after two of them.
#[tokio::test]
async fn rsa_keys_are_asked_about_with_every_hash() {
    for accepted in ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] {
        let host = RealSshd::builder()
            .config(&format!("PubkeyAcceptedAlgorithms ssh-ed25519,{accepted}"))
            .config("MaxAuthTries 2")
            .start();
        let (login, there, absent) = (key("ed25519"), key("rsa-2048"), key("rsa-2048"));
        host.authorize(login.line() + &there.line());
        for (query, expected) in [(&there, true), (&absent, false)] {
            let answer = RusshConnector::default().would_accept(&host.route(), &query.public_key, &host.pin()).await.unwrap();
            assert_eq!(answer.accepted, expected, "{accepted}");
            let session = log_in_and_query(&host.route(), &login, &query.public_key).await.unwrap();
            assert_eq!(session.queried(), Some(expected), "{accepted}");
            session.close().await;
        }
    }
}

#[tokio::test]
async fn every_host_key_type_is_verified() {
    let types: [&[&str]; 5] = [
        &["-t", "ed25519"],
        &["-t", "ecdsa", "-b", "256"],
        &["-t", "ecdsa", "-b", "384"],
        &["-t", "ecdsa", "-b", "521"],
        &["-t", "rsa", "-b", "2048"],
    ];
    let host = types.iter().fold(RealSshd::builder(), |builder, arguments| builder.host_key(arguments)).start();
    let key = key("ed25519");
    host.authorize(key.line());
    for host_key in host.host_keys() {
        for policy in [HostKeyPolicy::Exactly(host_key.clone()), HostKeyPolicy::Fingerprint(host_key.fingerprint())] {
            let session = log_in(&host.route(), &key, &policy).await.unwrap_or_else(|error| panic!("{policy}: {error}"));
            assert_eq!(session.host_key(), host_key);
            session.close().await;
        }
    }
    let session = log_in(&host.route(), &key, &HostKeyPolicy::CallerDecides).await.unwrap();
    assert_eq!(session.host_key(), host.host_key(), "ed25519 is wanted most");
    session.close().await;
}

#[tokio::test]
async fn a_key_that_is_not_there_is_refused() {
    let host = RealSshd::start();
    let (authorized, other) = (key("ed25519"), key("ed25519"));
    host.authorize(authorized.line());
    match log_in(&host.route(), &other, &host.pin()).await.unwrap_err() {
        ConnectError::KeyRefused { route, fingerprint } => {
            assert_eq!(route, host.account().to_string());
            assert_eq!(fingerprint, other.public_key.fingerprint());
        }
        error => panic!("{error:?}"),
    }
}

/// An unknown host key is never accepted unasked, a changed one never at all.
#[tokio::test]
async fn changed_host_key_is_refused() {
    let (host, expected) = (RealSshd::start(), RealSshd::start());
    let key = key("ed25519");
    host.authorize(key.line());
    for policy in [expected.pin(), HostKeyPolicy::Fingerprint(expected.host_key().fingerprint())] {
        match log_in(&host.route(), &key, &policy).await.unwrap_err() {
            ConnectError::HostKeyRefused { found, expected: wanted, .. } => {
                assert_eq!(found, host.host_key().fingerprint().to_string());
                assert!(wanted.starts_with(&expected.host_key().fingerprint().to_string()), "{wanted}");
            }
            error => panic!("{error:?}"),
        }
        let error = RusshConnector::default().would_accept(&host.route(), &key.public_key, &policy).await.unwrap_err();
        assert!(matches!(error, ConnectError::HostKeyRefused { .. }), "{error:?}");
    }
    assert!(!host.log().contains("Accepted"), "a refused host gets no login:\n{}", host.log());
}

/// A changed host key is refused whatever its algorithm.
#[tokio::test]
async fn host_key_of_another_algorithm_is_refused() {
    let ed25519 = RealSshd::start();
    let ecdsa = RealSshd::builder().host_key(&["-t", "ecdsa", "-b", "256"]).start();
    let rsa = RealSshd::builder().host_key(&["-t", "rsa", "-b", "2048"]).start();
    let key = key("ed25519");
    for (host, pinned) in [(&ed25519, &ecdsa), (&ecdsa, &ed25519), (&rsa, &ed25519), (&ed25519, &rsa)] {
        host.authorize(key.line());
        match log_in(&host.route(), &key, &pinned.pin()).await.unwrap_err() {
            ConnectError::HostKeyRefused { found, .. } => assert_eq!(found, "none of the expected type"),
            error => panic!("{error:?}"),
        }
        let by_fingerprint = HostKeyPolicy::Fingerprint(pinned.host_key().fingerprint());
        match log_in(&host.route(), &key, &by_fingerprint).await.unwrap_err() {
            ConnectError::HostKeyRefused { found, .. } => assert_eq!(found, host.host_key().fingerprint().to_string()),
            error => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn the_server_is_asked_without_a_login() {
    let host = RealSshd::start();
    let (current, expired, absent) = (key("ed25519"), key("ecdsa-p256"), key("rsa-2048"));
    host.authorize(current.line() + &expired.line_with("restrict,expiry-time=\"20200101\""));
    let connector = RusshConnector::default();
    for (key, accepted) in [(&current, true), (&expired, false), (&absent, false)] {
        let answer = connector.would_accept(&host.route(), &key.public_key, &host.pin()).await.unwrap();
        assert_eq!(answer.accepted, accepted, "{:?}", key.public_key);
        assert_eq!(&answer.host_key, host.host_key());
    }
    // The same key accepted once its line says so: it was the line, not the key.
    host.authorize(expired.line_with("restrict,expiry-time=\"20990101\""));
    assert!(connector.would_accept(&host.route(), &expired.public_key, &host.pin()).await.unwrap().accepted);
    log_in(&host.route(), &expired, &host.pin()).await.unwrap().close().await;
    assert_eq!(host.log().matches("Accepted publickey").count(), 1, "only the login was one:\n{}", host.log());
}

#[tokio::test]
async fn a_question_and_a_login_share_a_connection() {
    let host = RealSshd::start();
    for algorithm in ["ed25519", "ecdsa-p521"] {
        let (login, there, gone) = (key("ed25519"), key(algorithm), key(algorithm));
        host.authorize(login.line() + &there.line());
        let before = host.log().matches("Connection from").count();
        for (query, accepted) in [(&there, true), (&gone, false), (&login, true)] {
            let mut session = log_in_and_query(&host.route(), &login, &query.public_key).await.unwrap();
            assert_eq!(session.queried(), Some(accepted));
            assert!(session.files().stat("/").await.unwrap().is_some());
            session.close().await;
        }
        assert_eq!(host.log().matches("Connection from").count() - before, 3, "{}", host.log());
    }
}

/// Where the server hangs up instead of saying no, the answer is an error and never `false`.
#[tokio::test]
async fn a_farewell_is_no_refusal() {
    let host = RealSshd::builder().config("MaxAuthTries 1").start();
    let (login, absent) = (key("ed25519"), key("ed25519"));
    host.authorize(login.line());
    let error = RusshConnector::default().would_accept(&host.route(), &absent.public_key, &host.pin()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Broken { doing: "asking about a key", .. }), "{error:?}");
    let error = log_in_and_query(&host.route(), &login, &absent.public_key).await.unwrap_err();
    assert!(matches!(error, ConnectError::Broken { doing: "asking about a key", .. }), "{error:?}");
    let error = log_in(&host.route(), &absent, &host.pin()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Broken { doing: "logging in", .. }), "{error:?}");
    log_in(&host.route(), &login, &host.pin()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_second_proof_is_not_a_refused_key() {
    let host =
        RealSshd::builder().config("AuthenticationMethods publickey,password").config("PasswordAuthentication yes").start();
    let key = key("ed25519");
    host.authorize(key.line());
    let error = log_in(&host.route(), &key, &host.pin()).await.unwrap_err();
    let ConnectError::Broken { doing: "logging in", source, .. } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("second proof"), "{source}");
}

#[tokio::test]
async fn a_login_without_sftp_is_told_apart() {
    let key = key("ed25519");
    let host = RealSshd::start();
    for (options, why) in [
        ("command=\"echo hello\"", "text instead of SFTP"),
        ("command=\"cat\"", "our own words sent back"),
        ("command=\"true\"", "the end at once"),
    ] {
        host.authorize(key.line_with(options));
        let error = log_in(&host.route(), &key, &host.pin()).await.unwrap_err();
        assert!(matches!(error, ConnectError::NoSftp { .. }), "{why}: {error:?}");
    }
    host.authorize(key.line_with("restrict,command=\"internal-sftp\""));
    log_in(&host.route(), &key, &host.pin()).await.unwrap().close().await;

    let without = RealSshd::builder().subsystem("other /bin/true").start();
    without.authorize(key.line());
    let error = log_in(&without.route(), &key, &without.pin()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoSftp { .. }), "{error:?}");

    let no_sessions = RealSshd::builder().config("MaxSessions 0").start();
    no_sessions.authorize(key.line());
    let error = log_in(&no_sessions.route(), &key, &no_sessions.pin()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoSftp { .. }), "{error:?}");
}

#[tokio::test]
async fn a_host_that_is_not_there_cannot_be_reached() {
    let port = support::server::free_port();
    let key = key("ed25519");
    let route = Route::direct(format!("root@127.0.0.1:{port}").parse().unwrap());
    let error = log_in(&route, &key, &HostKeyPolicy::CallerDecides).await.unwrap_err();
    let ConnectError::Unreachable { source, .. } = error else { panic!("{error:?}") };
    let source: &std::io::Error = source.downcast_ref().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);

    let route = Route::direct("root@no-such-host.invalid".parse().unwrap());
    let error = log_in(&route, &key, &HostKeyPolicy::CallerDecides).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

/// `localhost` is two addresses, and the server listens on one of them.
#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let host = RealSshd::start();
    let key = key("ed25519");
    host.authorize(key.line());
    let account = toehold_core::Account::new(host.account().user(), "localhost", host.port()).unwrap();
    log_in(&Route::direct(account), &key, &host.pin()).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn closing_ends_the_connection_on_the_host() {
    let host = RealSshd::start();
    let key = key("ed25519");
    host.authorize(key.line());
    log_in(&host.route(), &key, &host.pin()).await.unwrap().close().await;
    host.wait_for_log("Received disconnect");
    host.wait_until_idle();
    // One that is only dropped goes away as well.
    let session = log_in(&host.route(), &key, &host.pin()).await.unwrap();
    assert!(host.processes().len() > 1);
    drop(session);
    host.wait_until_idle();
}

#[tokio::test]
async fn dropbear_is_asked_and_logged_in_to() {
    let host = RealDropbear::start();
    for algorithm in ["ed25519", "ecdsa-p256", "rsa-2048"] {
        let (there, absent) = (key(algorithm), key(algorithm));
        host.authorize(there.line_with("restrict,command=\"/usr/lib/openssh/sftp-server\""));
        let connector = RusshConnector::default();
        assert!(connector.would_accept(&host.route(), &there.public_key, &host.pin()).await.unwrap().accepted);
        assert!(!connector.would_accept(&host.route(), &absent.public_key, &host.pin()).await.unwrap().accepted);
        let mut session = log_in_and_query(&host.route(), &there, &absent.public_key).await.unwrap();
        assert_eq!(session.queried(), Some(false));
        let home = session.files().real_path(".").await.unwrap();
        assert_eq!(std::path::Path::new(&home), host.home());
        session.close().await;
        let error = log_in(&host.route(), &absent, &host.pin()).await.unwrap_err();
        assert!(matches!(error, ConnectError::KeyRefused { .. }), "{error:?}");
    }
}
