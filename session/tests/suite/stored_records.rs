//! What is in the store: names, defaults, and the formats as they were released.

use std::time::Duration;

use crate::support;
use crate::support::turns::{self, id};
use crate::support::{Home, Lab, Paste};
use toehold_core::testing::{MemoryStore, block_on};
use toehold_core::{Expect, HostKeyTrust, Key, Store as _, StoreError, Stored};
use toehold_session::{
    AccountClaim, AddedLine, CLOSED_SESSIONS_KEPT, Closed, DEFAULT_LIFETIME, DeadKey, Evidence, HostKeyCheck, LeftLine,
    SessionRecord, Status, TrustedHostKey, long_closed, prune_closed,
};

#[test]
fn a_session_is_named_by_128_random_bits_and_lives_for_half_an_hour() {
    assert_eq!(DEFAULT_LIFETIME, Duration::from_mins(30));
    let mut names = std::collections::BTreeSet::new();
    for seed in 0..16 {
        let lab = Lab::new(Home::Foreign);
        let onboarder = lab.onboarder();
        let mut hands = lab.hands(Paste::AtOnce);
        let outcome = lab
            .world
            .run(onboarder.onboard(lab.request(), &support::master(), &mut support::rng(seed), &mut hands))
            .unwrap()
            .unwrap();
        let record = outcome.record;
        assert_eq!(record.expires_at.saturating_since(record.created_at), DEFAULT_LIFETIME);
        let name = record.id.to_string();
        assert!(name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{name}");
        assert_eq!(SessionRecord::key(record.id).unwrap().to_string(), format!("session/{name}"));
        names.insert(name);
    }
    assert_eq!(names.len(), 16);
}

#[test]
fn a_life_that_no_temporary_key_has_begins_no_session() {
    for seconds in [0, 59, 24 * 3600 + 1] {
        let lab = Lab::new(Home::Foreign);
        let mut request = lab.request();
        request.lifetime = Duration::from_secs(seconds);
        let error = lab.onboard(request, &mut lab.hands(Paste::AtOnce)).unwrap().unwrap_err();
        assert!(error.to_string().contains("temporary key"), "{error}");
        assert!(lab.sessions().is_empty() && lab.claim().is_none());
    }
}

fn full_record() -> SessionRecord {
    let mut record = turns::record(HostKeyCheck::Fingerprint(turns::host_key().fingerprint()));
    record.home = Some("/srv/deploy".to_owned());
    record.route.jumps = vec![support::account("jump@bastion:2222")];
    record.label = Some("shop".to_owned());
    record.tags = [("site".to_owned(), "a".to_owned())].into();
    record.sealed_temporary_key = Some("sealed".to_owned());
    record.sealed_proof_secret = Some("sealed, too".to_owned());
    record.host_key = Some(TrustedHostKey { public_key: turns::host_key(), trust: Some(HostKeyTrust::Fingerprint) });
    record.installed = true;
    record.adding = vec![support::master_key()];
    record.without_expiry = true;
    record.attempt = 3;
    record.cancelled = true;
    record.reason = Some("interrupted".to_owned());
    record.status = Status::Failed;
    record.closed = Some(Closed { at: turns::now(), evidence: Evidence::SeenGone });
    record
}

#[test]
fn a_claim_that_cannot_be_read_keeps_the_sessions_of_its_account_and_no_others() {
    let store = MemoryStore::new();
    for (name, account) in [('a', "deploy@web1"), ('b', "deploy@web2")] {
        let mut record = full_record();
        record.id = id(name);
        record.route.account = support::account(account);
        block_on(Stored::create(&store, SessionRecord::key(record.id).unwrap(), record)).unwrap();
    }
    let claim = AccountClaim::key(&support::account("deploy@web1")).unwrap();
    block_on(store.put(&claim, b"{}", Expect::Absent)).unwrap();
    let later = turns::now().saturating_add(CLOSED_SESSIONS_KEPT);
    let found = block_on(long_closed(&store, CLOSED_SESSIONS_KEPT, later)).unwrap();
    let over: Vec<_> = found.over.into_iter().map(|(key, _)| key).collect();
    assert_eq!(over, [SessionRecord::key(id('b')).unwrap()]);
    assert!(matches!(&found.unreadable[..], [StoreError::Corrupt { key, .. }] if *key == claim), "{:?}", found.unreadable);
    assert_eq!(block_on(prune_closed(&store, later)).unwrap(), 1);
}

fn full_claim() -> AccountClaim {
    AccountClaim {
        session: id('a'),
        attempt: 3,
        adding: vec![AddedLine { line: support::master_line(), options_before: Some("restrict".to_owned()) }],
        left: vec![LeftLine {
            added: AddedLine { line: support::colleague_line(), options_before: None },
            jumps: vec![support::account("jump@bastion:2222")],
        }],
        managed: true,
        dead: vec![DeadKey {
            session: id('d'),
            public_key: turns::temporary_key(),
            jumps: vec![support::account("jump@bastion:2222")],
        }],
    }
}

/// Reads the kept text as a record, compares, writes it, and compares again.
fn kept<T>(name: &str, key: &str, wanted: &T)
where
    T: toehold_core::Record + Clone + PartialEq + std::fmt::Debug,
{
    let lab = Lab::new(Home::Foreign);
    let key = Key::parse(key).unwrap();
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TOEHOLD_RENEW_VECTORS").is_some() {
        block_on(Stored::create(lab.world.memory(), key.clone(), wanted.clone())).unwrap();
        let entry = lab.world.memory().entries().pop().unwrap();
        block_on(lab.world.memory().delete(&key, entry.revision)).unwrap();
        std::fs::write(&path, &entry.value).unwrap();
    }
    let text = std::fs::read(&path).unwrap();
    block_on(lab.world.memory().put(&key, text.trim_ascii_end(), Expect::Absent)).unwrap();
    let mut stored = block_on(Stored::<T>::read(lab.world.memory(), &key)).unwrap().unwrap();
    assert_eq!(stored.body, *wanted, "{name}");
    block_on(stored.save(lab.world.memory())).unwrap();
    assert_eq!(lab.world.memory().entries().pop().unwrap().value, text.trim_ascii_end(), "{name}");
}

#[test]
fn records_of_format_1_are_read_and_written_as_ever() {
    kept("session_v1.json", &format!("session/{}", id('a')), &full_record());
    kept("session_v1_least.json", &format!("session/{}", id('a')), &turns::record(HostKeyCheck::Proof));
    kept("claim_v1.json", "claim/deploy@web1", &full_claim());
}

#[test]
fn a_record_of_a_newer_release_is_refused_and_left_alone() {
    let lab = Lab::new(Home::Foreign);
    let key = SessionRecord::key(id('a')).unwrap();
    let value = br#"{"v":2,"readable_from":2,"status":"paused"}"#;
    block_on(lab.world.memory().put(&key, value, Expect::Absent)).unwrap();
    let error = lab.recover(id('a')).unwrap().unwrap_err();
    assert!(matches!(error, toehold_session::SessionError::Store(StoreError::Newer { .. })), "{error}");
    assert_eq!(lab.world.memory().entries()[0].value, value);
}
