//! What a real server lets each role do that is told so by `operator roles`, and what members take beyond that.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::{ConnectOptions, HeaderMap};
use toehold::adapters::identity::{IdentityFile, NewIdentity};
use toehold::adapters::nats::{NatsAddress, NatsOptions, NatsStore};
use toehold::shared::{Envelope, NewMember, sealed};
use toehold_core::{Expect, Store, Timestamp};

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{Machine, agents};
use crate::server::Nats;
use crate::support::server::write_private;
use crate::support::{Inside, Toehold};
use crate::{founder, joins, key, says, sharing, vault_of};

/// A server that knows one user for each role, and the files with their seeds.
pub fn server() -> (Nats, NatsAddress, [std::path::PathBuf; 3], tempfile::TempDir) {
    let printed = Toehold::bare().run(["operator", "roles", "--store", "nats://127.0.0.1/toehold"]).ends(0).stdout;
    let directory = tempfile::tempdir().unwrap();
    let mut users = String::new();
    let files = ["operator", "gateway", "pods"].map(|role| {
        let pair = nkeys::KeyPair::new_user();
        let file = directory.path().join(role);
        write_private(&file, pair.seed().unwrap());
        users.push_str(&format!("{{ nkey: {}, permissions: $TOEHOLD_{} }}\n", pair.public_key(), role.to_uppercase()));
        file
    });
    let nats = Nats::start(&format!("authorization {{\n{printed}\nusers: [\n{users}]\n}}"));
    let address = nats.address("toehold");
    (nats, address, files, directory)
}

pub fn with_seed(store: &NatsAddress, file: &std::path::Path) -> Toehold {
    sharing(store).with_env("TOEHOLD_STORE_NKEY", file.to_str().unwrap())
}

pub async fn raw(address: &NatsAddress, file: &std::path::Path) -> NatsStore {
    let patience = Duration::from_secs(2);
    NatsStore::open(address, &NatsOptions { nkey: Some(file.to_owned()), patience, ..NatsOptions::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_a_real_server_lets_each_role_do_what_it_is_there_for_and_no_more() {
    let (_nats, address, [operator, gateway, pods], _files) = server();
    let host = Inside::start().await;
    let anna = with_seed(&address, &operator);
    anna.run(["init", "--name", "anna"]).ends(0);
    host.add(&anna, &[]).ends(0);
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    joins(&anna, with_seed(&address, &pods), "pods", "pods");
    let service = joins(&anna, with_seed(&address, &gateway), "gateway", "gateway");

    // A gateway with an identity of its own, which opens no master key: machines join there.
    let running = Gateway::start(&service, &[]);
    let machine = Machine::new();
    machine.join(&line(&anna, running.address, &[])).ends(0);
    machine.ping().ends(0);
    assert_eq!(agents(&anna).len(), 1);
    running.stop().ends(0);
    for command in [&["host", "check"][..], &["key", "rotate", "--grace", "0s"]] {
        says(&service.run(command.iter().copied()).ends(1), "not sealed to this identity");
    }
    says(&service.run(["operator", "rm", "anna"]).ends(1), "operators alone");

    // The server itself refuses what a program would not even ask.
    let raw_gateway = raw(&address, &gateway).await;
    for place in ["masterkey/current", "masterkey/x", "host/a@b", "rotation/9", "operator/00000000000000000009", "spec/web"] {
        let refused = raw_gateway.put(&key(place), b"{}", Expect::Absent).await;
        assert!(refused.is_err(), "{place}");
    }
    raw_gateway.put(&key("agent/planted"), b"{}", Expect::Absent).await.unwrap();
    says(&anna.run(["agents", "ls"]), "not signed");
    let raw_pods = raw(&address, &pods).await;
    assert!(raw_pods.put(&key("agent/b"), b"{}", Expect::Absent).await.is_err());
    raw_pods.put(&key("pod/planted"), b"{}", Expect::Absent).await.unwrap();
    assert!(raw_pods.list(&key("host")).await.unwrap().len() == 1, "everybody reads");
    anna.run(["key", "show"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_what_deletions_leave_is_the_operators_to_remove() {
    let (_nats, address, [operator, gateway, pods], _files) = server();
    let anna = with_seed(&address, &operator);
    anna.run(["init", "--name", "anna"]).ends(0);
    let of_operator = raw(&address, &operator).await;
    for name in ["pod/a", "pod/b"] {
        let written = of_operator.put(&key(name), b"{}", Expect::Absent).await.unwrap();
        of_operator.delete(&key(name), written).await.unwrap();
    }
    // What was just deleted can be seen for a day.
    let found = anna.run(["--json", "store", "gc"]).ends(0).json();
    assert_eq!(found["deletion_markers"], 0, "{found}");
    let old = of_operator.old_markers(Duration::ZERO).await.unwrap();
    assert!(!old.is_empty());
    for other in [&gateway, &pods] {
        let refused = raw(&address, other).await.remove_markers(old.clone(), || true).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    assert_eq!(of_operator.old_markers(Duration::ZERO).await.unwrap(), old);
    assert_eq!(of_operator.remove_markers(old.clone(), || true).await.unwrap(), old.len() as u64);
    anna.run(["store", "check"]).ends(0);
    anna.run(["--json", "store", "gc", "--dry-run"]).ends(0);
}

/// With a header of one record that it may write, a member could remove all the others: the servers are told to take no such message.
#[tokio::test(flavor = "multi_thread")]
async fn n2_who_may_write_one_record_does_not_remove_the_others_with_it() {
    let (nats, address, [operator, gateway, pods], _files) = server();
    let host = Inside::start().await;
    let anna = with_seed(&address, &operator);
    anna.run(["init", "--name", "anna"]).ends(0);
    host.add(&anna, &[]).ends(0);
    let store = raw(&address, &operator).await;
    let records = async || {
        let mut found = Vec::new();
        for kind in store.kinds().await.unwrap() {
            found.extend(store.list(&kind).await.unwrap().into_iter().map(|entry| (entry.key, entry.revision)));
        }
        found
    };
    let before = records().await;
    assert!(before.iter().any(|(key, _)| key.as_str() == "masterkey/current"), "{before:?}");
    for (seed, subject) in [(gateway, "$KV.toehold.agent.x"), (pods, "$KV.toehold.pod.x")] {
        let client = ConnectOptions::new().nkey(std::fs::read_to_string(seed).unwrap());
        let client = client.connect(format!("127.0.0.1:{}", nats.port)).await.unwrap();
        let context = jetstream::new(client);
        for what in ["all", "sub"] {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Rollup", what);
            let sent = context.publish_with_headers(subject, headers, "{}".into()).await.unwrap().await;
            assert!(format!("{:?}", sent.as_ref().unwrap_err()).contains("rollup not permitted"), "{sent:?}");
            assert_eq!(records().await, before, "{subject} {what}");
        }
    }
    anna.run(["key", "show"]).ends(0);
}

/// What it has had in clear it may have kept (`docs/shared-store.md`); but what is sealed to gateways is not sealed to it any more.
#[tokio::test(flavor = "multi_thread")]
async fn n2_a_gateway_that_is_let_go_is_no_gateway_and_nothing_is_sealed_to_it_any_more() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let service = joins(&anna, sharing(&store), "gateway", "gateway");
    let other = joins(&anna, sharing(&store), "other", "gateway");
    Gateway::start(&service, &[]).stop().ends(0);
    let raw = nats.store().await;
    // Each of the two, and what is sealed to gateways.
    let open = async || {
        let members = [&service, &other].map(vault_of);
        let [mut opened, mut others] = [[0; 2]; 2];
        for kind in ["gateway", "masterkey"] {
            for entry in raw.list(&key(kind)).await.unwrap() {
                let value = Envelope::parse(&entry.value).unwrap().value;
                let counted = if entry.key == key("gateway/vault") { &mut opened } else { &mut others };
                let is_sealed = sealed::may_hold(&entry.key);
                for (count, member) in counted.iter_mut().zip(&members) {
                    *count += usize::from(is_sealed && sealed::opens(member, &entry.key, &value).is_ok());
                }
            }
        }
        (opened, others)
    };
    assert_eq!(open().await, ([1, 1], [0, 0]), "each opens what gateways need, and no master key");
    let gone = anna.run(["--json", "operator", "rm", "gateway"]).ends(0).json();
    assert_eq!(gone["rotation_due"], false);
    assert_eq!(open().await, ([0, 1], [0, 0]), "only the one that stays opens it");
    says(&service.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1), "no member of the store");
    // The one that stays goes on with it.
    let running = Gateway::start(&other, &[]);
    let machine = Machine::new();
    machine.join(&line(&anna, running.address, &[])).ends(0);
    machine.ping().ends(0);
    running.stop().ends(0);
}

/// Its identity is there before the server is that knows it.
#[tokio::test(flavor = "multi_thread")]
async fn n4_a_server_that_was_told_who_a_member_is_lets_it_write_its_own_chain_of_the_audit_log_alone() {
    use std::os::unix::fs::DirBuilderExt as _;
    let service = Toehold::bare();
    std::fs::DirBuilder::new().mode(0o700).create(service.state()).unwrap();
    let vault = IdentityFile::create(&service.state(), NewIdentity::unprotected(), Timestamp::UNIX_EPOCH).unwrap().unwrap();
    let new = NewMember::of(&vault);
    let [word, writer] = [new.to_string(), vault.recipient().to_string()];
    let roles = ["operator", "roles", "--store", "nats://127.0.0.1/toehold"];
    let printed = |more: &[&str]| Toehold::bare().run(roles.iter().chain(more).copied()).ends(0).stdout;
    Toehold::bare().run(roles.iter().chain(&["--recipient", &word]).copied()).ends(2);
    let (all, own) = (printed(&["--role", "operator"]), printed(&["--role", "pods", "--recipient", &word]));
    let files = tempfile::tempdir().unwrap();
    let [operator, pods] = ["operator", "pods"].map(|role| {
        let pair = nkeys::KeyPair::new_user();
        let file = files.path().join(role);
        write_private(&file, pair.seed().unwrap());
        (pair.public_key(), file)
    });
    let nats = Nats::start(&format!(
        "authorization {{\n{all}\n{own}\nusers: [ {{ nkey: {}, permissions: $TOEHOLD_OPERATOR }}, {{ nkey: {}, permissions: $TOEHOLD_PODS_{} }} ]\n}}",
        operator.0,
        pods.0,
        new.id()
    ));
    let address = nats.address("toehold");
    let anna = with_seed(&address, &operator.1);
    anna.run(["init", "--name", "anna"]).ends(0);
    let seed = pods.1.to_str().unwrap().to_owned();
    joins(&anna, service.with_env("TOEHOLD_STORE", address.to_string()).with_env("TOEHOLD_STORE_NKEY", seed), "pods", "pods");
    let raw = raw(&address, &pods.1).await;
    let others = raw.list(&key("auditwriter")).await.unwrap().remove(0).key;
    let another = others.name().to_owned();
    assert_ne!(another, writer);
    for refused in [format!("audit/{another}/00000000000000000009"), format!("auditwriter/{another}x"), "audit/x/1".to_owned()] {
        assert!(raw.put(&key(&refused), b"{}", Expect::Absent).await.is_err(), "{refused}");
    }
    for own in [format!("audit/{writer}/00000000000000000001"), format!("auditwriter/{writer}"), "pod/planted".to_owned()] {
        raw.put(&key(&own), b"{}", Expect::Absent).await.unwrap();
    }
}
