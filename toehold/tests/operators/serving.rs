//! `serve` on a shared store: what each role is there for, and no more.

use serde_json::json;

use crate::join_support::gateway::line;
use crate::join_support::machine::{Machine, agents};
use crate::roles::{server, with_seed};
use crate::serve_support::{Serve, arguments};
use crate::{joins, says};

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
