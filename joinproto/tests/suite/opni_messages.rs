//! Opni's messages, byte for byte.

use std::collections::BTreeMap;

use crate::support;
use crate::support::{Case, bytes, hex, of, text};
use serde_json::Value;
use toehold_joinproto::wire::{AuthRequestV1, AuthRequestV2, AuthResponse, JoinResponse, WireError, decode_join_request};

/// One of the messages as `fields` describes it, encoded; `None` where the fields are none that we would send.
fn encode(message: &str, fields: &Value) -> Option<Vec<u8>> {
    let key = |name: &str| bytes(&fields[name]).try_into().ok();
    Some(match message {
        "bootstrap.BootstrapJoinRequest" | "bootstrap.v2.BootstrapJoinRequest" => Vec::new(),
        "bootstrap.BootstrapJoinResponse" | "bootstrap.v2.BootstrapJoinResponse" => {
            let signatures: Option<BTreeMap<_, _>> = fields["signatures"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(id, signature)| (!id.starts_with("hex:")).then(|| (id.clone(), bytes(signature))))
                .collect();
            JoinResponse { signatures: signatures? }.encode()
        }
        "bootstrap.BootstrapAuthRequest" => {
            let client_id = fields["client_id"].as_str()?.to_owned();
            AuthRequestV1 {
                client_id,
                client_key: key("client_pub_key_hex")?,
                capability: text(&fields["capability"]).to_owned(),
            }
            .encode()
        }
        "bootstrap.v2.BootstrapAuthRequest" => {
            let client_id = fields["client_id"].as_str()?.to_owned();
            AuthRequestV2 {
                client_id,
                client_key: key("client_pub_key_hex")?,
                friendly_name: fields["friendly_name"].as_str().map(str::to_owned),
            }
            .encode()
        }
        "bootstrap.BootstrapAuthResponse" | "bootstrap.v2.BootstrapAuthResponse" => {
            AuthResponse { gateway_key: key("server_pub_key_hex")? }.encode()
        }
        other => panic!("{other}"),
    })
}

/// Reads a message and describes it as the cases do.
fn decode(message: &str, bytes: &[u8]) -> Result<Value, WireError> {
    Ok(match message {
        "bootstrap.BootstrapJoinRequest" | "bootstrap.v2.BootstrapJoinRequest" => {
            decode_join_request(bytes).map(|()| serde_json::json!({}))?
        }
        "bootstrap.BootstrapJoinResponse" | "bootstrap.v2.BootstrapJoinResponse" => {
            let signatures: BTreeMap<_, _> =
                JoinResponse::decode(bytes)?.signatures.into_iter().map(|(id, signature)| (id, hex(&signature))).collect();
            serde_json::json!({ "signatures": signatures })
        }
        "bootstrap.BootstrapAuthRequest" => {
            let request = AuthRequestV1::decode(bytes)?;
            serde_json::json!({ "client_id": request.client_id, "client_pub_key_hex": hex(&request.client_key), "capability": request.capability })
        }
        "bootstrap.v2.BootstrapAuthRequest" => {
            let request = AuthRequestV2::decode(bytes)?;
            serde_json::json!({ "client_id": request.client_id, "client_pub_key_hex": hex(&request.client_key), "friendly_name": request.friendly_name })
        }
        "bootstrap.BootstrapAuthResponse" | "bootstrap.v2.BootstrapAuthResponse" => {
            serde_json::json!({ "server_pub_key_hex": hex(&AuthResponse::decode(bytes)?.gateway_key) })
        }
        other => panic!("{other}"),
    })
}

#[test]
fn encoded() {
    let mut compared = 0;
    for case in of("protobuf.jsonl", "encode").iter().filter(|case| case.is_ok() && !case.id().ends_with("-empty")) {
        let Some(encoded) = encode(text(case.input("message")), case.input("fields")) else { continue };
        // The original leaves out what is empty, as in an entry without a signature; we never send such.
        if !case.id().ends_with("-empty-value") {
            assert_eq!(hex(&encoded), text(case.output("bytes_hex")), "{}", case.id());
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

/// Tolerated by the original: doubled fields, groups, integers longer than need be, a known field of another type, keys of
/// another length.
const LAX: [&str; 18] = [
    "/duplicate-id-last-wins",
    "/duplicate-key-last-wins",
    "/friendly-name-twice",
    "/unknown-group",
    "/wrong-wire-type-id",
    "/wrong-wire-type-key-fixed32",
    "/overlong-varint-length",
    "/overlong-tag",
    "/map-duplicate-key-last-wins",
    "/map-entry-key-twice",
    "/response-twice",
    "/response-empty",
    "-pub-key-1",
    "-pub-key-2",
    "-pub-key-3",
    "/empty",
    "/friendly-name-empty",
    "/nul-in-id",
];

fn is_valid(case: &Case) -> bool {
    let validated = &case.0["output"]["validate"];
    case.is_ok() && (validated.is_null() || validated == "ok")
}

#[test]
fn decoded() {
    let mut lax = support::Lax::new(&LAX);
    for case in of("protobuf.jsonl", "decode") {
        let read = decode(text(case.input("message")), &bytes(case.input("bytes_hex")));
        if lax.has(case.id()) || !is_valid(&case) {
            assert!(read.is_err(), "{}: {read:?}", case.id());
            continue;
        }
        let read = read.unwrap_or_else(|error| panic!("{}: {error}", case.id()));
        for (name, value) in read.as_object().unwrap() {
            assert_eq!(value, case.output(name), "{}: {name}", case.id());
        }
    }
}

#[test]
fn fields_are_valid_where_opni_finds_them_so() {
    for case in of("protobuf.jsonl", "validate") {
        let fields = case.input("fields");
        let Some(encoded) = encode(text(case.input("message")), fields) else {
            // Keys of another length: the original finds out later, we do at once.
            assert!(fields["client_pub_key_hex"].as_str().unwrap().len() != 64, "{}", case.id());
            continue;
        };
        let read = decode(text(case.input("message")), &encoded);
        assert_eq!(read.is_ok(), case.is_ok(), "{}: {read:?}", case.id());
    }
}

#[test]
fn what_is_merely_tolerated_is_refused_in_a_message_that_is_whole_otherwise() {
    let good = AuthResponse { gateway_key: [9; 32] };
    let encoded = good.encode();
    assert_eq!(AuthResponse::decode(&encoded), Ok(good.clone()));
    let with = |before: &[u8], after: &[u8]| AuthResponse::decode(&[before, &encoded, after].concat());
    // What a newer peer may send is passed over.
    for unknown in [[0x3a, 1, b'x'].as_slice(), &[0x38, 5], &[0x3d, 0, 0, 0, 0], &[0x39, 0, 0, 0, 0, 0, 0, 0, 0]] {
        assert_eq!(with(&[], unknown), Ok(good.clone()));
        assert_eq!(with(unknown, &[]), Ok(good.clone()));
    }
    assert_eq!(with(&[], &encoded), Err(WireError::Doubled));
    // A known field as an integer; a group; an integer and a tag that are longer than need be; field 0; more than 64 bits.
    for flaw in [
        [0x08, 5].as_slice(),
        &[0x3b, 0x3c],
        &[0x38, 0x85, 0x00],
        &[0xb8, 0x00, 5],
        &[0x00, 5],
        &[0x38, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        &[0x3a, 9, b'x'],
    ] {
        assert_eq!(with(&[], flaw), Err(WireError::Malformed), "{flaw:02x?}");
    }
    let long = [[0x0a, 0xa0, 0x00].as_slice(), &[9; 32]].concat();
    assert_eq!(AuthResponse::decode(&long), Err(WireError::Malformed));
}
