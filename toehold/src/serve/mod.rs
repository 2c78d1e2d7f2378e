//! `toehold serve`: all that an operations host does, in one process.
//!
//! Each job is a task of its own under a [supervisor]: one that fails or panics is begun again after growing pauses, is told in
//! the health, and takes no other along. Where one process is enough, a [lease] in the store says which. What is told over HTTP is
//! read only: health, metrics and a [status page](page) out of the store, which nobody needs the identity for.

pub mod audit_tail;
pub mod board;
pub mod http;
pub mod lease;
pub mod page;
pub mod picture;
pub mod service_manager;
pub mod snapshot;
pub mod supervisor;
