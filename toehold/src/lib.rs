//! Toehold's adapters and commands: what its binary is made of.

pub mod adapters;
