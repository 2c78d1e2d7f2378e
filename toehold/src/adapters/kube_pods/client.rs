//! The HTTP client of a cluster: TLS, who we are, one TCP connection a request at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use http::Uri;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{AuthInfo, ExecConfig};
use kube::{Client, Config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use toehold_podrun::config::{ClusterAccess, Credentials, Material};
use tower::{BoxError, ServiceExt as _};

/// How long a connection may be idle in the kernel's eyes until it asks whether the other end is there, and how often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long what was sent may stay unacknowledged on a connection for calls and watches. Not on one that leads into a process: Linux counts
/// the time in which a process takes nothing as well (`tcp_probe_timer`).
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How long an idle connection is kept for the next request; it is looked for as often.
const IDLE: Duration = Duration::from_secs(20);

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A certificate or a key cannot be read.
    #[error("{what} in {} cannot be used", path.display())]
    File {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The client cannot be made: a key that does not fit, a program for credentials that fails.
    #[error("the client of the cluster cannot be made")]
    Client(#[source] Box<kube::Error>),
    /// It is no PEM, or there is no certificate in it.
    #[error("there is no certificate in the certificate authority of the cluster")]
    NoCertificate,
    /// A kubeconfig names a proxy, which this program does not use.
    #[error("the cluster is to be reached through a proxy, which is not supported")]
    Proxy,
    /// What makes credentials has not ended, or has panicked.
    #[error("the program that makes the credentials for the cluster does not end")]
    Stuck,
    /// It is no URL.
    #[error("the cluster's URL cannot be used")]
    Url(#[source] http::uri::InvalidUri),
}

/// The ways to a cluster.
#[derive(Clone)]
pub(super) struct Clients {
    /// For calls and watches.
    pub(super) calls: Client,
    /// For what becomes a stream into a process.
    pub(super) streams: Client,
}

/// Makes the clients. Nothing is sent yet, but a program for credentials is run.
///
/// # Errors
/// [`ConnectError`].
pub(super) async fn connect(access: &ClusterAccess) -> Result<Clients, ConnectError> {
    let config = config(access)?;
    // Credentials may come from a program that takes its time.
    let making = tokio::task::spawn_blocking(move || clients(&config));
    let made = tokio::time::timeout(access.call_timeout, making).await;
    made.map_err(|_| ConnectError::Stuck)?
        .map_err(|_| ConnectError::Stuck)?
        .map_err(|error| ConnectError::Client(Box::new(error)))
}

/// What tells a cluster from others: its URL alone does not, since from within each of them it is the same. Certificates that are no
/// public authority's are a cluster's own.
///
/// # Errors
/// Where the certificates cannot be read.
pub(super) fn cluster(access: &ClusterAccess) -> Result<String, ConnectError> {
    let Some(authority) = &access.certificate_authority else { return Ok(access.server.clone()) };
    let mut digest = Sha256::new();
    for certificate in certificates(authority)? {
        digest.update(certificate);
    }
    let digest: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} {digest}", access.server))
}

fn config(access: &ClusterAccess) -> Result<Config, ConnectError> {
    if access.proxy.is_some() {
        return Err(ConnectError::Proxy);
    }
    let uri: Uri = access.server.parse().map_err(ConnectError::Url)?;
    let mut config = Config::new(uri);
    config.tls_server_name.clone_from(&access.server_name);
    config.accept_invalid_certs = access.insecure;
    if let Some(authority) = &access.certificate_authority {
        config.root_cert = Some(certificates(authority)?);
        // Read again as it is renewed.
        config.root_cert_file = match authority {
            Material::File(path) => Some(path.into()),
            Material::Data(_) => None,
        };
    }
    config.auth_info = who(&access.credentials)?;
    Ok(config)
}

fn certificates(authority: &Material) -> Result<Vec<Vec<u8>>, ConnectError> {
    let pem = match authority {
        Material::Data(bytes) => bytes.clone(),
        Material::File(path) => read("the certificate authority", Path::new(path))?,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).map(|one| one.map(|der| der.to_vec())).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(ConnectError::NoCertificate)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::File { what, path: path.to_owned(), source })
}

fn who(credentials: &Credentials) -> Result<AuthInfo, ConnectError> {
    let mut who = AuthInfo::default();
    match credentials {
        Credentials::Anonymous => {}
        Credentials::Basic { user, password } => {
            who.username = Some(user.clone());
            who.password = Some(password.expose().to_owned().into());
        }
        Credentials::Certificate { certificate, key_file, key } => {
            match certificate {
                Material::Data(bytes) => who.client_certificate_data = Some(Base64::encode_string(bytes)),
                Material::File(path) => {
                    read("the client certificate", Path::new(path))?;
                    who.client_certificate = Some(path.clone());
                }
            }
            who.client_key_data = key.as_ref().map(|key| Base64::encode_string(key.expose().as_bytes()).into());
            if let Some(path) = key_file {
                read("the client key", Path::new(path))?;
            }
            who.client_key.clone_from(key_file);
        }
        Credentials::Exec(plugin) => {
            let environment = plugin.environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
            let exec = json!({
                "apiVersion": plugin.api_version,
                "command": plugin.command,
                "args": plugin.arguments,
                "env": environment.collect::<Vec<_>>(),
                // A gateway has nobody to ask.
                "interactiveMode": "Never",
            });
            who.exec = serde_json::from_value::<ExecConfig>(exec).ok();
        }
        Credentials::Token(token) => who.token = Some(token.expose().to_owned().into()),
        Credentials::TokenFile(path) => who.token_file = Some(path.clone()),
    }
    Ok(who)
}

/// Without what kube puts around it otherwise: it tries again by itself what podrun wants to know of, and it lets small frames wait for
/// each other (Nagle's algorithm). Both know the same credentials, which are made and renewed once.
fn clients(config: &Config) -> Result<Clients, kube::Error> {
    let who = config.auth_layer()?;
    let base = config.base_uri_layer();
    let client = |unacknowledged: Option<Duration>| {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE / 3));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_tcp_user_timeout(unacknowledged);
        let connector = config.rustls_https_connector_with_connector(tcp)?;
        let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            // Without it nothing ends an idle connection but the next request: a burst of logins would leave all of them behind.
            .pool_timer(TokioTimer::new())
            .build(connector);
        let http = http.map_err(BoxError::from);
        Ok::<_, kube::Error>(match &who {
            Some(who) => ClientBuilder::new(http, "default").with_layer(who).with_layer(&base).build(),
            None => ClientBuilder::new(http, "default").with_layer(&base).build(),
        })
    };
    Ok(Clients { calls: client(Some(UNACKNOWLEDGED))?, streams: client(None)? })
}

#[cfg(test)]
mod tests {
    use toehold_podrun::config::{Config, Kubeconfig, in_cluster};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A service account's token is over after an hour, and what stands in its file long before. kube reads a file again once a minute, for
    /// as long as it lives, and a text never.
    #[test]
    fn a_token_and_an_authority_in_files_are_read_again_as_they_are_renewed() {
        let directory = tempfile::tempdir().unwrap();
        let authority = rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap().cert.pem();
        std::fs::write(directory.path().join("token"), "the first").unwrap();
        std::fs::write(directory.path().join("ca.crt"), authority).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let configuration = json!({ "connection": {
            "host": "https://10.96.0.1", "bearerTokenFile": path("token"), "cacertFile": path("ca.crt"),
        } });
        let configured = Config::parse(&configuration.to_string()).unwrap().validate().unwrap().cluster;
        // By paths as they stand in a kubeconfig that lies beside them.
        let kubeconfig = json!({
            "clusters": [{ "name": "c", "cluster": { "server": "https://10.96.0.1", "certificate-authority": "ca.crt" } }],
            "users": [{ "name": "u", "user": { "tokenFile": "token" } }],
            "contexts": [{ "name": "it", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "it",
        });
        let beside = Kubeconfig::parse(&kubeconfig.to_string()).unwrap().access(None, directory.path()).unwrap();
        for access in [configured, beside] {
            let config = config(&access).unwrap();
            assert_eq!((config.auth_info.token_file, config.auth_info.token.is_none()), (Some(path("token")), true));
            assert_eq!(config.root_cert_file, Some(directory.path().join("ca.crt")));
        }
        // As a pod of the cluster has it, where the files are not to be had here.
        let in_cluster = in_cluster(|_| Some("443".to_owned()), None).unwrap();
        let who = who(&in_cluster.credentials).unwrap();
        assert_eq!(who.token_file.as_deref(), Some("/var/run/secrets/kubernetes.io/serviceaccount/token"));
        assert!(who.token.is_none());
    }

    /// From within a cluster all of them have one URL.
    #[test]
    fn p3_two_clusters_with_one_url_have_two_names() {
        let named = |authority: Option<&str>| {
            let config = serde_json::json!({ "connection": { "host": "10.96.0.1", "cacert": authority } });
            let text = if authority.is_some() { config.to_string() } else { "connection: { host: 10.96.0.1 }".to_owned() };
            cluster(&Config::parse(&text).unwrap().validate().unwrap().cluster).unwrap()
        };
        let authority = || rcgen::generate_simple_self_signed(vec!["kubernetes".to_owned()]).unwrap().cert.pem();
        let (one, other) = (authority(), authority());
        assert_eq!(named(Some(&one)), named(Some(&one)));
        assert_ne!(named(Some(&one)), named(Some(&other)));
        assert!(named(Some(&one)).starts_with(&named(None)));
    }

    /// Each login asks for several things at once: what that opened is not held for ever.
    #[tokio::test]
    async fn connections_that_nobody_needs_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!("connection: {{ host: \"http://{}\" }}", listener.local_addr().unwrap());
        let access = Config::parse(&text).unwrap().validate().unwrap().cluster;
        let clients = clients(&config(&access).unwrap()).unwrap();
        let server = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            stream
        };
        let request = http::Request::get("/version").body(Vec::new()).unwrap();
        let (answer, mut stream) = tokio::join!(clients.calls.request_text(request), server);
        assert_eq!(answer.unwrap(), "{}");
        tokio::time::pause();
        tokio::time::advance(IDLE + Duration::from_secs(1)).await;
        tokio::time::advance(IDLE + Duration::from_secs(1)).await;
        tokio::time::resume();
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("it is still open");
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
