//! A look at a gateway that runs in this process, for whoever tells how it is.

use std::sync::Weak;

use super::hub::Hub;

/// A look at a gateway, which it keeps from nothing: once the gateway has ended, it shows nothing.
#[derive(Clone, Debug)]
pub struct GatewayLook(pub(super) Weak<Hub>);

impl GatewayLook {
    /// Prometheus' text format; `None` once it has ended.
    pub fn metrics(&self) -> Option<String> {
        let hub = self.0.upgrade()?;
        Some(hub.metrics.text(hub.limits.count(), hub.is_ready()))
    }

    /// Whether it takes connections and its store can be followed; `None` once it has ended.
    pub fn is_ready(&self) -> Option<bool> {
        Some(self.0.upgrade()?.is_ready())
    }

    /// How many connections there are on which an agent has authenticated; `None` once it has ended.
    pub fn agents(&self) -> Option<usize> {
        Some(self.0.upgrade()?.limits.count().agents)
    }
}
