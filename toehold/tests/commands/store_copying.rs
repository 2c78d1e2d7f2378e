//! A store copied to another one: cut off at every call, it goes on; and whatever it finds there that is not its own, it leaves.

use toehold::store_copy::{CopyError, copy, everything, fill, snapshot};
use toehold_core::testing::{Crashing, Fault, Faults, MemoryStore, block_on};
use toehold_core::{Entry, Expect, Key, Store as _, Timestamp};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    for (name, value) in
        [("masterkey/current", "c"), ("host/a@b", "1"), ("spec/web/ff", "\u{0}\u{ff}"), ("alone", "x"), ("host/c@d", "2")]
    {
        block_on(store.put(&key(name), value.as_bytes(), Expect::Absent)).unwrap();
    }
    store
}

/// Keys and values, without what is each store's own.
fn values(store: &MemoryStore) -> Vec<(Key, Vec<u8>)> {
    store.entries().into_iter().map(|Entry { key, value, .. }| (key, value)).collect()
}

#[test]
fn a_copy_that_fails_at_any_call_goes_on_and_names_the_current_key_last() {
    let from = filled();
    let calls = {
        let faults = Faults::new();
        let to = MemoryStore::new();
        let copied = block_on(copy(&from, &Crashing::new(to.clone(), faults.clone()))).unwrap();
        assert_eq!((copied.values, copied.written), (5, 5));
        assert_eq!(values(&to), values(&from));
        assert_eq!(copied.digest, block_on(snapshot(&from, Timestamp::UNIX_EPOCH)).unwrap().digest());
        faults.log()
    };
    let mut failed = 0;
    for call in calls {
        for fault in call.kind.faults().iter().filter(|fault| **fault != Fault::Hang) {
            let (to, faults) = (MemoryStore::new(), Faults::new());
            faults.fail_at(call.number, *fault);
            if let Err(error) = block_on(copy(&from, &Crashing::new(to.clone(), faults))) {
                failed += 1;
                assert!(matches!(error, CopyError::Target(_) | CopyError::Differs { .. }), "{error} at {call}");
                let names: Vec<Key> = to.entries().into_iter().map(|entry| entry.key).collect();
                assert!(!names.contains(&key("masterkey/current")) || names.len() == 5, "half of it looks whole at {call}");
            }
            let again = block_on(copy(&from, &to)).unwrap();
            assert_eq!(values(&to), values(&from), "{call}");
            assert_eq!(again.values, 5);
        }
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn what_is_there_and_is_not_the_copys_own_is_left_alone() {
    let from = filled();
    for (name, wanted) in [("host/a@b", "another host/a@b"), ("host/z@z", "holds host/z@z")] {
        let to = MemoryStore::new();
        block_on(to.put(&key(name), b"theirs", Expect::Absent)).unwrap();
        let before = to.entries();
        let error = block_on(copy(&from, &to)).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(to.entries(), before);
    }
    let to = MemoryStore::new().with_max_value(1);
    assert!(matches!(block_on(copy(&from, &to)), Err(CopyError::TooLarge { .. })));
    assert_eq!(to.entries(), []);
}

#[test]
fn a_value_that_is_lost_on_the_way_is_missed() {
    let (from, to) = (filled(), MemoryStore::new());
    let export = block_on(snapshot(&from, Timestamp::UNIX_EPOCH)).unwrap();
    block_on(fill(&export, &to)).unwrap();
    assert_eq!(block_on(everything(&to)).unwrap().len(), 5);
    let lost = block_on(to.get(&key("host/c@d"))).unwrap().unwrap();
    block_on(to.delete(&lost.key, lost.revision)).unwrap();
    let again = block_on(copy(&from, &to)).unwrap();
    assert_eq!(again.written, 1);
}
