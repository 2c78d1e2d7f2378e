//! Specifications that OpenSSH signs and verifies: key files, an agent, `ssh-keygen -Y`.
//!
//! Needs: openssh.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod spec_support;
mod support;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use spec_support::spec::{Desk, entry, list};
use support::RealAgent;

fn ssh(program: &str, arguments: &[&str], input: Option<&str>) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(path) = input {
        command.stdin(File::open(path).unwrap());
    }
    command.status().unwrap().success()
}

/// A key pair of OpenSSH's in `id` and `id.pub`; its names.
fn key(desk: &Desk, name: &str, passphrase: &str) -> (String, String) {
    let id = desk.at(name);
    assert!(ssh("ssh-keygen", &["-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-C", "ops", "-f", &id], None));
    (id.clone(), format!("{id}.pub"))
}

fn machines(desk: &Desk) -> String {
    desk.write("machines.json", list(&[entry("facts", 1, "true")]))
}

fn allowed(desk: &Desk, public: &str) -> String {
    desk.write("allowed", format!("ops@example.net namespaces=\"spec@toehold\" {}", fs::read_to_string(public).unwrap()))
}

fn ssh_keygen_verifies(desk: &Desk, public: &str, statement: &str) -> bool {
    let (allowed, signature) = (allowed(desk, public), format!("{statement}.sig"));
    let arguments = ["-Y", "verify", "-f", &allowed, "-I", "ops@example.net", "-n", "spec@toehold", "-s", &signature];
    ssh("ssh-keygen", &arguments, Some(statement))
}

#[test]
fn ssh_keygen_verifies_what_a_key_file_signed() {
    let desk = Desk::new();
    let (id, public) = key(&desk, "id", "");
    let (_, other) = key(&desk, "other", "");
    let statement = desk.at("statement");
    let pack = ["pack", &machines(&desk), "--ssh-key", &id, "--name", "fleet", "--serial", "1", "--expires", "7d"];
    let document = desk.keep("spec.json", &[&pack[..], &["--statement", &statement]].concat());
    assert!(ssh_keygen_verifies(&desk, &public, &statement));
    assert!(!ssh_keygen_verifies(&desk, &other, &statement));
    // The public key as a file, as its line, as hex.
    let line = fs::read_to_string(&public).unwrap();
    let hex = desk.spec(&["keys", "--show", &id, "--json"]).ends(0).json()["public_key"].as_str().unwrap().to_owned();
    for key in [public.as_str(), line.trim_end(), hex.as_str()] {
        desk.spec(&["verify", &document, key]).ends(0);
    }
    desk.spec(&["verify", &document, &other]).ends(1);
    // Whoever has only the document gets the same files out of it.
    let again = desk.at("again");
    desk.spec(&["verify", &document, &public, "--statement", &again]).ends(0);
    assert!(ssh_keygen_verifies(&desk, &public, &again));
    assert_eq!(fs::read(&statement).unwrap(), fs::read(&again).unwrap());
    let refused = desk.spec(&["verify", &document, &public, "--statement", &again]).ends(1);
    assert!(refused.stderr.contains("was not touched"), "{}", refused.stderr);
    fs::write(&again, "something else").unwrap();
    assert!(!ssh_keygen_verifies(&desk, &public, &again));
}

#[test]
fn ssh_keygen_signs_what_is_then_added() {
    let desk = Desk::new();
    let (id, public) = key(&desk, "id", "");
    let statement = desk.at("statement");
    let machines = machines(&desk);
    let pack = ["pack", &machines, "--force", "--name", "fleet", "--serial", "1", "--expires", "7d", "--next-key", &public];
    let unsigned = desk.keep("unsigned.json", &[&pack[..], &["--statement", &statement]].concat());
    desk.spec(&["verify", &unsigned, &public]).ends(1);
    assert!(ssh("ssh-keygen", &["-Y", "sign", "-f", &id, "-n", "spec@toehold", &statement], None));
    let signature = format!("{statement}.sig");
    let signed = desk.keep("signed.json", &["pack", "--add-signature", &unsigned, "--signature", &signature]);
    desk.spec(&["verify", &signed, &public]).ends(0);
    // A signature for another purpose, or over something else, does not get in.
    fs::remove_file(&signature).unwrap();
    assert!(ssh("ssh-keygen", &["-Y", "sign", "-f", &id, "-n", "file", &statement], None));
    let refused = desk.spec(&["pack", "--add-signature", &unsigned, "--signature", &signature]).ends(1);
    assert!(refused.stderr.contains("another namespace"), "{}", refused.stderr);
    let other = desk.write("other", "something else");
    assert!(ssh("ssh-keygen", &["-Y", "sign", "-f", &id, "-n", "spec@toehold", &other], None));
    let refused = desk.spec(&["pack", "--add-signature", &unsigned, "--signature", &format!("{other}.sig")]).ends(1);
    assert!(refused.stderr.contains("over something else"), "{}", refused.stderr);
}

#[test]
fn an_agent_signs_what_it_is_asked_to_and_its_key_alone() {
    let desk = Desk::new();
    let agent = RealAgent::start();
    let socket = agent.socket();
    let environment = [("SSH_AUTH_SOCK", socket.to_str().unwrap())];
    let (id, public) = key(&desk, "id", "");
    let (second, second_public) = key(&desk, "second", "");
    let add = |id: &str| {
        assert!(Command::new("ssh-add").arg("-q").arg(id).envs(environment).stderr(Stdio::null()).status().unwrap().success());
    };
    let machines = machines(&desk);
    let statement = desk.at("statement");
    let pack = ["pack", &machines, "--name", "fleet", "--serial", "1", "--expires", "7d"];
    let agent_alone = [&pack[..], &["--agent"]].concat();
    let none = desk.spec_with(&agent_alone, &environment, "").ends(1);
    assert!(none.stderr.contains("holds 0 Ed25519 keys"), "{}", none.stderr);
    let unnamed = desk.spec(&agent_alone).ends(1);
    assert!(unnamed.stderr.contains("SSH_AUTH_SOCK"), "{}", unnamed.stderr);
    add(&id);
    let done = desk.spec_with(&[&agent_alone[..], &["--statement", &statement]].concat(), &environment, "").ends(0);
    let document = desk.write("spec.json", done.stdout);
    let told = desk.spec(&["verify", &document, &public, "--json"]).ends(0).json();
    assert_eq!(told["plain_signer"], told["signers"][0], "Choria's readers get a signature as well");
    assert!(ssh_keygen_verifies(&desk, &public, &statement));
    let plain = desk.spec_with(&["pack", &machines, "--agent"], &environment, "").ends(0);
    let plain = desk.write("plain.json", plain.stdout);
    desk.spec(&["verify", &plain, &public]).ends(0);
    // Of two, one has to be named.
    add(&second);
    let two = desk.spec_with(&agent_alone, &environment, "").ends(1);
    assert!(two.stderr.contains("holds 2 Ed25519 keys"), "{}", two.stderr);
    let named = format!("--agent={second_public}");
    let done = desk.spec_with(&[&pack[..], &[&named]].concat(), &environment, "").ends(0);
    let document = desk.write("second.json", done.stdout);
    desk.spec(&["verify", &document, &second_public]).ends(0);
    desk.spec(&["verify", &document, &public]).ends(1);
    let (_, third_public) = key(&desk, "third", "");
    let lacks = desk.spec_with(&[&pack[..], &[&format!("--agent={third_public}")]].concat(), &environment, "").ends(1);
    assert!(lacks.stderr.contains("does not hold the key"), "{}", lacks.stderr);
    // A list that is too large for an agent: its envelope is signed all the same.
    let many: Vec<String> = (0..1000).map(|number| entry(&format!("machine{number}"), number, "true")).collect();
    let large = desk.write("large.json", list(&many));
    let done = desk
        .spec_with(&["pack", &large, &named, "--name", "fleet", "--serial", "2", "--expires", "7d"], &environment, "")
        .ends(0);
    assert!(done.stderr.contains("no signature for Choria's readers"), "{}", done.stderr);
    let document = desk.write("large-spec.json", done.stdout);
    desk.spec(&["verify", &document, &second_public]).ends(0);
    desk.spec_with(&["pack", &large, &named], &environment, "").ends(1);
}

#[test]
fn a_key_file_under_a_passphrase_needs_it() {
    let desk = Desk::new();
    let (id, public) = key(&desk, "id", "correct horse");
    let machines = machines(&desk);
    let refused = desk.spec(&["pack", &machines, "--ssh-key", &id]).ends(1);
    assert!(refused.stderr.contains("passphrase"), "{}", refused.stderr);
    let passphrase = desk.write("passphrase", "correct horse\n");
    let wrong = desk.write("wrong", "battery staple\n");
    for file in [&passphrase, &wrong] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    desk.spec(&["pack", &machines, "--ssh-key", &id, "--passphrase-file", &wrong]).ends(1);
    let document = desk.keep("spec.json", &["pack", &machines, "--ssh-key", &id, "--passphrase-file", &passphrase]);
    desk.spec(&["verify", &document, &public]).ends(0);
    let (ecdsa, other) = (desk.at("ecdsa"), "ecdsa");
    assert!(ssh("ssh-keygen", &["-q", "-t", other, "-N", "", "-f", &ecdsa], None));
    let refused = desk.spec(&["pack", &machines, "--ssh-key", &ecdsa]).ends(1);
    assert!(refused.stderr.contains("not an Ed25519 key"), "{}", refused.stderr);
}
