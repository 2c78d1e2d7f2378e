//! Where the document comes from.

use std::path::PathBuf;

use toehold_specsign::{MAX_DOCUMENT, SpecName};

use crate::adapters::gateway_connection::GatewayLimits;
use crate::agent::{AgentDirectory, AgentError, SpecTrust, Stage};
use crate::cli::Failure;
use crate::cli::args::{ApplySpec, Global};
use crate::commands::agent;
use crate::shared::AnyStore;
use crate::spec_store;
use crate::state::State;

/// A file, a name in the store, or a name at the gateway that this machine has joined.
#[derive(Debug)]
pub(super) enum DocumentSource {
    File(PathBuf),
    Store(AnyStore, SpecName),
    Gateway(AgentDirectory, GatewayLimits, SpecName),
}

/// A document, and what a first contact with it begins with, where that came with a join.
pub(super) type Read = (Vec<u8>, Option<SpecTrust>);

impl DocumentSource {
    /// `state`: the state directory, where there is one.
    pub(super) fn new(global: &Global, options: &ApplySpec, state: Option<&State>) -> Result<Self, Failure> {
        if let (Some(named), Some(name)) = (&options.gateway, &options.name) {
            return Self::gateway(global, options, named, name);
        }
        match (&options.file, &options.name, state) {
            (Some(file), _, _) => Ok(Self::File(file.clone())),
            (None, Some(name), Some(state)) => Ok(Self::Store(state.store().clone(), name.clone())),
            (None, Some(_), None) => {
                Err(Failure::new("there is no state directory to take the document from").hint("make one: toehold init"))
            }
            (None, None, _) => Err(Failure::usage("name a document, or the name of one in the store")),
        }
    }

    fn gateway(global: &Global, options: &ApplySpec, named: &str, name: &SpecName) -> Result<Self, Failure> {
        let begun = |error: AgentError| agent::failure(&error, Stage::Begun);
        let directory = AgentDirectory::open(&agent::agent_directory(global, &options.files)?).map_err(begun)?;
        let joined = directory.membership().map_err(begun)?.map(|membership| membership.joined.endpoint()).transpose();
        let joined = joined.map_err(begun)?;
        if !named.is_empty() && joined.as_ref().is_some_and(|endpoint| endpoint.to_string() != named) {
            let joined = joined.map(|endpoint| endpoint.to_string()).unwrap_or_default();
            return Err(Failure::new(format!("this machine has joined {joined}, and not {named}"))
                .hint("to be an agent of both: --agent-dir DIR"));
        }
        Ok(Self::Gateway(directory, agent::gateway_limits(global), name.clone()))
    }

    /// Reads what is there now.
    pub(super) async fn read(&self) -> Result<Read, Failure> {
        let absent = |name: &SpecName, place: &str| {
            Failure::new(format!("there is no specification {name} in {place}"))
                .hint(format!("put one there: toehold spec put {name} FILE"))
        };
        match self {
            Self::File(path) => Ok((crate::commands::spec::read(path, MAX_DOCUMENT)?, None)),
            Self::Store(store, name) => {
                let document = spec_store::read(store, name).await?.ok_or_else(|| absent(name, "the store"))?;
                Ok((document, None))
            }
            Self::Gateway(directory, limits, name) => {
                let (document, begin) =
                    agent::spec(directory, *limits, name).await.map_err(|error| agent::ping_failure(&error))?;
                Ok((document.ok_or_else(|| absent(name, "the gateway's store"))?, begin))
            }
        }
    }
}
