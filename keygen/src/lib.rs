#![doc = include_str!("../README.md")]

pub mod authorized_keys;
pub mod install;
mod key_pair;
mod private_key;
pub mod replacement;
mod temporary;
