//! Every stored form that was ever released is read, and written as it was.

use std::path::Path;

use crate::support::lab;
use crate::support::lab::{Lab, identity, join_opni, opni_token};
use toehold_core::testing::block_on;
use toehold_core::{Entry, Key, Record, Revision, Stored, Timestamp};
use toehold_joinproto::admission::{AgentRecord, TokenRecord, UseRecord};

/// What a store has after a join of each kind, by the record's kind.
fn written() -> [(&'static str, Vec<Vec<u8>>); 3] {
    let lab = Lab::new();
    let mut new = lab::new_token();
    new.labels.insert("rack".to_owned(), "b7".to_owned());
    new.from = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    new.client_id = Some(identity(1).id().to_string());
    let token = lab.token(new, 1);
    block_on(lab.join(&token, &identity(1), 10)).unwrap();
    let token = lab.token(opni_token(), 2);
    block_on(join_opni(&lab.desk, &token, "agent-1", 11)).unwrap();
    block_on(lab.desk.revoke(token.id())).unwrap();
    let entries = lab.desk.store.entries();
    let of = |kind: &str, segments: usize| {
        let matches = |entry: &&Entry| entry.key.segments().next() == Some(kind) && entry.key.segments().count() == segments;
        entries.iter().filter(matches).map(|entry| entry.value.clone()).collect()
    };
    [("token_v1.json", of("token", 2)), ("use_v1.json", of("token", 3)), ("agent_v1.json", of("agent", 2))]
}

fn read<T: Record + PartialEq + std::fmt::Debug>(value: &[u8]) -> T {
    let entry = Entry {
        key: Key::parse("token/x").unwrap(),
        value: value.to_vec(),
        revision: Revision(1),
        written_at: Timestamp::UNIX_EPOCH,
    };
    Stored::decode(&entry).unwrap().body
}

#[test]
fn stored_forms_of_this_release() {
    for (file, values) in written() {
        assert_eq!(values.len(), 2, "{file}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
        let lines: Vec<u8> = values.iter().flat_map(|value| [value.as_slice(), b"\n"].concat()).collect();
        if std::env::var_os("TOEHOLD_RENEW_VECTORS").is_some() {
            std::fs::write(&path, &lines).unwrap();
        }
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(String::from_utf8(lines).unwrap(), String::from_utf8(kept.clone()).unwrap(), "{file}");
        for (line, value) in kept.split(|byte| *byte == b'\n').zip(values) {
            match file {
                "token_v1.json" => assert_eq!(read::<TokenRecord>(line), read(&value)),
                "use_v1.json" => assert_eq!(read::<UseRecord>(line), read(&value)),
                _ => assert_eq!(read::<AgentRecord>(line), read(&value)),
            }
        }
    }
}
