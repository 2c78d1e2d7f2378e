//! What the command line says about a root, as the reconciler takes it.

use std::collections::BTreeSet;
use std::time::Duration;

use toehold_specsign::{
    Admission, Facts as _, NoGovernors, PlainPolicy, Settings, SourcePolicy, StoreGovernors, TrustedKeys, VerifyingKey,
};

use crate::adapters::archive_fetcher::FetchLimits;
use crate::adapters::health_command::HealthCommand;
use crate::adapters::node_facts::NodeFacts;
use crate::adapters::node_governors::NodeGovernors;
use crate::adapters::node_memory::NodeMemory;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{ApplySpec, Global};
use crate::cli::context::state_directory;
use crate::cli::{Failure, chain};
use crate::state::{NoPassphrase, State, StateError};

/// A public key that was compiled in, for a node whose image brings its key along.
const COMPILED_IN: Option<&str> = option_env!("TOEHOLD_SPEC_PUBLIC_KEY");

pub(super) fn admission(options: &ApplySpec) -> Result<Admission, Failure> {
    Ok(Admission {
        trusted: trusted_or_compiled_in(&options.public_keys, options.threshold)?,
        name: options.name.clone(),
        min_serial: options.min_serial,
        plain: match (options.accept_plain, options.accept_unsigned) {
            (true, _) => PlainPolicy::AcceptSigned,
            (false, true) => PlainPolicy::AcceptUnsigned,
            (false, false) => PlainPolicy::Refuse,
        },
        begin_anew: options.begin_anew,
        trust_clock: options.trust_clock,
        enveloped_keys: BTreeSet::new(),
    })
}

/// Whom to trust at first contact.
pub(in crate::commands::spec) fn trusted_or_compiled_in(
    named: &[VerifyingKey],
    threshold: usize,
) -> Result<Option<TrustedKeys>, Failure> {
    trusted(named, threshold, COMPILED_IN)
}

/// Those that were named count; where none was, the one that was compiled in.
fn trusted(named: &[VerifyingKey], threshold: usize, compiled_in: Option<&str>) -> Result<Option<TrustedKeys>, Failure> {
    let keys = match compiled_in.filter(|text| named.is_empty() && !text.is_empty()) {
        Some(text) => {
            let key = text.parse().map_err(|error| {
                Failure::new(format!("the public key that was compiled in cannot be used: {error}"))
                    .hint("name one: --public-key HEX")
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

pub(super) fn sources(options: &ApplySpec) -> SourcePolicy {
    SourcePolicy { allow_http: options.allow_http, allow_file: options.allow_file }
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

/// The state directory, where there is one.
pub(super) fn state(global: &Global) -> Result<Option<State>, Failure> {
    match State::open(&state_directory(global)?, NoPassphrase) {
        Ok(state) => Ok(Some(state)),
        Err(StateError::NotInitialised { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Slots in the store, where there is one.
pub(super) fn governors(options: &ApplySpec, state: Option<&State>, facts: &NodeFacts) -> Result<NodeGovernors, Failure> {
    let Some(state) = state else { return Ok(NodeGovernors::None(NoGovernors)) };
    let holder = facts.identity().map_err(|error| Failure::new(error.0))?.to_owned();
    Ok(NodeGovernors::Store(Box::new(StoreGovernors {
        store: state.store().clone(),
        clock: SystemClock,
        holder,
        limits: options.governors.iter().cloned().collect(),
        // No update takes longer than it may.
        lease: options.fetch_timeout + options.health_timeout + Duration::from_secs(60),
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "64031219d4922eed63a5f567303e98607c632139c01bc9fa4ca2514c2d9d30da";

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
