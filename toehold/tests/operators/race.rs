//! 64 machines at once and one use, at two gateways that are members of a shared store.

use std::sync::Arc;

use toehold_core::Store as _;

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{agents, uses_taken};
use crate::join_support::race::{are_known, opni_winners, winners};
use crate::server::Nats;
use crate::support::Toehold;
use crate::{founder, joins, key, sharing};

/// A store with an operator and two gateways, each a member of its own.
struct Site {
    nats: Nats,
    anna: Toehold,
    gateways: [Gateway; 2],
    /// What the gateways are at work with.
    _members: [Toehold; 2],
}

impl Site {
    fn new() -> Self {
        let nats = Nats::start("");
        let store = nats.address("toehold");
        let anna = founder(&store);
        let members = ["one", "other"].map(|name| joins(&anna, sharing(&store), name, "gateway"));
        let gateways = members.each_ref().map(|member| Gateway::start(member, &[]));
        Self { nats, anna, gateways, _members: members }
    }

    /// The agent that there is, and there is no trace of any other.
    async fn agent(&self) -> String {
        let listed = agents(&self.anna);
        let records = self.nats.store().await.list(&key("agent")).await.unwrap();
        assert_eq!((listed.len(), records.len()), (1, 1), "{listed:?}");
        let id = listed[0]["id"].as_str().unwrap().to_owned();
        assert_eq!(records[0].key.as_str(), format!("agent/{id}"));
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_two_gateways_of_a_shared_store_exactly_one_joins() {
    let site = Site::new();
    let line = Arc::new(line(&site.anna, site.gateways[0].address, &[]));
    let winners = winners(&site.gateways, &line).await;
    assert_eq!((winners.len(), uses_taken(&site.anna, &line)), (1, 1));
    are_known(&site.gateways, &winners).await;
    assert_eq!(site.agent().await, winners[0].id.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_agents_of_opnis_at_two_gateways_of_a_shared_store_exactly_one_joins() {
    let site = Site::new();
    let line = Arc::new(line(&site.anna, site.gateways[0].address, &["--opni"]));
    assert_eq!(opni_winners(&site.gateways, &line).await, 1);
    assert!(site.agent().await.starts_with("cluster-"));
}
