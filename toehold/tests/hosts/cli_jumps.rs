//! Hosts behind other managed hosts, from `host add` to `host rm`, all of them real.

use std::fs;

use crate::support;
use crate::support::fleet::lines_of;
use crate::support::{Done, FOREIGN, RealSshd, Toehold, names_in};
use toehold_core::PublicKey;

fn add(toehold: &Toehold, host: &RealSshd, more: &[&str]) -> Done {
    let (account, home) = (host.account().to_string(), host.home());
    let first = ["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"];
    toehold.run(first.into_iter().chain(more.iter().copied()))
}

#[test]
fn o5_host_key_asked_a_host_behind_a_jump_host_from_first_contact_to_its_removal() {
    let (toehold, jump, end) = (Toehold::new(), RealSshd::start(), RealSshd::start());
    end.authorize(FOREIGN);
    let (jump_account, end_account) = (jump.account().to_string(), end.account().to_string());
    add(&toehold, &jump, &[]).ends(0);
    add(&toehold, &end, &["--jump", &jump_account]).ends(0);

    // What is on record is the whole route, and the host key belongs to it.
    let shown = toehold.run(["--json", "host", "show", &end_account]).ends(0).json();
    assert_eq!(shown["host_key_fingerprint"], end.host_key().fingerprint().to_string());
    assert_eq!(shown["jumps"], serde_json::json!([jump_account]), "{shown}");
    let text = toehold.run(["host", "show", &end_account]).ends(0).stdout;
    assert!(text.contains(&jump_account) && text.contains(&end_account), "{text}");
    let known: Vec<String> = support::store::keys(&toehold).into_iter().filter(|key| key.contains("knownhost")).collect();
    assert_eq!(known.len(), 2, "{known:?}");

    // It is reached through the jump host: without that one there is no way.
    toehold.run(["host", "check", &end_account]).ends(0);
    let file = fs::read(jump.authorized_keys()).unwrap();
    jump.authorize("");
    let check = toehold.run(["--json", "host", "check", &end_account]).ends(3).json();
    assert!(check["hosts"][0]["findings"].to_string().contains(&jump_account), "{check}");
    jump.authorize(&file);

    // The jump host's key stays as long as a host behind it needs it.
    toehold.run(["host", "rm", &end_account]).ends(0);
    let file = fs::read(end.authorized_keys()).unwrap();
    assert!(file.starts_with(FOREIGN) && file.len() <= FOREIGN.len() + 1, "foreign_bytes");
    assert_eq!(names_in(&end.home().join(".ssh")), ["authorized_keys"]);
    toehold.run(["host", "check"]).ends(0);
    toehold.run(["host", "rm", &jump_account]).ends(0);
    assert!(toehold.sessions(false).is_empty());
}

#[test]
fn host_key_asked_a_jump_host_with_another_key_is_refused_and_nothing_is_asked_behind_it() {
    let (toehold, jump, end) = (Toehold::new(), RealSshd::start(), RealSshd::start());
    end.authorize(FOREIGN);
    let (jump_account, end_account) = (jump.account().to_string(), end.account().to_string());
    add(&toehold, &jump, &[]).ends(0);
    add(&toehold, &end, &["--jump", &jump_account]).ends(0);
    let port = jump.port();
    let files = fs::read(jump.authorized_keys()).unwrap();
    drop(jump);
    // Somebody else at the same place, who takes the master key gladly.
    let other = RealSshd::builder().port(port).start();
    other.authorize(files);
    let check = toehold.run(["--json", "host", "check", &end_account]).ends(3).json();
    let findings = check["hosts"][0]["findings"].to_string();
    assert!(findings.contains("host key") && findings.contains(&jump_account), "{check}");
    let before = fs::read(end.authorized_keys()).unwrap();
    let done = toehold.run(["host", "rm", &end_account]).ends(1);
    assert!(done.stderr.contains("stays on record"), "{}", done.stderr);
    assert_eq!(fs::read(end.authorized_keys()).unwrap(), before);
}

#[test]
fn a_hardened_host_cannot_be_a_jump_host_and_that_is_said_before_anything_begins() {
    let (toehold, jump, end) = (Toehold::new(), RealSshd::start(), RealSshd::start());
    end.authorize(FOREIGN);
    add(&toehold, &jump, &["--harden"]).ends(0);
    let done = add(&toehold, &end, &["--jump", &jump.account().to_string()]).ends(1);
    assert!(done.stderr.contains("--harden") && done.stderr.contains("forward"), "{}", done.stderr);
    assert_eq!(fs::read(end.authorized_keys()).unwrap(), FOREIGN);
    assert_eq!(toehold.sessions(true).len(), 1, "a session was begun");
    // Brought in anew without, it can.
    toehold.run(["host", "rm", &jump.account().to_string()]).ends(0);
    add(&toehold, &jump, &[]).ends(0);
    add(&toehold, &end, &["--jump", &jump.account().to_string()]).ends(0);
}

/// The way there leads over a host that is rotated as well, and is open with whichever key is current.
#[test]
fn r4_the_master_key_is_renewed_and_taken_back_on_hosts_behind_a_jump_host() {
    let (toehold, jump) = (Toehold::new(), RealSshd::start());
    let ends = [RealSshd::start(), RealSshd::start()];
    let jump_account = jump.account().to_string();
    add(&toehold, &jump, &[]).ends(0);
    for end in &ends {
        end.authorize(FOREIGN);
        add(&toehold, end, &["--jump", &jump_account]).ends(0);
    }
    let key = || toehold.master_key().parse::<PublicKey>().unwrap();
    let hosts = [&jump, &ends[0], &ends[1]];
    let hold = |keys: &[PublicKey], wanted: &[(PublicKey, bool)]| {
        for host in hosts {
            assert_eq!(lines_of(host, keys), wanted, "{}", host.account());
        }
    };
    // Logins through the jump host, as the way is on record.
    let through = || {
        let log = jump.log();
        log.matches("Accepted publickey").count()
    };
    let first = key();
    let before = through();
    toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    let second = key();
    assert_ne!(first, second);
    hold(&[first.clone(), second.clone()], &[(second.clone(), false)]);
    assert!(through() >= before + 12, "the hosts were reached by another way");
    toehold.run(["host", "check"]).ends(0);

    // Back from within the grace.
    toehold.run(["key", "rotate", "--grace", "1h", "--no-wait"]).ends(3);
    let third = key();
    assert_ne!(second, third);
    toehold.run(["key", "rotate", "--rollback"]).ends(0);
    assert_eq!(key(), second);
    hold(&[first, second.clone(), third], &[(second, false)]);
    toehold.run(["host", "check"]).ends(0);

    // Without the jump host nothing behind it is changed, and everything is as it was.
    let file = fs::read(jump.authorized_keys()).unwrap();
    jump.authorize("");
    let files: Vec<Vec<u8>> = ends.iter().map(|end| fs::read(end.authorized_keys()).unwrap()).collect();
    let done = toehold.run(["key", "rotate", "--grace", "0s"]);
    assert!(matches!(done.code, 1 | 3), "{}", done.stderr);
    assert!(done.stderr.contains(&jump_account), "{}", done.stderr);
    let after: Vec<Vec<u8>> = ends.iter().map(|end| fs::read(end.authorized_keys()).unwrap()).collect();
    assert_eq!(files, after);
    jump.authorize(&file);
    toehold.run(["key", "settle"]).ends(0);
    toehold.run(["host", "check"]).ends(0);
}
