//! However long a file is: it is held once, and edited where it is.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use toehold_core::testing::sample_public_key;
use toehold_keygen::authorized_keys::{AuthorizedKeys, Line, Options};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a few lines, digests and lists of places take.
const SMALL: usize = 16 * 1024;

// The only test in this file, for all threads' allocations are counted.
#[test]
fn ten_thousand_lines_are_parsed_edited_and_given_back_without_a_copy() {
    let key = |n: usize| sample_public_key(if n.is_multiple_of(2) { "ssh-ed25519" } else { "ssh-rsa" }, &n.to_string());
    let bytes = (0..10_000).flat_map(|n| format!("no-pty {} user{n}\n", key(n)).into_bytes()).collect::<Vec<u8>>();
    let length = bytes.len();
    let (gone, changed) = (key(5000), key(9999));
    let line = Line::new(Options::new().restrict(), sample_public_key("ssh-ed25519", "new"), "new").unwrap();

    let region = Region::new(ALLOCATOR);
    let mut document = AuthorizedKeys::parse(bytes);
    let added = document.add(&line);
    let removed = document.remove(&gone);
    let replaced = document.replace_options(&changed, line.options());
    let _ = document.digest();
    let bytes = document.into_bytes();
    let change = region.change();

    assert!(added.is_added());
    assert_eq!((removed, replaced), (1, 1));
    assert!(length > 2_000_000 && bytes.len() > length - 1000);
    // Growing the one buffer counts by how much it grew; the allocator may move it, which is the one copy.
    assert!(change.bytes_allocated < SMALL, "{change:?}");
}
