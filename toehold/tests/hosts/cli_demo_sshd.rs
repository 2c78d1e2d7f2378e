//! `toehold demo --sshd`.

use crate::support::demo::shows_every_host_managed;

#[test]
fn real_sshd_processes() {
    shows_every_host_managed(&["--json", "demo", "--sshd", "--hosts", "2"], 2);
}
