//! The tests of the crate, in one program, since each program links the same libraries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod asked_options;
mod burnt_secret;
mod cancel;
mod clock_error;
mod crash_at_every_call;
mod dead_lines;
mod expiry;
mod forget;
mod host_again;
mod host_key;
mod host_lock;
mod interrupted;
mod joins_a_rotation;
mod late_paste;
mod machine_properties;
mod never_on_disk;
mod one_writer;
mod other_route;
mod recovery_of_orphaned;
mod second_session;
mod store_away;
mod stored_records;
mod support;
mod transition_table;
mod via;
