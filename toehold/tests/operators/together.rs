//! Two operators, each with a state directory of his own.

use rustix::process::Signal;
use toehold::adapters::system_clock::SystemClock;
use toehold::shared::{Envelope, sealed};
use toehold_core::{Clock as _, MasterKeyRecord, PublicKey, Store as _};

use crate::server::Nats;
use crate::support::running::Running;
use crate::support::{Inside, Toehold, Waiting};
use crate::{WRITE, asks_to_be_let_in, founder, has_a_gateway, joins, members, says, sharing, vault_of};

#[tokio::test(flavor = "multi_thread")]
async fn n1_whoever_was_let_in_does_what_the_first_one_does() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let (host, other) = (Inside::start().await, Inside::start().await);
    let nobody = sharing(&store);
    says(&nobody.run(["host", "ls"]).ends(1), "toehold init");
    let anna = founder(&store);
    anna.run(["init"]).ends(0);
    host.add(&anna, &[]).ends(0);

    // The newcomer is told what somebody inside has to run, and that very command lets him in.
    let ben = sharing(&store);
    let told = ben.run(["--json", "init", "--name", "ben"]).ends(3).json();
    assert!(told["hint"].as_str().unwrap().contains(told["command"].as_str().unwrap()));
    let command = told["command"].as_str().unwrap().to_owned();
    says(&ben.run(["host", "check"]).ends(1), "not sealed to this identity");
    let words = shell_words(&command);
    anna.run(words.iter().skip(1).map(String::as_str)).ends(0);
    let joined = ben.run(["--json", "init"]).ends(0).json();
    assert_eq!((joined["role"].as_str(), joined["name"].as_str()), (Some("operator"), Some("ben")));
    // Again, it finds nothing to do.
    anna.run(words.iter().skip(1).map(String::as_str)).ends(0);
    ben.run(["init"]).ends(0);
    let both = [("anna".to_owned(), "operator".to_owned()), ("ben".to_owned(), "operator".to_owned())];
    assert_eq!((members(&anna), members(&ben)), (both.to_vec(), both.to_vec()));

    // Each sees what the other did, logs in, brings hosts in, and rotates.
    ben.run(["host", "check"]).ends(0);
    other.add(&ben, &[]).ends(0);
    anna.run(["host", "check"]).ends(0);
    ben.run(["key", "rotate", "--grace", "0s"]).ends(0);
    anna.run(["host", "check"]).ends(0);
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    ben.run(["host", "check"]).ends(0);
    anna.run(["audit", "verify"]).ends(0);
    anna.run(["store", "check"]).ends(0);

    has_a_gateway(&anna);
    ben.run(WRITE).ends(0);

    // Who is let go writes nothing that anybody takes, and opens no key that comes after.
    let gone = anna.run(["--json", "operator", "rm", "ben"]).ends(0).json();
    assert_eq!(gone["rotation_due"], true);
    assert!(gone["signed_anew"].as_u64().unwrap() > 0, "{gone}");
    says(&ben.run(WRITE).ends(1), "no member of the store");
    anna.run(["host", "check"]).ends(0);
    anna.run(["store", "check"]).ends(0);
    anna.run(["audit", "verify"]).ends(0);
    anna.run(["key", "rotate", "--grace", "0s"]).ends(0);
    says(&ben.run(["host", "check"]).ends(1), "not sealed to this identity");
    says(&anna.run(["operator", "rm", "anna"]).ends(1), "another operator");
    says(&anna.run(["operator", "rm", "nobody"]).ends(1), "no member nobody");
    assert_eq!(members(&anna), [("anna".to_owned(), "operator".to_owned())]);
}

/// Words as `sh` reads them, for those without quotes inside.
fn shell_words(command: &str) -> Vec<String> {
    command.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
}

/// He who goes may have kept the key: with `--rotate` no host takes it much longer, and he has no part in the one that follows.
#[tokio::test(flavor = "multi_thread")]
async fn removal_with_a_rotation_leaves_nothing_due() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let before = anna.master_key();
    let raw = nats.store().await;
    let opens = async |key: &str| {
        let place = MasterKeyRecord::key(&key.parse::<PublicKey>().unwrap().fingerprint()).unwrap();
        let value = Envelope::parse(&raw.get(&place).await.unwrap().unwrap().value).unwrap().value;
        sealed::opens(&vault_of(&ben), &place, &value).is_ok()
    };
    assert!(opens(&before).await);
    let id = anna.run(["--json", "operator", "ls"]).ends(0).json()["members"][1]["id"].as_str().unwrap().to_owned();
    let mut removal = Running::start(&anna, &["--json", "operator", "rm", &id, "--rotate"]);
    let removed = removal.until(|told| told["removed"] == true).unwrap();
    assert_eq!((&removed["name"], &removed["rotation_due"]), (&"ben".into(), &false.into()));
    // From here on there is nothing to do but to wait for the end of the old key's hour.
    assert!(removal.until(|told| told["event"] == "grace").is_some(), "{:?}", removal.ends());
    removal.signal(Signal::INT);
    let (code, said) = removal.ends();
    assert_eq!(code, 3, "{said}");
    let now = anna.master_key();
    assert_ne!(now, before);
    let ours = host.ours();
    let line_of = |key: &str| ours.lines().find(|line| line.contains(key)).map(|line| line.contains("expiry-time=\""));
    // Where a host reads no ends, it is gone at once.
    assert!(line_of(&before) != Some(false) && line_of(&now) == Some(false), "the old one goes, and the new one stays: {ours}");
    let status = anna.run(["--json", "key", "status"]).ends(3).json();
    assert_eq!((&status["rotation"]["phase"], &status["owed"]), (&"retiring".into(), &0.into()));
    assert!(status["rotation"]["retire_at"].is_string(), "{status}");
    // He opens neither, as they stand there now.
    for key in [&before, &now] {
        assert!(!opens(key).await, "ben opens {key}");
    }
    says(&ben.run(["host", "check"]).ends(1), "not sealed to this identity");
    assert_eq!(members(&anna).len(), 1);
}

/// A removal that was to renew the key and broke off before it did is run again by the same words; and until then the debt is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_due_is_told_until_it_took_place() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    joins(&anna, sharing(&store), "gateway", "gateway");
    anna.run(["operator", "rm", "gateway"]).ends(0);
    anna.run(["key", "status"]).ends(0);
    let second = || SystemClock.now().unix_seconds();
    let begun = second();
    crate::support::eventually("the key is older than the removal, by the second", || second() > begun);
    anna.run(["operator", "rm", "ben"]).ends(0);
    let due = anna.run(["--json", "key", "status"]).ends(3).json();
    assert_eq!(due["rotation_due"]["removed"], "ben", "{due}");
    says(&anna.run(["key", "status"]).ends(3), "a rotation is due: ben was an operator until");
    // Not of somebody who is an operator again, who has the key of now in any case.
    joins(&anna, ben, "ben", "operator");
    anna.run(["key", "status"]).ends(0);
    anna.run(["operator", "rm", "ben"]).ends(0);
    let before = anna.master_key();
    anna.run(["operator", "rm", "ben", "--rotate", "--grace", "0s"]).ends(0);
    assert_ne!(anna.master_key(), before);
    anna.run(["key", "status"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_comes_while_a_rotation_is_open_goes_on_with_it() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    let before = anna.master_key();
    anna.run(["key", "rotate", "--grace", "1h", "--no-wait"]);
    assert_ne!(anna.master_key(), before);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    ben.run(["host", "check"]).ends(0);
    assert_eq!(ben.run(["--json", "key", "status"]).lines().len(), 1);
    // He holds the old one, too, which hosts may still need.
    let opened = ben.run(["--json", "-v", "host", "check"]).ends(0);
    assert!(!opened.stderr.contains("is not tried"), "{}", opened.stderr);
}

#[test]
fn two_who_begin_at_once_found_one_store() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let both = [sharing(&store), sharing(&store)];
    let started: Vec<_> = both.iter().map(|toehold| toehold.spawn(["--json", "init"])).collect();
    let mut codes: Vec<i32> = started.into_iter().map(|child| Toehold::wait(child).code).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 3]);
    let (inside, outside) = if both[0].run(["init"]).code == 0 { (&both[0], &both[1]) } else { (&both[1], &both[0]) };
    let word = asks_to_be_let_in(outside);
    inside.run(["operator", "add", &word]).ends(0);
    outside.run(["init"]).ends(0);
    assert_eq!(inside.master_key(), outside.master_key());
}

#[test]
fn two_who_are_let_in_at_once_both_are_in() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let anna = founder(&store);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let (one, two) = (sharing(&store), sharing(&store));
    let words = [asks_to_be_let_in(&one), asks_to_be_let_in(&two)];
    let adding = [anna.spawn(["operator", "add", &words[0]]), ben.spawn(["operator", "add", &words[1]])];
    for child in adding {
        Toehold::wait(child).ends(0);
    }
    for newcomer in [&one, &two] {
        newcomer.run(["init"]).ends(0);
        assert_eq!(members(newcomer).len(), 4);
    }
}

#[test]
fn what_does_not_work_with_a_shared_store_says_so() {
    // A node comes to the store through a gateway alone (N2).
    let shared = sharing(&"nats://127.0.0.1:1/fleet");
    says(&shared.run(["agent", "join", "--local"]).ends(2), "through a gateway alone");
    says(&shared.run(["spec", "apply", "--root", "/nowhere", "document"]).ends(2), "does not come to a shared store by itself");
    let embedded = Toehold::new();
    for command in [&["operator", "ls"][..], &["store", "accept-rollback"], &["store", "discard", "a/b"]] {
        says(&embedded.run(command.iter().copied()).ends(2), "--store");
    }
    says(&embedded.run(["init", "--replicas", "3"]).ends(2), "--store");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_machine_is_at_work_on_another_leaves_alone() {
    let nats = Nats::start("");
    let store = nats.address("fleet");
    let host = Inside::start().await;
    let anna = founder(&store);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let waiting = Waiting::start(&anna, &host, &[]);
    let recovered = ben.run(["--json", "session", "recover"]);
    assert_eq!(recovered.json()["busy"][0], waiting.session, "{}", recovered.stdout);
    assert_eq!(ben.sessions(false)[0]["status"], "active");
    assert!(waiting.paste().status.success());
    waiting.ends().ends(0);
    ben.run(["host", "check"]).ends(0);
    // What somebody left who died is taken up by whoever names it.
    let other = Inside::start().await;
    let dead = Waiting::start(&anna, &other, &[]);
    let id = dead.session.clone();
    drop(dead);
    ben.run(["session", "cancel", &id]);
    assert!(ben.sessions(false).iter().all(|session| session["id"] != id || session["status"] != "active"));
}
