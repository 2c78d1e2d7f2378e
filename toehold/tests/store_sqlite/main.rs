//! The SQLite store against crashes, other processes, full disks and files that are not what they should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod contract;
mod damage;
mod moved;
mod other_process;
mod processes;
mod root_mounts;
mod watch;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use toehold::adapters::sqlite::{APPLICATION_ID, FILE_NAME, MAX_VALUE, Options, SCHEMA, SqliteStore};
use toehold_core::testing::store_conformance;
use toehold_core::{Expect, Key, Revision, Store, StoreError, Watch};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// A private directory.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    directory
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An error with all its sources, as a person gets to see it.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A connection beside the store's, as another program would make it.
fn beside(directory: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.join(FILE_NAME)).unwrap()
}
