//! What is stopped or killed comes back.

mod api_server;

use crate::cluster_support::{alone, hurt, kubectl};

#[tokio::test]
async fn the_api_server_is_killed_and_comes_back_with_what_it_knew() {
    let cluster = alone().await;
    let names = || kubectl(&cluster, ["get", "namespaces", "-o", "name"]).output();
    let before = names();
    assert!(before.status.success());
    hurt("kill kube-apiserver");
    assert!(!names().status.success());
    let answer = hurt("start kube-apiserver");
    assert!(answer["pid"].is_u64(), "{answer}");
    assert_eq!(names().stdout, before.stdout);
}
