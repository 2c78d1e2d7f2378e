//! How a token is to be.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::error::DeskError;
use super::record::Role;
use crate::names;
use crate::v3::AgentId;

/// The most uses of one token.
pub const MAX_USES: u32 = 10_000;
/// How long a token lives by default.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3600);
/// How a token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// For Opni's agents. Its secret then stays with the gateway, sealed.
    pub for_opni: bool,
    /// What machines join as.
    pub role: Role,
    /// How long it lives; from now.
    pub lifetime: Duration,
    /// How often it can be used, 1 to [`MAX_USES`].
    pub uses: u32,
    /// Labels of the agents that join with it.
    pub labels: BTreeMap<String, String>,
    /// The only client that may join with it.
    pub client_id: Option<String>,
    /// From where; empty: from everywhere.
    pub from: Vec<IpNet>,
    /// v1 alone: see [`TokenRecord::may_extend`](super::TokenRecord::may_extend).
    pub may_extend: bool,
}

impl NewToken {
    /// A token for v3: one use, one hour, from everywhere.
    pub fn new(role: Role) -> Self {
        Self {
            for_opni: false,
            role,
            lifetime: DEFAULT_LIFETIME,
            uses: 1,
            labels: BTreeMap::new(),
            client_id: None,
            from: Vec::new(),
            may_extend: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), DeskError> {
        let bad = |reason| Err(DeskError::BadToken(reason));
        if self.uses == 0 || self.uses > MAX_USES {
            return bad("it has 1 to 10,000 uses");
        }
        if self.lifetime.as_secs() == 0 {
            return bad("it has to live for a second at least");
        }
        if !self.labels.iter().all(|(name, value)| names::is_label_name(name) && names::is_label_value(value)) {
            return bad("label names and values are up to 64 letters, digits, '-', '_' and '.'");
        }
        let id = |id: &String| if self.for_opni { names::is_client_id(id) } else { id.parse::<AgentId>().is_ok() };
        if !self.client_id.as_ref().is_none_or(id) {
            return bad("the client id is none (a v3 client's id follows from its key)");
        }
        if self.may_extend && !self.for_opni {
            return bad("only a token for Opni's agents may extend one");
        }
        Ok(())
    }
}
