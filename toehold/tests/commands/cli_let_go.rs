//! Hosts that cannot be reached or are in somebody's hands, keys that come from elsewhere, and what `-v` says.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support;
use crate::support::keys::ssh_keygen;
use crate::support::{FOREIGN, Inside, Toehold, names_in};

fn known_hosts(toehold: &Toehold) -> usize {
    support::store::keys(toehold).iter().filter(|key| key.starts_with("knownhost/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_gone_is_unreachable_and_can_be_forgotten_by_word() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let account = host.account();
    host.add(&toehold, &[]).ends(0);
    let files = fs::read(host.authorized_keys_file()).unwrap();
    // Its keys stay where they are, and are told.
    drop(host);
    let check = toehold.run(["--json", "host", "check"]).ends(3).json();
    assert_eq!(check["hosts"][0]["state"], "unreachable", "{check}");
    let done = toehold.run(["host", "rm", &account]).ends(1);
    assert!(done.stderr.contains("stays on record") && done.stderr.contains("--unreachable"), "{}", done.stderr);
    assert_eq!(known_hosts(&toehold), 1);
    let done = toehold.run(["--json", "host", "rm", "--unreachable", &account]).ends(0).json();
    assert_eq!((&done["removed"], &done["keys_left"]), (&false.into(), &1.into()), "{done}");
    assert_eq!(known_hosts(&toehold), 0, "its host key is forgotten with it");
    assert!(toehold.run(["--json", "host", "ls"]).ends(0).json()["hosts"].as_array().unwrap().is_empty());
    assert!(!files.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_left_beside_the_file_is_found_and_stays() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    let directory = Path::new(host.home()).join(".ssh");
    let since = 1_700_000_000;
    fs::write(directory.join("authorized_keys.toehold-lock"), format!("somebody-else {since}\n")).unwrap();
    fs::write(directory.join("authorized_keys.toehold-staged"), "x").unwrap();
    let before = names_in(&directory);
    let check = toehold.run(["--json", "host", "check"]).ends(3).json();
    let findings = check["hosts"][0]["findings"].to_string();
    assert!(findings.contains("is held by") && findings.contains("was left behind"), "{check}");
    assert_eq!(check["hosts"][0]["state"], "drifted");
    assert_eq!(names_in(&directory), before);
    assert!(fs::read(host.authorized_keys_file()).unwrap().starts_with(FOREIGN));
}

#[test]
fn a_master_key_is_imported_from_every_format_and_an_encrypted_one_says_what_to_do() {
    let directory = support::server::directory("import");
    let path = |name: &str| directory.path().join(name);
    let public = ssh_keygen(&path("openssh"), &["-t", "ed25519"]);
    let import = |name: &str| {
        let toehold = Toehold::bare();
        let done = toehold.run(["init", "--import", path(name).to_str().unwrap()]);
        (toehold, done)
    };
    let (toehold, done) = import("openssh");
    done.ends(0);
    assert_eq!(toehold.master_key(), public.to_string());
    for (name, form, words) in [
        ("pkcs1", "PEM", &["-t", "rsa", "-b", "2048"][..]),
        ("pkcs8", "PKCS8", &["-t", "rsa", "-b", "2048"]),
        ("sec1", "PEM", &["-t", "ecdsa", "-b", "256"]),
    ] {
        let words: Vec<&str> = words.iter().copied().chain(["-m", form]).collect();
        let public = ssh_keygen(&path(name), &words);
        let (toehold, done) = import(name);
        done.ends(0);
        assert_eq!(toehold.master_key(), public.to_string(), "{name}");
    }
    let status = Command::new("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "open sesame", "-f"]).arg(path("openssh")).status();
    assert!(status.unwrap().success());
    let (toehold, done) = import("openssh");
    let done = done.ends(1);
    assert!(done.stderr.contains("passphrase") && done.stderr.contains("ssh-keygen -p"), "{}", done.stderr);
    assert!(!toehold.state().join("state.db").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn never_on_disk_more_is_said_where_it_is_asked_for_and_no_secret() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let quiet = host.add(&toehold, &[]).ends(0);
    let (account, home) = (host.account(), host.home().to_owned());
    assert!(!quiet.stderr.contains("INFO"), "{}", quiet.stderr);
    let file = host.host_key_file();
    let add = ["host", "add", &account, "--home", &home, "--via", "sh", "--host-key-file", file.to_str().unwrap()];
    let talkative = toehold.run(add.into_iter().chain(["-v"])).ends(0);
    assert!(talkative.stderr.contains("INFO") && !talkative.stdout.contains("INFO"), "{}", talkative.stderr);
    let output = toehold.command(add).env("RUST_LOG", "trace").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "RUST_LOG is not honoured");
    assert!(!said.contains("PRIVATE KEY") && !said.contains(" echo "), "a secret is in the log");
}
