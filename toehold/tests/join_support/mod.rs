//! What the tests of joining share: a gateway as a process, raw clients, a machine that joins, somebody in the middle, and Opni's gateway as
//! it was recorded. Apart from `support`, since few tests need it and it takes long to build.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::zombie_processes,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test, and no test uses all of it"
)]

pub mod gateway;
pub mod machine;
pub mod middle;
pub mod opni_client;
pub mod opni_gateway;
pub mod race;
pub mod relay;
