//! The hands: one file for each outside system.

pub mod archive_fetcher;
pub(crate) mod dial;
pub mod file_lock;
pub mod gateway_connection;
pub(crate) mod gateway_verifier;
pub mod grpc;
pub mod health_command;
pub mod identity;
pub mod kube_pods;
pub mod local_host;
pub mod local_pods;
pub mod machine_root;
pub mod nats;
pub mod node_facts;
pub mod node_memory;
pub mod notifications;
pub mod russh_connector;
pub mod russh_files;
pub mod sqlite;
pub mod ssh_agent;
pub mod system_clock;
mod system_roots;
pub mod vault_sealer;
