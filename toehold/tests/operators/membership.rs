//! Operators and other members of a shared store, and whom they let into pods.

use std::fmt::Display;
use std::path::PathBuf;

use crate::gateway::file_of;
use crate::support::Toehold;
use crate::support::keys::ssh_keygen;

/// Somebody who may have pods.
pub(crate) const ALICE: &str = "alice@example.org";

/// A state directory whose commands work with this store.
pub(crate) fn sharing(store: &impl Display) -> Toehold {
    Toehold::bare().with_env("TOEHOLD_STORE", store.to_string())
}

/// The first operator of a store.
pub(crate) fn founder(store: &impl Display) -> Toehold {
    let toehold = sharing(store);
    toehold.run(["init", "--name", "anna"]).ends(0);
    toehold
}

/// The word that a newcomer's `init` prints.
#[track_caller]
pub(crate) fn asks_to_be_let_in(newcomer: &Toehold) -> String {
    newcomer.run(["--json", "init"]).ends(3).json()["recipient"].as_str().unwrap().to_owned()
}

/// Whoever is let in by `inside`.
#[track_caller]
pub(crate) fn joins(inside: &Toehold, newcomer: Toehold, name: &str, role: &str) -> Toehold {
    let word = asks_to_be_let_in(&newcomer);
    inside.run(["operator", "add", &word, "--name", name, "--role", role]).ends(0);
    newcomer.run(["init"]).ends(0);
    newcomer
}

/// A key of Alice's, whom this operator lets into pods.
pub(crate) fn lets_alice_in(operator: &Toehold) -> PathBuf {
    let file = file_of(operator, "alice");
    ssh_keygen(&file, &["-t", "ed25519"]);
    operator.run(["pods", "key", "add", ALICE, file.with_extension("pub").to_str().unwrap()]).ends(0);
    file
}
