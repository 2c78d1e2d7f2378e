//! `serve` on a shared store: what each role is there for, and no more.

use serde_json::json;

use crate::join_support::gateway::line;
use crate::join_support::machine::{Machine, agents};
use crate::roles::{server, with_seed};
use crate::serve_support::{Serve, arguments};
use crate::{joins, says};

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
        json!(["sessions", "grants", "owed", "store-gc"])
    );
    for task in ["sessions", "grants", "owed", "store-gc"] {
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
    assert!(all.get("/").body.contains("agents"), "{}", all.get("/").body);
    assert_eq!((one.stop().code, all.stop().code), (0, 0));
}
