//! R10: the recovery copy is offered, made, tested, and brings a lost fleet back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support;
use crate::support::keys::ssh_keygen;
use crate::support::{Fleet, RealSshd, Toehold};
use tempfile::TempDir;

/// An age identity of somebody else: that of another state directory.
fn somebody() -> (Toehold, String, PathBuf) {
    let other = Toehold::bare();
    let recipient = other.run(["--json", "init"]).ends(0).json()["recipient"].as_str().unwrap().to_owned();
    let identity = other.state().join("identity");
    assert!(identity.exists(), "{:?}", support::names_in(&other.state()));
    (other, recipient, identity)
}

fn ssh_key(directory: &TempDir, kind: &[&str]) -> (String, PathBuf) {
    let file = directory.path().join(kind[1]);
    ssh_keygen(&file, kind);
    (file.with_extension("pub").to_str().unwrap().to_owned(), file)
}

fn export(toehold: &Toehold, to: &str, file: &Path) -> support::Done {
    toehold.run(["key", "export", "--to", to, "-o", file.to_str().unwrap()])
}

fn verify(toehold: &Toehold, file: &Path, identity: &Path) -> support::Done {
    toehold.run(["--json", "key", "verify-copy", file.to_str().unwrap(), "--identity", identity.to_str().unwrap()])
}

#[test]
fn r10_a_lost_store_and_the_copy_are_the_fleet_back() {
    let fleet = Fleet::new(2);
    let directory = tempfile::tempdir().unwrap();
    let (_other, age, age_identity) = somebody();
    let (rsa, rsa_identity) = ssh_key(&directory, &["-t", "rsa", "-b", "2048"]);
    let (ed25519, ed25519_identity) = ssh_key(&directory, &["-t", "ed25519"]);
    let held = fleet.current();
    for (number, (to, identity)) in
        [(age, age_identity), (rsa, rsa_identity), (ed25519, ed25519_identity)].into_iter().enumerate()
    {
        let copy = directory.path().join(format!("copy-{number}"));
        export(&fleet.toehold, &to, &copy).ends(0);
        let written = fs::read_to_string(&copy).unwrap();
        assert!(written.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"), "{written}");
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        let good = verify(&fleet.toehold, &copy, &identity).ends(0).json();
        assert_eq!(good["hosts"], 2);
        assert!(good["logged_in"].is_string(), "{good}");

        // Another machine, which has nothing but the copy and what opens it.
        let another = Toehold::bare();
        let (copy, identity) = (copy.to_str().unwrap(), identity.to_str().unwrap());
        let restored = another.run(["--json", "init", "--restore", copy, "--identity", identity]).ends(0).json();
        assert_eq!((&restored["hosts"], &restored["master_keys"]), (&2.into(), &1.into()));
        assert_eq!(another.master_key(), held.public_key().to_string());
        let checked = another.run(["--json", "host", "check"]).ends(0).json();
        assert_eq!(checked["hosts"].as_array().unwrap().len(), 2, "{checked}");
        // Once more changes nothing, and another store is left alone.
        let again = another.run(["init", "--restore", copy, "--identity", identity]).ends(0);
        assert!(again.stdout.contains("nothing was changed") && !again.stdout.contains("Restored"), "{}", again.stdout);
        let taken = Toehold::new();
        let before = taken.master_key();
        let refused = taken.run(["init", "--restore", copy, "--identity", identity]).ends(1);
        assert!(refused.stderr.contains("has the master key"), "{}", refused.stderr);
        assert_eq!(taken.master_key(), before);
        assert_eq!(taken.run(["--json", "host", "ls"]).ends(0).json()["hosts"].as_array().unwrap().len(), 0);
    }
}

#[test]
fn r10_what_age_gives_back_is_a_key_that_ssh_takes() {
    let fleet = Fleet::new(1);
    let directory = tempfile::tempdir().unwrap();
    let (to, identity) = ssh_key(&directory, &["-t", "ed25519"]);
    let copy = directory.path().join("copy");
    export(&fleet.toehold, &to, &copy).ends(0);
    // As `age -d` does it.
    let opened = toehold::adapters::identity::OtherIdentity::read(&identity, || Ok(None)).unwrap();
    let key = directory.path().join("master");
    support::server::write_private(&key, opened.open(&fs::read(&copy).unwrap()).unwrap().as_slice());
    let host = &fleet.hosts[0];
    let status = Command::new("ssh").args(host.ssh_arguments(&key)).arg("true").status().unwrap();
    assert!(status.success());
}

#[test]
fn r10_a_copy_that_falls_short_is_found_out() {
    let fleet = Fleet::new(1);
    let directory = tempfile::tempdir().unwrap();
    let (to, identity) = ssh_key(&directory, &["-t", "ed25519"]);
    let copy = directory.path().join("copy");
    export(&fleet.toehold, &to, &copy).ends(0);
    // A host that came later.
    let later = RealSshd::start();
    later.authorize(fleet.file(&format!("{} toehold-master\n", fleet.toehold.master_key())));
    fleet.record(&[&later], "");
    let found = verify(&fleet.toehold, &copy, &identity).ends(3).json();
    assert!(found["findings"][0].as_str().unwrap().contains("came after it was made"), "{found}");

    // Another fleet's copy.
    let strangers = Toehold::new();
    let foreign = directory.path().join("foreign");
    export(&strangers, &to, &foreign).ends(0);
    let found = verify(&fleet.toehold, &foreign, &identity).ends(3).json();
    assert!(found["findings"].to_string().contains("the current master key"), "{found}");
    assert!(found["findings"].to_string().contains("lets the key in it log in"), "{found}");

    // Damage anywhere, and somebody else's key.
    let whole = fs::read(&copy).unwrap();
    for (number, at) in (0..whole.len()).step_by(whole.len() / 20).enumerate() {
        let damaged = directory.path().join(format!("damaged-{number}"));
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&damaged, bytes).unwrap();
        assert_eq!(verify(&fleet.toehold, &damaged, &identity).code, 1, "byte {at}");
    }
    let (_, stranger) = ssh_key(&directory, &["-t", "rsa", "-b", "2048"]);
    let refused = verify(&fleet.toehold, &copy, &stranger).ends(1);
    assert!(refused.stderr.contains("not sealed to"), "{}", refused.stderr);
}

#[test]
fn r10_the_missing_copy_is_said_until_it_is_made_and_tested() {
    let host = RealSshd::start();
    let toehold = Toehold::bare();
    let said = toehold.run(["init"]).ends(0).stdout;
    assert!(said.contains("no recovery copy") && said.contains("toehold key export"), "{said}");
    let (account, home) = (host.account().to_string(), host.home());
    let add = ["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"];
    assert!(toehold.run(add).ends(0).stdout.contains("no recovery copy"));
    let (_other, to, identity) = somebody();
    let copy = toehold.state().join("copy");
    export(&toehold, &to, &copy).ends(0);
    assert!(toehold.run(add).ends(0).stdout.contains("never tested"));
    assert!(toehold.run(["--json", "key", "show"]).ends(0).json()["recovery_copy"]["made_at"].is_string());
    verify(&toehold, &copy, &identity).ends(0);
    assert!(!toehold.run(add).ends(0).stdout.contains("recovery copy"));

    // Nothing is overwritten, and nothing is sealed to nobody or to this very machine.
    export(&toehold, &to, &copy).ends(1);
    let own = toehold.run(["--json", "init"]).ends(0);
    drop(own);
    for (bad, words) in [("age1nonsense", "not an age recipient"), ("ecdsa-sha2-nistp256 AAAA", "ed25519 and RSA")] {
        let refused = export(&toehold, bad, &toehold.state().join("another")).ends(1);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    let identity = fs::read_to_string(toehold.state().join("identity")).unwrap();
    let own = identity.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap();
    let refused = export(&toehold, own, &toehold.state().join("another")).ends(1);
    assert!(refused.stderr.contains("this machine's own"), "{}", refused.stderr);
}

#[test]
fn r10_the_missing_copy_is_said_in_json_and_where_a_rotation_ends_early() {
    let fleet = Fleet::new(1);
    let offers = |told: &serde_json::Value| told["advice"].as_str().is_some_and(|advice| advice.contains("toehold key export"));
    let told = fleet.toehold.run(["--json", "init"]).ends(0).json();
    assert!(offers(&told), "{told}");
    let (_other, to, identity) = somebody();
    let copy = fleet.toehold.state().join("copy");
    export(&fleet.toehold, &to, &copy).ends(0);
    verify(&fleet.toehold, &copy, &identity).ends(0);
    let told = fleet.toehold.run(["--json", "init"]).ends(0).json();
    assert!(told["advice"].is_null(), "{told}");
    // The new key is current, and no copy has it.
    let told = fleet.rotate(&["--grace", "1h", "--no-wait"]).ends(3).json();
    assert!(told["event"] == "grace" && offers(&told), "{told}");
    let said = fleet.toehold.run(["key", "rotate", "--resume", "--no-wait"]).ends(3).stdout;
    assert!(said.contains("toehold key export"), "{said}");
}
