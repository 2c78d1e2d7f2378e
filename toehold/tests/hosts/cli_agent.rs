//! The master key through a real ssh-agent.

use std::fs;

use crate::support::{Done, Fleet, RealAgent, Toehold};

/// Runs a command with this agent at hand.
fn with<'a>(toehold: &Toehold, agent: &RealAgent, arguments: impl IntoIterator<Item = &'a str>) -> Done {
    Toehold::wait(
        toehold
            .command(arguments)
            .env("SSH_AUTH_SOCK", agent.socket())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    )
}

#[test]
fn a_key_in_the_agent_logs_in_where_the_sealed_one_cannot_be_opened() {
    let agent = RealAgent::start();
    let toehold = Toehold::bare();
    let passphrase = tempfile::NamedTempFile::new().unwrap();
    fs::write(passphrase.path(), "correct horse\n").unwrap();
    let passphrase_file = passphrase.path().to_str().unwrap();
    toehold.run(["--passphrase-file", passphrase_file, "init"]).ends(0);
    let fleet = Fleet::of(toehold, 2, |_, host| host);
    let toehold = &fleet.toehold;

    // Nobody to ask for the passphrase, and no key in the agent yet.
    let refused = with(toehold, &agent, ["host", "check"]).ends(1);
    assert!(refused.stderr.contains("passphrase"), "{}", refused.stderr);
    let refused = with(toehold, &agent, ["host", "check", "--use-agent"]).ends(1);
    assert!(refused.stderr.contains("toehold key load"), "{}", refused.stderr);

    with(toehold, &agent, ["--passphrase-file", passphrase_file, "key", "load"]).ends(0);
    assert_eq!(agent.keys(), [toehold.master_key()]);
    with(toehold, &agent, ["host", "check", "--use-agent"]).ends(0);
    let checked = Toehold::wait(
        toehold
            .command(["host", "check"])
            .env("SSH_AUTH_SOCK", agent.socket())
            .env("TOEHOLD_USE_AGENT", "1")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    checked.ends(0);

    with(toehold, &agent, ["key", "unload"]).ends(0);
    assert_eq!(agent.keys(), Vec::<String>::new());
    with(toehold, &agent, ["host", "check", "--use-agent"]).ends(1);
    // The sealed one is where it was.
    toehold.run(["--passphrase-file", passphrase_file, "host", "check"]).ends(0);
}

#[test]
fn every_kind_of_key_signs_through_the_agent() {
    for algorithm in ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048"] {
        let agent = RealAgent::start();
        let toehold = Toehold::bare();
        toehold.run(["init", "--algorithm", algorithm]).ends(0);
        let fleet = Fleet::of(toehold, 1, |_, host| host);
        with(&fleet.toehold, &agent, ["key", "load", "--lifetime", "1h"]).ends(0);
        with(&fleet.toehold, &agent, ["host", "check", "--use-agent"]).ends(0);
        // Signed by the agent indeed: once that has ended, nobody does.
        let socket = agent.socket();
        drop(agent);
        let gone = fleet.toehold.command(["host", "check", "--use-agent"]).env("SSH_AUTH_SOCK", socket).output().unwrap();
        assert_eq!(gone.status.code(), Some(1), "{algorithm}");
        assert!(String::from_utf8_lossy(&gone.stderr).contains("ssh-agent"), "{algorithm}");
    }
    let refused = Toehold::new().run(["host", "check", "--use-agent"]).ends(1);
    assert!(refused.stderr.contains("SSH_AUTH_SOCK"), "{}", refused.stderr);
}
