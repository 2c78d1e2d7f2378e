//! How to reach a cluster, whoever said it: the configuration, a kubeconfig, or the pod that we run in.

use std::fmt;
use std::time::Duration;

use super::{ConnectionConfig, Fault};
use crate::secret_text::SecretText;

/// Where the cluster puts what a pod needs to reach it.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The cluster where nothing else is said.
const DEFAULT_SERVER: &str = "https://kubernetes.default.svc";

/// How long a call may take where nothing else is said.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate or something else that is in a file or at hand.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// The file's path.
    File(String),
    /// The bytes themselves, in PEM.
    Data(Vec<u8>),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path})"),
            Self::Data(bytes) => write!(f, "Data({} bytes)", bytes.len()),
        }
    }
}

/// A program that prints credentials (`exec` in a kubeconfig; the credential plugin protocol).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecPlugin {
    /// The program.
    pub command: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment beside our own.
    pub environment: Vec<(String, String)>,
    /// The version of the protocol that it speaks, such as `client.authentication.k8s.io/v1`.
    pub api_version: String,
}

/// Who we are to the cluster.
#[derive(Debug)]
pub enum Credentials {
    /// Nobody.
    Anonymous,
    /// User name and password.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: SecretText,
    },
    /// A client certificate.
    Certificate {
        /// The certificate.
        certificate: Material,
        /// The file of its key.
        key_file: Option<String>,
        /// Its key in PEM, where it is at hand.
        key: Option<SecretText>,
    },
    /// A program prints them.
    Exec(ExecPlugin),
    /// A bearer token.
    Token(SecretText),
    /// A file with a bearer token that is renewed.
    TokenFile(String),
}

/// How to reach a cluster.
#[derive(Debug)]
pub struct ClusterAccess {
    /// The URL of the API server.
    pub server: String,
    /// The name to check its certificate against, where it is not that of the URL.
    pub server_name: Option<String>,
    /// The certificates to check it against; the system's where none are named.
    pub certificate_authority: Option<Material>,
    /// Whether its certificate is not checked at all.
    pub insecure: bool,
    /// Who we are.
    pub credentials: Credentials,
    /// The proxy to go through.
    pub proxy: Option<String>,
    /// The namespace that goes with it, where one was named.
    pub namespace: Option<String>,
    /// Requests a second; `None` is no limit of our own.
    pub queries_per_second: Option<f32>,
    /// Requests at once above that.
    pub burst: u32,
    /// How long a call may take.
    pub call_timeout: Duration,
}

impl ClusterAccess {
    pub(super) fn new(server: String, credentials: Credentials) -> Self {
        Self {
            server,
            server_name: None,
            certificate_authority: None,
            insecure: false,
            credentials,
            proxy: None,
            namespace: None,
            queries_per_second: None,
            burst: 10,
            call_timeout: CALL_TIMEOUT,
        }
    }

    /// Whether the configuration names a cluster, or a way to log in: not so where it leaves that to a kubeconfig or to the pod that
    /// we run in.
    pub fn is_named(&self) -> bool {
        self.server != DEFAULT_SERVER
            || !matches!(self.credentials, Credentials::Anonymous)
            || self.certificate_authority.is_some()
            || self.insecure
            || self.server_name.is_some()
    }

    /// The same cluster, with the limits on calls of another.
    #[must_use]
    pub fn with_limits_of(self, other: &Self) -> Self {
        let Self { queries_per_second, burst, call_timeout, .. } = *other;
        Self { queries_per_second, burst, call_timeout, ..self }
    }

    pub(super) fn from_config(config: ConnectionConfig, faults: &mut Vec<Fault>) -> Self {
        let mut fault = |field: &str, problem: &str| {
            faults.push(Fault { field: format!("connection.{field}"), problem: problem.to_owned() });
        };
        let server = server_url(&config, &mut fault);
        let certificate_authority = match (non_empty(config.ca_cert), non_empty(config.ca_cert_file)) {
            (Some(_), Some(_)) => {
                fault("cacertFile", "cacert is set as well; which one is meant?");
                None
            }
            (Some(data), None) => Some(Material::Data(data.into_bytes())),
            (None, file) => file.map(Material::File),
        };
        if config.insecure && certificate_authority.is_some() {
            fault("insecure", "a certificate authority is set as well, which would not be used");
        }
        let certificate = match (non_empty(config.cert), non_empty(config.cert_file)) {
            (Some(_), Some(_)) => {
                fault("certFile", "cert is set as well; which one is meant?");
                None
            }
            (Some(data), None) => Some(Material::Data(data.into_bytes())),
            (None, file) => file.map(Material::File),
        };
        let (key, key_file) = (config.key.non_empty(), non_empty(config.key_file));
        if key.is_some() && key_file.is_some() {
            fault("keyFile", "key is set as well; which one is meant?");
        }
        let mut choices = Vec::new();
        match certificate {
            Some(certificate) if key.is_some() || key_file.is_some() => {
                choices.push(Credentials::Certificate { certificate, key_file, key });
            }
            Some(_) => fault("key", "a client certificate is set without its key"),
            None if key.is_some() || key_file.is_some() => fault("cert", "a client key is set without its certificate"),
            None => {}
        }
        match (non_empty(config.username), config.password.non_empty()) {
            (Some(user), Some(password)) => choices.push(Credentials::Basic { user, password }),
            (Some(_), None) => fault("password", "username is set without it"),
            (None, Some(_)) => fault("username", "password is set without it"),
            (None, None) => {}
        }
        choices.extend(config.bearer_token.non_empty().map(Credentials::Token));
        choices.extend(non_empty(config.bearer_token_file).map(Credentials::TokenFile));
        if choices.len() > 1 {
            fault("bearerToken", "more than one way to log in is set (certificate, username, bearerToken, bearerTokenFile)");
        }
        if config.qps.is_some_and(|qps| !qps.is_finite() || qps <= 0.0) {
            fault("qps", "it must be above 0; leave it out for no limit");
        }
        let mut access = Self::new(server, choices.pop().unwrap_or(Credentials::Anonymous));
        access.server_name = non_empty(config.server_name);
        access.certificate_authority = certificate_authority;
        access.insecure = config.insecure;
        access.queries_per_second = config.qps;
        access.burst = config.burst;
        access.call_timeout =
            config.timeout.map(|timeout| timeout.0).filter(|timeout| !timeout.is_zero()).unwrap_or(CALL_TIMEOUT);
        access
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// The URL out of host and path: without a scheme it is https, as `rest.Config` of client-go has it where TLS is configured.
fn server_url(config: &ConnectionConfig, fault: &mut impl FnMut(&str, &str)) -> String {
    let host = config.host.trim();
    let url = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    if let Err(problem) = check_server(&url) {
        fault("host", problem);
    }
    let Some(root) = config.path.strip_suffix("/api").or_else(|| config.path.strip_suffix("/api/")) else {
        fault("path", "it must end in /api");
        return url;
    };
    if !root.is_empty() && !root.starts_with('/') {
        fault("path", "it must begin with /");
    }
    format!("{}{root}", url.trim_end_matches('/'))
}

/// What is wrong with the URL of an API server, if anything is.
pub(super) fn check_server(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.ok_or("it must be a host, host:port, or a URL of http or https")?.split('/').next().unwrap_or_default();
    if authority.is_empty() || authority.contains(|c: char| c.is_whitespace() || c.is_control() || "?#\\\"<>".contains(c)) {
        return Err("there is no host in it");
    }
    if authority.contains('@') {
        return Err("user and password do not belong into the URL");
    }
    Ok(())
}

/// What keeps us from reaching the cluster as a pod of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this does not run inside of a cluster: {0}")]
pub struct InClusterError(&'static str);

/// How to reach the cluster that we run in: `environment` looks up `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`;
/// `namespace` is what [`SERVICE_ACCOUNT`]`/namespace` holds, if it is there. The files themselves are read by who connects.
///
/// # Errors
/// [`InClusterError`] where the cluster has not set those, as outside of one.
pub fn in_cluster(
    environment: impl Fn(&str) -> Option<String>,
    namespace: Option<&str>,
) -> Result<ClusterAccess, InClusterError> {
    let host = environment("KUBERNETES_SERVICE_HOST").filter(|host| !host.is_empty());
    let host = host.ok_or(InClusterError("KUBERNETES_SERVICE_HOST is not set"))?;
    let port = environment("KUBERNETES_SERVICE_PORT").ok_or(InClusterError("KUBERNETES_SERVICE_PORT is not set"))?;
    let port: u16 = port.parse().map_err(|_| InClusterError("KUBERNETES_SERVICE_PORT is not a port"))?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let url = format!("https://{host}:{port}");
    check_server(&url).map_err(InClusterError)?;
    let mut access = ClusterAccess::new(url, Credentials::TokenFile(format!("{SERVICE_ACCOUNT}/token")));
    access.certificate_authority = Some(Material::File(format!("{SERVICE_ACCOUNT}/ca.crt")));
    access.namespace = namespace.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(access)
}
