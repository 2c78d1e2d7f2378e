//! The condensed scripts, made when the crate is built.

use super::command::ExpiryForm;

// `install(expiry, files, told)` and `remove(told)`: the script before and after the user's name in `~name`. Where the home
// directory is told, all of it is in the first.
include!(concat!(env!("OUT_DIR"), "/scripts.rs"));
