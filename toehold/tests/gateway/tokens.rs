//! `token create`, `ls` and `revoke`, and `gateway pin`, as commands.

use crate::join_support::gateway::Gateway;
use crate::support::store;
use crate::support::{Toehold, eventually};

#[test]
fn the_first_line_needs_a_gateway_and_an_endpoint() {
    let toehold = Toehold::new();
    let none = toehold.run(["token", "create"]).ends(1);
    assert!(none.stderr.contains("toehold gateway serve"), "{}", none.stderr);
    toehold.run(["gateway", "pin"]).ends(1);
    let gateway = Gateway::start(&toehold, &[]);
    let none = toehold.run(["token", "create"]).ends(2);
    assert!(none.stderr.contains("--endpoint"), "{}", none.stderr);
    gateway.kill();
    // Said once, it is remembered.
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    Gateway::start(&toehold, &[]).kill();
    let line = toehold.run(["token", "create"]).ends(0).stdout;
    assert!(line.starts_with("toehold-join-v3/gw.example.net:7443/") && line.lines().count() == 1, "{line}");
    let pins = toehold.run(["gateway", "pin"]).ends(0).stdout;
    let first = pins.lines().next().unwrap();
    assert!(line.contains(first) && pins.lines().nth(1).unwrap().ends_with("(next)"), "{pins}");
}

#[test]
fn tokens_are_listed_without_their_secrets_and_revoked() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let arguments = ["--ttl", "2h", "--uses", "3", "--label", "a=b", "--from", "10.0.0.0/8", "--role", "web"];
    let made = toehold.run([&["--json", "token", "create"][..], &arguments].concat()).ends(0).json();
    let opni = toehold.run(["--json", "token", "create", "--opni", "--client-id", "cluster-1"]).ends(0).json();
    assert!(opni["line"].as_str().unwrap().starts_with("toehold-join-v2/"), "{opni}");
    let listed = toehold.run(["--json", "token", "ls"]).ends(0);
    let tokens = listed.json()["tokens"].as_array().unwrap().clone();
    assert_eq!(tokens.len(), 2);
    let token = tokens.iter().find(|token| token["id"] == made["id"]).unwrap();
    assert_eq!((&token["uses"], &token["uses_taken"], &token["role"]), (&3.into(), &0.into(), &"web".into()));
    assert_eq!((&token["state"], &token["protocol"], &token["from"][0]), (&"open".into(), &"v3".into(), &"10.0.0.0/8".into()));
    for line in [&made["line"], &opni["line"]] {
        let secret = line.as_str().unwrap().split(['/', '.']).find(|part| part.len() == 52).unwrap();
        assert!(!listed.stdout.contains(secret));
    }
    let id = made["id"].as_str().unwrap();
    toehold.run(["token", "revoke", id]).ends(0);
    toehold.run(["token", "revoke", id]).ends(0);
    let table = toehold.run(["token", "ls"]).ends(0).stdout;
    assert!(table.lines().any(|line| line.contains(id) && line.contains("revoked")), "{table}");
    let unknown = toehold.run(["token", "revoke", "0123456789ab"]).ends(1);
    assert!(unknown.stderr.contains("token ls"), "{}", unknown.stderr);
    toehold.run(["token", "revoke", "xyz"]).ends(2);
    toehold.run(["token", "create", "--uses", "0"]).ends(2);
    toehold.run(["token", "create", "--ttl", "0s"]).ends(2);
    toehold.run(["token", "create", "--from", "somewhere"]).ends(2);
}

#[test]
fn a_token_that_cannot_be_read_hides_no_other() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let bad = toehold.run(["--json", "token", "create"]).ends(0).json();
    let good = toehold.run(["--json", "token", "create"]).ends(0).json();
    store::change(&toehold, &format!("token/{}", bad["id"].as_str().unwrap()), |token| token["uses"] = "many".into());
    let listed = toehold.run(["--json", "token", "ls"]).ends(3).json();
    assert_eq!(listed["tokens"][0]["id"], good["id"]);
    assert_eq!(listed["unreadable"].as_array().unwrap().len(), 1);
}

fn state(toehold: &Toehold, id: &str) -> serde_json::Value {
    let tokens = toehold.run(["--json", "token", "ls"]).ends(0).json()["tokens"].as_array().unwrap().clone();
    tokens.iter().find(|token| token["id"] == id).unwrap()["state"].clone()
}

#[test]
fn a_revocation_that_is_not_done_says_what_is_owed_and_ends_with_3() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let made = toehold.run(["--json", "token", "create", "--uses", "3"]).ends(0).json();
    let id = made["id"].as_str().unwrap();
    let damaged = format!("token/{id}/00001");
    let mut database = store::open(&toehold);
    let transaction = database.transaction().unwrap();
    store::insert(&transaction, &damaged, &serde_json::json!({ "v": 1, "readable_from": 1, "held": "nobody" }));
    transaction.commit().unwrap();
    let partly = toehold.run(["--json", "token", "revoke", id]).ends(3);
    assert_eq!((&partly.json()["uses_revoked"], &partly.json()["uses_owed"]), (&2.into(), &1.into()));
    assert!(partly.stderr.contains(&damaged) && partly.stderr.contains("run it again"), "{}", partly.stderr);
    // Nor does it hide other tokens.
    let other = toehold.run(["--json", "token", "create"]).ends(0).json();
    let listed = toehold.run(["--json", "token", "ls"]).ends(3).json();
    assert_eq!(listed["tokens"][0]["id"], other["id"]);
    assert!(listed["unreadable"][0].as_str().unwrap().contains(&damaged), "{listed}");
    database.execute("DELETE FROM entry WHERE key = ?1", [&damaged]).unwrap();
    assert_eq!(state(&toehold, id), "partly revoked");
    toehold.run(["token", "revoke", id]).ends(0);
    assert_eq!(state(&toehold, id), "revoked");
}

#[test]
fn a_revocation_that_is_interrupted_ends_with_3() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let made = toehold.run(["--json", "token", "create", "--uses", "10000"]).ends(0).json();
    let id = made["id"].as_str().unwrap();
    let mut command = toehold.command(["--json", "token", "revoke", id]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let first = format!("token/{id}/00000");
    eventually("a use is revoked", || store::keys(&toehold).contains(&first));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let partly = Toehold::wait(child).ends(3);
    assert!(partly.stderr.contains("interrupted") && partly.stderr.contains("run it again"), "{}", partly.stderr);
    assert_eq!(state(&toehold, id), "partly revoked");
}

#[tokio::test]
async fn what_is_long_over_is_swept() {
    let toehold = Toehold::new();
    Gateway::start(&toehold, &["--endpoint", "gw.example.net:7443"]).kill();
    let made = toehold.run(["--json", "token", "create"]).ends(0).json();
    let key = format!("token/{}", made["id"].as_str().unwrap());
    store::change(&toehold, &key, |token| token["expires_at"] = "2026-01-01T00:00:00Z".into());
    let _gateway = Gateway::start(&toehold, &[]);
    crate::join_support::gateway::eventually("swept", || async { !store::keys(&toehold).contains(&key) }).await;
}
