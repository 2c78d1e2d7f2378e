//! 64 machines at once, and one use.

use std::sync::Arc;

use tokio::sync::Barrier;

use crate::join_support::gateway::{Dial, Gateway, Session, identity, join_with, line};
use crate::support::Toehold;

const CLIENTS: usize = 64;

async fn race(toehold: &Toehold, gateways: &[Gateway], uses: usize) {
    let line = Arc::new(line(toehold, gateways[0].address, &["--uses", &uses.to_string()]));
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let dial = Dial::to(gateways[number % gateways.len()].address);
        let (line, start) = (Arc::clone(&line), Arc::clone(&start));
        clients.push(tokio::spawn(async move {
            let connection = dial.connect_in_time().await;
            let me = identity();
            start.wait().await;
            let outcome = join_with(&connection, &line, &me, || std::future::ready(())).await;
            (outcome, dial)
        }));
    }
    let mut winners = Vec::new();
    for client in clients {
        match client.await.unwrap() {
            (Ok(joined), dial) => winners.push((joined, dial)),
            (Err(error), _) => assert!(error.to_string().contains("used up"), "{error}"),
        }
    }
    assert_eq!(winners.len(), uses);
    // Those who joined have keys that are good at every gateway.
    for (joined, _) in &winners {
        for gateway in gateways {
            let connection = Dial::to(gateway.address).connect_in_time().await;
            Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
        }
    }
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
