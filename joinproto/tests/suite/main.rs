//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod admission_crash;
mod admission_model;
mod admission_race;
mod curve_edges;
mod join_v3;
mod join_v3_strangers;
mod join_v3_vectors;
mod opni_agreement;
mod opni_challenges;
mod opni_exchanges;
mod opni_failures;
mod opni_jws;
mod opni_keyrings;
mod opni_messages;
mod opni_pins;
mod opni_tokens;
mod parsers;
mod stored_records;
mod support;
mod trust_dates;
