//! Pods on a real Kubernetes cluster.
//!
//! Needs: kubernetes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

#[path = "../cluster_support/mod.rs"]
mod cluster_support;

mod hurting;
mod images;
