//! What somebody writes who gets at the servers, and is no member.

use toehold_core::{Expect, Store, Timestamp};

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::Machine;
use crate::server::Nats;
use crate::support::Inside;
use crate::{founder, joins, key, says, sharing};

#[tokio::test(flavor = "multi_thread")]
async fn n1_what_a_raw_client_writes_is_refused_by_name_and_can_be_thrown_away() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    let raw = nats.store().await;
    let good = raw.get(&key(&format!("host/{}", host.account()))).await.unwrap().unwrap();
    raw.put(&key("host/evil@example.net"), &good.value, Expect::Absent).await.unwrap();
    for place in ["token/0123456789ab", "token/0123456789ab/0"] {
        raw.put(&key(place), b"{\"v\":1,\"readable_from\":1}", Expect::Absent).await.unwrap();
    }

    // The others are there, the exit code says that something is not, and which.
    let listed = anna.run(["--json", "host", "ls"]).ends(3);
    assert_eq!(listed.json()["hosts"].as_array().unwrap().len(), 1);
    says(&listed, "host/evil@example.net");
    says(&listed, "moved here");
    says(&anna.run(["token", "ls"]), "not signed");
    says(&anna.run(["store", "gc"]).ends(3), "token/0123456789ab in the store cannot be read");
    says(&anna.run(["store", "check"]).ends(3), "3 of");
    says(&anna.run(["store", "export", "export"]).ends(1), "cannot be read");
    for planted in ["host/evil@example.net", "token/0123456789ab", "token/0123456789ab/0"] {
        anna.run(["store", "discard", planted]).ends(0);
    }
    let discarded = anna.run(["--json", "audit", "ls", "--what", "store.discarded"]).ends(0).json();
    let discarded: Vec<&str> =
        discarded["entries"].as_array().unwrap().iter().map(|entry| entry["subject"].as_str().unwrap()).collect();
    assert_eq!(discarded, ["host/evil@example.net", "token/0123456789ab", "token/0123456789ab/0"]);
    says(&anna.run(["store", "discard", &format!("host/{}", host.account())]).ends(1), "nothing was removed");
    anna.run(["host", "ls"]).ends(0);
    anna.run(["store", "check"]).ends(0);

    // The key that opens everything is not replaced by one that the intruder has.
    let current = raw.get(&key("masterkey/current")).await.unwrap().unwrap();
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    let now = raw.get(&key("masterkey/current")).await.unwrap().unwrap();
    raw.put(&now.key, &current.value, Expect::Revision(now.revision)).await.unwrap();
    says(&anna.run(["key", "show"]).ends(1), "put an old one back");
}

/// A secret of hex digits as somebody may have written it down: itself, its bytes, and those in base64 of either alphabet.
fn forms_of(secret: &str) -> Vec<Vec<u8>> {
    use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
    let digits: Vec<u32> = secret.chars().map(|digit| digit.to_digit(16).unwrap()).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect();
    assert!(bytes.len() >= 16);
    let mut forms = vec![secret.as_bytes().to_vec(), secret.to_uppercase().into_bytes(), bytes.clone()];
    for text in [secret.as_bytes(), &bytes] {
        forms.push(Base64Unpadded::encode_string(text).into_bytes());
        forms.push(Base64UrlUnpadded::encode_string(text).into_bytes());
    }
    forms
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_a_dump_of_the_store_opens_nothing() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    // A machine that has joined, and a session that waits for its host.
    let service = joins(&anna, sharing(&store), "gateway", "gateway");
    let gateway = Gateway::start(&service, &[]);
    let line = line(&ben, gateway.address, &[]);
    let machine = Machine::new();
    machine.join(&line).ends(0);
    gateway.stop().ends(0);
    let mut waiting = ben.spawn(["host", "invite", "root@127.0.0.1"]);
    crate::support::eventually("the session is open", || ben.sessions(false).len() == 1);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    let created = ben.run(["--json", "token", "create", "--opni", "--endpoint", "gateway.example.net:7443"]).ends(0).json();
    // `id.secret`: the same secret is Opni's token of either version, and that of our own line.
    let token = created["token"].as_str().unwrap();
    let (id, secret) = token.split_once('.').unwrap();
    let keyring = machine.keyring().unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shared = [keyring.shared_keys[0].expose_client(), keyring.shared_keys[0].expose_gateway()].map(hex);
    let text = line.token.expose_text();
    let of_line = text.split_once('.').unwrap().1.to_owned();
    let raw = nats.store().await;
    let dump = toehold::store_copy::everything(&raw).await.unwrap();
    for kind in ["agent", "gateway", "host", "masterkey", "session", "token"] {
        assert!(dump.iter().any(|entry| entry.key.segments().next() == Some(kind)), "no {kind} is in the dump");
    }
    let secrets = [&anna, &ben].map(|toehold| {
        let identity = std::fs::read_to_string(toehold.state().join("identity")).unwrap();
        identity.lines().last().unwrap().to_owned()
    });
    for entry in &dump {
        let text = String::from_utf8_lossy(&entry.value);
        assert!(text.starts_with("toehold-signed/1 "), "{} is not signed", entry.key);
        assert!(!text.contains("PRIVATE KEY") && !secrets.iter().any(|secret| text.contains(secret)), "{}", entry.key);
        assert_ne!(entry.written_at, Timestamp::UNIX_EPOCH);
        // An OpenSSH private key, as the libraries write it, in base64 as it is in a file.
        assert!(!text.contains("b3BlbnNzaC1rZXktdjE"), "a private key is in {}", entry.key);
        for (what, secret) in [
            ("the secret of Opni's token", secret),
            ("the secret of the line", of_line.as_str()),
            ("what the agent shares", &shared[0]),
            ("what the gateway shares", &shared[1]),
        ] {
            for form in forms_of(secret) {
                assert!(!entry.value.windows(form.len()).any(|part| part == form), "{what} is in {}", entry.key);
            }
        }
    }
    assert!(dump.iter().any(|entry| entry.key == key(&format!("token/{id}"))), "no token is in the dump");
    // An identity of one's own and all of the dump are not enough.
    let thief = sharing(&store);
    thief.run(["init"]).ends(3);
    says(&thief.run(["host", "check"]).ends(1), "not sealed to this identity");
    says(&thief.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1), "no member");
}
