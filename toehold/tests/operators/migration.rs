//! From the embedded store to a shared one, and back.

use toehold::adapters::nats::{NatsOptions, NatsStore};
use toehold_core::{Expect, Store};

use crate::server::Nats;
use crate::support::cli::Done;
use crate::support::{Inside, Toehold};
use crate::{joins, key, says, sharing};

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
