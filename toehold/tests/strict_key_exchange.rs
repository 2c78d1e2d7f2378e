//! CVE-2023-48795: a server without strict key exchange gets no cipher that suffers from its absence.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

use std::borrow::Cow;
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use russh::keys::{Algorithm, PrivateKey};
use russh::{Preferred, cipher, kex, server};
use toehold::adapters::russh_connector::RusshConnector;
use toehold_core::testing::sample_public_key;
use toehold_core::{ConnectError, Connector as _, HostKeyPolicy, KeyAnswer, Route};
use tokio::net::TcpListener;

struct Refuses;

impl server::Handler for Refuses {
    type Error = russh::Error;

    async fn auth_publickey_offered(&mut self, _: &str, _: server::PublicKeyOffer<'_>) -> Result<server::Auth, russh::Error> {
        Ok(server::Auth::Accept)
    }
}

/// What we say to a server with these ciphers and with or without strict key exchange.
async fn ask(ciphers: &'static [cipher::Name], strict: bool) -> Result<KeyAnswer, ConnectError> {
    let exchanges = Preferred::DEFAULT.kex.iter().copied();
    let config = server::Config {
        keys: vec![PrivateKey::random(&mut ChaCha20Rng::seed_from_u64(1), Algorithm::Ed25519).unwrap()],
        preferred: Preferred {
            kex: Cow::Owned(exchanges.filter(|name| strict || *name != kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER).collect()),
            cipher: Cow::Borrowed(ciphers),
            ..Preferred::DEFAULT
        },
        ..server::Config::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route::direct(format!("root@127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let session = server::run_stream(Arc::new(config), stream, Refuses).await.unwrap();
        let _ = session.await;
    });
    let key = sample_public_key("ssh-ed25519", "asked about");
    let answer = RusshConnector::default().would_accept(&route, &key, &HostKeyPolicy::CallerDecides).await;
    serving.abort();
    answer
}

#[tokio::test]
async fn chacha20_needs_strict_key_exchange() {
    const CHACHA20: &[cipher::Name] = &[cipher::CHACHA20_POLY1305];
    const BOTH: &[cipher::Name] = &[cipher::CHACHA20_POLY1305, cipher::AES_256_GCM];
    assert!(ask(CHACHA20, true).await.unwrap().accepted);
    assert!(ask(BOTH, false).await.unwrap().accepted, "AES-GCM is safe without it");
    let error = ask(CHACHA20, false).await.unwrap_err();
    assert!(matches!(error, ConnectError::Broken { doing: "exchanging keys", .. }), "{error:?}");
}
