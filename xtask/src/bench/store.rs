//! The shared store on a real NATS server, against the bare client.

use super::{Measured, criterion};
use crate::Result;

/// What is measured, each a ratio: the store as it is, and with the signatures of a shared store.
const NAMES: [&str; 16] = [
    "store-get",
    "store-signed-get",
    "store-first-get",
    "store-put",
    "store-signed-put",
    "store-list",
    "store-signed-list",
    "store-list-10",
    "store-signed-list-10",
    "store-first-list-10",
    "store-list-100",
    "store-signed-list-100",
    "store-first-list-100",
    "store-list-1000",
    "store-signed-list-1000",
    "store-first-list-1000",
];

/// Runs the bench of the program's crate, which takes turns with the bare client on one server.
pub(super) fn measure() -> Result<Vec<Measured>> {
    criterion::measured("toehold", "store", &[], &NAMES.map(|name| (name, "ratio")))
}
