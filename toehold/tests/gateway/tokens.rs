//! `token create`, `ls` and `revoke`, and `gateway pin`, as commands.

use crate::join_support::gateway::Gateway;
use crate::support::Toehold;
use crate::support::store;

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
