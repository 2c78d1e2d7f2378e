//! How the command line comes to a server, and what it makes there.

use std::path::Path;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use nkeys::KeyPair;
use serde_json::{Value, json};
use toehold::adapters::nats::{NatsOptions, NatsStore};

use crate::access::certificate;
use crate::in_words;
use crate::server::{Cluster, Nats};
use crate::support::Toehold;
use crate::support::server::{directory, write_private};

fn made_by(toehold: &Toehold, store: &str, how: &[&str]) -> crate::support::Done {
    toehold.run(["--store", store].into_iter().chain(how.iter().copied()).chain(["init"]))
}

/// 0.0.0.0 leads to this machine, and may be anywhere.
#[test]
fn n5_an_address_off_loopback_is_not_talked_to_in_the_clear() {
    let nats = Nats::start("");
    let store = format!("nats://0.0.0.0:{}/toehold", nats.port);
    let refused = made_by(&Toehold::bare(), &store, &[]).ends(1);
    assert!(refused.stderr.contains("does not encrypt") && refused.stderr.contains("nothing was sent"), "{}", refused.stderr);
    // One that is on loopback makes the others no safer.
    let both = format!("nats://127.0.0.1:{0},0.0.0.0:{0}/toehold", nats.port);
    made_by(&Toehold::bare(), &both, &[]).ends(1);
    made_by(&Toehold::bare(), &format!("nats://127.0.0.1:{}/toehold", nats.port), &[]).ends(0);
}

#[test]
fn n5_who_vouches_for_the_servers_is_named_on_the_command_line() {
    let files = directory("certificates");
    let (ca, tls) = certificate(files.path());
    let nats = Nats::start(&tls);
    let store = nats.address("toehold").to_string();
    let refused = made_by(&Toehold::bare(), &store, &[]).ends(1);
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
    let elsewhere = directory("certificates");
    let (other, _) = certificate(elsewhere.path());
    made_by(&Toehold::bare(), &store, &["--store-ca", other.to_str().unwrap()]).ends(1);
    let toehold = Toehold::bare();
    made_by(&toehold, &store, &["--store-ca", ca.to_str().unwrap()]).ends(0);
    let toehold = toehold.with_env("TOEHOLD_STORE", store).with_env("TOEHOLD_STORE_CA", ca.to_str().unwrap());
    toehold.run(["key", "show"]).ends(0);
}

/// What `nsc` makes: claims, signed by an NKEY.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let part = |value: &Value| Base64UrlUnpadded::encode_string(&serde_json::to_vec(value).unwrap());
    let claims = json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": nats,
    });
    let signed = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&claims));
    let signature = Base64UrlUnpadded::encode_string(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn credentials(file: &Path, user: &KeyPair, token: &str) {
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    write_private(file, text);
}

/// A server that knows its operator alone, who vouches for accounts, which vouch for users.
#[tokio::test]
async fn a_credentials_file_opens_a_server_with_accounts_of_an_operator() {
    let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let plain = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_operator =
        jwt(&operator, &operator, &json!({ "type": "operator", "version": 2, "system_account": system.public_key() }));
    let of_system = jwt(&operator, &system, &json!({ "type": "account", "version": 2, "limits": plain }));
    let of_account = jwt(&operator, &account, &json!({ "type": "account", "version": 2, "limits": limits }));
    let nats = Nats::start(&format!(
        "operator: {of_operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{\n{system}: {of_system}\n{account}: {of_account}\n}}",
        system = system.public_key(),
        account = account.public_key(),
    ));
    let address = nats.address("toehold");
    let user = KeyPair::new_user();
    let may = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let file = nats.path().join("user.creds");
    credentials(&file, &user, &jwt(&account, &user, &may));

    let words = made_by(&Toehold::bare(), &address.to_string(), &[]).ends(1).stderr;
    assert!(words.contains("can be used"), "{words}");
    let toehold = Toehold::bare();
    made_by(&toehold, &address.to_string(), &["--store-credentials", file.to_str().unwrap()]).ends(0);
    let with =
        toehold.with_env("TOEHOLD_STORE", address.to_string()).with_env("TOEHOLD_STORE_CREDENTIALS", file.to_str().unwrap());
    with.run(["key", "show"]).ends(0);

    // Another account's user sees another account's buckets; and one whom no account vouches for sees nothing.
    let (stranger, nobody) = (KeyPair::new_user(), KeyPair::new_account());
    credentials(&file, &stranger, &jwt(&nobody, &stranger, &may));
    let options = NatsOptions { credentials: Some(file.clone()), ..NatsOptions::default() };
    let refused = in_words(&NatsStore::open(&address, &options).await.unwrap_err());
    assert!(refused.contains("can be used") && !refused.contains(&stranger.seed().unwrap()), "{refused}");
    // Nor does one who has another one's word, and not the key.
    credentials(&file, &stranger, &jwt(&account, &user, &may));
    NatsStore::open(&address, &options).await.unwrap_err();
    write_private(&file, "no credentials");
    let refused = in_words(&NatsStore::open(&address, &options).await.unwrap_err());
    assert!(refused.contains("is no credentials file"), "{refused}");
}

/// What a migration or an import makes has as many copies as was asked for, as what `init` makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_filled_is_kept_as_often_as_was_asked_for() {
    let cluster = Cluster::start();
    drop(cluster.store().await);
    let alone = Toehold::new();
    let [moved, imported, single] = ["moved", "imported", "single"].map(|bucket| cluster.address(bucket).to_string());
    let migrate = |more: &[&str], to: &str| {
        alone.run(["store", "migrate", "--from", "embedded", "--to", to].into_iter().chain(more.iter().copied()))
    };
    migrate(&["--replicas", "3"], &moved).ends(0);
    assert_eq!(cluster.replicas("moved", 0).await, Some(3));
    migrate(&[], &single).ends(0);
    assert_eq!(cluster.replicas("single", 0).await, Some(1));
    let file = alone.state().with_file_name("export");
    let file = file.to_str().unwrap();
    alone.run(["store", "export", file]).ends(0);
    alone.run(["--store", &imported, "store", "import", file, "--replicas", "3"]).ends(0);
    assert_eq!(cluster.replicas("imported", 0).await, Some(3));
    for bucket in [&moved, &imported] {
        alone.run(["--store", bucket, "store", "check"]).ends(0);
    }

    // A new one of `init`; and of one that is there it is said that nothing of it changes.
    let [fresh, other] = ["fresh", "other"].map(|bucket| cluster.address(bucket).to_string());
    let toehold = Toehold::bare();
    let made = made_by(&toehold, &fresh, &[]);
    made.ends(0);
    let init =
        |more: &[&str], store: &str| Toehold::bare().run(["--store", store, "init"].into_iter().chain(more.iter().copied()));
    let made = init(&["--replicas", "3"], &other).ends(0);
    assert!(!made.stderr.contains("nats stream edit"), "{}", made.stderr);
    assert_eq!(cluster.replicas("other", 0).await, Some(3));
    for (asked, again, stays) in
        [("1", toehold.run(["--store", &fresh, "init", "--replicas", "1"]), 1), ("3", init(&["--replicas", "3"], &fresh), 1)]
    {
        let line = "nats stream edit KV_fresh --replicas 3";
        assert_eq!(again.stderr.contains(line), asked == "3", "{}", again.stderr);
        assert_eq!(cluster.replicas("fresh", 0).await, Some(stays));
    }
    let again = migrate(&["--replicas", "3"], &single).ends(0);
    assert!(again.stderr.contains("nats stream edit KV_single --replicas 3"), "{}", again.stderr);
    assert_eq!(cluster.replicas("single", 0).await, Some(1));

    migrate(&["--replicas", "2"], &moved).ends(2);
    for command in [
        &["store", "migrate", "--from", &moved, "--to", "embedded", "--replicas", "3"][..],
        &["store", "import", file, "--replicas", "3"],
    ] {
        let refused = Toehold::bare().run(command.iter().copied()).ends(2);
        assert!(refused.stderr.contains("--replicas"), "{}", refused.stderr);
    }
}
