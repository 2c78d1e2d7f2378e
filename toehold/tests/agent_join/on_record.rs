//! Who was let in, by whose word, and who was let go stands in the audit log.

use serde_json::Value;

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{Machine, agents};
use crate::support::server::{directory, write_private};
use crate::support::{Toehold, eventually};

/// The events of these kinds, without the clock's part.
fn events(toehold: &Toehold, kinds: &[&str]) -> Vec<(String, String, Value)> {
    let listed = toehold.run(["--json", "audit", "ls"]).ends(0).json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let of = |entry: &Value| (text(&entry["what"]), text(&entry["subject"]), entry["details"].clone());
    let all = listed["entries"].as_array().unwrap().iter().map(of);
    all.filter(|(what, ..)| kinds.contains(&what.as_str())).collect()
}

#[test]
fn joins_tokens_and_removals_are_on_record_and_no_passphrase_is_asked_for_them() {
    let directory = directory("on-record");
    let passphrase = directory.path().join("passphrase");
    write_private(&passphrase, "open sesame\n");
    let toehold = Toehold::bare();
    let given = ["--passphrase-file", passphrase.to_str().unwrap()];
    toehold.run(["init"].into_iter().chain(given)).ends(0);
    let gateway = Gateway::start(&toehold, &given);

    // None of these is told the passphrase.
    let line = line(&toehold, gateway.address, &["--uses", "2"]);
    let token = line.token.id().to_string();
    let machine = Machine::new();
    machine.join(&line).ends(0);
    let agent = agents(&toehold)[0]["id"].as_str().unwrap().to_owned();
    toehold.run(["agents", "rm", &agent]).ends(0);
    toehold.run(["token", "revoke", &token]).ends(0);
    eventually("the gateway has written it down", || events(&toehold, &["agent.joined"]).len() == 1);
    let found = events(&toehold, &["token.created", "agent.joined", "agent.removed", "token.revoked"]);
    let of = |kind: &str| found.iter().find(|(what, ..)| what == kind).unwrap_or_else(|| panic!("no {kind}: {found:?}"));
    let (_, subject, details) = of("token.created");
    assert_eq!((subject, &details["uses"], &details["role"]), (&token, &"2".into(), &"agent".into()));
    let (_, subject, details) = of("agent.joined");
    assert_eq!((subject, &details["token"], &details["from"]), (&agent, &token.clone().into(), &"127.0.0.1".into()));
    assert_eq!(&of("agent.removed").1, &agent);
    let (_, subject, details) = of("token.revoked");
    assert_eq!((subject, &details["uses_taken"]), (&token, &"1".into()));

    // What it was told last is written before it goes.
    let late = Machine::new();
    let line = crate::join_support::gateway::line(&toehold, gateway.address, &[]);
    late.join(&line).ends(0);
    gateway.stop().ends(0);
    assert_eq!(events(&toehold, &["agent.joined"]).len(), 2);
    toehold.run(["gateway", "renew-key", "--force"].into_iter().chain(given)).ends(0);
    assert_eq!(events(&toehold, &["gateway.key_renewed"]).len(), 1);
    toehold.run(["audit", "verify"]).ends(0);
}
