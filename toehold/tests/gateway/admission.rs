//! Who may join, told after proof and checked before anything is consumed.

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use serde_json::Value;

use crate::join_support::gateway::{Dial, Gateway, Session, identity, join, line};
use crate::support::Toehold;
use crate::support::store;

#[tokio::test]
async fn expired_foreign_and_used_up_are_refused_with_the_reason_and_take_no_use() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let expired = line(&toehold, gateway.address, &[]);
    let key = format!("token/{}", expired.token.id());
    store::change(&toehold, &key, |token| token["expires_at"] = "2026-01-01T00:00:00Z".into());
    let refused = join(&dial, &expired, &identity()).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");

    let foreign = line(&toehold, gateway.address, &["--from", "10.0.0.0/8", "--from", "127.0.0.2"]);
    let refused = join(&dial, &foreign, &identity()).await.unwrap_err();
    assert!(refused.to_string().contains("this network"), "{refused}");
    assert!(store::keys(&toehold).iter().all(|key| !key.starts_with(&format!("token/{}/", foreign.token.id()))));
    join(&dial.clone().from("127.0.0.2"), &foreign, &identity()).await.unwrap();

    let other = "5".repeat(32);
    let bound = line(&toehold, gateway.address, &["--client-id", &other]);
    let refused = join(&dial, &bound, &identity()).await.unwrap_err();
    assert!(refused.to_string().contains("another client id"), "{refused}");
    let me = identity();
    let mine = line(&toehold, gateway.address, &["--client-id", &me.id().to_string()]);
    join(&dial, &mine, &me).await.unwrap();
}

#[tokio::test]
async fn j2_neither_a_removed_agent_nor_a_revoked_token_comes_back() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let (line, me) = (line(&toehold, gateway.address, &["--uses", "3"]), identity());
    let joined = join(&dial, &line, &me).await.unwrap();
    let id = joined.id.to_string();
    let connection = dial.connect().await.unwrap();
    let mut session = Session::open(&connection, &id, &joined.keyring.shared_keys[0]).await.unwrap();
    session.ping().await.unwrap();

    let token = line.token.id().to_string();
    toehold.run(["token", "revoke", &token]).ends(0);
    // Who has joined stays; who has not does not come, nor does who had a use come with it again.
    session.ping().await.unwrap();
    for who in [&me, &identity()] {
        let refused = join(&dial, &line, who).await.unwrap_err();
        assert!(refused.to_string().contains("revoked"), "{refused}");
    }

    remove(&toehold, &id).await;
    assert_eq!(session.ping().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    assert!(Session::open(&connection, &id, &joined.keyring.shared_keys[0]).await.is_err());
}

#[tokio::test]
async fn j2_within_the_tokens_life_a_removed_agent_needs_a_later_token() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let (first, me) = (line(&toehold, gateway.address, &["--uses", "3"]), identity());
    let joined = join(&dial, &first, &me).await.unwrap();
    remove(&toehold, &joined.id.to_string()).await;
    let refused = join(&dial, &first, &me).await.unwrap_err();
    assert!(refused.to_string().contains("removed"), "{refused}");
    // Times are whole seconds: a token of the same second is not a later one.
    store::change(&toehold, &format!("agent/{}", joined.id), |agent| {
        (agent["since"], agent["removed_at"]) = ("2026-01-01T00:00:00Z".into(), "2026-01-01T00:00:00Z".into());
    });
    let later = line(&toehold, gateway.address, &[]);
    join(&dial, &later, &me).await.unwrap();
}

/// What `agents rm` does.
async fn remove(toehold: &Toehold, id: &str) {
    use toehold::gateway::NoVault;
    let store = toehold::adapters::sqlite::SqliteStore::open(&toehold.state()).unwrap();
    let clock = toehold::adapters::system_clock::SystemClock;
    toehold_joinproto::admission::Desk::new(store, clock, NoVault).remove_agent(id).await.unwrap();
}

#[tokio::test]
async fn j3_an_id_follows_from_the_key() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    let (me, other) = (identity(), identity());
    let joined = join(&dial, &line(&toehold, gateway.address, &[]), &me).await.unwrap();
    assert_eq!(joined.id, me.id());
    assert_ne!(joined.id, other.id());
    // A v3 token for an id that is no key's is not even made.
    let endpoint = gateway.address.to_string();
    let bad = toehold.run(["token", "create", "--endpoint", &endpoint, "--client-id", "web-1"]).ends(2);
    assert!(bad.stderr.contains("follows from its key"), "{}", bad.stderr);
}

#[tokio::test]
async fn a_dump_of_the_store_joins_nothing() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let line = line(&toehold, gateway.address, &[]);
    let me = identity();
    let joined = join(&Dial::to(gateway.address), &line, &me).await.unwrap();
    // Everything that is in the store, and the write-ahead log beside it.
    let mut dump = Vec::new();
    for entry in std::fs::read_dir(toehold.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("state.db") {
            dump.extend(std::fs::read(path).unwrap());
        }
    }
    let token = line.token.expose_text();
    let (id, secret) = token.split_once('.').unwrap();
    let holds = |needle: &[u8]| memchr::memmem::find(&dump, needle).is_some();
    assert!(holds(id.as_bytes()), "the token's id is no secret, and is there");
    assert!(!holds(secret.as_bytes()) && !holds(line.token.expose_secret()));
    // Nor is what the token's signing key is made of, of which the gateway has the public half alone, however it would be written.
    let kdf = hkdf::Hkdf::<sha2::Sha512>::new(Some(b"toehold join v3 token"), line.token.expose_secret());
    let mut seed = [0; 32];
    kdf.expand(line.token.id().as_bytes(), &mut seed).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    assert!(holds(hex(public.as_bytes()).as_bytes()), "the public half is no secret, and is there");
    assert!(!holds(&seed) && !holds(hex(&seed).as_bytes()) && !holds(hex(&seed).to_uppercase().as_bytes()));
    // In base64 also as a part of something longer, such as PKCS #8, at each place that it can have among the groups of three bytes.
    for before in 0..3 {
        let bytes = [&[0; 2][..before], &seed].concat();
        for written in [Base64Unpadded::encode_string(&bytes), Base64UrlUnpadded::encode_string(&bytes)] {
            assert!(!holds(&written.as_bytes()[before * 8 / 6 + usize::from(before > 0)..written.len() - 1]));
        }
    }
    let keys = &joined.keyring.shared_keys[0];
    assert!(!holds(keys.expose_client()) && !holds(keys.expose_gateway()));
    let json = String::from_utf8(joined.keyring.expose_json().expose().to_vec()).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    for key in ["clientKey", "serverKey"] {
        assert!(!holds(json["sharedKeys"][0][key].as_str().unwrap().as_bytes()));
    }
    // With all that the record says of the token, nobody signs for it: its key is the public half.
    let database = store::open(&toehold);
    let record: Vec<u8> =
        database.query_row("SELECT value FROM entry WHERE key = ?1", [format!("token/{id}")], |row| row.get(0)).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let public = record["protocol"]["v3"]["key"].as_str().unwrap().to_owned();
    let guess = format!("{id}.{}", &public.to_lowercase().replace(|c: char| !c.is_ascii_hexdigit(), "0")[..52.min(public.len())]);
    if let Ok(guessed) = line.expose().replace(token.as_str(), &guess).parse() {
        let refused = join(&Dial::to(gateway.address), &guessed, &identity()).await.unwrap_err();
        assert!(refused.to_string().contains("without a reason"), "{refused}");
    }
}
