//! `toehold host add --no-expiry` against dropbear, which knows no `expiry-time`.
//!
//! Needs: dropbear, openssh, root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod support;

use std::fs;

use support::Toehold;
use support::dropbear::RealDropbear;

#[test]
fn a_dropbear_host_goes_from_first_contact_to_managed_and_back() {
    let (toehold, host) = (Toehold::new(), RealDropbear::start());
    let foreign = "# somebody's own\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV me\n";
    host.authorize(foreign);
    let (account, home) = (host.account().to_string(), host.home());
    let home = home.to_str().unwrap();
    toehold.run(["host", "add", &account, "--no-expiry", "--home", home, "--via", "sh"]).ends(0);
    let file = fs::read_to_string(host.authorized_keys()).unwrap();
    assert_eq!(file, format!("{foreign}{} toehold-master\n", toehold.master_key()));
    assert!(toehold.sessions(false).is_empty());
    toehold.run(["host", "check"]).ends(0);
    toehold.run(["host", "rm", &account]).ends(0);
    assert_eq!(fs::read_to_string(host.authorized_keys()).unwrap(), foreign);
}

#[test]
fn r12_a_dropbear_host_gets_the_new_key_for_good_at_once_and_loses_the_old_one_after_the_proof() {
    let (toehold, host) = (Toehold::new(), RealDropbear::start());
    let foreign = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV me\n";
    host.authorize(foreign);
    let (account, home) = (host.account().to_string(), host.home());
    toehold.run(["host", "add", &account, "--no-expiry", "--home", home.to_str().unwrap(), "--via", "sh"]).ends(0);
    let old = toehold.master_key();
    // There is no soft revoke without an end on a line: the grace passes over this host.
    toehold.run(["key", "rotate", "--grace", "2s"]).ends(0);
    let new = toehold.master_key();
    assert_ne!(new, old);
    let file = fs::read_to_string(host.authorized_keys()).unwrap();
    assert!(file.starts_with(foreign) && file.contains(&new) && !file.contains(&old), "{file}");
    assert!(!file.contains("expiry-time"), "{file}");
    toehold.run(["host", "check"]).ends(0);
    toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    toehold.run(["key", "status"]).ends(0);
}
