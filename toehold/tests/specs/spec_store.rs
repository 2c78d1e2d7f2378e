//! Specifications in a store: conditional, in pieces where they are large, and the command `spec put` and `get`.

use std::future::Future;

use crate::spec_support::spec::{Desk, PRIVATE, entry, list};
use crate::support::Toehold;
use toehold::spec_store::{self, SpecRecord, SpecStoreError};
use toehold_core::testing::MemoryStore;
use toehold_core::{Expect, Key, Store as _, StoreError};
use toehold_specsign::{
    Envelope, Format, Sha256Digest, SignedStatement, SigningKey, SpecName, Statement, TrustedKeys, pack, seal,
};

fn run<T>(future: impl Future<Output = T>) -> T {
    toehold_core::testing::block_on(future)
}

fn name() -> SpecName {
    "fleet".parse().unwrap()
}

/// A document of `machines` machines, with an envelope or without.
fn document(serial: Option<u64>, machines: u32) -> Vec<u8> {
    document_of(name(), serial, machines)
}

fn document_of(name: SpecName, serial: Option<u64>, machines: u32) -> Vec<u8> {
    let key = SigningKey::from_hex(PRIVATE).unwrap();
    let payload = list(&(0..machines).map(|number| entry(&format!("m{number}"), number, "true")).collect::<Vec<_>>());
    let Some(serial) = serial else { return pack(Format::Machines, payload.as_bytes(), Some(&key)).unwrap().into_bytes() };
    let next = TrustedKeys::one(key.verifying_key());
    let (from, until) = ("2026-11-01T00:00:00Z".parse().unwrap(), "2026-12-01T00:00:00Z".parse().unwrap());
    let statement = Statement::new(Format::Machines, name, serial, from, until, payload.as_bytes(), next);
    let current = SignedStatement::unsigned(statement).unwrap().sign(&key);
    seal(payload.as_bytes(), &Envelope { current, key_changes: Vec::new() }, None).unwrap().into_bytes()
}

fn keys(store: &MemoryStore) -> usize {
    run(store.list(&Key::parse("spec").unwrap())).unwrap().len()
}

#[test]
fn a_document_is_read_as_it_was_put_whole_or_in_pieces() {
    for (max_value, pieces) in [(1024 * 1024, 0), (20_000, 2)] {
        let store = MemoryStore::default().with_max_value(max_value);
        assert_eq!(run(spec_store::read(&store, &name())).unwrap(), None);
        let first = document(Some(1), 60);
        let put = run(spec_store::put(&store, &name(), &first)).unwrap();
        assert_eq!((put.unchanged, put.serial, put.pieces), (false, Some(1), pieces), "{} bytes", first.len());
        assert_eq!(run(spec_store::read(&store, &name())).unwrap(), Some(first.clone()));
        assert!(run(spec_store::put(&store, &name(), &first)).unwrap().unchanged);
        let second = document(Some(2), 70);
        run(spec_store::put(&store, &name(), &second)).unwrap();
        assert_eq!(run(spec_store::read(&store, &name())).unwrap(), Some(second));
        assert_eq!(keys(&store), 1 + pieces, "the pieces of the version before are gone");
    }
}

#[test]
fn s3_no_version_takes_the_place_of_a_later_one() {
    let store = MemoryStore::default();
    let put = |document: &[u8]| run(spec_store::put(&store, &name(), document));
    put(&document(None, 1)).unwrap();
    put(&document(None, 2)).unwrap();
    put(&document(Some(5), 1)).unwrap();
    assert!(matches!(put(&document(Some(4), 1)), Err(SpecStoreError::Older { stored: 5, got: 4, .. })));
    assert!(matches!(put(&document(Some(5), 2)), Err(SpecStoreError::Fork { serial: 5, .. })));
    assert!(matches!(put(&document(None, 1)), Err(SpecStoreError::Stripped(_))));
    assert!(matches!(put(b"{}"), Err(SpecStoreError::Document(_))));
    let other = run(spec_store::put(&store, &"other".parse().unwrap(), &document(Some(6), 1)));
    assert!(matches!(other, Err(SpecStoreError::Name { .. })));
    assert_eq!(run(spec_store::read(&store, &name())).unwrap(), Some(document(Some(5), 1)));
    put(&document(Some(6), 1)).unwrap();
}

#[test]
fn what_was_put_meanwhile_is_not_replaced() {
    let store = MemoryStore::default().with_max_value(20_000);
    run(spec_store::put(&store, &name(), &document(Some(1), 60))).unwrap();
    // Somebody else puts a version between our look and our write.
    let racing = Racing { inner: store.clone(), other: document(Some(3), 80) };
    let refused = run(spec_store::put(&racing, &name(), &document(Some(2), 70)));
    assert!(matches!(refused, Err(SpecStoreError::Store(StoreError::Conflict { .. }))), "{refused:?}");
    assert_eq!(run(spec_store::read(&store, &name())).unwrap(), Some(document(Some(3), 80)));
    assert_eq!(keys(&store), 1 + document(Some(3), 80).len().div_ceil(20_000), "ours left nothing behind");
}

/// A store in which another version comes just before ours is written.
struct Racing {
    inner: MemoryStore,
    other: Vec<u8>,
}

impl toehold_core::Store for Racing {
    type Watch = <MemoryStore as toehold_core::Store>::Watch;

    async fn get(&self, key: &Key) -> Result<Option<toehold_core::Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &Key, value: &[u8], expect: toehold_core::Expect) -> Result<toehold_core::Revision, StoreError> {
        if matches!(expect, toehold_core::Expect::Revision(_)) {
            Box::pin(spec_store::put(&self.inner, &name(), &self.other)).await.map_err(|error| match error {
                SpecStoreError::Store(error) => error,
                other => panic!("{other}"),
            })?;
        }
        self.inner.put(key, value, expect).await
    }

    async fn delete(&self, key: &Key, revision: toehold_core::Revision) -> Result<(), StoreError> {
        self.inner.delete(key, revision).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<toehold_core::Entry>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        self.inner.kinds().await
    }

    async fn watch(&self, prefix: &Key) -> Result<Self::Watch, StoreError> {
        self.inner.watch(prefix).await
    }

    fn max_value(&self) -> usize {
        self.inner.max_value()
    }
}

#[test]
fn a_piece_that_is_gone_or_another_is_damage_and_not_half_a_document() {
    let store = MemoryStore::default().with_max_value(20_000);
    let document = document(Some(1), 60);
    run(spec_store::put(&store, &name(), &document)).unwrap();
    let entries = run(store.list(&Key::parse("spec/fleet").unwrap())).unwrap();
    let piece = &entries[0];
    run(store.delete(&piece.key, piece.revision)).unwrap();
    assert!(matches!(run(spec_store::read(&store, &name())), Err(SpecStoreError::Damaged(_))));
    // Putting it again mends it.
    assert!(run(spec_store::put(&store, &name(), &document)).unwrap().unchanged);
    assert_eq!(run(spec_store::read(&store, &name())).unwrap(), Some(document));
    let entries = run(store.list(&Key::parse("spec/fleet").unwrap())).unwrap();
    run(store.put(&entries[0].key, b"other", toehold_core::Expect::Revision(entries[0].revision))).unwrap();
    assert!(matches!(run(spec_store::read(&store, &name())), Err(SpecStoreError::Damaged(_))));
}

#[test]
fn s3_what_machines_that_join_cannot_be_told_is_refused_and_what_cannot_be_read_keeps_back_nothing_else() {
    let store = MemoryStore::default();
    let keys = |count: u8| {
        let key = |number: u8| SigningKey::from_seed_hex(&format!("{number:02x}").repeat(32)).unwrap().verifying_key();
        TrustedKeys::new((1..=count).map(key).collect::<Vec<_>>(), 1).unwrap()
    };
    let put = |name: &str, keys: Option<&TrustedKeys>| {
        let name: SpecName = name.parse().unwrap();
        let document = document_of(name.clone(), Some(1), 1);
        run(spec_store::put_vouched(&store, &name, &document, keys))
    };
    let many = put("s0", Some(&keys(9))).unwrap_err();
    assert!(matches!(many, SpecStoreError::Keys { got: 9, .. }) && many.to_string().contains("8 at most"), "{many}");
    for number in 0..64 {
        put(&format!("s{number}"), Some(&keys(8))).unwrap();
    }
    let full = put("fleet", Some(&keys(1))).unwrap_err();
    assert!(matches!(&full, SpecStoreError::Many(name) if name.as_str() == "fleet"), "{full}");
    assert_eq!(run(spec_store::record(&store, &name())).unwrap(), None);
    // One that is named already can be put again, and one that nobody vouches for is nothing to tell.
    put("s5", Some(&keys(2))).unwrap();
    put("fleet", None).unwrap();
    put("s5", None).unwrap();
    put("fleet", Some(&keys(1))).unwrap();

    let record = run(store.get(&Key::parse("spec/s7").unwrap())).unwrap().unwrap();
    run(store.put(&record.key, b"no record", toehold_core::Expect::Revision(record.revision))).unwrap();
    let named = run(spec_store::vouched(&store)).unwrap();
    assert!(named.specs.len() == 63 && named.specs.contains_key(&name()), "{named:?}");
    assert!(matches!(&named.unreadable[..], [StoreError::Corrupt { key, .. }] if key.name() == "s7"), "{named:?}");
}

#[test]
fn the_commands_put_and_get() {
    let toehold = Toehold::new();
    let desk = Desk::new();
    let file = |name: &str, content: &[u8]| desk.write(name, content);
    let (first, second) = (document(Some(1), 3), document(Some(2), 9000));
    assert!(second.len() > 1024 * 1024);
    let absent = toehold.run(["spec", "get", "fleet"]).ends(1);
    assert!(absent.stderr.contains("spec put fleet"), "{}", absent.stderr);
    let put = toehold.run(["--json", "spec", "put", "fleet", &file("1.json", &first)]).ends(0).json();
    assert_eq!((&put["serial"], &put["unchanged"]), (&1.into(), &false.into()));
    assert_eq!(toehold.run(["spec", "get", "fleet"]).ends(0).stdout.as_bytes(), first);
    toehold.run(["spec", "put", "fleet", &file("2.json", &second)]).ends(0);
    assert_eq!(toehold.run(["spec", "get", "fleet"]).ends(0).stdout.as_bytes(), second);
    let old = toehold.run(["spec", "put", "fleet", &file("1.json", &first)]).ends(1);
    assert!(old.stderr.contains("serial 2"), "{}", old.stderr);
    toehold.run(["spec", "put", "../x", &file("1.json", &first)]).ends(2);
    toehold.run(["spec", "put", "fleet", &desk.at("none")]).ends(1);
}

#[test]
fn a_document_that_nobody_vouches_for_is_not_put_there() {
    let toehold = Toehold::new();
    let desk = Desk::new();
    let good = desk.write("good.json", document(Some(1), 3));
    let payload = list(&[entry("m0", 0, "true")]);
    let key = SigningKey::from_hex(PRIVATE).unwrap();
    let (from, until) = ("2026-11-01T00:00:00Z".parse().unwrap(), "2026-12-01T00:00:00Z".parse().unwrap());
    let next = TrustedKeys::one(key.verifying_key());
    let statement = Statement::new(Format::Machines, name(), 2, from, until, payload.as_bytes(), next);
    let current = SignedStatement::unsigned(statement).unwrap();
    let unsigned = seal(payload.as_bytes(), &Envelope { current, key_changes: Vec::new() }, None).unwrap();
    let unsigned = desk.write("unsigned.json", unsigned);
    let refused = toehold.run(["spec", "put", "fleet", &unsigned]).ends(1);
    assert!(refused.stderr.contains("nobody vouches"), "{}", refused.stderr);
    let stranger = SigningKey::from_seed_hex(&"07".repeat(32)).unwrap().verifying_key().to_string();
    toehold.run(["spec", "put", "fleet", &good, "--public-key", &stranger]).ends(1);
    toehold.run(["spec", "get", "fleet"]).ends(1);
    let told = toehold.run(["spec", "put", "fleet", &good]).ends(0);
    assert!(told.stdout.contains("Nobody was named"), "{}", told.stdout);
    let public = key.verifying_key().to_string();
    let put = toehold.run(["--json", "spec", "put", "fleet", &good, "--public-key", &public]).ends(0).json();
    assert_eq!(put["verified"], true);
    // Put there again without a word, the same keys count: they are not forgotten, and nobody else's document takes the name.
    let again = || toehold.run(["--json", "spec", "put", "fleet", &good]).ends(0).json();
    assert_eq!(again()["verified"], true);
    let (machines, other) = (desk.write("list.json", &payload), desk.write("other", "07".repeat(32)));
    let theirs = ["pack", &machines, &other, "--name", "fleet", "--serial", "9", "--expires", "7d"];
    let theirs = desk.keep("theirs.json", &theirs);
    let refused = toehold.run(["spec", "put", "fleet", &theirs]).ends(1);
    assert!(refused.stderr.contains("--unverified"), "{}", refused.stderr);
    assert_eq!(again()["verified"], true);
    // A change of keys that the new one has not signed is taken by no node, though the old one has.
    let (private, next) = (desk.write("key", PRIVATE), stranger.as_str());
    let hand_over =
        ["pack", &desk.write("list.json", &payload), &private, "--after", &good, "--expires", "7d", "--next-key", next];
    let hand_over = desk.write("over.json", desk.spec(&hand_over).ends(3).stdout);
    let refused = toehold.run(["spec", "put", "fleet", &hand_over, "--public-key", &public]).ends(1);
    assert!(refused.stderr.contains("no node could use it"), "{}", refused.stderr);
    toehold.run(["spec", "put", "fleet", &unsigned, "--unverified"]).ends(0);
}

/// Whoever else can write to the store writes what they like: a record is read as it is or refused, and a document that comes out of it is the one
/// that its digest names.
#[test]
fn a_damaged_record_is_refused_or_says_something_else_and_yields_no_other_document() {
    let key = Key::parse("spec/fleet").unwrap();
    for max_value in [1024 * 1024, 5_000] {
        let store = MemoryStore::default().with_max_value(max_value);
        let public = SigningKey::from_hex(PRIVATE).unwrap().verifying_key();
        let (document, keys) = (document(Some(1), 3), TrustedKeys::one(public));
        let pieces = run(spec_store::put_vouched(&store, &name(), &document, Some(&keys))).unwrap().pieces;
        assert_eq!(pieces > 0, max_value < 10_000);
        let entry = run(store.get(&key)).unwrap().unwrap();
        let (whole, mut revision) = (entry.value, entry.revision);
        let mut read = 0;
        let mut check = |value: &[u8]| {
            revision = run(store.put(&key, value, Expect::Revision(revision))).unwrap();
            if let Ok(Some(record)) = run(spec_store::record(&store, &name())) {
                read += 1;
                let body = serde_json::to_value(&record).unwrap();
                assert_eq!(serde_json::from_value::<SpecRecord>(body).unwrap(), record);
                if let Ok(Some(found)) = run(spec_store::read(&store, &name())) {
                    assert_eq!(Sha256Digest::of(&found), record.digest);
                }
            }
            let vouched = run(spec_store::vouched(&store)).unwrap();
            assert!(vouched.specs.len() + vouched.unreadable.len() <= 1);
        };
        check(&whole);
        for at in 0..whole.len() {
            check(&whole[..at]);
            for other in [whole[at] ^ 1, whole[at] ^ 0x20, b'0', b'"', b'}', 0xff] {
                let mut changed = whole.clone();
                changed[at] = other;
                check(&changed);
            }
        }
        assert!(read > 100, "{read}");
    }
}
