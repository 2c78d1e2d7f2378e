//! 64 machines at once, and few uses.

use std::sync::Arc;

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::race::{are_known, winners};
use crate::support::Toehold;

async fn race(toehold: &Toehold, gateways: &[Gateway], uses: usize) {
    let line = Arc::new(line(toehold, gateways[0].address, &["--uses", &uses.to_string()]));
    let winners = winners(gateways, &line).await;
    assert_eq!(winners.len(), uses);
    are_known(gateways, &winners).await;
    let agents = crate::support::store::keys(toehold).into_iter().filter(|key| key.starts_with("agent/")).count();
    assert_eq!(agents, uses);
}

#[tokio::test]
async fn of_64_at_one_gateway_exactly_one_joins() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    race(&toehold, &[gateway], 1).await;
}

#[tokio::test]
async fn of_64_at_two_gateways_of_one_store_exactly_one_joins() {
    let toehold = Toehold::new();
    let gateways = [Gateway::start(&toehold, &[]), Gateway::start(&toehold, &[])];
    race(&toehold, &gateways, 1).await;
}

#[tokio::test]
async fn of_64_at_two_gateways_as_many_join_as_there_are_uses() {
    let toehold = Toehold::new();
    let gateways = [Gateway::start(&toehold, &[]), Gateway::start(&toehold, &[])];
    race(&toehold, &gateways, 5).await;
}
