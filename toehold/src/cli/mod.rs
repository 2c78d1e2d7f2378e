//! The command line: its grammar, what it prints, how it ends.

pub mod agent_args;
pub mod args;
pub mod context;
mod durations;
mod gateway_args;
mod operator_args;
mod output;
mod pods_args;
mod reading;
pub mod secret_argument;
mod serve_args;
mod signals;
mod store_args;
pub mod usage;

pub use output::{Exit, Failure, Output, chain, printable, table};
pub use reading::read;
pub use signals::Signals;
