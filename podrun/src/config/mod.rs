//! The configuration, with the names and defaults of `ContainerSSH`'s `kuberun`, and what is made of it once it was checked.

mod cluster;
mod duration;
mod kubeconfig;
mod settings;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

pub use cluster::{ClusterAccess, Credentials, ExecPlugin, InClusterError, Material, SERVICE_ACCOUNT, in_cluster};
pub use duration::{DurationError, GoDuration};
pub use kubeconfig::{Kubeconfig, KubeconfigError, MAX_KUBECONFIG};
pub use settings::{Limits, Settings};

use crate::secret_text::SecretText;

/// The largest configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 1024 * 1024;

/// The whole configuration. Field names and defaults are those of `kuberun` (its `connection`, `pod`, `timeout`); `limits` and four
/// fields of `pod` are ours. A name that is not known is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// How to reach the cluster.
    pub connection: ConnectionConfig,
    /// The pod to run.
    pub pod: PodConfig,
    /// How long to wait for a pod to be ready, from the handshake on (default 60 s).
    pub timeout: Timeout,
    /// How long connections and pods may last.
    pub limits: LimitsConfig,
}

/// How long to wait for a pod to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Timeout(pub GoDuration);

impl Default for Timeout {
    fn default() -> Self {
        Self(GoDuration(std::time::Duration::from_mins(1)))
    }
}

/// How to reach the cluster. Nothing set here means `kubernetes.default.svc`, as inside of a cluster.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectionConfig {
    /// A host, `host:port`, or the URL of the API server (default `kubernetes.default.svc`).
    pub host: String,
    /// The path of the API's root (default `/api`; with another, what stands before its `/api` goes before every path).
    pub path: String,
    /// User name for basic authentication.
    pub username: String,
    /// Password for basic authentication.
    pub password: SecretText,
    /// Whether the server's certificate is not checked. Never do that off loopback.
    pub insecure: bool,
    /// The name to ask for and to check the certificate against, where it is not that of `host`.
    pub server_name: String,
    /// File with the client's certificate.
    pub cert_file: String,
    /// File with the client's key.
    pub key_file: String,
    /// File with the certificates that the server is checked against.
    #[serde(rename = "cacertFile")]
    pub ca_cert_file: String,
    /// The client's certificate in PEM.
    pub cert: String,
    /// The client's key in PEM.
    pub key: SecretText,
    /// The certificates that the server is checked against, in PEM.
    #[serde(rename = "cacert")]
    pub ca_cert: String,
    /// Bearer token.
    pub bearer_token: SecretText,
    /// File with a bearer token, read again as it is renewed.
    pub bearer_token_file: String,
    /// Requests a second; not set means that there is no limit of our own (the original's default was 5).
    pub qps: Option<f32>,
    /// Requests at once above `qps` (default 10).
    pub burst: u32,
    /// How long a call may take; not set means 10 s.
    pub timeout: Option<GoDuration>,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            host: "kubernetes.default.svc".to_owned(),
            path: "/api".to_owned(),
            username: String::new(),
            password: SecretText::default(),
            insecure: false,
            server_name: String::new(),
            cert_file: String::new(),
            key_file: String::new(),
            ca_cert_file: String::new(),
            cert: String::new(),
            key: SecretText::default(),
            ca_cert: String::new(),
            bearer_token: SecretText::default(),
            bearer_token_file: String::new(),
            qps: None,
            burst: 10,
            timeout: None,
        }
    }
}

/// What a pod lasts as long as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One pod for each connection, gone with it.
    #[default]
    Connection,
    /// One pod for each session channel, gone with it.
    Session,
    /// A pod of that user that stays: found by its name, or made where `createMissingPods` says so.
    Persistent,
}

/// The pod to run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodConfig {
    /// The namespace (default `default`; take one of its own, for a right to exec reaches every pod in it).
    pub namespace: String,
    /// Which container of the spec is worked in, from 0 (default 0).
    pub console_container_number: usize,
    /// The pod's spec as Kubernetes has it (default: one container `shell` of `containerssh/containerssh-guest-image`).
    #[serde(rename = "podSpec")]
    pub spec: Value,
    /// What runs for a subsystem, by its name (default: `sftp` is `/usr/lib/openssh/sftp-server`).
    pub subsystems: BTreeMap<String, String>,
    /// What runs for a shell; its first word with `-c` runs commands (not set: `/bin/bash`, and `/bin/sh` in images without it).
    pub shell_command: Option<Vec<String>>,
    /// The first process, which waits until the pod ends (default: a shell that sleeps and ends on SIGTERM).
    pub idle_command: Vec<String>,
    /// What a pod lasts as long as (default: the connection).
    pub mode: Mode,
    /// In persistent mode: the pod's name, where it is one for all (not set: one for each user).
    pub name: Option<String>,
    /// In persistent mode: whether a pod that is not there is made (default false).
    pub create_missing_pods: bool,
    /// Whether a command line that begins with `/` is split at blanks and run without a shell, as the original does (default
    /// false: `sshd` gives the whole line to the shell).
    pub split_path_commands: bool,
}

impl Default for PodConfig {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            console_container_number: 0,
            spec: json!({ "containers": [{ "name": "shell", "image": "containerssh/containerssh-guest-image" }] }),
            subsystems: BTreeMap::from([("sftp".to_owned(), "/usr/lib/openssh/sftp-server".to_owned())]),
            shell_command: None,
            idle_command: ["/bin/sh", "-c", "sleep infinity & PID=$!; trap \"kill $PID\" INT TERM; wait"]
                .map(str::to_owned)
                .to_vec(),
            mode: Mode::default(),
            name: None,
            create_missing_pods: false,
            split_path_commands: false,
        }
    }
}

/// How long connections and pods may last. Not set means no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// A pod's whole life once it is on a node, held by the cluster itself (`activeDeadlineSeconds`).
    pub total: Option<GoDuration>,
    /// A connection's whole life, held by the gateway.
    pub session: Option<GoDuration>,
    /// How long a connection may be without traffic, held by the gateway.
    pub idle: Option<GoDuration>,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, such as `pod.podSpec.containers`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Longer than [`MAX_CONFIG`]; nothing was read.
    #[error("the configuration has {got} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not YAML or JSON, or not of this form: a name that is not known, a value of the wrong kind.
    #[error("the configuration cannot be read: {0}")]
    Unreadable(String),
    /// Fields that cannot be as they are, all of them.
    #[error("the configuration cannot be used: {}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("; "))]
    Faults(Vec<Fault>),
}

impl Config {
    /// Reads YAML or JSON; an empty text sets nothing.
    ///
    /// # Errors
    /// [`ConfigError::TooLarge`] and [`ConfigError::Unreadable`], which names the place and quotes nothing of the text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > MAX_CONFIG {
            return Err(ConfigError::TooLarge { got: text.len(), limit: MAX_CONFIG });
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        read_yaml(text).map_err(ConfigError::Unreadable)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with everything that is wrong.
    pub fn validate(self) -> Result<Settings, ConfigError> {
        Settings::new(self)
    }
}

/// Reads YAML or JSON within limits. The error is a place and a kind, without the text: there may be a secret in it.
fn read_yaml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| describe_json(&error));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 100_000,
            max_anchors: 100,
            max_aliases: 1_000,
            max_documents: 1,
        },
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| describe_yaml(&error))
}

fn describe_json(error: &serde_json::Error) -> String {
    format!("{} (line {}, column {})", without_values(&error.to_string()), error.line(), error.column())
}

fn describe_yaml(error: &serde_saphyr::Error) -> String {
    let place = error.location().map(|place| format!(" (line {}, column {})", place.line(), place.column()));
    format!("{}{}", without_values(&error.to_string()), place.unwrap_or_default())
}

/// Keeps what names a field or a kind and drops what quotes a value.
fn without_values(message: &str) -> String {
    let message = message.split(" at line").next().unwrap_or_default();
    let message = message.lines().next().unwrap_or_default();
    for known in ["unknown field", "missing field", "duplicate field", "duplicate mapping key"] {
        if let Some(start) = message.find(known) {
            return message.get(start..).unwrap_or(known).chars().take(160).collect();
        }
    }
    for known in ["invalid type", "invalid value", "unknown variant", "invalid length"] {
        if message.contains(known) {
            let expected = message.split("expected").nth(1).map(|rest| format!(", expected{rest}")).unwrap_or_default();
            return format!("{known}{expected}").chars().take(160).collect();
        }
    }
    if message.contains("is not a duration") || message.contains("a duration is never negative") {
        return "a duration has to be one such as 60s, 1m30s or 250ms".to_owned();
    }
    "it is not YAML or JSON of this form".to_owned()
}
