//! A real gateway on loopback: whole joins, agents that are connected and silent, and the answer that holds all signatures.

use super::{Measured, criterion};
use crate::Result;

/// Runs the bench of the program's crate. The bar of a join is what the peer needs for one at best (Opni: 1.9 ms with both sides on the same
/// machine, without a store that survives anything), times five for the store's two durable writes; what counts is printed beside it.
pub(super) fn measure() -> Result<Vec<Measured>> {
    criterion::measured(
        "toehold",
        "gateway",
        &[],
        &[("gateway-join", "ms"), ("gateway-idle", "KiB"), ("gateway-answer", "ratio")],
    )
}
