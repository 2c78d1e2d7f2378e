//! A configuration that was checked.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::cluster::ClusterAccess;
use super::{Config, ConfigError, Fault, LimitsConfig, Mode, PodConfig};

/// Longest time that is taken for anything, in seconds: what `activeDeadlineSeconds` can hold.
const MAX_SECONDS: u64 = 2_147_483_647;

/// How long connections and pods may last; `None` is no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// A pod's whole life once it is on a node, in seconds, held by the cluster.
    pub total_seconds: Option<u32>,
    /// A connection's whole life, held by the gateway.
    pub session: Option<Duration>,
    /// How long a connection may be without traffic, held by the gateway.
    pub idle: Option<Duration>,
}

/// A configuration that was checked: what it says can be asked of a cluster.
#[derive(Debug)]
pub struct Settings {
    /// How to reach the cluster.
    pub cluster: ClusterAccess,
    /// The namespace of the pods.
    pub namespace: String,
    /// The pod's spec: an object with containers that have names and images.
    pub spec: Map<String, Value>,
    /// The name of the container that is worked in.
    pub container: String,
    /// What runs for a subsystem, by its name; never empty.
    pub subsystems: BTreeMap<String, String>,
    /// What runs for a shell, where the operator said it.
    pub shell_command: Option<Vec<String>>,
    /// The pod's first process.
    pub idle_command: Vec<String>,
    /// What a pod lasts as long as.
    pub mode: Mode,
    /// The pod's name in persistent mode, where it is one for all.
    pub pod_name: Option<String>,
    /// Whether a persistent pod that is not there is made.
    pub create_missing_pods: bool,
    /// Whether a command line that begins with `/` is split at blanks and run without a shell.
    pub split_path_commands: bool,
    /// How long a pod may take to be ready, from the handshake on.
    pub ready_within: Duration,
    /// How long connections and pods may last.
    pub limits: Limits,
    /// What is allowed and not wise, for the operator to read.
    pub warnings: Vec<String>,
}

impl Settings {
    pub(super) fn new(config: Config) -> Result<Self, ConfigError> {
        let mut faults = Vec::new();
        let mut warnings = Vec::new();
        let cluster = ClusterAccess::from_config(config.connection, &mut faults);
        if cluster.insecure {
            warnings.push("connection.insecure: whoever is on the way to the cluster can take every pod over".to_owned());
        }
        let pod = config.pod;
        let container = check_pod(&pod, &mut faults, &mut warnings);
        let ready_within = config.timeout.0.0;
        if ready_within.is_zero() || ready_within.as_secs() > 86_400 {
            faults.push(fault("timeout", "it must be above 0 and at most 24h"));
        }
        let limits = limits(config.limits, &mut faults);
        let Value::Object(spec) = pod.spec else {
            faults.push(fault("pod.podSpec", "it must be an object"));
            return Err(ConfigError::Faults(faults));
        };
        if !faults.is_empty() {
            return Err(ConfigError::Faults(faults));
        }
        Ok(Self {
            cluster,
            namespace: pod.namespace,
            spec,
            container,
            subsystems: pod.subsystems,
            shell_command: pod.shell_command,
            idle_command: pod.idle_command,
            mode: pod.mode,
            pod_name: pod.name,
            create_missing_pods: pod.create_missing_pods,
            split_path_commands: pod.split_path_commands,
            ready_within,
            limits,
            warnings,
        })
    }
}

fn fault(field: &str, problem: impl Into<String>) -> Fault {
    Fault { field: field.to_owned(), problem: problem.into() }
}

fn check_pod(pod: &PodConfig, faults: &mut Vec<Fault>, warnings: &mut Vec<String>) -> String {
    if !is_dns_label(&pod.namespace) {
        faults.push(fault(
            "pod.namespace",
            "a namespace is 1 to 63 lower-case letters, digits and \"-\", with no \"-\" at either end",
        ));
    } else if pod.namespace == "default" || pod.namespace.starts_with("kube-") {
        warnings.push(format!(
            "pod.namespace: \"{}\" holds other pods too; who may exec there reaches them all, so take one of its own",
            pod.namespace
        ));
    }
    for (name, command) in &pod.subsystems {
        if name.is_empty() || command.trim().is_empty() || command.contains('\0') {
            faults.push(fault(&format!("pod.subsystems.{name}"), "name and command must not be empty"));
        }
    }
    for (field, words) in [("pod.shellCommand", pod.shell_command.as_ref()), ("pod.idleCommand", Some(&pod.idle_command))] {
        if words.is_some_and(|words| words.first().is_none_or(String::is_empty) || words.iter().any(|w| w.contains('\0'))) {
            faults.push(fault(field, "it must name a program, and have no NUL in it"));
        }
    }
    if let Some(name) = &pod.name {
        if pod.mode != Mode::Persistent {
            faults.push(fault("pod.name", "it is for persistent mode only: other pods get a name of their own each"));
        }
        if name.is_empty() || name.len() > 253 || !name.split('.').all(is_dns_label) {
            faults.push(fault("pod.name", "a pod's name is lower-case letters, digits, \"-\" and \".\" (RFC 1123)"));
        }
    }
    if pod.create_missing_pods && pod.mode != Mode::Persistent {
        faults.push(fault("pod.createMissingPods", "it is for persistent mode only"));
    }
    check_spec(&pod.spec, pod.console_container_number, faults)
}

/// Checks what we rely on, and returns the console container's name.
fn check_spec(spec: &Value, number: usize, faults: &mut Vec<Fault>) -> String {
    let Some(containers) = spec.get("containers").and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        faults.push(fault("pod.podSpec.containers", "it must be a list with at least one container"));
        return String::new();
    };
    for (place, container) in containers.iter().enumerate() {
        let text = |member: &str| container.get(member).and_then(Value::as_str).unwrap_or_default();
        if !is_dns_label(text("name")) {
            let field = format!("pod.podSpec.containers[{place}].name");
            faults.push(fault(&field, "it must be 1 to 63 lower-case letters, digits and \"-\""));
        }
        if text("image").is_empty() {
            faults.push(fault(&format!("pod.podSpec.containers[{place}].image"), "it must name an image"));
        }
    }
    if spec.get("automountServiceAccountToken").is_some_and(|value| *value != Value::Bool(false)) {
        // P6: a token of the cluster's would be in the hands of whoever logs in.
        let problem = "it is always false: whoever logs in would have the account's rights in the cluster";
        faults.push(fault("pod.podSpec.automountServiceAccountToken", problem));
    }
    match spec.get("restartPolicy").map(|value| value.as_str().unwrap_or_default()) {
        None | Some("Never") => {}
        Some(_) => faults.push(fault("pod.podSpec.restartPolicy", "it is always Never: a pod that ended must not come back")),
    }
    if let Some(seconds) = spec.get("activeDeadlineSeconds")
        && !seconds.as_u64().is_some_and(|seconds| (1..=MAX_SECONDS).contains(&seconds))
    {
        faults.push(fault("pod.podSpec.activeDeadlineSeconds", "it must be a number from 1 to 2147483647"));
    }
    let Some(container) = containers.get(number) else {
        let problem = format!("there are {} containers, counted from 0", containers.len());
        faults.push(fault("pod.consoleContainerNumber", problem));
        return String::new();
    };
    container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn limits(config: LimitsConfig, faults: &mut Vec<Fault>) -> Limits {
    let fields = [("limits.total", config.total), ("limits.session", config.session), ("limits.idle", config.idle)];
    for (field, value) in fields {
        if value.is_some_and(|value| !(1..=MAX_SECONDS).contains(&value.0.as_secs())) {
            faults.push(fault(field, "it must be at least 1s; leave it out for no limit"));
        }
    }
    Limits {
        total_seconds: config.total.and_then(|total| u32::try_from(total.0.as_secs()).ok()),
        session: config.session.map(|session| session.0),
        idle: config.idle.map(|idle| idle.0),
    }
}

/// RFC 1123's label, as Kubernetes wants it.
fn is_dns_label(text: &str) -> bool {
    let inside = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && text.len() <= 63 && inside && !text.starts_with('-') && !text.ends_with('-')
}
