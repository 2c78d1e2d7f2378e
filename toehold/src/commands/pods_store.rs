//! Where `pods …` keeps its records: in a state directory of its own, or in a store that several gateways share.

use std::path::Path;

use toehold_core::Store as _;

use super::members;
use crate::adapters::sqlite::SqliteStore;
use crate::cli::args::Global;
use crate::cli::context::{Asker, locked, state_directory, writable};
use crate::cli::{Failure, Output};
use crate::shared::{AnyStore, Role};
use crate::state::State;

/// Records that a store has which is worth something: a store without them is one for trying it out.
const FLEET: [&str; 3] = ["agent", "host", "session"];

/// What is to be done, and so what a member of a shared store must be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Reads what there is.
    Look,
    /// Writes and removes records of pods.
    Keep,
    /// The same, while strangers come to it.
    Serve,
    /// The same, while people are let in who can read what this user can read (P5).
    KeepLocal,
    /// Says who may log in.
    LetIn,
}

/// A store, and this machine as a member of it, where it is a shared one.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) store: AnyStore,
    member: Option<State>,
}

impl Kept {
    /// The store that was named, or the one in this directory, which is there.
    ///
    /// # Errors
    /// Where it cannot be used, or this machine may not do that in it.
    pub(super) async fn open(global: &Global, directory: &Path, work: Work) -> Result<Self, Failure> {
        let Some(at) = global.shared.at() else {
            return Ok(Self { store: SqliteStore::create(directory)?.into(), member: None });
        };
        let state = State::open_shared(&state_directory(global)?, &at, Asker::new(global)).await?;
        if work != Work::Look {
            writable(state.store())?;
            may(work, members::own_role(state.store()))?;
        }
        if work == Work::KeepLocal {
            no_fleet(state.store()).await?;
        }
        Ok(Self { store: state.store().clone(), member: Some(state) })
    }

    /// Says what somebody should know who only looks.
    pub(super) fn tell(&self, output: Output) {
        if let Some(reason) = self.store.shared().and_then(crate::shared::SharedStore::read_only) {
            output.aside(&reason);
        }
    }

    /// Whose chain of the audit log this machine writes in a shared store. Unlocks the identity, which signs from then on.
    ///
    /// # Errors
    /// Where the identity cannot be unlocked.
    pub(super) async fn writer(&self) -> Result<Option<String>, Failure> {
        let Some(member) = &self.member else { return Ok(None) };
        let vault = member.vault().await.map_err(locked)?;
        Ok(Some(vault.writer()))
    }
}

fn may(work: Work, role: Option<Role>) -> Result<(), Failure> {
    let Some(role) = role else {
        return Err(Failure::new("this machine is no member of the store (any more)"));
    };
    let why = match (work, role) {
        (Work::KeepLocal, Role::Operator) => {
            "whoever logs in to local pods can read an operator's identity: a gateway of local pods has the role pods".to_owned()
        }
        (Work::Serve, Role::Operator) => {
            "strangers come to a gateway for pods, and what an operator's identity opens is the whole fleet: it has the role pods"
                .to_owned()
        }
        (Work::LetIn, Role::Operator)
        | (Work::Keep, Role::Operator | Role::Pods)
        | (Work::Serve | Work::KeepLocal, Role::Pods)
        | (Work::Look, _) => {
            return Ok(());
        }
        (Work::LetIn, role) => {
            format!("this machine is a member of the store with the role {role}, and who may have a pod is the operators' to say")
        }
        (Work::Keep | Work::Serve | Work::KeepLocal, role) => {
            format!("this machine is a member of the store with the role {role}, which has nothing to do with pods")
        }
    };
    Err(Failure::new(why).hint("an operator lets another machine in: toehold operator add RECIPIENT --role pods"))
}

/// Whoever logs in to local pods may do what this user may do, also with the store: only where there is nothing in it.
async fn no_fleet(store: &AnyStore) -> Result<(), Failure> {
    let kinds = store.kinds().await?;
    match kinds.iter().find(|kind| FLEET.contains(&kind.as_str())) {
        None => Ok(()),
        Some(kind) => Err(Failure::new(format!(
            "the store has a fleet in it ({kind}/…), and whoever logs in to local pods can do with it what this member can"
        ))
        .hint("share a store that is for trying it out alone, or run pods in a cluster: --backend kube")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n2_strangers_come_to_members_with_the_role_pods_alone() {
        for work in [Work::Serve, Work::KeepLocal] {
            assert!(may(work, Some(Role::Pods)).is_ok());
            for other in [Some(Role::Operator), Some(Role::Gateway), None] {
                assert!(may(work, other).is_err(), "{work:?} {other:?}");
            }
        }
        // What is told to end, an operator may tell, too.
        assert!(may(Work::Keep, Some(Role::Operator)).is_ok() && may(Work::Look, Some(Role::Gateway)).is_ok());
        assert!(may(Work::LetIn, Some(Role::Operator)).is_ok() && may(Work::LetIn, Some(Role::Pods)).is_err());
    }
}
