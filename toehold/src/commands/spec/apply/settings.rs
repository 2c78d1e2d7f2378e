//! What the command line says about a root, as the reconciler takes it.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use toehold_specsign::{
    Admission, Facts as _, NoGovernors, PlainPolicy, Settings, Sha256Digest, SourcePolicy, SpecName, StoreGovernors, TrustedKeys,
    VerifyingKey,
};

use crate::adapters::archive_fetcher::FetchLimits;
use crate::adapters::health_command::HealthCommand;
use crate::adapters::node_facts::NodeFacts;
use crate::adapters::node_memory::NodeMemory;
use crate::adapters::system_clock::SystemClock;
use crate::agent::{AgentDirectory, Stage};
use crate::cli::args::{ApplySpec, Global, RootTakes};
use crate::cli::context::state_directory;
use crate::cli::{Failure, chain};
use crate::commands::agent;
use crate::commands::spec::public_key;
use crate::state::{NoPassphrase, State, StateError};

use super::governors::{GatewayGovernors, NodeGovernors, Slots};

/// A public key that was compiled in, for a node whose image brings its key along.
const COMPILED_IN: Option<&str> = option_env!("TOEHOLD_SPEC_PUBLIC_KEY");

pub(in crate::commands::spec) fn admission(takes: &RootTakes, name: Option<&SpecName>) -> Result<Admission, Failure> {
    let named = takes.public_keys.iter().map(|text| public_key(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(Admission {
        trusted: trusted_or_compiled_in(&named, takes.threshold)?,
        name: name.cloned(),
        min_serial: takes.min_serial,
        plain: match (takes.accept_plain, takes.accept_unsigned) {
            (true, _) => PlainPolicy::AcceptSigned,
            (false, true) => PlainPolicy::AcceptUnsigned,
            (false, false) => PlainPolicy::Refuse,
        },
        begin_anew: takes.begin_anew,
        trust_clock: false,
        enveloped_keys: BTreeSet::new(),
    })
}

/// Whom to trust at first contact.
fn trusted_or_compiled_in(named: &[VerifyingKey], threshold: usize) -> Result<Option<TrustedKeys>, Failure> {
    trusted(named, threshold, COMPILED_IN)
}

/// Those that were named count; where none was, the one that was compiled in.
fn trusted(named: &[VerifyingKey], threshold: usize, compiled_in: Option<&str>) -> Result<Option<TrustedKeys>, Failure> {
    let keys = match compiled_in.filter(|text| named.is_empty() && !text.is_empty()) {
        Some(text) => {
            let key = text.parse().map_err(|error| {
                Failure::new(format!("the public key that was compiled in cannot be used: {error}"))
                    .hint("name one: --public-key KEY")
            })?;
            vec![key]
        }
        None => named.to_vec(),
    };
    if keys.is_empty() {
        return Ok(None);
    }
    TrustedKeys::new(keys, threshold).map(Some).map_err(|error| Failure::usage(chain(&error)))
}

pub(in crate::commands::spec) fn sources(takes: &RootTakes) -> SourcePolicy {
    SourcePolicy { allow_http: takes.allow_http, allow_file: takes.allow_file }
}

pub(super) fn settings(options: &ApplySpec) -> Settings {
    Settings { purge: options.purge_unknown, guard_percent: options.guard, ..Settings::default() }
}

pub(super) fn fetch_limits(global: &Global, options: &ApplySpec) -> FetchLimits {
    let usual = FetchLimits::default();
    FetchLimits {
        connect: global.connect_timeout.unwrap_or(usual.connect),
        idle: global.request_timeout.unwrap_or(usual.idle),
        total: options.fetch_timeout,
        ..usual
    }
}

pub(super) fn health(options: &ApplySpec) -> Result<HealthCommand, Failure> {
    match &options.health_command {
        None => Ok(HealthCommand::none()),
        Some(line) => {
            let root = std::path::absolute(&options.root)?;
            HealthCommand::parse(line, root, options.health_timeout).map_err(Failure::usage)
        }
    }
}

/// What this node remembers outside of its roots. A node that has nowhere to keep it goes on with what is in the root alone; one
/// that has it has to be able to read it.
pub(super) fn memory(global: &Global) -> Result<Option<NodeMemory>, Failure> {
    let directory = state_directory(global)?;
    match NodeMemory::open(&directory) {
        Ok(memory) => Ok(Some(memory)),
        Err(error) if directory.join("spec").try_exists().unwrap_or(true) => Err(Failure::new(chain(&error))),
        Err(error) => {
            tracing::warn!(
                "nothing is kept of this root outside of it, so that whoever takes its own state away lowers the floor: {}",
                chain(&error)
            );
            Ok(None)
        }
    }
}

/// The state directory, where there is one. A node takes nothing out of a shared store but through a gateway (N2).
pub(super) fn state(global: &Global, options: &ApplySpec) -> Result<Option<State>, Failure> {
    if global.shared.store.is_some() {
        if options.gateway.is_some() {
            return Ok(None);
        }
        return Err(Failure::usage("a node does not come to a shared store by itself")
            .hint("take the document from a gateway (--gateway), or leave out --store (and TOEHOLD_STORE)"));
    }
    match State::open(&state_directory(global)?, NoPassphrase) {
        Ok(state) => Ok(Some(state)),
        Err(StateError::NotInitialised { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who holds a slot: this root of this node. A holder's own slot is taken over, so the name alone, which two nodes can have, and which
/// all roots of a node have, would give one slot to several.
fn holder(identity: &str, root: &Path) -> Result<String, Failure> {
    Ok(format!("{identity} {}", told_apart(root)?))
}

/// What no other root has, be it of this machine or of another.
fn told_apart(root: &Path) -> Result<Sha256Digest, Failure> {
    let path = std::fs::canonicalize(root)?;
    let mut told = std::fs::read("/etc/machine-id").unwrap_or_default();
    told.push(0);
    told.extend_from_slice(path.as_os_str().as_bytes());
    // In two containers the rest can be the same.
    told.extend_from_slice(&std::fs::metadata(&path)?.ino().to_be_bytes());
    Ok(Sha256Digest::of(&told))
}

/// Slots of the gateway where the document is its, or in the store, where there is one.
pub(super) fn governors(
    global: &Global,
    options: &ApplySpec,
    state: Option<&State>,
    facts: &NodeFacts,
) -> Result<NodeGovernors, Failure> {
    // No update takes longer than it may.
    let lease = options.fetch_timeout + options.health_timeout + Duration::from_secs(60);
    if options.gateway.is_some() {
        let directory = agent::agent_directory(global, &options.files)?;
        let directory = AgentDirectory::open(&directory).map_err(|error| agent::failure(&error, Stage::Begun))?;
        let root = told_apart(&options.root)?.to_string();
        return Ok(NodeGovernors::new(Slots::Gateway(Box::new(GatewayGovernors {
            directory,
            limits: agent::gateway_limits(global),
            root,
            lease,
        }))));
    }
    let Some(state) = state else { return Ok(NodeGovernors::new(Slots::None(NoGovernors))) };
    let identity = facts.identity().map_err(|error| Failure::new(error.0))?;
    let holder = holder(identity, &options.root)?;
    Ok(NodeGovernors::new(Slots::Store(Box::new(StoreGovernors {
        store: state.store().clone(),
        clock: SystemClock,
        holder,
        limits: options.governors.iter().cloned().collect(),
        lease,
    }))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "64031219d4922eed63a5f567303e98607c632139c01bc9fa4ca2514c2d9d30da";

    #[test]
    fn each_root_of_each_node_is_a_holder_of_its_own() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of = |identity, root: &Path| holder(identity, root).unwrap();
        assert_eq!(of("localhost", one.path()), of("localhost", &one.path().join(".")));
        assert_ne!(of("localhost", one.path()), of("localhost", two.path()));
        assert_ne!(of("web1", one.path()), of("web2", one.path()));
    }

    #[test]
    fn a_key_that_was_compiled_in_counts_where_none_is_named() {
        let compiled = trusted(&[], 1, Some(ONE)).unwrap().unwrap();
        assert_eq!(compiled, TrustedKeys::one(ONE.parse().unwrap()));
        let other = toehold_specsign::SigningKey::from_seed_hex(&"07".repeat(32)).unwrap().verifying_key();
        assert_eq!(trusted(&[other], 1, Some(ONE)).unwrap().unwrap(), TrustedKeys::one(other));
        assert_eq!(trusted(&[], 1, None).unwrap(), None);
        assert_eq!(trusted(&[], 1, Some("")).unwrap(), None);
        assert!(trusted(&[], 1, Some("not a key")).is_err());
        assert!(trusted(&[other], 2, None).is_err());
    }
}
