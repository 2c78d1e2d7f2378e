//! A whole exchange of version 3 with everything known, and the protocol implemented once more, from `docs/join-v3.md` alone:
//! nothing below but `converse` calls this crate.
//!
//! `TOEHOLD_RENEW_VECTORS=1 cargo test -p toehold-joinproto --test join_v3_vectors` writes the vectors anew.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::lab;
use crate::support::lab::{GATEWAY_SPKI, Lab, channel, identity, new_token, rng};
use crate::support::{hex, unhex};
use ed25519_dalek::{Signer as _, SigningKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::ml_kem_768::DecapsulationKey;
use sha2::{Digest as _, Sha256, Sha512};
use toehold_core::testing::block_on;
use x25519_dalek::{PublicKey, StaticSecret};

const NAMES: [&str; 8] = ["hello", "retry", "offer", "answer", "proof", "accept", "confirm", "done"];
/// The connection, by which the lab also seeds the two random number generators.
const CONNECTION: u8 = 42;

fn random<const N: usize>(rng: &mut impl rand_chacha::rand_core::Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn record() -> BTreeMap<&'static str, String> {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let mut frames = Vec::new();
    let (joined, _) = block_on(lab.converse(&token, &identity(1), u64::from(CONNECTION), |_, frame| frames.push(frame.clone())));
    let joined = joined.unwrap();

    // Everything that was random, in the order in which it was drawn.
    let mut of_client = rng(u64::from(CONNECTION));
    let nonce: [u8; 32] = random(&mut of_client);
    let (client_private, kem_seed): ([u8; 32], [u8; 64]) = (random(&mut of_client), random(&mut of_client));
    let mut of_gateway = rng(u64::from(CONNECTION) + 1_000_000);
    let (gateway_private, kem_random): ([u8; 32], [u8; 32]) = (random(&mut of_gateway), random(&mut of_gateway));
    let cookie_key: [u8; 32] = random(&mut rng(99));

    let mut vector: BTreeMap<&'static str, String> = NAMES.into_iter().zip(frames.iter().map(|frame| hex(frame))).collect();
    let mut known = |name, bytes: &[u8]| drop(vector.insert(name, hex(bytes)));
    known("client_nonce", &nonce);
    known("client_x25519_private", &client_private);
    known("client_kem_seed", &kem_seed);
    known("gateway_x25519_private", &gateway_private);
    known("gateway_kem_random", &kem_random);
    known("cookie_key", &cookie_key);
    known("cookie_source", &[192, 0, 2, 7]);
    known("identity_seed", &[1; 32]);
    known("exporter", &channel(CONNECTION).exporter.0);
    known("gateway_spki", &GATEWAY_SPKI);
    vector.insert("token", token.expose_text().to_string());
    vector.insert("endpoint", lab::endpoint().to_string());
    vector.insert("agent_id", joined.id.to_string());
    vector.insert("client_key", hex(joined.keyring.shared_keys[0].expose_client()));
    vector.insert("gateway_key", hex(joined.keyring.shared_keys[0].expose_gateway()));
    vector
}

/// SHA-512 over parts, each after its length.
fn digest(parts: &[&[u8]]) -> [u8; 64] {
    let mut hash = Sha512::new();
    for part in parts {
        hash.update(u32::try_from(part.len()).unwrap().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hmac(key: &[u8], label: &[u8], digest: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).unwrap();
    mac.update(label);
    mac.update(digest);
    mac.finalize().into_bytes().to_vec()
}

/// The values in between, and checks of all frames, by the page.
fn follow(vector: &mut BTreeMap<&'static str, String>) {
    let get = |name: &str| unhex(&vector[name]);
    let array = |name: &str| <[u8; 32]>::try_from(get(name)).unwrap();
    let [hello, retry, offer, answer, proof, accept, confirm, done] = NAMES.map(get);
    let exporter = get("exporter");

    // Hello.
    assert_eq!(hello, [[1, 1, 0, 3].as_slice(), &get("client_nonce")].concat());

    // Retry, with its cookie.
    let time = &retry[3..11];
    assert_eq!(i64::from_be_bytes(time.try_into().unwrap()), lab::start().unix_seconds());
    let mut mac = Hmac::<Sha256>::new_from_slice(&get("cookie_key")).unwrap();
    for part in [b"toehold join v3 cookie\0".as_slice(), time, &exporter, &get("cookie_source"), &hello] {
        mac.update(part);
    }
    let cookie = [time, &mac.finalize().into_bytes()].concat();
    assert_eq!(retry, [[2, 0, 3].as_slice(), &cookie].concat());

    // Offer.
    let (id, secret) = vector["token"].split_once('.').map(|(id, secret)| (unhex(id), unhex(secret))).unwrap();
    let identity = SigningKey::from_bytes(&array("identity_seed"));
    let identity_key = identity.verifying_key().to_bytes();
    let client_private = StaticSecret::from(array("client_x25519_private"));
    let kem = DecapsulationKey::from_seed(<[u8; 64]>::try_from(get("client_kem_seed")).unwrap().into());
    let endpoint = vector["endpoint"].as_bytes();
    let expected = [
        [3].as_slice(),
        &cookie,
        &[u8::try_from(hello.len()).unwrap()],
        &hello,
        &id,
        &Sha256::digest(get("gateway_spki")),
        &[u8::try_from(endpoint.len()).unwrap()],
        endpoint,
        &identity_key,
        PublicKey::from(&client_private).as_bytes(),
        &kem.encapsulation_key().to_bytes(),
    ]
    .concat();
    assert_eq!(offer, expected);
    let agent_id = hex(&Sha512::new().chain_update(b"toehold join v3 agent id\0").chain_update(identity_key).finalize()[..16]);
    assert_eq!(vector["agent_id"], agent_id);

    // Answer.
    let gateway_private = StaticSecret::from(array("gateway_x25519_private"));
    assert_eq!(answer, [[4].as_slice(), PublicKey::from(&gateway_private).as_bytes()].concat());

    // Proof.
    let start = b"toehold join v3 transcript".as_slice();
    let proven = digest(&[start, &exporter, &hello, &retry, &offer, &answer]);
    let mut seed = [0; 32];
    Hkdf::<Sha512>::new(Some(b"toehold join v3 token"), &secret).expand(&id, &mut seed).unwrap();
    let token = SigningKey::from_bytes(&seed);
    let sign = |key: &SigningKey, label: &[u8]| key.sign(&[label, &proven].concat()).to_bytes();
    let expected =
        [[5].as_slice(), &sign(&token, b"toehold join v3 token proof\0"), &sign(&identity, b"toehold join v3 identity proof\0")]
            .concat();
    assert_eq!(proof, expected);

    // Accept.
    let (unconfirmed, gateway_mac) = accept.split_at(accept.len() - 64);
    let ciphertext: [u8; 1088] = unconfirmed[1..1089].try_into().unwrap();
    let kem_shared = <[u8; 32]>::from(kem.decapsulate(&ciphertext.into()));
    let (encapsulated, _) = kem.encapsulation_key().encapsulate_deterministic(&array("gateway_kem_random").into());
    assert_eq!(<[u8; 1088]>::from(encapsulated), ciphertext);
    let agreed = gateway_private.diffie_hellman(&PublicKey::from(&client_private));
    let derived = digest(&[start, &exporter, &hello, &retry, &offer, &answer, &proof, unconfirmed]);
    let kdf = Hkdf::<Sha512>::new(Some(&derived), &[kem_shared.as_slice(), agreed.as_bytes()].concat());
    let expand = |label: &[u8], length: usize| {
        let mut out = vec![0; length];
        kdf.expand(&[b"toehold join v3 ", label].concat(), &mut out).unwrap();
        out
    };
    assert_eq!(vector["client_key"], hex(&expand(b"client key", 32)));
    assert_eq!(vector["gateway_key"], hex(&expand(b"gateway key", 32)));
    let gateway_confirms = expand(b"gateway confirms", 64);
    assert_eq!(gateway_mac, hmac(&gateway_confirms, b"toehold join v3 gateway confirms\0", &derived));

    // Confirm and Done.
    let confirmed = digest(&[start, &exporter, &hello, &retry, &offer, &answer, &proof, unconfirmed, gateway_mac]);
    let client_confirms = expand(b"client confirms", 64);
    assert_eq!(confirm, [[7].as_slice(), &hmac(&client_confirms, b"toehold join v3 client confirms\0", &confirmed)].concat());
    assert_eq!(done, [8]);

    let between: [(&'static str, Vec<u8>); 9] = [
        ("token_seed", seed.to_vec()),
        ("token_public_key", token.verifying_key().to_bytes().to_vec()),
        ("transcript_of_proof", proven.to_vec()),
        ("kem_shared", kem_shared.to_vec()),
        ("x25519_shared", agreed.as_bytes().to_vec()),
        ("transcript_of_keys", derived.to_vec()),
        ("gateway_confirms", gateway_confirms),
        ("transcript_of_confirm", confirmed.to_vec()),
        ("client_confirms", client_confirms),
    ];
    vector.extend(between.map(|(name, bytes)| (name, hex(&bytes))));
}

#[test]
fn the_page_leads_to_the_same_bytes() {
    let mut vector = record();
    follow(&mut vector);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/join_v3.json");
    let text = serde_json::to_string_pretty(&vector).unwrap() + "\n";
    if std::env::var_os("TOEHOLD_RENEW_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}
