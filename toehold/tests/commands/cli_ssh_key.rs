//! A state directory whose identity is an SSH key that somebody has already.

use std::fs;
use std::process::Command;

use crate::support;
use crate::support::{Inside, Toehold};

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_lives_with_an_ssh_key_as_its_identity_and_comes_back_with_another() {
    let (toehold, host) = (Toehold::bare(), Inside::start().await);
    let directory = support::server::directory("ssh-keys");
    let made = |name: &str, kind: &str| {
        let path = directory.path().join(name);
        let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(&path).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    let (own, other) = (made("own", "ed25519"), made("other", "rsa"));
    toehold.run(["init", "--ssh-key", &own, "--passphrase"]).ends(2);
    let unfit = made("unfit", "ecdsa");
    let refused = toehold.run(["init", "--ssh-key", &unfit]).ends(1);
    assert!(refused.stderr.contains("ecdsa-sha2-nistp256") && refused.stderr.contains("ssh-ed25519"), "{}", refused.stderr);
    assert!(!toehold.state().join("identity").exists());

    let done = toehold.run(["init", "--ssh-key", &own]).ends(0);
    assert!(done.stdout.contains(&own), "what to keep a copy of: {}", done.stdout);
    let name = fs::read(toehold.state().join("identity")).unwrap();
    assert!(!String::from_utf8_lossy(&name).contains("PRIVATE"), "the key was copied");
    for again in [&["init"][..], &["init", "--ssh-key", &own]] {
        toehold.run(again.iter().copied()).ends(0);
    }
    let unmoved = toehold.run(["init", "--ssh-key", &other]).ends(1);
    assert!(unmoved.stderr.contains("no effect"), "{}", unmoved.stderr);
    assert_eq!(fs::read(toehold.state().join("identity")).unwrap(), name);

    host.add(&toehold, &[]).ends(0);
    toehold.run(["key", "rotate", "--grace", "0s"]).ends(0);
    // Away from its place it opens nothing, and that is told by its name.
    let away = format!("{own}.away");
    fs::rename(&own, &away).unwrap();
    let lost = toehold.run(["host", "check"]).ends(1);
    assert!(lost.stderr.contains(&own) && lost.stderr.contains("bring it back"), "{}", lost.stderr);
    fs::rename(&away, &own).unwrap();
    toehold.run(["host", "check"]).ends(0);

    // A recovery copy that is sealed to one SSH key, into a directory whose identity is another.
    let copy = directory.path().join("copy");
    let copy = copy.to_str().unwrap();
    let public = |name: &str| fs::read_to_string(format!("{name}.pub")).unwrap().trim().to_owned();
    let own_copy = toehold.run(["key", "export", "--to", &public(&own), "-o", copy]).ends(1);
    assert!(own_copy.stderr.contains("own identity"), "{}", own_copy.stderr);
    toehold.run(["key", "export", "--to", &public(&other), "-o", copy]).ends(0);
    let anew = Toehold::bare();
    anew.run(["init", "--restore", copy, "--identity", &other, "--ssh-key", &made("third", "ed25519")]).ends(0);
    fs::rename(&own, &away).unwrap();
    fs::rename(&other, directory.path().join("gone")).unwrap();
    anew.run(["host", "check"]).ends(0);
}
