//! `toehold demo`: the README's first command, as a new user runs it. Needs nothing.

use crate::support::demo::shows_every_host_managed;

#[test]
fn hosts_inside_the_process() {
    shows_every_host_managed(&["--json", "demo"], 3);
}
