//! The master key's records, whatever write the process dies at.

use super::*;

/// A store that fails from its n-th write on, before or after the write took place.
struct Failing<'a> {
    store: &'a SqliteStore,
    writes_left: AtomicUsize,
    after: bool,
}

impl<'a> Failing<'a> {
    fn at(store: &'a SqliteStore, write: usize, after: bool) -> Self {
        Self { store, writes_left: AtomicUsize::new(write), after }
    }

    /// Whether this write still takes place, and whether it is reported.
    fn next(&self) -> (bool, bool) {
        let left = self.writes_left.load(Ordering::Relaxed);
        self.writes_left.store(left.saturating_sub(1), Ordering::Relaxed);
        (left > 1 || (left == 1 && self.after), left > 1)
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable { doing: "writing".to_owned(), source: "the process has ended".into() }
}

impl Store for Failing<'_> {
    type Watch = <SqliteStore as Store>::Watch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let (takes_place, reported) = self.next();
        let result = if takes_place { self.store.put(key, value, expect).await } else { Err(gone()) };
        if reported { result } else { Err(gone()) }
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        let (takes_place, reported) = self.next();
        let result = if takes_place { self.store.delete(key, revision).await } else { Err(gone()) };
        if reported { result } else { Err(gone()) }
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        self.store.list(prefix).await
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        self.store.kinds().await
    }

    async fn watch(&self, prefix: &Key) -> Result<Self::Watch, StoreError> {
        self.store.watch(prefix).await
    }

    fn max_value(&self) -> usize {
        self.store.max_value()
    }
}

async fn records(store: &SqliteStore) -> Vec<Entry> {
    store.list(&Key::parse("masterkey").unwrap()).await.unwrap()
}

#[tokio::test]
async fn made_once_and_loaded_again() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let vault = vault();
    let key = key_pair(1);
    assert!(matches!(load_master_key(&store, &vault).await, Err(MasterKeyError::Absent)));
    assert!(matches!(current_master_public(&store).await, Err(MasterKeyError::Absent)));
    assert_eq!(current_master_key(&store).await.unwrap(), None);

    let made = create_master_key(&store, &vault, &key, "fleet", NOW).await.unwrap();
    assert!(made.created);
    assert_eq!((made.record.comment.as_str(), made.record.created_at), ("fleet", NOW));
    let loaded = load_master_key(&store, &vault).await.unwrap();
    assert_eq!(loaded.public_key(), key.public_key());
    assert_eq!(openssh(&loaded), openssh(&key));
    assert_eq!(current_master_public(&store).await.unwrap(), *key.public_key());

    let before = records(&store).await;
    let again = create_master_key(&store, &vault, &key_pair(2), "other", NOW).await.unwrap();
    assert!(!again.created);
    assert_eq!(again.record, made.record);
    assert_eq!(records(&store).await, before);
    assert_eq!(before.len(), 2);
    for entry in before {
        assert!(!String::from_utf8(entry.value).unwrap().contains("PRIVATE KEY"));
    }
}

#[tokio::test]
async fn a_crash_at_any_write_is_completed_by_the_next_init() {
    for write in 1..=2 {
        for after in [false, true] {
            let directory = directory();
            let store = SqliteStore::create(directory.path()).unwrap();
            let vault = vault();
            let (first, second) = (key_pair(1), key_pair(2));
            let crashed = create_master_key(&Failing::at(&store, write, after), &vault, &first, "", NOW).await;
            assert!(matches!(crashed, Err(MasterKeyError::Store(_))), "write {write}: {crashed:?}");
            let was_written = records(&store).await.len();
            assert_eq!(was_written, write - usize::from(!after));

            let next = create_master_key(&store, &vault, &second, "", NOW).await.unwrap();
            // Once the first key's record is there, it is that key; there are never two.
            let expected = if was_written == 0 { &second } else { &first };
            assert_eq!(next.record.public_key, *expected.public_key(), "write {write}, after {after}");
            assert_eq!(next.created, was_written == 0);
            assert_eq!(load_master_key(&store, &vault).await.unwrap().public_key(), expected.public_key());
            assert_eq!(records(&store).await.len(), 2);
        }
    }
}

#[tokio::test]
async fn several_at_once_agree_on_one() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let vault = Arc::new(vault());
    let tasks: Vec<_> = (0..8)
        .map(|seed| {
            let (store, vault) = (store.clone(), Arc::clone(&vault));
            tokio::spawn(async move { create_master_key(&store, &vault, &key_pair(seed), "", NOW).await.unwrap() })
        })
        .collect();
    let mut keys = Vec::new();
    for task in tasks {
        keys.push(task.await.unwrap().record.public_key);
    }
    keys.dedup();
    assert_eq!(keys, [current_master_public(&store).await.unwrap()]);
    assert_eq!(records(&store).await.len(), 2, "a key that lost was left");
}

#[tokio::test]
async fn an_unfinished_key_that_cannot_be_opened_does_not_become_current() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let crashed = create_master_key(&Failing::at(&store, 1, true), &vault(), &key_pair(1), "", NOW).await;
    assert!(crashed.is_err());
    let error = create_master_key(&store, &vault(), &key_pair(2), "", NOW).await.unwrap_err();
    assert!(matches!(error, MasterKeyError::Vault(VaultError::OtherRecipient { .. })), "{error:?}");
    assert_eq!(records(&store).await.len(), 1);
}

#[tokio::test]
async fn a_sealed_half_moved_to_another_record_is_refused() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let vault = vault();
    let (ours, theirs) = (key_pair(1), key_pair(2));
    create_master_key(&store, &vault, &ours, "", NOW).await.unwrap();
    let place = MasterKeyRecord::key(&ours.public_key().fingerprint()).unwrap();
    let good = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();

    // The sealed value of another key, in the place of ours.
    let other_directory = crate::directory();
    let other = SqliteStore::create(other_directory.path()).unwrap();
    create_master_key(&other, &vault, &theirs, "", NOW).await.unwrap();
    let moved = current_master_key(&other).await.unwrap().unwrap().sealed;
    // Another private key, sealed by somebody who knows the recipient and the purpose.
    let forged = vault.seal_secret(Purpose::MasterKey(ours.public_key().fingerprint()), openssh(&theirs)).unwrap();
    let forged = <base64ct::Base64 as base64ct::Encoding>::encode_string(&forged);
    let rubbish = vault.seal_secret(Purpose::MasterKey(ours.public_key().fingerprint()), &secret("rubbish")).unwrap();
    let rubbish = <base64ct::Base64 as base64ct::Encoding>::encode_string(&rubbish);
    for (sealed, expected) in [
        (moved, "sealed as something else"),
        (forged, "that of another key"),
        (rubbish, "not a private key"),
        ("***".to_owned(), "not base64"),
        (String::new(), "damaged"),
    ] {
        let mut stored = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();
        stored.body.sealed = sealed;
        stored.save(&store).await.unwrap();
        let words = in_words(&load_master_key(&store, &vault).await.unwrap_err());
        assert!(words.contains(expected), "{words}");
    }
    // The whole record in the place of another.
    let mut stored = Stored::<MasterKeyRecord>::read(&store, &place).await.unwrap().unwrap();
    stored.body = good.body.clone();
    stored.body.public_key = theirs.public_key().clone();
    stored.save(&store).await.unwrap();
    assert!(matches!(load_master_key(&store, &vault).await, Err(MasterKeyError::Damaged { .. })));
    stored.body = good.body;
    stored.save(&store).await.unwrap();
    load_master_key(&store, &vault).await.unwrap();
}

#[tokio::test]
async fn a_lost_key_is_not_replaced() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let vault = vault();
    let key = key_pair(1);
    create_master_key(&store, &vault, &key, "", NOW).await.unwrap();
    let place = MasterKeyRecord::key(&key.public_key().fingerprint()).unwrap();
    let entry = store.get(&place).await.unwrap().unwrap();
    store.delete(&place, entry.revision).await.unwrap();
    for error in [
        create_master_key(&store, &vault, &key_pair(2), "", NOW).await.map(drop).unwrap_err(),
        load_master_key(&store, &vault).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, MasterKeyError::Lost { .. }), "{error:?}");
    }
    let left: Vec<_> = records(&store).await.into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, [CurrentMasterKey::key().unwrap()]);
}

#[tokio::test]
async fn a_key_pair_whose_halves_differ_is_not_stored() {
    let directory = directory();
    let store = SqliteStore::create(directory.path()).unwrap();
    let Identity::PrivateKey { openssh, .. } = key_pair(1) else { panic!() };
    let mixed = Identity::PrivateKey { public_key: key_pair(2).public_key().clone(), openssh };
    assert!(create_master_key(&store, &vault(), &mixed, "", NOW).await.is_err());
    assert!(records(&store).await.is_empty());
}
