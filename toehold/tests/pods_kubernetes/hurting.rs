//! What is stopped goes on, and what is killed comes back with what it knew.

mod api_server;
mod components;

use crate::cluster_support::{Namespace, alone, hurt};

#[tokio::test]
async fn the_api_server_is_killed_and_comes_back_with_what_it_knew() {
    let cluster = alone().await;
    let namespace = Namespace::create(&cluster);
    namespace.kubectl(["create", "configmap", "kept", "--from-literal=key=value"]).text();
    let kept = || namespace.kubectl(["get", "configmap", "kept", "-o", "jsonpath={.data.key}"]).output();
    hurt("kill kube-apiserver");
    assert!(!kept().status.success());
    let answer = hurt("start kube-apiserver");
    assert!(answer["pid"].is_u64(), "{answer}");
    assert_eq!(kept().stdout, b"value");
}

#[tokio::test]
async fn the_api_server_is_stopped_and_goes_on() {
    let cluster = alone().await;
    let namespace = Namespace::create(&cluster);
    let asked = || namespace.kubectl(["get", "pods", "--request-timeout=1s"]).output().status.success();
    hurt("stop kube-apiserver");
    assert!(!asked());
    hurt("continue kube-apiserver");
    namespace.kubectl(["get", "pods"]).text();
}

#[tokio::test]
async fn all_are_killed_and_pods_run_again() {
    let cluster = alone().await;
    let namespace = Namespace::create(&cluster);
    let components = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"];
    for component in components {
        hurt(&format!("kill {component}"));
    }
    for component in components {
        hurt(&format!("start {component}"));
    }
    assert_eq!(namespace.run("one", &cluster.images.busybox, &["echo", "done"]).unwrap(), "done\n");
}
