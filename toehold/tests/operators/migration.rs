//! From the embedded store to a shared one, and back; from a file, and from a recovery copy.

use toehold::adapters::identity::IdentityFile;
use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold::shared::{Envelope, Origin, sealed};
use toehold_core::{Expect, Store};

use crate::server::Nats;
use crate::support::cli::Done;
use crate::support::{Inside, Toehold};
use crate::{by_hand, founder, has_a_gateway, joins, key, members, says, sharing};

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_into_a_shared_store_and_back() {
    let nats = Nats::start("");
    let store = nats.address("toehold").to_string();
    let host = Inside::start().await;
    let alone = Toehold::new();
    host.add(&alone, &["--tag", "site=berlin"]).ends(0);
    alone.run(["key", "rotate", "--grace", "0s"]).ends(0);
    // The fleet that is there is not begun anew.
    says(&alone.run(["init", "--store", &store]).ends(1), "store migrate");

    let moved = alone.run(["--json", "store", "migrate", "--from", "embedded", "--to", &store]).ends(0).json();
    assert!(moved["values"].as_u64().unwrap() > 6 && moved["values"] == moved["written"], "{moved}");
    let again = alone.run(["--json", "store", "migrate", "--from", "embedded", "--to", &store]).ends(0).json();
    assert_eq!((&again["digest"], again["written"].as_u64()), (&moved["digest"], Some(0)));
    alone.run(["--store", &store, "init"]).ends(0);
    alone.run(["--store", &store, "host", "check"]).ends(0);
    alone.run(["--store", &store, "store", "check"]).ends(0);
    alone.run(["--store", &store, "audit", "verify"]).ends(0);
    let anna = alone.with_env("TOEHOLD_STORE", store.clone());
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    ben.run(["host", "check"]).ends(0);
    ben.run(["key", "rotate", "--grace", "0s"]).ends(0);

    // Back, into a directory of its own: the identity is his.
    let back = ben.run(["--json", "store", "migrate", "--from", &store, "--to", "embedded"]).ends(0).json();
    assert!(back["values"].as_u64() > moved["values"].as_u64());
    let command = |arguments: &[&str]| {
        let mut command = ben.command(arguments.iter().copied());
        command.env_remove("TOEHOLD_STORE");
        Done::of(command.output().unwrap())
    };
    command(&["host", "check"]).ends(0);
    command(&["store", "check"]).ends(0);
    command(&["audit", "verify"]).ends(0);
    command(&["key", "rotate", "--grace", "0s"]).ends(0);
}

/// The process is held while it fills the new file, and somebody writes to the store that it has read.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_back_during_which_somebody_writes_leaves_nothing_and_can_be_run_again() {
    let nats = Nats::start("");
    let address = nats.address("toehold");
    let store = address.to_string();
    let anna = founder(&address);
    let (signing, raw, chain) = by_hand(&anna, &nats).await;
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(anna.state()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let migrate = ["store", "migrate", "--from", store.as_str(), "--to", "embedded"];
    let child = anna.spawn(migrate);
    let process = rustix::process::Pid::from_child(&child);
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while !names().iter().any(|name| name.starts_with("import.new-")) {
        assert!(std::time::Instant::now() < deadline, "nothing is filled: {:?}", names());
    }
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    assert!(!names().contains(&"state.db".to_owned()), "it was held before the new file has its name");
    let (place, signer) = (key("host/late@example.net"), chain.members().members[0].id.clone());
    let origin = Origin { signer, set: chain.members().number, replaces: None };
    let late = Envelope::seal(&signing, chain.store(), &place, origin, b"{}");
    raw.put(&place, &late.to_bytes(), Expect::Absent).await.unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::CONT).unwrap();
    says(&Toehold::wait(child).ends(1), "written to while it was copied");
    let left = names();
    assert!(!left.iter().any(|name| name.starts_with("state.db") || name.starts_with("import.new-")), "{left:?}");
    anna.run(migrate).ends(0);
    assert!(names().contains(&"state.db".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_cut_off_goes_on_and_one_into_something_else_does_not_begin() {
    let nats = Nats::start("");
    let store = nats.address("toehold").to_string();
    let alone = Toehold::new();
    let migrate = ["store", "migrate", "--from", "embedded", "--to", &store];
    alone.run(migrate).ends(0);
    let raw = nats.store().await;
    // As if it had been cut off before one of them.
    let keys = raw.list(&key("masterkey")).await.unwrap();
    let missing = keys.iter().find(|entry| entry.key != key("masterkey/current")).unwrap();
    raw.delete(&missing.key, missing.revision).await.unwrap();
    let done = alone.run(["--json", "store", "migrate", "--from", "embedded", "--to", &store]);
    assert_eq!(done.ends(0).json()["written"], 1);
    // Another fleet's store, and a bucket that holds what nobody signed.
    says(&Toehold::new().run(migrate).ends(1), "has members already");
    let other = nats.address("other").to_string();
    let unsigned = NatsStore::create(&nats.address("other"), &NatsOptions::default(), 1).await.unwrap();
    unsigned.put(&key("host/a@b"), b"{}", Expect::Absent).await.unwrap();
    for command in [&["store", "migrate", "--from", "embedded", "--to", &other][..], &["init", "--store", &other]] {
        let done =
            if command[0] == "init" { Toehold::bare().run(command.iter().copied()) } else { alone.run(command.iter().copied()) };
        says(&done.ends(1), "nobody has signed");
    }
    for (from, to) in [("embedded", "embedded"), (store.as_str(), other.as_str())] {
        alone.run(["store", "migrate", "--from", from, "--to", to]).ends(2);
    }
}

/// A command with another store than the one that its environment names.
fn with_store(toehold: &Toehold, store: &str, arguments: &[&str]) -> Done {
    toehold.run(["--json", "--store", store].iter().chain(arguments).copied())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_brought_into_an_empty_shared_store_and_signed_anew() {
    let nats = Nats::start("");
    let [store, other] = ["toehold", "other"].map(|bucket| nats.address(bucket).to_string());
    let host = Inside::start().await;
    let anna = founder(&store);
    host.add(&anna, &[]).ends(0);
    has_a_gateway(&anna);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let file = anna.state().with_file_name("export");
    let file = file.to_str().unwrap();
    anna.run(["store", "export", file]).ends(0);
    let import = ["store", "import", file];

    // Who opens none of it brings it nowhere, and a store that is somebody's stays as it is.
    says(&with_store(&Toehold::new(), &other, &import).ends(1), "does not open here");
    assert!(NatsStore::open(&nats.address("other"), &NatsOptions::default()).await.is_err(), "nothing was made");
    let before = anna.master_key();
    says(&with_store(&Toehold::new(), &store, &import).ends(1), "does not open here");
    says(&anna.run(import).ends(1), "has members already");
    let begun = nats.address("begun").to_string();
    with_store(&anna, &begun, &["init"]).ends(0);
    says(&with_store(&anna, &begun, &import).ends(1), "only an empty store is filled");

    let written = with_store(&anna, &other, &import).ends(0).json();
    assert!(written["values"].as_u64().unwrap() > 5 && written["values"] == written["written"], "{written}");
    // What is sealed is sealed anew meanwhile, and the same all the same.
    assert_eq!(with_store(&anna, &other, &import).ends(0).json()["written"], 0);
    let brought = anna.with_env("TOEHOLD_STORE", other.clone());
    assert_eq!(brought.master_key(), before);
    assert_eq!(members(&brought).len(), 1);
    for command in [&["host", "check"][..], &["store", "check"], &["audit", "verify"], &["key", "rotate", "--grace", "0s"]] {
        brought.run(command.iter().copied()).ends(0);
    }
    // Ben was a member of the store that it came from, and is none of this one: its key is not sealed to him.
    let raw = NatsStore::open(&nats.address("other"), &NatsOptions::default()).await.unwrap();
    let vault = IdentityFile::read(&ben.state()).unwrap().unlock(None).unwrap();
    for entry in raw.list(&key("masterkey")).await.unwrap() {
        let value = Envelope::parse(&entry.value).unwrap().value;
        assert!(entry.key == key("masterkey/current") || sealed::opens(&vault, &entry.key, &value).is_err(), "{}", entry.key);
    }
    let ben = ben.with_env("TOEHOLD_STORE", other.clone());
    joins(&brought, ben, "ben", "operator").run(["host", "check"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_a_bucket_that_is_empty_all_of_a_sudden_is_not_begun_anew() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let file = anna.state().with_file_name("export");
    let file = file.to_str().unwrap();
    anna.run(["store", "export", file]).ends(0);
    let raw = nats.store().await;
    for kind in raw.kinds().await.unwrap() {
        for entry in raw.list(&kind).await.unwrap() {
            raw.delete(&entry.key, entry.revision).await.unwrap();
        }
    }
    for command in [&["init"][..], &["store", "import", file]] {
        says(&anna.run(command.iter().copied()).ends(1), "has seen a store there");
    }
    assert_eq!(raw.kinds().await.unwrap(), []);
    let elsewhere = nats.address("elsewhere").to_string();
    with_store(&anna, &elsewhere, &["store", "import", file]).ends(0);
    let brought = anna.with_env("TOEHOLD_STORE", elsewhere);
    brought.run(["key", "show"]).ends(0);
    brought.run(["store", "check"]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_copy_comes_back_into_an_empty_shared_store() {
    let nats = Nats::start("");
    let store = nats.address("toehold").to_string();
    let host = Inside::start().await;
    let alone = Toehold::new();
    host.add(&alone, &[]).ends(0);
    let keeper = Toehold::bare();
    let to = keeper.run(["--json", "init"]).ends(0).json()["recipient"].as_str().unwrap().to_owned();
    let (copy, identity) = (keeper.state().with_file_name("copy"), keeper.state().join("identity"));
    let (copy, identity) = (copy.to_str().unwrap(), identity.to_str().unwrap());
    alone.run(["key", "export", "--to", &to, "-o", copy]).ends(0);

    // A machine that has nothing but the copy and what opens it.
    let anna = sharing(&store);
    let restore = ["--json", "init", "--name", "anna", "--restore", copy, "--identity", identity];
    let restored = anna.run(restore).ends(0).json();
    assert_eq!((&restored["hosts"], &restored["store"]), (&1.into(), &store.clone().into()));
    anna.run(restore).ends(0);
    assert_eq!(anna.master_key(), alone.master_key());
    for command in [&["init"][..], &["host", "check"], &["store", "check"], &["key", "rotate", "--grace", "0s"]] {
        anna.run(command.iter().copied()).ends(0);
    }
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    ben.run(["host", "check"]).ends(0);

    // Into a store that has a fleet, or members, nothing is brought.
    says(&anna.run(restore).ends(1), "has members already");
    says(&sharing(&store).run(restore).ends(1), "has members already");
    let taken = founder(&nats.address("taken"));
    let before = taken.master_key();
    says(&taken.run(restore).ends(1), "has the master key");
    assert_eq!(taken.master_key(), before);
}
