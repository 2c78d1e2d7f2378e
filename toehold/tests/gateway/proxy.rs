//! Behind a load balancer that speaks the PROXY protocol.

use crate::join_support::gateway::{Dial, Gateway, identity, join, line};
use crate::support::Toehold;

fn v2(source: [u8; 4]) -> Vec<u8> {
    let signature = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
    [&signature[..], &[0x21, 0x11, 0, 12], &source, &[127, 0, 0, 1, 0, 1, 0, 2]].concat()
}

#[tokio::test]
async fn the_source_is_who_is_behind_a_named_load_balancer() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--proxy-from", "127.0.0.9"]);
    let balancer = Dial::to(gateway.address).from("127.0.0.9");
    let bound = || line(&toehold, gateway.address, &["--from", "203.0.113.0/24"]);
    // Version 1 and 2, and one from elsewhere.
    let one = balancer.clone().header(b"PROXY TCP4 203.0.113.7 127.0.0.1 5000 443\r\n");
    join(&one, &bound(), &identity()).await.unwrap();
    join(&balancer.clone().header(&v2([203, 0, 113, 8])), &bound(), &identity()).await.unwrap();
    let refused = join(&balancer.clone().header(&v2([198, 51, 100, 8])), &bound(), &identity()).await.unwrap_err();
    assert!(refused.to_string().contains("this network"), "{refused}");
    // The load balancer itself, without a header or with a broken one, gets nowhere.
    assert!(balancer.connect().await.is_err());
    assert!(balancer.clone().header(b"PROXY TCP4 203.0.113.7\r\n").connect().await.is_err());
}

#[tokio::test]
async fn a_header_of_anybody_else_is_not_believed() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--proxy-from", "127.0.0.9/32"]);
    let liar = Dial::to(gateway.address).header(&v2([203, 0, 113, 8]));
    assert!(liar.connect().await.is_err());
    let line = line(&toehold, gateway.address, &["--from", "203.0.113.0/24"]);
    let refused = join(&Dial::to(gateway.address), &line, &identity()).await;
    assert!(refused.unwrap_err().to_string().contains("this network"));
}

#[tokio::test]
async fn j5_limits_go_by_who_is_behind_the_load_balancer() {
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &["--proxy-from", "127.0.0.9", "--handshakes-per-minute", "2"]);
    let behind = |last| Dial::to(gateway.address).from("127.0.0.9").header(&v2([203, 0, 113, last]));
    for _ in 0..2 {
        behind(1).connect().await.unwrap();
    }
    assert!(behind(1).connect().await.is_err());
    behind(2).connect().await.unwrap();
}
