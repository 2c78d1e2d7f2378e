//! What is taken out of a shared store, and what is not, whoever can write to the server below it.

mod backups;
mod remembered;

use std::sync::Mutex;

use proptest::prelude::*;
use toehold_core::testing::{MemoryStore, block_on, store_conformance};
use toehold_core::{
    AuditEvent, AuditSink as _, Entry, Expect, Key, Revision, Source, Store, StoreAudit, StoreError, Stored, Timestamp,
};
use toehold_specsign::SigningKey;

use super::store::{check_continues, read_chain};
use super::*;
use crate::adapters::identity::Recipient;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

type Store1 = SignedStore<MemoryStore, SigningKey>;

impl Backing for MemoryStore {}

fn signing(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

fn someone(number: u8, role: Role) -> Member {
    let recipient: Recipient = age::x25519::Identity::generate().to_public().into();
    let new = NewMember { recipient, key: signing(number).verifying_key() };
    Member {
        id: new.id(),
        name: format!("member {number}"),
        role,
        recipient: new.recipient.to_string(),
        key: new.key,
        added_at: NOW,
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

async fn put(store: &impl Store, place: &str, value: &[u8]) -> Revision {
    let there = store.get(&key(place)).await.unwrap().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
    store.put(&key(place), value, there).await.unwrap()
}

/// The reason for which a value is not taken.
async fn reason(store: &impl Store, place: &str) -> String {
    match store.get(&key(place)).await {
        Err(StoreError::Corrupt { key: named, reason }) if named == key(place) => reason,
        other => panic!("{place}: {other:?}"),
    }
}

/// A value as this one signs it for that place.
fn sealed(by: u8, store: &StoreId, place: &str, value: &[u8]) -> Vec<u8> {
    let signer = MemberId::of(&signing(by).verifying_key());
    let origin = Origin { signer, set: 3, replaces: None };
    Envelope::seal(&signing(by), store, &key(place), origin, value).to_bytes()
}

/// Two operators, a gateway and a gateway for pods, over one server.
struct World {
    server: MemoryStore,
    store: StoreId,
}

impl World {
    async fn new() -> Self {
        let (server, store) = (MemoryStore::new(), StoreId::from_random([9; 16]));
        let first = OperatorSet::first(store.clone(), someone(1, Role::Operator), NOW);
        assert!(Store1::found(&server, &first, &signing(1)).await.unwrap());
        let world = Self { server, store };
        for (number, role) in [(2, Role::Operator), (3, Role::Gateway), (4, Role::Pods)] {
            world.change(1, |members| members.push(someone(number, role))).await;
        }
        world
    }

    async fn chain(&self) -> Chain {
        read_chain(&self.server).await.unwrap().unwrap()
    }

    fn marks(&self, number: u8, chain: &Chain) -> Marks {
        let id = MemberId::of(&signing(number).verifying_key());
        Marks::in_memory(Seen::first(self.store.clone(), id, format!("writer {number}"), chain.hashes()))
    }

    /// The store as this member opens it for the first time.
    async fn open(&self, number: u8) -> Store1 {
        let marks = self.marks(number, &self.chain().await);
        SignedStore::open(self.server.clone(), signing(number), marks).await.unwrap()
    }

    /// Continues the list of members, signed by this one.
    async fn change(&self, by: u8, change: impl FnOnce(&mut Vec<Member>)) {
        let store = self.open(by).await;
        let mut members = store.chain().members().members.clone();
        change(&mut members);
        assert!(store.continue_chain(&store.chain().next(members, NOW), &signing(by)).await.unwrap());
    }

    /// What somebody writes who has the server's credentials and no member's key.
    async fn plant(&self, place: &str, bytes: &[u8]) {
        put(&self.server, place, bytes).await;
    }

    async fn raw(&self, place: &str) -> Vec<u8> {
        self.server.get(&key(place)).await.unwrap().unwrap().value
    }
}

#[test]
fn it_is_a_store_like_any_other() {
    block_on(async {
        let world = World::new().await;
        store_conformance(&world.open(1).await).await;
        let small = MemoryStore::new().with_max_value(65_536);
        let first = OperatorSet::first(world.store.clone(), someone(1, Role::Operator), NOW);
        assert!(Store1::found(&small, &first, &signing(1)).await.unwrap());
        let chain = read_chain(&small).await.unwrap().unwrap();
        store_conformance(&SignedStore::open(small, signing(1), world.marks(1, &chain)).await.unwrap()).await;
    });
}

#[test]
fn n1_what_no_member_has_signed_is_not_taken_and_hides_nothing() {
    block_on(async {
        let world = World::new().await;
        let (one, two) = (world.open(1).await, world.open(2).await);
        put(&one, "host/a@a", b"a").await;
        put(&one, "host/b@b", b"b").await;
        assert_eq!(two.get(&key("host/a@a")).await.unwrap().unwrap().value, b"a");

        let other = StoreId::from_random([8; 16]);
        let mut changed = world.raw("host/a@a").await;
        *changed.last_mut().unwrap() ^= 1;
        let planted = [
            ("host/unsigned@x", b"{}".to_vec(), "not signed"),
            ("host/damaged@x", b"toehold-signed/1 {}\n{}".to_vec(), "damaged"),
            ("host/newer@x", b"toehold-signed/9 {}\n{}".to_vec(), "newer release"),
            ("host/foreign@x", sealed(7, &world.store, "host/foreign@x", b"{}"), "no member of this store"),
            ("host/gateway@x", sealed(3, &world.store, "host/gateway@x", b"{}"), "role gateway may not write it"),
            ("host/pods@x", sealed(4, &world.store, "host/pods@x", b"{}"), "role pods may not write it"),
            ("host/elsewhere@x", sealed(1, &other, "host/elsewhere@x", b"{}"), "moved here"),
            ("host/moved@x", world.raw("host/a@a").await, "moved here"),
            ("host/changed@x", changed, "moved here"),
        ];
        for (place, bytes, why) in &planted {
            world.plant(place, bytes).await;
            let reason = reason(&two, place).await;
            assert!(reason.contains(why), "{place}: {reason}");
        }
        let listed = two.list(&key("host")).await.unwrap();
        assert_eq!(listed.len(), planted.len() + 2, "none is hidden, and none is dropped");
        for entry in &listed {
            let why = planted.iter().find(|(place, ..)| key(place) == entry.key).map(|(_, _, why)| why);
            match (entry.fault(), why) {
                (None, None) => assert!(entry.value == b"a" || entry.value == b"b"),
                (Some(StoreError::Corrupt { reason, .. }), Some(why)) => assert!(reason.contains(why), "{reason}"),
                other => panic!("{}: {other:?}", entry.key),
            }
        }
        // Whoever copies a store takes none of them along.
        let copied = crate::store_copy::snapshot(&two, NOW).await.unwrap_err();
        assert!(crate::cli::chain(&copied).contains("cannot be read"), "{copied:?}");
        for (place, ..) in &planted {
            assert!(two.discard(&key(place)).await.unwrap(), "{place}");
        }
        assert!(!two.discard(&key("host/a@a")).await.unwrap(), "what is good stays");
        assert_eq!(crate::store_copy::snapshot(&two, NOW).await.unwrap().values().len(), 2);
    });
}

/// Its signature is not verified again where the same bytes stand in the same place; all else is judged anew.
#[test]
fn n1_what_was_read_before_is_taken_again_as_it_was_where_it_was_and_from_a_member_alone() {
    block_on(async {
        let world = World::new().await;
        let (one, two, gateway) = (world.open(1).await, world.open(2).await, world.open(3).await);
        put(&one, "host/a@a", b"a").await;
        put(&one, "host/b@b", b"b").await;
        put(&gateway, "agent/x", b"x").await;
        for _ in 0..2 {
            for (place, value) in [("host/a@a", b"a"), ("host/b@b", b"b"), ("agent/x", b"x")] {
                assert_eq!(two.get(&key(place)).await.unwrap().unwrap().value, value);
            }
        }
        let good = world.raw("host/a@a").await;
        let signature = good.iter().position(|byte| *byte == b'\n').unwrap() - 10;
        for at in [good.len() - 1, signature] {
            let mut changed = good.clone();
            changed[at] = if changed[at] == b'1' { b'2' } else { b'1' };
            world.plant("host/a@a", &changed).await;
            let reason = reason(&two, "host/a@a").await;
            assert!(reason.contains("it was changed, or moved here"), "{at}: {reason}");
            assert!(two.list(&key("host")).await.unwrap()[0].fault().is_some());
        }
        world.plant("host/b@b", &good).await;
        assert!(reason(&two, "host/b@b").await.contains("moved here"));
        world.plant("host/a@a", &good).await;
        assert_eq!(two.get(&key("host/a@a")).await.unwrap().unwrap().value, b"a");
        // Whoever signed has to be a member yet, with a role that may write it.
        world.change(1, |members| members.iter_mut().filter(|member| member.role == Role::Gateway).for_each(to_pods)).await;
        two.refresh().await.unwrap();
        assert!(reason(&two, "agent/x").await.contains("role pods may not write it"));
        let id = MemberId::of(&signing(3).verifying_key());
        world.change(1, |members| members.retain(|member| member.id != id)).await;
        two.refresh().await.unwrap();
        assert!(reason(&two, "agent/x").await.contains("no member of this store any more"));
    });
}

fn to_pods(member: &mut Member) {
    member.role = Role::Pods;
}

#[test]
fn n1_an_old_value_that_is_put_back_is_noticed() {
    block_on(async {
        let world = World::new().await;
        let (one, two) = (world.open(1).await, world.open(2).await);
        put(&one, "host/a@a", b"first").await;
        put(&one, "host/a@a", b"second").await;
        let second = world.raw("host/a@a").await;
        put(&one, "host/a@a", b"third").await;
        assert_eq!(two.get(&key("host/a@a")).await.unwrap().unwrap().value, b"third");
        world.plant("host/a@a", &second).await;
        for store in [&one, &two] {
            assert!(reason(store, "host/a@a").await.contains("put an old one back"));
        }
        // What never goes back is remembered from one process to the next, the first value included.
        put(&one, "masterkey/current", b"{\"v\":1,\"readable_from\":1}").await;
        let first = world.raw("masterkey/current").await;
        put(&one, "masterkey/current", b"{\"v\":1,\"readable_from\":1,\"x\":1}").await;
        let seen = one.marks().seen();
        world.plant("masterkey/current", &first).await;
        let next = SignedStore::open(world.server.clone(), signing(1), Marks::in_memory(seen)).await.unwrap();
        assert!(reason(&next, "masterkey/current").await.contains("put an old one back"));
        assert!(!next.behind().await.unwrap().is_empty());
    });
}

#[test]
fn n1_members_are_what_an_operator_before_has_signed() {
    block_on(async {
        let world = World::new().await;
        let store = world.open(2).await;
        let chain = store.chain();
        let intruder = |set: &mut OperatorSet| set.members.push(someone(7, Role::Operator));
        let mut next = chain.next(chain.members().members.clone(), NOW);
        intruder(&mut next);
        let place = OperatorSet::key(next.number).unwrap();
        // By the intruder himself, by a gateway, not at all, and by an operator over another list than the last.
        let mut forked = next.clone();
        forked.previous = chain.hashes()[1].clone();
        let (by_himself, by_gateway) = (next.sealed(&signing(7)).unwrap(), next.sealed(&signing(3)).unwrap());
        for bytes in [by_himself, by_gateway, serde_json::to_vec(&next).unwrap(), forked.sealed(&signing(1)).unwrap()] {
            world.plant(place.as_str(), &bytes).await;
            let error = read_chain(&world.server).await.unwrap_err();
            assert!(matches!(error, SignedError::Chain(_)), "{error:?}");
            assert!(matches!(store.refresh().await, Err(StoreError::Corrupt { .. })));
            assert_eq!(store.chain().members().number, chain.members().number);
        }
        // And by one who may.
        world.plant(place.as_str(), &next.sealed(&signing(2)).unwrap()).await;
        store.refresh().await.unwrap();
        assert!(store.chain().members().member(&someone(7, Role::Operator).id).is_some());
        assert!(store.get(&place).await.unwrap().is_none(), "the lists are none of the store's values");
        let written = store.put(&place, b"{}", Expect::Absent).await;
        assert!(matches!(written, Err(StoreError::Refused { .. })), "{written:?}");
        assert!(!store.kinds().await.unwrap().contains(&key("operator")));
    });
}

#[test]
fn n1_another_list_of_members_than_was_seen_is_refused() {
    block_on(async {
        let world = World::new().await;
        let marks = world.marks(1, &world.chain().await);
        let second = OperatorSet::key(1).unwrap();
        // A chain of its own right from there on: signed by the same first operator, who was got at.
        let mut backup: Vec<Entry> = world.server.entries();
        backup.retain(|entry| entry.key < second);
        world.server.restore(backup.clone());
        assert!(check_continues(&world.chain().await, &marks).is_ok(), "shorter is behind, not forked");
        world.change(1, |members| members.push(someone(8, Role::Operator))).await;
        let error = check_continues(&world.chain().await, &marks).unwrap_err();
        assert!(matches!(error, SignedError::Forked { number: 1 }), "{error:?}");
        assert!(SignedStore::open(world.server.clone(), signing(1), marks).await.is_err());
        // Another store with the same first operator.
        let (server, marks) = (MemoryStore::new(), world.marks(1, &world.chain().await));
        let first = OperatorSet::first(StoreId::from_random([5; 16]), someone(1, Role::Operator), NOW);
        Store1::found(&server, &first, &signing(1)).await.unwrap();
        let error = SignedStore::open(server, signing(1), marks).await.unwrap_err();
        assert!(matches!(error, SignedError::Marks(MarksError::OtherStore { .. })), "{error:?}");
    });
}

#[test]
fn n1_what_somebody_writes_after_he_was_removed_is_refused() {
    block_on(async {
        let world = World::new().await;
        let (one, gone) = (world.open(1).await, world.open(2).await);
        put(&gone, "host/before@a", b"before").await;
        let id = MemberId::of(&signing(2).verifying_key());
        world.change(1, |members| members.retain(|member| member.id != id)).await;
        // His own process has not heard of it yet, and another puts what he signed earlier elsewhere.
        put(&gone, "host/after@a", b"after").await;
        one.refresh().await.unwrap();
        for place in ["host/before@a", "host/after@a"] {
            assert!(reason(&one, place).await.contains("no member of this store any more"));
        }
        let chain = one.chain();
        let good = |place: &str| {
            let entry = world.server.entries().into_iter().find(|entry| entry.key == key(place)).unwrap();
            chain.was_good(&entry).map(|envelope| envelope.value)
        };
        assert_eq!(good("host/before@a"), Some(b"before".to_vec()), "the store's order tells that he was a member then");
        assert_eq!(good("host/after@a"), None);
        gone.refresh().await.unwrap();
        let refused = gone.put(&key("host/late@a"), b"", Expect::Absent).await;
        assert!(matches!(refused, Err(StoreError::Refused { reason, .. }) if reason.contains("no member")));
    });
}

#[test]
fn n2_a_gateway_writes_what_a_gateway_writes() {
    block_on(async {
        let world = World::new().await;
        let (one, gateway, pods) = (world.open(1).await, world.open(3).await, world.open(4).await);
        for place in ["agent/a", "token/0123456789ab/0", "slot/web/1", "gateway/current"] {
            put(&gateway, place, b"{}").await;
            assert!(one.get(&key(place)).await.unwrap().is_some(), "{place}");
        }
        put(&pods, "pod/c", b"{}").await;
        assert!(one.get(&key("pod/c")).await.unwrap().is_some());
        for place in ["masterkey/current", "host/a@a", "token/0123456789ab", "rotation/1", "spec/web", "podkey/x"] {
            for store in [&gateway, &pods] {
                let refused = store.put(&key(place), b"{}", Expect::Absent).await;
                assert!(matches!(refused, Err(StoreError::Refused { .. })), "{place}: {refused:?}");
            }
        }
        let token = put(&one, "token/0123456789ab", b"{}").await;
        assert!(matches!(pods.delete(&key("token/0123456789ab"), token).await, Err(StoreError::Refused { .. })));
        gateway.delete(&key("token/0123456789ab"), token).await.unwrap();
    });
}

#[test]
fn n4_who_is_no_operator_writes_his_own_chain_of_the_audit_log_alone() {
    block_on(async {
        let world = World::new().await;
        let (one, gateway, pods) = (world.open(1).await, world.open(3).await, world.open(4).await);
        let members = one.chain().members().clone();
        let writer = |number: u8| {
            let id = MemberId::of(&signing(number).verifying_key());
            members.member(&id).unwrap().recipient.clone()
        };
        let (anna, own) = (writer(1), writer(4));
        let log = |store: &Store1, writer: &str| StoreAudit::new(store.clone(), writer);
        log(&one, &anna).record(AuditEvent::new(NOW, "one", "x")).await.unwrap();
        // Anna's chain has lost its beginning's record: only she says again where that is, and the others go on all the same.
        let begins = key(&format!("auditwriter/{anna}"));
        let there = one.get(&begins).await.unwrap().unwrap();
        one.delete(&begins, there.revision).await.unwrap();
        log(&pods, &own).record(AuditEvent::new(NOW, "two", "x")).await.unwrap();
        let entries = pods.list(&key(&format!("audit/{own}"))).await.unwrap();
        let entry = Stored::<toehold_core::AuditEntry>::decode(&entries[0]).unwrap().body;
        assert_eq!(entry.heads.keys().collect::<Vec<_>>(), [&anna], "the end of her chain is named");
        assert!(pods.get(&begins).await.unwrap().is_none());
        log(&one, &anna).record(AuditEvent::new(NOW, "three", "x")).await.unwrap();
        assert!(one.get(&begins).await.unwrap().is_some());

        // Neither asks, nor is taken who does not ask.
        let next = format!("audit/{anna}/00000000000000000003");
        for store in [&gateway, &pods] {
            let refused = store.put(&key(&next), b"{}", Expect::Absent).await;
            assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        }
        world.plant(&next, &sealed(4, &world.store, &next, b"{}")).await;
        assert!(reason(&one, &next).await.contains("another writer's chain"));
        world
            .plant(begins.as_str(), &sealed(3, &world.store, begins.as_str(), b"{\"v\":1,\"readable_from\":1,\"first\":9}"))
            .await;
        assert!(reason(&one, begins.as_str()).await.contains("another writer's chain"));
        // An operator signs anew what another one wrote.
        let entry = world.open(2).await.get(&key(&format!("audit/{own}/00000000000000000001"))).await.unwrap().unwrap();
        assert!(one.sign_anew(&entry.key, &entry.value, entry.revision).await.unwrap());
        // Nobody gets another one's chain by calling himself as he is called.
        let mut namesake = someone(9, Role::Pods);
        namesake.recipient = anna.clone();
        let mut next = members.members.clone();
        next.push(namesake);
        let refused = one.continue_chain(&one.chain().next(next, NOW), &signing(1)).await;
        assert!(matches!(&refused, Err(StoreError::Refused { reason, .. }) if reason.contains("one recipient")), "{refused:?}");
    });
}

/// Seals by writing down to how many; the first time, somebody is added right after.
struct Sealing {
    key: SigningKey,
    world: MemoryStore,
    adds: Mutex<u8>,
}

impl Signer for &Sealing {
    fn id(&self) -> MemberId {
        MemberId::of(&self.key.verifying_key())
    }

    async fn sign(&self, store: &StoreId, key: &Key, origin: Origin, value: &[u8]) -> Result<Envelope, Source> {
        Ok(Envelope::seal(&self.key, store, key, origin, value))
    }

    async fn reseal(&self, _: &Key, _: &[u8], members: &OperatorSet) -> Result<Option<Vec<u8>>, Source> {
        let left = {
            let mut adds = self.adds.lock().unwrap();
            *adds = adds.saturating_sub(1);
            *adds
        };
        if left > 0 {
            let chain = read_chain(&self.world).await?.unwrap();
            let mut next = chain.members().members.clone();
            next.push(someone(100 + left, Role::Operator));
            let next = chain.next(next, NOW);
            self.world.put(&OperatorSet::key(next.number)?, &next.sealed(&self.key)?, Expect::Absent).await?;
        }
        Ok(Some(members.members.len().to_string().into_bytes()))
    }
}

#[test]
fn what_is_sealed_is_sealed_to_whoever_is_added_meanwhile() {
    block_on(async {
        let world = World::new().await;
        let signer = Sealing { key: signing(1), world: world.server.clone(), adds: Mutex::new(3) };
        let marks = world.marks(1, &world.chain().await);
        let store = SignedStore::open(world.server.clone(), &signer, marks).await.unwrap();
        let revision = put(&store, "masterkey/x", b"4").await;
        let written = store.get(&key("masterkey/x")).await.unwrap().unwrap();
        assert_eq!((written.value.as_slice(), written.revision), (b"6".as_slice(), revision));
        assert_eq!(world.chain().await.members().members.len(), 6);
        // Where nothing can be sealed nobody looks.
        *signer.adds.lock().unwrap() = 3;
        put(&store, "host/a@a", b"a").await;
        assert_eq!(*signer.adds.lock().unwrap(), 3);
    });
}

#[test]
fn the_word_of_a_newcomer_is_read_whole_or_not_at_all() {
    let new = NewMember { recipient: age::x25519::Identity::generate().to_public().into(), key: signing(1).verifying_key() };
    let word = new.to_string();
    assert!(!word.contains(char::is_whitespace));
    assert_eq!(word.parse::<NewMember>().unwrap(), new);
    for end in 0..word.len() {
        assert!(word.get(..end).unwrap().parse::<NewMember>().is_err(), "{end}");
    }
    for at in 0..word.len() {
        let mut bytes = word.clone().into_bytes();
        bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
        assert!(String::from_utf8(bytes).unwrap().parse::<NewMember>().is_err(), "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn n1_no_bytes_of_somebody_elses_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300), flip in any::<prop::sample::Index>()) {
        block_on(async {
            let world = World::new().await;
            let store = world.open(1).await;
            world.plant("host/a@a", &bytes).await;
            assert!(store.get(&key("host/a@a")).await.is_err());
            put(&store, "host/b@b", &bytes).await;
            let mut changed = world.raw("host/b@b").await;
            let at = flip.index(changed.len());
            changed[at] = changed[at].wrapping_add(1);
            world.plant("host/b@b", &changed).await;
            assert!(store.get(&key("host/b@b")).await.is_err());
        });
    }
}
