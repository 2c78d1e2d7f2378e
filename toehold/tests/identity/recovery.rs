//! What a recovery copy takes along: all that the store keeps, but for what is left out on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use toehold::adapters::identity::OtherIdentity;
use toehold::master_key::seal_master_key;
use toehold::recovery::{COPIED, LEFT_OUT, RecoveryCopy};

use super::*;

/// The first segments of the keys that the sources name, and a file that does.
fn prefixes() -> BTreeMap<String, PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = BTreeMap::new();
    let mut waiting: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path().join("src")).collect();
    while let Some(path) = waiting.pop() {
        // What only tests put into a store is in no store.
        if path.ends_with("testing") || path.ends_with("tests") {
            continue;
        }
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let named = ["Key::new([\"", "Key::literal(\"", "Key::parse(\""].map(|call| text.split(call).skip(1)).into_iter();
            for rest in named.flatten() {
                let segment = rest.split(['"', '/']).next().unwrap();
                found.insert(segment.to_owned(), path.clone());
            }
        }
    }
    found
}

#[test]
fn r10_whatever_is_kept_in_the_store_is_copied_or_left_out_on_purpose() {
    let found = prefixes();
    for known in ["host", "masterkey", "session", "audit", "renewal", "grant"] {
        assert!(found.contains_key(known), "the sources are not read as they are written: {found:?}");
    }
    let decided: BTreeSet<&str> = COPIED.into_iter().chain(LEFT_OUT.into_iter().map(|(prefix, _)| prefix)).collect();
    for (prefix, file) in &found {
        assert!(
            decided.contains(prefix.as_str()),
            "{} keeps records below \"{prefix}\": say in COPIED or LEFT_OUT of toehold/src/recovery.rs what becomes of them",
            file.display()
        );
    }
    assert_eq!(decided.len(), COPIED.len() + LEFT_OUT.len(), "one is in both lists");
}

/// An identity that lies elsewhere.
fn somebody() -> (OtherIdentity, Recipient) {
    let elsewhere = directory();
    let vault = IdentityFile::create(elsewhere.path(), NewIdentity::unprotected(), NOW).unwrap().unwrap();
    let identity = OtherIdentity::read(&elsewhere.path().join(FILE_NAME), || Ok(None)).unwrap();
    (identity, vault.recipient())
}

async fn put(store: &SqliteStore, key: &str, value: &str) {
    store.put(&Key::parse(key).unwrap(), value.as_bytes(), Expect::Absent).await.unwrap();
}

#[tokio::test]
async fn r10_every_kind_of_record_that_is_copied_is_there_again() {
    let (old, new) = (directory(), directory());
    let (store, restored) = (SqliteStore::create(old.path()).unwrap(), SqliteStore::create(new.path()).unwrap());
    let (ours, theirs) = (vault(), vault());
    create_master_key(&store, &ours, &key_pair(1), "toehold-master", NOW).await.unwrap();
    for prefix in COPIED.into_iter().chain(LEFT_OUT.map(|(prefix, _)| prefix)).filter(|prefix| *prefix != "masterkey") {
        put(&store, &format!("{prefix}/one"), &format!("{{\"v\":1,\"of\":\"{prefix}\"}}")).await;
    }
    // A key of an earlier rotation that is sealed to somebody else.
    let other = key_pair(2);
    let record = seal_master_key(&theirs, &other, "toehold-master", NOW, 0).unwrap();
    Stored::create(&store, MasterKeyRecord::key(&other.public_key().fingerprint()).unwrap(), record.clone()).await.unwrap();

    let (identity, recipient) = somebody();
    let copy = RecoveryCopy::of(&store, &ours, NOW).await.unwrap();
    let sealed = copy.seal(&store, &[recipient]).await.unwrap();
    let opened = RecoveryCopy::open(&sealed, &identity).unwrap();
    assert_eq!(opened.closed, [other.public_key().fingerprint()]);
    let (third, third_vault) = (&restored, vault());
    opened.restore(third, &third_vault).await.unwrap();

    for prefix in COPIED {
        let there = third.get(&Key::parse(&format!("{prefix}/one")).unwrap()).await.unwrap();
        assert!(there.is_some_and(|entry| String::from_utf8_lossy(&entry.value).contains(prefix)), "{prefix} is lost");
    }
    for (prefix, _) in LEFT_OUT.into_iter().filter(|(prefix, _)| *prefix != "masterkey") {
        assert!(third.get(&Key::parse(&format!("{prefix}/one")).unwrap()).await.unwrap().is_none(), "{prefix} came along");
    }
    assert_eq!(openssh(&load_master_key(third, &third_vault).await.unwrap()).expose(), openssh(&key_pair(1)).expose());
    // Whoever could open the other one still can.
    let key = MasterKeyRecord::key(&other.public_key().fingerprint()).unwrap();
    let kept = Stored::<MasterKeyRecord>::read(third, &key).await.unwrap().unwrap();
    assert!(toehold::master_key::open_master_key(&theirs, &kept.body).is_ok());
}
