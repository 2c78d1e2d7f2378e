//! `toehold demo`: the README's first command, as a new user runs it. Needs nothing.

use crate::support;
use crate::support::demo::{shows_every_host_managed, shows_every_host_managed_with};

#[test]
fn hosts_inside_the_process() {
    shows_every_host_managed(&["--json", "demo"], 3);
}

#[test]
fn a_machine_without_an_ssh_client() {
    let programs = support::server::directory("programs");
    // All that there is but the client.
    for place in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            if !["ssh", "sftp"].map(std::ffi::OsString::from).contains(&entry.file_name()) {
                // The first of a name counts.
                let _ = std::os::unix::fs::symlink(entry.path(), programs.path().join(entry.file_name()));
            }
        }
    }
    let client = shows_every_host_managed_with(&["--json", "demo", "--hosts", "1"], 1, Some(programs.path()));
    assert_eq!(client, "russh");
}
