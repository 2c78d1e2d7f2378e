//! Gateways that share a store, with pods in a cluster.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::gateway::{Pods, Session, file_of};
use crate::ground::Ground;
use crate::membership::{ALICE, founder, joins, lets_alice_in, sharing};
use crate::server::Nats;
use crate::support::eventually;

/// Each is a member of its own; whom they let in, and what they have left when they die, is in the store.
#[test]
fn p2_gateways_on_one_nats_store_share_a_cluster_and_one_clears_away_after_the_other() {
    let (nats, ground) = (Nats::start(""), Ground::new());
    let address = nats.address("toehold");
    let anna = founder(&address);
    let alice = lets_alice_in(&anna);
    let serves = |name: &str| {
        let member = joins(&anna, sharing(&address), name, "pods");
        std::fs::copy(&alice, file_of(&member, "key")).unwrap();
        let which = ground.options(&member, &json!({}));
        Pods::with_options(member, ground.clone(), which, &["--keys-in-store"], |command| command)
    };
    let (one, other) = (serves("one"), serves("other"));
    let echoing = |pods: &Pods| {
        let mut command = pods.ssh("echo begun; exec cat");
        command.stdin(Stdio::piped());
        let mut session = Session::start(command);
        assert_eq!(session.line(), "begun");
        session
    };
    let (_dead, mut living) = (echoing(&one), echoing(&other));
    let which = ground.options(&anna, &json!({}));
    let about =
        |what: &str| anna.run(["--json", "pods", what].into_iter().chain(which.iter().map(String::as_str))).ends(0).json();
    let listed = about("ls");
    let pods = listed["pods"].as_array().unwrap();
    assert_eq!(pods.iter().map(|pod| pod["principal"].as_str().unwrap()).collect::<Vec<_>>(), [ALICE, ALICE], "{listed}");
    // Both gateways live: there is nothing to clear away.
    assert_eq!(about("gc")["pods"], Value::Array(Vec::new()));

    drop(one.kill());
    eventually("one pod less", || ground.pods().len() == 1);
    living.child.stdin.as_mut().unwrap().write_all(b"still here\n").unwrap();
    assert_eq!(living.line(), "still here");
    assert_eq!(other.run("echo anew").ends(0).stdout, "anew\n");
    drop(living);
    eventually("the end of all pods", || ground.pods().is_empty());
    eventually("the end of all records", || about("ls")["pods"].as_array().unwrap().is_empty());
    anna.run(["audit", "verify"]).ends(0);
    anna.run(["store", "check"]).ends(0);
}
