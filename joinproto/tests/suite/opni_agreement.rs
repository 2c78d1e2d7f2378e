//! The keys of v1 and v2 as Opni derives them.

use crate::support::{array, bytes, hex, of, text};
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::SharedKeys;
use zeroize::Zeroizing;

#[test]
fn public_keys() {
    for case in of("ecdh.jsonl", "public_key").iter().filter(|case| case.is_ok()) {
        let key = Ephemeral::from_bytes(&Zeroizing::new(array(case.input("private_hex"))));
        assert_eq!(hex(key.public()), text(case.output("public_hex")), "{}", case.id());
    }
}

#[test]
fn derived_keys_and_refused_points() {
    let mut refused = 0;
    for case in of("ecdh.jsonl", "derive_shared_secret") {
        let Ok(private) = bytes(case.input("our_private_hex")).try_into() else { continue };
        let key = Ephemeral::from_bytes(&Zeroizing::new(private));
        let side = match case.input("peer_type").as_str().unwrap_or_default() {
            "server" => Side::Client,
            "client" => Side::Gateway,
            _ => continue,
        };
        let derived = key.derive(side, &bytes(case.input("peer_public_hex")));
        assert_eq!(derived.is_ok(), case.is_ok(), "{}", case.id());
        match derived {
            Ok(keys) => {
                assert_eq!(hex(keys.expose_client()), text(case.output("client_key_hex")), "{}", case.id());
                assert_eq!(hex(keys.expose_gateway()), text(case.output("server_key_hex")), "{}", case.id());
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn halves_of_the_secret() {
    for case in of("keyring.jsonl", "new_shared_keys").iter().filter(|case| case.is_ok()) {
        let keys = SharedKeys::from_secret(&Zeroizing::new(array(case.input("secret_hex"))));
        assert_eq!(hex(keys.expose_client()), text(case.output("client_key_hex")), "{}", case.id());
        assert_eq!(hex(keys.expose_gateway()), text(case.output("server_key_hex")), "{}", case.id());
    }
}
