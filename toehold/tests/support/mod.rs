//! What the tests of this crate share: real SSH servers on loopback ports, keys, and a proxy that misbehaves.
//!
//! Every server is a child process of the test, reached on a port of its own, with a home directory of its own below
//! cargo's directory for tests, and killed by its process number when it is dropped.
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

pub mod agent;
pub mod cli;
pub mod demo;
pub mod dropbear;
pub mod fleet;
pub mod inside;
pub mod keys;
pub mod proxy;
pub mod running;
pub mod server;
pub mod sshd;
pub mod store;
pub mod waiting;

pub use agent::RealAgent;
pub use cli::{Done, Toehold};
pub use fleet::Fleet;
pub use inside::{FOREIGN, Inside, names_in};
pub use keys::{Key, key};
pub use sshd::RealSshd;
pub use waiting::{Waiting, eventually};
