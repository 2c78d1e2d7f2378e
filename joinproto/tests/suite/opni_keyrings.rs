//! Keyrings as Opni stores them.

use crate::support;
use crate::support::{array, base64s, of, text};
use serde_json::Value;
use toehold_joinproto::keyring::{EphemeralKey, Keyring, SharedKeys};
use zeroize::Zeroizing;

/// A ring of these keys, in their order; `None` where one of them is none for us.
fn ring(keys: &Value) -> Option<Keyring> {
    let mut ring = Keyring::default();
    for key in keys.as_array().into_iter().flatten() {
        let value = &key["value"];
        match text(&key["kind"]) {
            "shared" => ring.shared_keys.push(SharedKeys::from_secret(&Zeroizing::new(array(&value["secret_hex"])))),
            "pkp" => {
                let pins =
                    value["pins"].as_array().into_iter().flatten().map(|pin| text(pin).parse().ok()).collect::<Option<_>>()?;
                ring.pinned_keys.push(pins);
            }
            "ca_certs" => ring.ca_certificates.push(base64s(&value["der_b64"])),
            "ephemeral" => {}
            kind => panic!("{kind}"),
        }
    }
    Some(ring)
}

fn json(ring: &Keyring) -> String {
    String::from_utf8(ring.expose_json().expose().to_vec()).unwrap()
}

/// A list of no pins or no certificates, which the original writes as null or as an empty list, is of no use.
fn has_empty_list(json: &str) -> bool {
    json.contains("null") || json.contains("[]")
}

#[test]
fn written_and_merged_as_opni_does() {
    let mut compared = 0;
    for case in of("keyring.jsonl", "marshal") {
        let Some(ring) = ring(case.input("keys")) else { continue };
        if !has_empty_list(text(case.output("json"))) {
            assert_eq!(json(&ring), text(case.output("json")), "{}", case.id());
            compared += 1;
        }
    }
    for case in of("keyring.jsonl", "merge_marshal") {
        let (Some(left), Some(right)) = (ring(case.input("left")), ring(case.input("right"))) else { continue };
        if !has_empty_list(text(case.output("json"))) {
            assert_eq!(json(&left.merge(right)), text(case.output("json")), "{}", case.id());
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn read_where_opni_would_write_them_so() {
    let mut read = 0;
    for case in of("keyring.jsonl", "unmarshal") {
        match Keyring::parse(&case.text()) {
            Ok(ring) => {
                read += 1;
                assert!(case.is_ok(), "{}", case.id());
                assert_eq!(json(&ring), text(case.output("remarshaled")), "{}", case.id());
            }
            Err(error) => {
                let written = case.output("remarshaled").as_str().unwrap_or_default();
                let ours = case.text() == written.as_bytes() && !has_empty_list(written);
                // Keys and pins that no join makes; the next test has them one by one.
                let odd = written.contains("md5") || case.id().contains("malformed");
                assert!(!ours || odd, "{}: {error}", case.id());
            }
        }
    }
    assert!(read > 20, "{read}");
}

#[test]
fn what_is_merely_tolerated_is_refused() {
    let key = "ZdxHr9rWIrbo5u7DYKLp27tfXKmwNMIWKt3g9R4Ztq8=";
    let pair = format!(r#"{{"clientKey":"{key}","serverKey":"{key}"}}"#);
    assert!(Keyring::parse(format!(r#"{{"sharedKeys":[{pair}]}}"#).as_bytes()).is_ok());
    for flawed in [
        "null".to_owned(),
        "[]".to_owned(),
        format!(r#"{{"sharedKeys":[["{key}","{key}"]]}}"#),
        r#"{"sharedKeys":null}"#.to_owned(),
        r#"{"sharedKeys":[null]}"#.to_owned(),
        r#"{"sharedKeys":[{}]}"#.to_owned(),
        format!(r#"{{"SharedKeys":[{pair}]}}"#),
        format!(r#"{{"sharedKeys":[{pair}],"sharedKeys":[]}}"#),
        format!(r#"{{"sharedKeys":[{pair}]}}x"#),
        format!(r#"{{"sharedKeys":[{{"clientKey":"{key}"}}]}}"#),
        format!(r#"{{"sharedKeys":[{{"clientKey":"AAAA","serverKey":"{key}"}}]}}"#),
        format!(r#"{{"sharedKeys":[{{"clientKey":[1,2,3],"serverKey":"{key}"}}]}}"#),
        format!(r#"{{"sharedKeys":[{{"clientKey":"{}","serverKey":"{key}"}}]}}"#, key.replace("8=", "9=")),
        r#"{"pkpKey":[{"pinnedKeys":[null]}]}"#.to_owned(),
        r#"{"pkpKey":[{"pinnedKeys":[{"alg":"md5","fingerprint":"AAAA"}]}]}"#.to_owned(),
        r#"{"caCertsKey":[{"caCerts":["AAAA"]}]}"#.to_owned(),
    ] {
        assert!(Keyring::parse(flawed.as_bytes()).is_err(), "{flawed}");
    }
}

#[test]
fn ephemeral_keys() {
    for case in of("keyring.jsonl", "ephemeral_load") {
        let read = EphemeralKey::parse(&case.text());
        let lax = ["/trailing-data", "/unknown-field"].iter().any(|name| case.id().ends_with(name));
        assert_eq!(read.is_ok(), case.is_ok() && !lax, "{}: {read:?}", case.id());
        if let Ok(key) = read {
            assert_eq!(support::hex(key.expose()), text(case.output("secret_hex")), "{}", case.id());
            let labels: Vec<_> =
                case.output("labels").as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v).to_owned())).collect();
            assert_eq!(key.labels().clone().into_iter().collect::<Vec<_>>(), labels, "{}", case.id());
        }
    }
}
