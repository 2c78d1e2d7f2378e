//! Who the members of a shared store are: a chain of lists, each of which an operator of the one before has signed.
//!
//! `operator/<n>` names all members from then on. The first list is signed by an operator that it names itself; whoever sees it for the
//! first time takes it on trust, remembers it ([`super::Marks`]), and from then on takes only what continues it.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use toehold_core::{Entry, Key, KeyError, Revision, Timestamp};
use toehold_specsign::{SigningKey, Verifier, VerifyingKey};

use super::envelope::{Distrust, Envelope, EnvelopeError, Origin};
use super::member::{Member, MemberId, StoreId};
use super::roles::Role;

/// The most members that a list may have: a list is read and verified as a whole.
const MAX_MEMBERS: usize = 256;
const FORMAT: u32 = 1;
/// What is before the first list.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// All members from a certain moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorSet {
    v: u32,
    /// Of which store.
    pub store: StoreId,
    /// Its place in the chain, from 0.
    pub number: u64,
    /// The hash of the list before, as it stood in the store; 64 zeros for the first.
    pub previous: String,
    /// When it was made, by the clock of whoever made it.
    pub at: Timestamp,
    /// The members.
    pub members: Vec<Member>,
}

impl OperatorSet {
    /// The first list of a store.
    pub fn first(store: StoreId, member: Member, at: Timestamp) -> Self {
        Self { v: FORMAT, store, number: 0, previous: NOTHING.to_owned(), at, members: vec![member] }
    }

    /// `operator/<n>`.
    ///
    /// # Errors
    /// None in practice.
    pub fn key(number: u64) -> Result<Key, KeyError> {
        Key::new(["operator", &format!("{number:020}")])
    }

    /// The member with this id.
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// The members with this role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role)
    }

    /// As it goes into the store, signed.
    ///
    /// # Errors
    /// None in practice.
    pub fn sealed(&self, signer: &SigningKey) -> Result<Vec<u8>, KeyError> {
        let origin = Origin { signer: MemberId::of(&signer.verifying_key()), set: self.number.saturating_sub(1), replaces: None };
        let value = serde_json::to_vec(self).unwrap_or_default();
        Ok(Envelope::seal(signer, &self.store, &Self::key(self.number)?, origin, &value).to_bytes())
    }

    /// What makes a list one that can be used.
    pub(super) fn check(&self) -> Result<(), ChainError> {
        let bad = |reason| Err(ChainError::Malformed { number: self.number, reason });
        if self.members.len() > MAX_MEMBERS {
            return bad("it has too many members");
        }
        if self.members.iter().any(|member| MemberId::of(&member.key) != member.id) {
            return bad("a member has another key than its id says");
        }
        let mut ids: Vec<&MemberId> = self.members.iter().map(|member| &member.id).collect();
        ids.sort();
        ids.dedup();
        if ids.len() != self.members.len() {
            return bad("a member is in it twice");
        }
        let mut recipients: Vec<&str> = self.members.iter().map(|member| member.recipient.as_str()).collect();
        recipients.sort_unstable();
        recipients.dedup();
        // A chain of the audit log is called by it.
        if recipients.len() != self.members.len() {
            return bad("two members have one recipient");
        }
        if self.with_role(Role::Operator).next().is_none() {
            return bad("there is no operator in it");
        }
        Ok(())
    }
}

/// Why a list of members is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// It cannot be used, whoever signed it.
    #[error("list {number} of this store's members cannot be used: {reason}")]
    Malformed {
        /// Which.
        number: u64,
        /// Why not.
        reason: &'static str,
    },
    /// It is no list of members.
    #[error("list {number} of this store's members is not one: {source}")]
    Envelope {
        /// Which.
        number: u64,
        /// Why not.
        source: EnvelopeError,
    },
    /// A newer release has written it.
    #[error(
        "list {number} of this store's members was written by a newer release of Toehold (format {found}); upgrade this machine"
    )]
    Newer {
        /// Which.
        number: u64,
        /// Its format.
        found: u32,
    },
    /// It does not continue the one before.
    #[error(
        "list {number} of this store's members does not continue the one before it: the chain was forked, or something of it is missing"
    )]
    Broken {
        /// Which.
        number: u64,
    },
    /// No operator of the list before has signed it.
    #[error("list {number} of this store's members is not signed by an operator of the list before it")]
    Signer {
        /// Which.
        number: u64,
    },
}

/// A list with what it is known by.
#[derive(Clone, Debug)]
struct Link {
    hash: String,
    set: OperatorSet,
    /// The members' keys, in their order.
    verifiers: Vec<Option<Verifier>>,
    by: MemberId,
    revision: Revision,
}

/// That a value was signed with a key, of which both have been seen: a hash of them. It holds for one place in one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verified([u8; 32]);

impl Verified {
    fn of(by: &VerifyingKey, bytes: &[u8]) -> Self {
        Self(Sha256::new().chain_update(by.as_bytes()).chain_update(bytes).finalize().into())
    }
}

/// The lists of a store's members from the first to the last, verified.
#[derive(Clone, Debug)]
pub struct Chain {
    first: Link,
    rest: Vec<Link>,
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(number: u64, bytes: &[u8]) -> Result<(Envelope, OperatorSet), ChainError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let envelope = Envelope::parse(bytes).map_err(|source| ChainError::Envelope { number, source })?;
    let malformed = |_| ChainError::Malformed { number, reason: "it cannot be read" };
    let Version { v } = serde_json::from_slice(&envelope.value).map_err(malformed)?;
    if v > FORMAT {
        return Err(ChainError::Newer { number, found: v });
    }
    let set: OperatorSet = serde_json::from_slice(&envelope.value).map_err(malformed)?;
    set.check()?;
    Ok((envelope, set))
}

impl Chain {
    /// Begins with the first list, which vouches for itself.
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn begin(entry: &Entry) -> Result<Self, ChainError> {
        let (envelope, set) = read(0, &entry.value)?;
        if set.number != 0 || set.previous != NOTHING {
            return Err(ChainError::Broken { number: 0 });
        }
        let first = Self::link(entry, &envelope, set.clone(), &set)?;
        Ok(Self { first, rest: Vec::new() })
    }

    fn link(entry: &Entry, envelope: &Envelope, set: OperatorSet, before: &OperatorSet) -> Result<Link, ChainError> {
        let number = set.number;
        let key = OperatorSet::key(number).map_err(|_| ChainError::Broken { number })?;
        let signer = before.member(&envelope.origin.signer).filter(|member| member.role == Role::Operator);
        match signer {
            Some(signer) if envelope.verifies(&signer.key, &before.store, &key) => {
                let verifiers = set.members.iter().map(|member| member.key.verifier()).collect();
                Ok(Link { hash: hash(&entry.value), set, verifiers, by: signer.id.clone(), revision: entry.revision })
            }
            _ => Err(ChainError::Signer { number }),
        }
    }

    /// Takes the next list.
    ///
    /// # Errors
    /// [`ChainError`]; nothing has changed then.
    pub fn extend(&mut self, entry: &Entry) -> Result<(), ChainError> {
        let last = self.last();
        let number = last.set.number.saturating_add(1);
        let (envelope, set) = read(number, &entry.value)?;
        if set.number != number || set.previous != last.hash || set.store != last.set.store {
            return Err(ChainError::Broken { number });
        }
        let link = Self::link(entry, &envelope, set, &last.set)?;
        self.rest.push(link);
        Ok(())
    }

    fn last(&self) -> &Link {
        self.rest.last().unwrap_or(&self.first)
    }

    fn links(&self) -> impl DoubleEndedIterator<Item = &Link> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Of which store.
    pub fn store(&self) -> &StoreId {
        &self.first.set.store
    }

    /// Who the members are now.
    pub fn members(&self) -> &OperatorSet {
        &self.last().set
    }

    /// The hashes of all lists, from the first on.
    pub fn hashes(&self) -> Vec<String> {
        self.links().map(|link| link.hash.clone()).collect()
    }

    /// The hash of the last list: two that see the same one see the same members.
    pub fn fingerprint(&self) -> &str {
        &self.last().hash
    }

    /// Who signed each list.
    pub fn signers(&self) -> impl Iterator<Item = (&OperatorSet, &MemberId)> {
        self.links().map(|link| (&link.set, &link.by))
    }

    /// The next list, with other members.
    pub fn next(&self, members: Vec<Member>, at: Timestamp) -> OperatorSet {
        let last = self.last();
        OperatorSet {
            v: FORMAT,
            store: last.set.store.clone(),
            number: last.set.number.saturating_add(1),
            previous: last.hash.clone(),
            at,
            members,
        }
    }

    /// Somebody who is no member any more, as he last was, and the revision of the first list without him.
    pub fn removed(&self, id: &MemberId) -> Option<(&Member, Revision)> {
        let mut without = None;
        for link in self.links().rev() {
            if let Some(member) = link.set.member(id) {
                return without.map(|revision| (member, revision));
            }
            without = Some(link.revision);
        }
        None
    }

    /// Who was called so, and is no member any more; the last of them.
    pub fn removed_by_name(&self, name: &str) -> Option<&Member> {
        let is_gone = |member: &&Member| member.name == name && self.members().member(&member.id).is_none();
        self.links().rev().find_map(|link| link.set.members.iter().find(is_gone))
    }

    /// The operator who was removed last and is none again, and when: one who may have kept the master key of then.
    pub fn last_operator_removed(&self) -> Option<(&Member, Timestamp)> {
        let pairs = self.links().zip(self.links().skip(1));
        let removed = pairs.filter_map(|(before, after)| {
            let is_operator =
                |set: &OperatorSet, id: &MemberId| set.member(id).is_some_and(|member| member.role == Role::Operator);
            let is_gone = |member: &&Member| {
                member.role == Role::Operator && ![&after.set, self.members()].iter().any(|set| is_operator(set, &member.id))
            };
            Some((before.set.members.iter().find(is_gone)?, after.set.at))
        });
        removed.max_by_key(|(_, at)| *at)
    }

    /// Takes a value if a member of now may write it there and did. Neither says anything of when.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn judge(&self, key: &Key, bytes: &[u8]) -> Result<Envelope, Distrust> {
        self.judge_again(key, bytes, None).map(|(envelope, _)| envelope)
    }

    /// As [`Chain::judge`], and what to remember of a signature that is good. One that is `known` from the last time for this key is not
    /// verified again; all else is judged anew, by the members of now.
    pub(super) fn judge_again(&self, key: &Key, bytes: &[u8], known: Option<Verified>) -> Result<(Envelope, Verified), Distrust> {
        let envelope = Envelope::parse(bytes)?;
        let id = &envelope.origin.signer;
        let Link { set, verifiers, .. } = self.last();
        let mut members = set.members.iter().zip(verifiers);
        let Some((member, by)) = members.find(|(member, _)| member.id == *id) else {
            return Err(match self.removed(id) {
                Some((member, _)) => Distrust::Removed { id: id.clone(), name: member.name.clone() },
                None => Distrust::Stranger(id.clone()),
            });
        };
        let verified = Verified::of(&member.key, bytes);
        let is_signed = || by.as_ref().is_some_and(|by| envelope.is_verified_by(by, self.store(), key));
        if known != Some(verified) && !is_signed() {
            return Err(Distrust::Signature { name: member.name.clone() });
        }
        if !member.role.may_write(key) {
            return Err(Distrust::Role { name: member.name.clone(), role: member.role });
        }
        if !member.may_write(key) {
            return Err(Distrust::Writer { name: member.name.clone() });
        }
        Ok((envelope, verified))
    }

    /// Takes a value that somebody wrote who was a member then and is none any more: by the order in which the store has taken them in,
    /// it came before the list without him.
    pub fn was_good(&self, entry: &Entry) -> Option<Envelope> {
        let envelope = Envelope::parse(&entry.value).ok()?;
        let (member, removed_at) = self.removed(&envelope.origin.signer)?;
        let is_his = envelope.verifies(&member.key, self.store(), &entry.key) && member.may_write(&entry.key);
        (is_his && entry.revision < removed_at).then_some(envelope)
    }
}
