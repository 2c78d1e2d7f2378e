//! `agent join --local`: the operator's command, whose token nobody sees.

use std::net::TcpListener;
use std::process::Stdio;

use crate::join_support::gateway::Gateway;
use crate::join_support::machine::agents;
use crate::join_support::relay::{Cut, Relay, Side};
use crate::spec_support::machines::now;
use crate::support::Toehold;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use toehold_core::Timestamp;

fn tokens(operator: &Toehold) -> Vec<Value> {
    operator.run(["--json", "token", "ls"]).ends(0).json()["tokens"].as_array().unwrap().clone()
}

#[test]
fn it_joins_with_a_token_of_its_own_which_is_then_revoked() {
    let operator = Toehold::new();
    let nothing = operator.run(["agent", "join", "--local"]).ends(1);
    assert!(nothing.stderr.contains("no gateway key yet"), "{}", nothing.stderr);
    let gateway = Gateway::start(&operator, &[]);
    let endpoint = gateway.address.to_string();
    let joined =
        operator.run(["--json", "agent", "join", "--local", "--endpoint", &endpoint, "--role", "gateway-host"]).ends(0).json();
    assert_eq!(joined["role"], "gateway-host");
    let made = tokens(&operator);
    assert_eq!((made.len(), &made[0]["state"], &made[0]["uses_taken"]), (1, &"revoked".into(), &1.into()));
    assert_eq!(agents(&operator)[0]["id"], joined["id"]);
    operator.run(["agent", "ping"]).ends(0);
    // Again: it has joined, and no further token is made.
    let again = operator.run(["--json", "agent", "join", "--local", "--endpoint", &endpoint]).ends(0).json();
    assert_eq!((again["already"].as_bool(), tokens(&operator).len()), (Some(true), 1));
    let anew = operator.run(["--json", "agent", "join", "--local", "--endpoint", &endpoint, "--rejoin"]).ends(0).json();
    assert_eq!((&anew["id"], &anew["already"]), (&joined["id"], &false.into()));
    assert!(tokens(&operator).iter().all(|token| token["state"] == "revoked"));
    operator.run(["agent", "ping"]).ends(0);
}

#[test]
fn the_token_is_revoked_also_when_it_is_interrupted_or_fails() {
    let operator = Toehold::new();
    drop(Gateway::start(&operator, &[]));
    // Somebody who accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = silent.local_addr().unwrap().to_string();
    let mut command = operator.command(["--json", "agent", "join", "--local", "--endpoint", &endpoint, "--login-timeout", "1h"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (held, _) = silent.accept().unwrap();
    let open = tokens(&operator)[0].clone();
    assert_eq!(open["state"], "open");
    // Five minutes at most, whatever becomes of this process.
    let until: Timestamp = open["expires_at"].as_str().unwrap().parse().unwrap();
    let lives = until.unix_seconds() - now();
    assert!((1..=300).contains(&lives), "{open}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let interrupted = Toehold::wait(child).ends(1);
    assert!(interrupted.stderr.contains("interrupted"), "{}", interrupted.stderr);
    assert_eq!(tokens(&operator)[0]["state"], "revoked");
    drop(held);
    drop(silent);

    let failed = operator.run(["agent", "join", "--local", "--endpoint", &endpoint]).ends(1);
    assert!(failed.stderr.contains("cannot be reached"), "{}", failed.stderr);
    let made = tokens(&operator);
    assert!(made.len() == 2 && made.iter().all(|token| token["state"] == "revoked"), "{made:?}");
    assert!(agents(&operator).is_empty());
}

#[test]
fn what_is_said_of_running_it_again_is_true_of_a_token_that_is_revoked() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let relay = Relay::start(gateway.address);
    let endpoint = relay.address().to_string();
    let join = || operator.run(["--json", "agent", "join", "--local", "--endpoint", &endpoint]);
    // Cut in each record in turn, until it is in one after the proof.
    let partly = (0..20).find_map(|record| {
        relay.cut(Some(Cut { side: Side::Gateway, record }));
        let done = join();
        (done.code == 3).then_some(done)
    });
    let partly = partly.expect("no cut left it half done");
    let hint = partly.json()["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("another token") && !hint.contains("same admission"), "{hint}");
    assert!(tokens(&operator).iter().all(|token| token["state"] == "revoked"));
    relay.cut(None);
    join().ends(0);
    operator.run(["agent", "ping"]).ends(0);
    assert_eq!(agents(&operator).len(), 1);
    assert!(tokens(&operator).iter().all(|token| token["state"] == "revoked"));
}
