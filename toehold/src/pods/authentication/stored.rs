//! Keys that are kept in the store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toehold_core::{Fingerprint, Key, KeyError, PublicKey, Record, Store, Stored, Timestamp};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Entry, LineKind};

use super::answer::LoginMetadata;
use super::lines::{Verdict, comment, flaw, is_principal, judge};
use super::{Applicant, AuthenticationError};

/// A key that may log in: `podkey/<fingerprint>`, the fingerprint as [`Fingerprint::to_segment`] writes it. A key is one principal's and no
/// other's (P4), which that place makes certain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodKeyRecord {
    /// Whose it is.
    pub principal: String,
    /// Options and key as in `authorized_keys`, without a comment.
    pub line: String,
    /// When it was added.
    pub added_at: Timestamp,
}

impl Record for PodKeyRecord {}

/// Why a line is not one to keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PodKeyError {
    /// The line lets nobody in.
    #[error("line {line} would let nobody in: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// There is no key in what was given.
    #[error("there is no key in it")]
    NoKey,
    /// Not a name for somebody.
    #[error("a principal is a text of 1 to 256 bytes without control characters")]
    Principal,
}

impl PodKeyRecord {
    /// Where all of them are.
    ///
    /// # Errors
    /// Never: the name is a valid one.
    pub fn prefix() -> Result<Key, KeyError> {
        Key::new(["podkey"])
    }

    /// Where the one of this key is.
    ///
    /// # Errors
    /// Never: a fingerprint's segment is always one.
    pub fn key(fingerprint: &Fingerprint) -> Result<Key, KeyError> {
        Key::new(["podkey", &fingerprint.to_segment()])
    }

    /// The keys in a text of the form of `authorized_keys`, each with its record. `principal` names whose they are; without one, each
    /// key's comment does.
    ///
    /// # Errors
    /// [`PodKeyError`] for the first line that would let nobody in, a name that is none, or where there is no key.
    pub fn read(text: &[u8], principal: Option<&str>, now: Timestamp) -> Result<Vec<(PublicKey, Self)>, PodKeyError> {
        let keys = AuthorizedKeys::parse(text.to_vec());
        let mut found = Vec::new();
        for entry in keys.entries() {
            if let Some(reason) = flaw(entry) {
                return Err(PodKeyError::Line { line: entry.number(), reason });
            }
            let (LineKind::Key(_), Some(line)) = (entry.kind(), entry.key()) else { continue };
            let unreadable = || PodKeyError::Line { line: entry.number(), reason: "it cannot be read".to_owned() };
            let key = line.public_key().ok_or_else(unreadable)?;
            let principal = principal.map(str::to_owned).or_else(|| comment(entry)).ok_or(PodKeyError::Principal)?;
            if !is_principal(&principal) || principal.len() > 256 {
                return Err(PodKeyError::Principal);
            }
            let record = Self { principal, line: without_comment(entry, &key).ok_or_else(unreadable)?, added_at: now };
            found.push((key, record));
        }
        if found.is_empty() { Err(PodKeyError::NoKey) } else { Ok(found) }
    }
}

fn without_comment(entry: Entry<'_>, key: &PublicKey) -> Option<String> {
    let options = std::str::from_utf8(entry.key()?.options().unwrap_or_default()).ok()?;
    Some(if options.is_empty() { key.to_string() } else { format!("{options} {key}") })
}

/// The keys in a store; each login reads its key anew.
#[derive(Clone, Debug)]
pub struct StoredKeys<S>(S);

impl<S: Store> StoredKeys<S> {
    /// Those in this store.
    pub fn in_store(store: S) -> Self {
        Self(store)
    }

    pub(super) async fn decide(&self, applicant: Applicant<'_>) -> Result<Verdict, AuthenticationError> {
        let fingerprint = applicant.key.fingerprint();
        let key = PodKeyRecord::key(&fingerprint).map_err(toehold_core::StoreError::from)?;
        let Some(stored) = Stored::<PodKeyRecord>::read(&self.0, &key).await? else { return Ok(Verdict::Unknown) };
        let PodKeyRecord { principal, line, .. } = stored.body;
        let keys = AuthorizedKeys::parse(line.into_bytes());
        let whence = format!("the key {fingerprint} in the store");
        // Nobody can have another name by a record that was tampered with in this way.
        let principal = is_principal(&principal).then_some(principal);
        let Some(principal) = principal else { return Ok(Verdict::Refused) };
        Ok(judge(&keys, &whence, applicant, Some(&principal), &Arc::new(LoginMetadata::default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toehold_core::testing::MemoryStore;
    use toehold_keygen::{KeyAlgorithm, KeyPair};

    use crate::gateway::system_rng;

    fn key() -> PublicKey {
        KeyPair::generate(&mut system_rng(), KeyAlgorithm::Ed25519).unwrap().public_key().clone()
    }

    #[tokio::test]
    async fn p4_a_key_in_the_store_names_its_principal_and_its_options_hold() {
        let (store, mine, now) = (MemoryStore::new(), key(), Timestamp::UNIX_EPOCH);
        let keys = StoredKeys::in_store(&store);
        let decide =
            async || keys.decide(Applicant { user: "x", key: &mine, address: "127.0.0.1".parse().unwrap() }).await.unwrap();
        assert!(matches!(decide().await, Verdict::Unknown));
        let text = format!("# a comment\nrestrict,command=\"id\" {mine} somebody else\n");
        let (found, record) = PodKeyRecord::read(text.as_bytes(), Some("alice"), now).unwrap().remove(0);
        assert_eq!(found, mine);
        let place = PodKeyRecord::key(&mine.fingerprint()).unwrap();
        let mut stored = Stored::create(&store, place, record).await.unwrap();
        let Verdict::Admitted(admission) = decide().await else { panic!("it is not admitted") };
        assert_eq!(
            (admission.principal.as_str(), admission.command.as_deref(), admission.terminal),
            ("alice", Some(&b"id"[..]), false)
        );
        // What a release before this one, or somebody else, has put there is held to the same.
        stored.body.line = format!("environment=\"A=b\" {mine}");
        stored.save(&store).await.unwrap();
        assert!(matches!(decide().await, Verdict::Refused));
        stored.body.line = key().to_string();
        stored.save(&store).await.unwrap();
        assert!(matches!(decide().await, Verdict::Unknown), "the line counts, not the record's place");
    }

    #[test]
    fn what_would_let_nobody_in_is_not_kept() {
        let (mine, now) = (key(), Timestamp::UNIX_EPOCH);
        let read = |text: String, principal| PodKeyRecord::read(text.as_bytes(), principal, now);
        assert_eq!(read(format!("{mine} alice@example.org"), None).unwrap()[0].1.principal, "alice@example.org");
        assert_eq!(read(mine.to_string(), None).unwrap_err(), PodKeyError::Principal);
        assert_eq!(read(mine.to_string(), Some("a\nb")).unwrap_err(), PodKeyError::Principal);
        assert_eq!(read("# nothing\n".to_owned(), Some("a")).unwrap_err(), PodKeyError::NoKey);
        for bad in [format!("\ncert-authority {mine}"), format!("\nno-such-option {mine}"), "\nssh-ed25519 AAAA x".to_owned()] {
            assert!(matches!(read(bad, Some("a")), Err(PodKeyError::Line { line: 2, .. })));
        }
    }
}
