//! `toehold pods serve` with pods on a real cluster, beside the bare calls to its API for the same.

use super::{Measured, criterion};
use crate::Result;
use crate::kubernetes::{Building, Cluster};

/// What `toehold/benches/pods_kubernetes.rs` measures, on a cluster that is up for as long as that takes.
pub(super) fn measure() -> Result<Vec<Measured>> {
    const NAMES: [(&str, &str); 5] = [
        ("pods-first-byte-p50", "ratio"),
        ("pods-first-byte-p99", "ratio"),
        ("pods-kube-down", "ratio"),
        ("pods-kube-up", "ratio"),
        ("pods-kube-given-back", "ratio"),
    ];
    let cluster = Cluster::start(&Building::begin().finish()?)?;
    let measured = criterion::measured("toehold", "pods_kubernetes", &cluster.environment(), &NAMES);
    let ended = cluster.end();
    let measured = measured?;
    ended.map(|()| measured)
}
