//! Records of this crate's own out of a store that somebody else may have written: no panic, and reading is the inverse of writing. Those of
//! the other crates are fuzzed (`stored_record`); this crate is too large for that.

use std::fmt::Debug;

use proptest::prelude::*;
use serde_json::{Value, json};
use toehold::gateway::keys::{AgentPins, GatewayRecord};
use toehold::spec_store::SpecRecord;
use toehold_core::{Entry, Key, Record, Revision, Stored, Timestamp};

const PIN: &str = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const SINCE: &str = "2026-11-25T12:00:00Z";

fn entry(value: Vec<u8>) -> Entry {
    Entry { key: Key::parse("gateway/x").unwrap(), value, revision: Revision(1), written_at: Timestamp::UNIX_EPOCH }
}

/// Whether it can be read. What can is the same when it is written and read once more.
fn is_read<T: Record + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(stored) = Stored::<T>::decode(&entry(bytes.to_vec())) else { return false };
    let mut document = serde_json::to_value(&stored.body).unwrap();
    (document["v"], document["readable_from"]) = (T::VERSION.into(), T::READABLE_FROM.into());
    let again = Stored::<T>::decode(&entry(serde_json::to_vec(&document).unwrap())).unwrap();
    assert_eq!(again.body, stored.body);
    true
}

type Reader = fn(&[u8]) -> bool;

/// A good record of each kind with all that it can have.
fn good() -> [(Reader, Value); 4] {
    let key = json!({ "pin": PIN, "sealed_seed": "AAAA", "created_at": SINCE });
    let digest = "a".repeat(64);
    [
        (
            is_read::<GatewayRecord>,
            json!({
                "v": 1, "readable_from": 1, "endpoint": "gateway.example.net:7443",
                "generated": { "current": key, "next": key }, "supplied": [PIN],
            }),
        ),
        (is_read::<AgentPins>, json!({ "v": 1, "readable_from": 1, "pins": [PIN], "since": SINCE, "attempt": "1" })),
        (
            is_read::<SpecRecord>,
            json!({ "v": 1, "readable_from": 1, "digest": digest, "size": 3, "serial": 7, "statement": digest, "document": "[]\n" }),
        ),
        (is_read::<SpecRecord>, json!({ "v": 1, "readable_from": 1, "digest": digest, "size": 9_000_000, "pieces": [digest] })),
    ]
}

/// An odd value in the place of one that a record has.
fn odd() -> impl Strategy<Value = Value> {
    let odd = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("sha256:"),
        json!("\u{0}"),
        json!("9999-12-31T23:59:59Z"),
        json!([]),
        json!([null]),
        json!({}),
    ];
    proptest::sample::select(odd.to_vec())
}

#[test]
fn good_ones_are_read() {
    for (is_read, record) in good() {
        assert!(is_read(record.to_string().as_bytes()), "{record}");
    }
}

proptest! {
    #[test]
    fn nothing_falls_over(which in 0_usize..4, member in any::<prop::sample::Index>(), odd in odd(), bytes in any::<Vec<u8>>()) {
        let (is_read, mut record) = good()[which].clone();
        is_read(&bytes);
        let members = record.as_object_mut().unwrap();
        let names: Vec<String> = members.keys().cloned().collect();
        members.insert(member.get(&names).clone(), odd);
        is_read(record.to_string().as_bytes());
    }

    #[test]
    fn nor_over_bytes_that_were_changed(which in 0_usize..4, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let (is_read, record) = good()[which].clone();
        let mut bytes = record.to_string().into_bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        is_read(&bytes);
    }
}
