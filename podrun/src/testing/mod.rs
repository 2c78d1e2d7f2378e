//! Stand-ins for tests: a cluster whose calls are numbered, and can fail, hang or be the last of a process.
//!
//! Nothing here belongs into a program that does real work.

mod backend;
mod cluster;
mod side;

pub use backend::{SimulatedInput, SimulatedOutput, SimulatedWatch};
pub use cluster::{Fate, SimulatedCluster};
pub use side::SimulatedSide;
