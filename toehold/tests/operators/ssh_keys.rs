//! Members whose identities are SSH keys that they have already.

use std::path::{Path, PathBuf};

use crate::gateway::file_of;
use crate::server::Nats;
use crate::support::server::write_private;
use crate::support::{Inside, Toehold};
use crate::{members, says, sharing};

/// Makes a key as OpenSSH's own tool does, under this passphrase.
pub(crate) fn ssh_key(toehold: &Toehold, kind: &str, passphrase: &str) -> PathBuf {
    let path = file_of(toehold, kind);
    let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(&path).status();
    assert!(made.unwrap().success());
    path
}

/// A newcomer whose identity is this key, and the word that its `init` prints.
pub(crate) fn asks(newcomer: &Toehold, key: &Path) -> String {
    let asked = newcomer.run(["--json", "init", "--ssh-key", key.to_str().unwrap()]).ends(3).json();
    asked["recipient"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_with_ssh_keys_open_sign_rotate_and_are_let_go_as_others_are() {
    let nats = Nats::start("");
    let store = nats.address("toehold");
    let host = Inside::start().await;
    let anna = sharing(&store);
    let hers = ssh_key(&anna, "ed25519", "");
    anna.run(["init", "--name", "anna", "--ssh-key", hers.to_str().unwrap()]).ends(0);
    host.add(&anna, &[]).ends(0);

    let ben = sharing(&store);
    let passphrase = file_of(&ben, "passphrase");
    write_private(&passphrase, "correct horse\n");
    let ben = ben.with_env("TOEHOLD_PASSPHRASE_FILE", passphrase.to_str().unwrap());
    let word = asks(&ben, &ssh_key(&ben, "rsa", "correct horse"));
    assert!(word.starts_with("ssh-rsa:AAAA"), "{word}");
    anna.run(["operator", "add", &word, "--name", "ben"]).ends(0);
    ben.run(["init"]).ends(0);
    // The passphrase is the key's own.
    write_private(&passphrase, "wrong\n");
    says(&ben.run(["key", "rotate", "--grace", "0s"]).ends(1), "wrong passphrase");
    write_private(&passphrase, "correct horse\n");
    ben.run(["key", "rotate", "--grace", "0s"]).ends(0);
    anna.run(["host", "check"]).ends(0);

    // One with an age identity, who is let in by somebody with an SSH key, and the other way round.
    let carol = sharing(&store);
    let word = crate::asks_to_be_let_in(&carol);
    ben.run(["operator", "add", &word, "--name", "carol"]).ends(0);
    carol.run(["init"]).ends(0);
    carol.run(["host", "check"]).ends(0);

    let verified = anna.run(["--json", "audit", "verify"]).ends(0).json();
    let writers: Vec<&str> =
        verified["chains"].as_array().unwrap().iter().map(|chain| chain["writer"].as_str().unwrap()).collect();
    assert_eq!(writers.iter().filter(|writer| writer.starts_with("ssh-")).count(), 2, "{writers:?}");
    assert_eq!(members(&anna).len(), 3);
    carol.run(["operator", "rm", "ben", "--grace", "0s"]).ends(2);
    let old = carol.master_key();
    let holds = |key: &str| String::from_utf8_lossy(&std::fs::read(host.authorized_keys_file()).unwrap()).contains(key);
    assert!(holds(&old));
    carol.run(["operator", "rm", "ben", "--rotate", "--grace", "0s"]).ends(0);
    assert!(!holds(&old) && holds(&carol.master_key()));
    says(&ben.run(["host", "check"]).ends(1), "is not sealed to this identity (ssh-rsa SHA256:");
    anna.run(["host", "check"]).ends(0);
    for command in [&["store", "check"][..], &["audit", "verify"]] {
        anna.run(command.iter().copied()).ends(0);
    }
}
