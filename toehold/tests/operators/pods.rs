//! Gateways for pods that share a store: members with the role pods, who give pods to those whom operators let in.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use toehold::adapters::nats::NatsStore;
use toehold::shared::{Envelope, MemberId, Origin};
use toehold_core::{Entry, Expect, Key, Store};

use crate::gateway::{Pods, Session, file_of, is_alive};
use crate::ground::Ground;
use crate::membership::{ALICE, lets_alice_in};
use crate::roles::{raw, server, with_seed};
use crate::serve_support::Serve;
use crate::server::Nats;
use crate::ssh_keys::{asks, ssh_key};
use crate::support::keys::ssh_keygen;
use crate::support::server::{directory, write_private};
use crate::support::{Done, Inside, Toehold, eventually};
use crate::{asks_to_be_let_in, by_hand, founder, joins, key, says, sharing};

const LOCAL: [&str; 2] = ["--backend", "local"];
const SERVE: [&str; 7] = ["pods", "serve", "--backend", "local", "--listen", "127.0.0.1:0", "--keys-in-store"];

/// It does not serve, and says why.
fn does_not_serve(member: &Toehold, why: &str) {
    let mut child = member.spawn(SERVE);
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it serves: {:?}", Toehold::wait(child));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    says(&Toehold::wait(child).ends(1), why);
}

/// How many lists of members this machine has seen.
fn lists_seen(member: &Toehold) -> u64 {
    let seen: Value = serde_json::from_slice(&std::fs::read(member.state().join("shared-toehold.json")).unwrap()).unwrap();
    seen["sets"].as_array().unwrap().len() as u64
}

/// The pods of this machine: below this directory, whoever asks.
fn at(toehold: Toehold, place: &TempDir) -> Toehold {
    toehold.with_env("XDG_STATE_HOME", place.path().to_str().unwrap())
}

/// A store on a server that lets everybody in, with its first operator.
struct Site {
    nats: Nats,
    place: TempDir,
    anna: Toehold,
}

impl Site {
    fn new() -> Self {
        let (nats, place) = (Nats::start(""), directory("pods"));
        let anna = at(founder(&nats.address("toehold")), &place);
        Self { nats, place, anna }
    }

    fn newcomer(&self) -> Toehold {
        at(sharing(&self.nats.address("toehold")), &self.place)
    }

    fn member(&self, name: &str, role: &str) -> Toehold {
        joins(&self.anna, self.newcomer(), name, role)
    }
}

/// `pods serve` as this member, for those who are let in by the store; they come with this key.
fn serves(member: Toehold, key: &Path) -> Pods {
    std::fs::copy(key, file_of(&member, "key")).unwrap();
    let which = LOCAL.map(str::to_owned).to_vec();
    Pods::with_options(member, Ground::new(), which, &["--keys-in-store"], |command| command)
}

fn about_pods(toehold: &Toehold, what: &str) -> Done {
    toehold.run(["--json", "pods", what].into_iter().chain(LOCAL))
}

fn names(toehold: &Toehold) -> Vec<String> {
    let listed = about_pods(toehold, "ls").ends(0).json();
    listed["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect()
}

/// Says its process number, and then what it is given.
fn echoing(pods: &Pods) -> (Session, i32) {
    let mut command = pods.ssh("echo $$; exec cat");
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    let number = session.number();
    (session, number)
}

/// Waits for what the store answers, within a test that looks again and again.
fn now<F: Future>(asked: F) -> F::Output {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(asked))
}

fn records(raw: &NatsStore) -> Vec<Entry> {
    now(raw.list(&key("pod"))).unwrap()
}

fn is_there(raw: &NatsStore, place: &Key) -> bool {
    now(raw.get(place)).unwrap().is_some()
}

/// What is typed comes back: the pod lives, and so does the connection.
fn still_echoes(session: &mut Session) {
    session.child.stdin.as_mut().unwrap().write_all(b"still here\n").unwrap();
    assert_eq!(session.line(), "still here");
}

/// A record of a pod as a member writes it who is not asked by any program of ours.
struct Plan<'p> {
    writer: &'p Toehold,
    like: &'p Entry,
    connection: String,
}

impl Plan<'_> {
    /// It says that its pod's owner is none that there is.
    async fn is_planted(&self, nats: &Nats) -> Key {
        let (signing, raw, chain) = by_hand(self.writer, nats).await;
        let mut record: Value = serde_json::from_slice(&Envelope::parse(&self.like.value).unwrap().value).unwrap();
        record["connection"] = self.connection.clone().into();
        record["owner"]["uid"] = "no-such-owner".into();
        let place = key(&format!("pod/{}", self.connection));
        let value = serde_json::to_vec(&record).unwrap();
        let signer = MemberId::of(&signing.verifying_key());
        let origin = Origin { signer, set: chain.members().number, replaces: None };
        let bytes = Envelope::seal(&signing, chain.store(), &place, origin, &value).to_bytes();
        raw.put(&place, &bytes, Expect::Absent).await.unwrap();
        place
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_a_gateway_with_the_role_pods_gives_pods_to_whom_an_operator_lets_in() {
    let (_nats, address, [operator, _, seed], _files) = server();
    let place = directory("pods");
    let anna = at(with_seed(&address, &operator), &place);
    anna.run(["init", "--name", "anna"]).ends(0);
    let service = joins(&anna, at(with_seed(&address, &seed), &place), "pods", "pods");
    let alice = lets_alice_in(&anna);
    let pods = serves(service, &alice);
    assert_eq!(pods.run("echo hello").ends(0).stdout, "hello\n");

    let (session, number) = echoing(&pods);
    let listed = about_pods(&anna, "ls").ends(0).json()["pods"][0].clone();
    assert_eq!((listed["principal"].as_str(), listed["stays"].as_bool()), (Some(ALICE), Some(false)));
    let raw_operator = raw(&address, &operator).await;
    let names = |entry: &Entry| String::from_utf8_lossy(&entry.value).contains(listed["name"].as_str().unwrap());
    assert!(records(&raw_operator).iter().any(names), "the pod is not on record");
    let serve = Serve::start(&anna, &["--no-gateway", "--no-hosts"]);
    eventually("the page has the pod", || {
        let shown = serve.section("pods");
        shown.contains(listed["name"].as_str().unwrap()) && shown.contains(ALICE)
    });
    drop(session);
    eventually("the page has it no more", || serve.section("pods").contains("There are no pods."));
    drop(serve);
    eventually("the end of the pod", || !is_alive(number));
    eventually("the end of its record", || records(&raw_operator).is_empty());
    eventually("what was run is on record", || anna.run(["--json", "audit", "ls"]).ends(0).stdout.contains("exec cat"));
    anna.run(["audit", "verify"]).ends(0);
    anna.run(["store", "check"]).ends(0);

    // Who may have a pod is not the gateway's to say, nor is anything else its own: it does not ask the server, which would refuse.
    let public = alice.with_extension("pub");
    let member = &pods.toehold;
    for command in [&["pods", "key", "add", "eve", public.to_str().unwrap()][..], &["pods", "key", "rm", ALICE]] {
        says(&member.run(command.iter().copied()).ends(1), "the operators' to say");
    }
    let raw_member = raw(&address, &seed).await;
    let let_in = raw_member.list(&key("podkey")).await.unwrap().remove(0);
    for refused in ["podkey/x", "gateway/current", "lease/sessions", "masterkey/x"] {
        assert!(raw_member.put(&key(refused), b"{}", Expect::Absent).await.is_err(), "{refused}");
    }
    assert!(raw_member.delete(&let_in.key, let_in.revision).await.is_err());
    for own in ["pod/planted", "lease/pods"] {
        let written = raw_member.put(&key(own), b"{}", Expect::Absent).await.unwrap();
        raw_member.delete(&key(own), written).await.unwrap();
    }

    pods.run("true").ends(0);
    anna.run(["pods", "key", "rm", ALICE]).ends(0);
    assert_eq!(pods.run("true").code, 255, "let in no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_a_key_that_no_operator_has_signed_lets_nobody_in() {
    let site = Site::new();
    let Site { nats, anna, .. } = &site;
    let alice = lets_alice_in(anna);
    let service = site.member("pods", "pods");
    let eve = file_of(&service, "eve");
    let public = ssh_keygen(&eve, &["-t", "ed25519"]);
    // The same record as Alice's, for Eve's key, signed by the gateway itself, or by nobody.
    let (signing, raw, chain) = by_hand(&service, nats).await;
    let good = raw.list(&key("podkey")).await.unwrap().remove(0);
    let mut record: Value = serde_json::from_slice(&Envelope::parse(&good.value).unwrap().value).unwrap();
    record["line"] = public.to_string().into();
    let value = serde_json::to_vec(&record).unwrap();
    let planted = key(&format!("podkey/{}", public.fingerprint().to_segment()));
    let signer = MemberId::of(&signing.verifying_key());
    let origin = Origin { signer, set: chain.members().number, replaces: None };
    let sealed = Envelope::seal(&signing, chain.store(), &planted, origin, &value).to_bytes();
    let pods = serves(service, &alice);
    let as_eve = || Done::of(pods.client_with_key("ssh", &eve).args(["anybody@127.0.0.1", "true"]).output().unwrap());
    for (bytes, why) in
        [(value.as_slice(), "not signed"), (&sealed, "whose role pods may not write it"), (&good.value, "moved here")]
    {
        let written = raw.put(&planted, bytes, Expect::Absent).await.unwrap();
        assert_eq!(as_eve().code, 255, "{why}");
        says(&anna.run(["pods", "key", "ls"]).ends(3), why);
        pods.run("true").ends(0);
        raw.delete(&planted, written).await.unwrap();
    }
    // As an operator signs it, it does.
    anna.run(["pods", "key", "add", "eve", eve.with_extension("pub").to_str().unwrap()]).ends(0);
    as_eve().ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn p2_of_two_gateways_on_one_store_the_one_that_lives_clears_away_what_the_other_has_left() {
    let site = Site::new();
    let Site { nats, anna, .. } = &site;
    let alice = lets_alice_in(anna);
    let one = serves(site.member("one", "pods"), &alice);
    let other = serves(site.member("other", "pods"), &alice);
    let (_dead, dying) = echoing(&one);
    let (mut living, number) = echoing(&other);
    assert_eq!(names(anna).len(), 2);
    // Whoever clears away leaves both alone while both gateways live; so does a third one, whose pods are in another place.
    let elsewhere = directory("elsewhere");
    let far = serves(joins(anna, at(sharing(&nats.address("toehold")), &elsewhere), "far", "pods"), &alice);
    for cleared in [about_pods(anna, "gc"), far.about(["gc"])] {
        let cleared = cleared.ends(0).json();
        assert_eq!((cleared["pods"].as_array().unwrap().len(), cleared["records"].as_u64()), (0, Some(0)), "{cleared}");
    }
    assert!(is_alive(dying) && is_alive(number));

    drop(one.kill());
    eventually("the end of what was in its pod", || !is_alive(dying));
    let raw = nats.store().await;
    eventually("one pod less", || names(anna).len() == 1);
    eventually("one record less", || records(&raw).len() == 1);
    let left = String::from_utf8_lossy(&records(&raw)[0].value).into_owned();
    assert!(left.contains(&names(anna)[0]), "the record of a living gateway's pod: {left}");
    still_echoes(&mut living);
    other.run("true").ends(0);
    drop(living);
    eventually("the end of all pods", || names(anna).is_empty());
    anna.run(["audit", "verify"]).ends(0);
    anna.run(["store", "check"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_what_a_removed_gateway_writes_is_taken_by_nobody_and_what_it_wrote_before_is() {
    let site = Site::new();
    let Site { nats, anna, .. } = &site;
    let alice = lets_alice_in(anna);
    let one = serves(site.member("one", "pods"), &alice);
    let other = serves(site.member("other", "pods"), &alice);
    let (_session, number) = echoing(&one);
    let raw = nats.store().await;
    let like = records(&raw).remove(0);
    // A record of a member's whose owner is not there is one of a gateway that is gone: the other one clears it away.
    let taken = Plan { writer: &one.toehold, like: &like, connection: "1".repeat(32) }.is_planted(nats).await;
    eventually("its end", || !is_there(&raw, &taken));

    anna.run(["operator", "rm", "one"]).ends(0);
    // It can have no more pods, and says why; the one that there is lives on. Until both have looked again, for a few seconds, they believe it.
    eventually("no more pods", || {
        let refused = one.run("true");
        refused.code == 255 && refused.stderr.contains("no member of the store")
    });
    let list = anna.run(["--json", "operator", "ls"]).ends(0).json()["list"].as_u64().unwrap();
    eventually("the other one has heard of it", || lists_seen(&other.toehold) > list);
    let late = Plan { writer: &one.toehold, like: &like, connection: "2".repeat(32) }.is_planted(nats).await;
    assert!(is_alive(number));
    // Dead, what it had is cleared away by its old record, which the operator has signed anew; by the late one nobody does anything.
    drop(one.kill());
    eventually("the end of what was in its pod", || !is_alive(number));
    eventually("the end of its record", || !is_there(&raw, &like.key));
    assert!(is_there(&raw, &late));
    for command in ["ls", "gc"] {
        says(&about_pods(anna, command).ends(3), "no member of this store any more");
    }
    let (mut living, _) = echoing(&other);
    still_echoes(&mut living);
    anna.run(["store", "discard", late.as_str()]).ends(0);
    // Further ones are there from the seconds in which it still believed itself. What is good cannot be discarded.
    for record in records(&raw) {
        anna.run(["store", "discard", record.key.as_str()]);
    }
    about_pods(anna, "gc").ends(0);
    assert_eq!(names(anna).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_local_pods_want_a_member_and_a_store_that_nothing_depends_on() {
    let site = Site::new();
    let anna = &site.anna;
    does_not_serve(anna, "an operator's identity");
    let gateway = site.member("gateway", "gateway");
    does_not_serve(&gateway, "has nothing to do with pods");
    says(&about_pods(&gateway, "gc").ends(1), "has nothing to do with pods");
    // Its directory is not where people who log in are.
    let service = site.member("pods", "pods");
    let host = Inside::start().await;
    host.add(anna, &[]).ends(0);
    does_not_serve(&service, "the store has a fleet in it");
    assert!(!service.state().join("pods").exists() && !service.state().join("state.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_signs_is_unlocked_once_at_the_start() {
    let site = Site::new();
    let anna = &site.anna;
    let alice = lets_alice_in(anna);
    let service = site.newcomer();
    let passphrase = file_of(&service, "passphrase");
    write_private(&passphrase, "correct horse\n");
    let named = ["--passphrase-file", passphrase.to_str().unwrap()];
    let init = |more: &[&str]| service.run(["--json", "init"].iter().chain(more).copied());
    let word = init(&named).ends(3).json()["recipient"].as_str().unwrap().to_owned();
    anna.run(["operator", "add", &word, "--name", "pods", "--role", "pods"]).ends(0);
    init(&named).ends(0);
    does_not_serve(&service, "--passphrase-file");

    std::fs::copy(&alice, file_of(&service, "key")).unwrap();
    let which = LOCAL.map(str::to_owned).to_vec();
    let more = ["--keys-in-store", "--passphrase-file", passphrase.to_str().unwrap()];
    let pods = Pods::with_options(service, Ground::new(), which, &more, |command| command);
    std::fs::remove_file(&passphrase).unwrap();
    for _ in 0..2 {
        pods.run("true").ends(0);
    }
    // A newcomer who is no member yet gives nobody a pod.
    let nobody = site.newcomer();
    asks_to_be_let_in(&nobody);
    does_not_serve(&nobody, "no member of the store");
}

/// A pod whose record is not in the backup is nobody's to clear away: those who are at work go, as at any end of a gateway, and it says why.
#[tokio::test(flavor = "multi_thread")]
async fn n3_a_gateway_for_pods_ends_when_a_backup_is_put_in_the_stores_place() {
    let mut site = Site::new();
    let alice = lets_alice_in(&site.anna);
    let service = site.member("pods", "pods");
    let pods = serves(service, &alice);
    pods.run("true").ends(0);
    site.nats.back_up();
    site.nats.up();
    eventually("it goes on", || pods.run("true").code == 0);
    let raw = site.nats.store().await;
    let had = raw.last_revision().await.unwrap();
    let (_session, number) = echoing(&pods);
    assert!(raw.last_revision().await.unwrap() > had);
    site.nats.restored();
    let (ended, service) = pods.ends();
    assert_eq!(ended.code, 1);
    eventually("the end of what was in its pod", || !is_alive(number));
    does_not_serve(&service, "accept-rollback");
}

/// Its recipient is no segment of a key, and so no name of a chain.
#[tokio::test(flavor = "multi_thread")]
async fn n4_a_gateway_with_an_ssh_key_writes_its_own_chain_of_the_audit_log() {
    let site = Site::new();
    let service = site.newcomer();
    let word = asks(&service, &ssh_key(&service, "ed25519", ""));
    site.anna.run(["operator", "add", &word, "--name", "pods", "--role", "pods"]).ends(0);
    service.run(["init"]).ends(0);
    let alice = lets_alice_in(&site.anna);
    let pods = serves(service, &alice);
    assert_eq!(pods.run("echo in").stdout, "in\n");
    let chains = || site.anna.run(["--json", "audit", "verify"]).ends(0).json()["chains"].clone();
    let own = || {
        let chains = chains();
        let mut writers = chains.as_array().unwrap().iter().map(|chain| chain["writer"].as_str().unwrap());
        writers.find(|writer| writer.starts_with("ssh-")).map(str::to_owned)
    };
    eventually("its chain is there", || own().is_some());
    pods.kill();
    let roles = ["operator", "roles", "--role", "pods", "--recipient", &word];
    let printed = site.anna.run(roles).ends(0).stdout;
    assert!(printed.contains(&format!("\"$KV.toehold.audit.{}.*\"", own().unwrap())), "{printed}");
}
