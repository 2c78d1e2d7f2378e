//! A gateway: where machines join, and where agents come back to.
//!
//! `serve` accepts connections and awaits no client; each connection is a task of its own with limits, TLS 1.3 and HTTP/2, and a
//! panic ends one of them. What is decided is decided in `toehold_joinproto`, over the store.

mod agent_service;
mod connection;
mod error;
mod health_service;
mod hub;
mod join_service;
pub mod keys;
pub mod limits;
mod look;
pub mod metrics;
mod opni_service;
mod presence;
pub mod proxy_protocol;
mod serve;
mod serving;
mod slots;
mod specs;
mod upkeep;
pub mod vault;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use ipnet::IpNet;
use toehold_joinproto::Endpoint;
use toehold_joinproto::admission::Desk;

pub use error::GatewayError;
pub use limits::LimitOptions;
pub use look::GatewayLook;
pub use serve::{Announcement, serve};
pub use serving::Serving;
pub use vault::{GatewayVault, NoVault};

use crate::adapters::system_clock::SystemClock;
use crate::shared::AnyStore;

/// Admission over the embedded store.
pub type GatewayDesk<V = GatewayVault> = Desk<AnyStore, SystemClock, V>;

/// How a gateway is to run.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where its metrics and health are told; loopback alone.
    pub metrics: Option<SocketAddr>,
    /// Where machines reach it: no other endpoint joins by the third version; none: whichever they were told.
    pub endpoints: Vec<Endpoint>,
    /// Load balancers, which say with the PROXY protocol who is behind them.
    pub proxy_from: Vec<IpNet>,
    /// What the first version of Opni's protocol may join for; empty: anything.
    pub capabilities: Vec<String>,
    /// How many agents may be in an update at once, by governor; of others, one.
    pub governors: BTreeMap<String, u32>,
    /// How much of everything.
    pub limits: LimitOptions,
    /// How long open calls may take to end when it is told to stop.
    pub drain: Duration,
    /// What its chain of the audit log is called.
    pub audit_writer: String,
}

/// The system's randomness.
pub(crate) fn system_rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}
