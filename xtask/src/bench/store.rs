//! The shared store on a real NATS server, against the bare client.

use super::{Measured, criterion};
use crate::Result;

/// Runs the bench of the program's crate, which takes turns with the bare client on one server.
pub(super) fn measure() -> Result<Vec<Measured>> {
    criterion::measured("toehold", "store", &[], &[("store-get", "ratio"), ("store-put", "ratio"), ("store-list", "ratio")])
}
