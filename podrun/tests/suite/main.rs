//! The tests of the crate, in one program, since each program links the same libraries again.

mod channel;
mod configuration;
mod crash;
mod exec_vectors;
mod life;
mod owners;
mod persistent;
mod pod_vectors;
mod refusal_vectors;
mod supervisor;
mod support;
mod watch_vectors;
