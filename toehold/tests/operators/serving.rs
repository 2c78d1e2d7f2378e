//! `serve` on a shared store: what each role is there for, and no more.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use toehold_core::{Expect, Store as _};

use crate::gateway::file_of;
use crate::join_support::gateway::{self, Gateway, line};
use crate::join_support::machine::{Machine, agents};
use crate::roles::{server, with_seed};
use crate::serve_support::{Serve, arguments};
use crate::server::Nats;
use crate::support::{Toehold, eventually};
use crate::{founder, joins, key, says, sharing};

/// Here there is no cluster, which is the task's to find out, time and again.
#[test]
fn n2_a_gateway_for_pods_collects_pods_and_does_nothing_else() {
    let (_nats, address, [operator, _, pods], files) = server();
    let anna = with_seed(&address, &operator);
    anna.run(["init", "--name", "anna"]).ends(0);
    let collector = joins(&anna, with_seed(&address, &pods), "pods1", "pods");
    let kubeconfig = files.path().join("no-cluster");
    std::fs::write(&kubeconfig, "{}").unwrap();
    let at = ["--collect-pods", "--kubeconfig", kubeconfig.to_str().unwrap()];
    for more in [&[][..], &["--no-hosts"], &["--no-gateway"]] {
        let all: Vec<&str> = more.iter().chain(&at).copied().collect();
        says(&collector.run(arguments(&all)).ends(2), "the role pods");
    }
    says(&collector.run(arguments(&["--no-hosts", "--no-gateway"])).ends(2), "the role pods");
    let all: Vec<&str> = ["--no-hosts", "--no-gateway"].iter().chain(&at).copied().collect();
    let one = Serve::start(&collector, &all);
    assert_eq!(one.event("it serves", |event| event["event"] == "serving")["tasks"], json!(["pods"]));
    one.task_is("pods", "failing");
    assert_eq!(one.stop().code, 0);
}

#[test]
fn n2_an_operator_does_all_of_it_and_a_gateway_serves_machines_alone() {
    let (_nats, address, [operator, gateway, _], _files) = server();
    let anna = with_seed(&address, &operator);
    anna.run(["init", "--name", "anna"]).ends(0);
    let service = joins(&anna, with_seed(&address, &gateway), "gateway", "gateway");

    let all = Serve::start(&anna, &["--no-gateway"]);
    assert_eq!(
        all.event("it serves", |event| event["event"] == "serving")["tasks"],
        json!(["sessions", "grants", "owed", "store-gc", "audit"])
    );
    for task in ["sessions", "grants", "owed", "store-gc", "audit"] {
        // With the lease, which is signed.
        all.task_is(task, "running");
    }

    for more in [&[][..], &["--no-hosts", "--no-gateway"], &["--no-hosts", "--collect-pods"]] {
        says(&service.run(arguments(more)).ends(2), "the role gateway");
    }
    let one = Serve::start(&service, &["--no-hosts"]);
    assert_eq!(one.event("it serves", |event| event["event"] == "serving")["tasks"], json!(["gateway"]));
    let machine = Machine::new();
    machine.join(&line(&anna, one.gateway(), &[])).ends(0);
    machine.ping().ends(0);
    assert_eq!(agents(&anna).len(), 1);
    one.is_ready();
    all.is_ready();
    let agent = agents(&anna)[0]["id"].as_str().unwrap().to_owned();
    eventually("the page has the agent", || all.section("agents").contains(&format!("<code>{agent}</code>")));
    assert_eq!((one.stop().code, all.stop().code), (0, 0));
}

/// Strangers come to a gateway: it opens what gateways need, and nothing else, also beside an operator in one process.
#[test]
fn n2_a_gateway_is_a_member_of_its_own_and_works_under_no_operators_identity() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    says(
        &anna.run(["gateway", "serve", "--listen", "127.0.0.1:0"]).ends(1),
        "what an operator's identity opens is the whole fleet",
    );
    says(&anna.run(arguments(&[])).ends(2), "--gateway-state-dir");
    let own = anna.state();
    says(&anna.run(arguments(&["--gateway-state-dir", own.to_str().unwrap()])).ends(1), "a member of its own");
    let service = joins(&anna, sharing(&store), "gateway", "gateway");
    let directory = service.state();
    let at = ["--gateway-state-dir", directory.to_str().unwrap()];
    let serve = Serve::start(&anna, &at);
    for task in ["gateway", "sessions", "grants", "owed", "store-gc", "audit"] {
        serve.task_is(task, "running");
    }
    let machine = Machine::new();
    machine.join(&line(&anna, serve.gateway(), &[])).ends(0);
    assert_eq!(serve.stop().code, 0);
    // What it wrote is the gateway's word.
    let removed = anna.run(["--json", "operator", "rm", "gateway"]).ends(0).json();
    assert!(removed["signed_anew"].as_u64().unwrap() >= 2, "{removed}");
    let embedded = crate::support::Toehold::new();
    says(&embedded.run(arguments(&at)).ends(2), "--store");
}

/// Those that the page tells of, and whoever asks for it, are told without anybody's identity.
#[test]
fn n2_what_only_looks_opens_no_identity() {
    let nats = Nats::start("");
    let (anna, file) = under_a_passphrase(sharing(&nats.address("toehold")));
    anna.run(["init", "--passphrase", "--name", "anna", "--passphrase-file", &file]).ends(0);
    let looks = ["--no-gateway", "--no-hosts", "--no-gc"];
    for acts in [&looks[..2], &["--no-gateway", "--no-gc"]] {
        says(&anna.run(arguments(acts)).ends(1), "--passphrase-file FILE");
    }
    let serve = Serve::start(&anna, &looks);
    assert_eq!(serve.event("it serves", |event| event["event"] == "serving")["tasks"], json!(["audit"]));
    serve.task_is("audit", "running");
    serve.is_ready();
    let key = anna.run(["--json", "key", "show"]).ends(0).json()["fingerprint"].as_str().unwrap().to_owned();
    eventually("the page has the key", || serve.get("/").body.contains(&key));
    assert_eq!(serve.stop().code, 0);
}

/// A state directory whose identity is to have a passphrase, and the file that has it.
fn under_a_passphrase(toehold: Toehold) -> (Toehold, String) {
    let file = file_of(&toehold, "passphrase");
    std::fs::write(&file, "barley\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (toehold, file)
}

/// Each has a passphrase of its own, and neither is tried for the other.
#[test]
fn n2_a_gateway_beside_an_operator_has_a_passphrase_of_its_own() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let (service, file) = under_a_passphrase(sharing(&store));
    let own = ["init", "--passphrase", "--passphrase-file", &file];
    let word = service.run(["--json"].iter().chain(&own).copied()).ends(3).json()["recipient"].as_str().unwrap().to_owned();
    anna.run(["operator", "add", &word, "--name", "gateway", "--role", "gateway"]).ends(0);
    service.run(own).ends(0);
    let directory = service.state();
    let at = ["--no-hosts", "--gateway-state-dir", directory.to_str().unwrap()];
    for passphrase in [&[][..], &["--passphrase-file", &file]] {
        let all: Vec<&str> = at.iter().chain(passphrase).copied().collect();
        says(&anna.run(arguments(&all)).ends(1), "--gateway-passphrase-file FILE");
    }
    let all: Vec<&str> = at.iter().chain(&["--gateway-passphrase-file", &file]).copied().collect();
    let serve = Serve::start(&anna, &all);
    serve.task_is("gateway", "running");
    assert_eq!(serve.stop().code, 0);
    for alone in [&["--no-hosts"][..], &["--no-gateway"]] {
        let all: Vec<&str> = alone.iter().chain(&["--gateway-passphrase-file", &file]).copied().collect();
        says(&anna.run(arguments(&all)).ends(2), "--gateway-passphrase-file");
    }
}

const ALONE: [&str; 4] = ["sessions", "grants", "owed", "store-gc"];

/// Two operations hosts, each with an operator of its own.
#[test]
fn n5_of_two_on_a_shared_store_one_leads_and_killed_it_is_followed_by_the_other() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let anna = founder(&store);
    let ben = joins(&anna, sharing(&store), "ben", "operator");
    let first = Serve::start(&anna, &["--no-gateway"]);
    for task in ALONE {
        first.task_is(task, "running");
    }
    let second = Serve::start(&ben, &["--no-gateway"]);
    for task in ALONE {
        second.task_is(task, "standby");
        assert_eq!(first.state_of(task).as_deref(), Some("running"));
    }
    first.is_ready();
    second.is_ready();
    first.kill();
    for task in ALONE {
        second.task_is(task, "running");
    }
    second.is_ready();
    let third = Serve::start(&anna, &["--no-gateway"]);
    for task in ALONE {
        third.task_is(task, "standby");
        assert_eq!(second.state_of(task).as_deref(), Some("running"));
    }
}

#[test]
fn while_the_store_is_away_it_is_not_ready_and_when_it_comes_back_it_is() {
    let mut nats = Nats::start("");
    let anna = founder(&nats.address("toehold"));
    let serve = Serve::start(&anna, &["--no-gateway"]);
    serve.is_ready();
    nats.kill();
    eventually("it is not ready", || {
        let told = serve.get("/readyz");
        told.status == 503 && told.body.lines().any(|line| line.starts_with("the store: "))
    });
    assert!(serve.get("/metrics").body.contains("toehold_serve_ready 0"));
    assert_eq!(serve.get("/healthz").status, 200);
    nats.up();
    serve.is_ready();
}

/// A balancer sends nobody to it then, who would be refused there without a reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_says_within_seconds_that_its_store_is_away_and_when_it_is_back() {
    let mut nats = Nats::start("");
    let anna = founder(&nats.address("toehold"));
    let service = joins(&anna, sharing(&nats.address("toehold")), "gateway", "gateway");
    let gateway = Gateway::start(&service, &["--metrics", "127.0.0.1:0"]);
    let is = async |status: u16| gateway.told("/readyz").await.0 == status;
    gateway::eventually("it is ready", || is(200)).await;
    nats.kill();
    let begun = std::time::Instant::now();
    gateway::eventually("it is not ready", || is(503)).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    nats.up();
    gateway::eventually("it is ready again", || is(200)).await;
}

/// An entry that no member has signed, or that a member has signed who is another writer.
#[tokio::test(flavor = "multi_thread")]
async fn n4_what_is_wrong_with_the_audit_log_is_told_by_the_health() {
    let nats = Nats::start("");
    let anna = founder(&nats.address("toehold"));
    let ben = joins(&anna, sharing(&nats.address("toehold")), "ben", "operator");
    let serve = Serve::start(&anna, &["--no-gateway", "--no-hosts"]);
    serve.task_is("audit", "running");
    assert_eq!(serve.stop().code, 0);
    let raw = nats.store().await;
    let log = raw.list(&key("audit")).await.unwrap();
    let last = log.last().unwrap();
    let next = key(&format!("audit/{}/{:020}", last.key.segments().nth(1).unwrap(), log.len() + 1));
    let planted = raw.put(&next, &last.value, Expect::Absent).await.unwrap();
    let serve = Serve::start(&anna, &["--no-gateway", "--no-hosts"]);
    serve.task_is("audit", "failing");
    let told = serve.get("/readyz");
    assert!(told.status == 503 && told.body.contains("audit: the audit log is not as its writers wrote it"), "{told:?}");
    assert!(serve.get("/metrics").body.contains("toehold_serve_task_failing{task=\"audit\"} 1"));
    // The page goes on, and names it.
    joins(&ben, sharing(&nats.address("toehold")), "clara", "operator");
    eventually("the page shows what came after", || serve.section("audit").contains("clara"));
    let page = serve.get("/").body;
    assert!(page.contains(&format!("{next} in the store cannot be read")) && !page.contains("this picture is old"), "{page}");
    // What was not taken is thrown away, and it is well again by itself.
    raw.delete(&next, planted).await.unwrap();
    serve.task_is("audit", "running");
    serve.is_ready();
}
