//! Kubeconfig files, in YAML or JSON (`k8s.io/client-go/tools/clientcmd/api/v1`).

use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;

use super::cluster::{ClusterAccess, Credentials, ExecPlugin, Material, check_server};
use super::read_yaml;
use crate::secret_text::SecretText;

/// The largest kubeconfig that is read, in bytes.
pub const MAX_KUBECONFIG: usize = 1024 * 1024;

/// Why a kubeconfig does not lead to a cluster. Never quotes the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KubeconfigError {
    /// Longer than [`MAX_KUBECONFIG`]; nothing was read.
    #[error("the kubeconfig has {got} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its size in bytes.
        got: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Neither YAML nor JSON of this form.
    #[error("the kubeconfig cannot be read: {0}")]
    Unreadable(String),
    /// There is no context of that name, or none was named.
    #[error("the kubeconfig has no context \"{0}\"")]
    NoContext(String),
    /// The context names a cluster or user that is not there.
    #[error("the kubeconfig's context names the {kind} \"{name}\", which is not there")]
    Dangling {
        /// `cluster` or `user`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A field that cannot be as it is.
    #[error("the kubeconfig's {field} of \"{name}\": {problem}")]
    Field {
        /// The entry's name.
        name: String,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What a kubeconfig holds. Members that are not known here are passed over, as `kubectl` does.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Kubeconfig {
    current_context: Option<String>,
    clusters: Option<Vec<Named<Cluster>>>,
    contexts: Option<Vec<Named<Context>>>,
    users: Option<Vec<Named<User>>>,
}

/// A list of named entries, each under a member of its own kind.
#[derive(Debug, Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user")]
    entry: Option<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: String,
    insecure_skip_tls_verify: bool,
    certificate_authority: String,
    certificate_authority_data: String,
    proxy_url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: SecretText,
    token: SecretText,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: SecretText,
    exec: Option<Exec>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exec {
    command: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    api_version: String,
}

#[derive(Debug, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

impl Kubeconfig {
    /// Reads a kubeconfig in YAML or JSON.
    ///
    /// # Errors
    /// [`KubeconfigError::TooLarge`], [`KubeconfigError::Unreadable`].
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> {
        if text.len() > MAX_KUBECONFIG {
            return Err(KubeconfigError::TooLarge { got: text.len(), limit: MAX_KUBECONFIG });
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        read_yaml(text).map_err(KubeconfigError::Unreadable)
    }

    /// Puts `later` behind this one, as `KUBECONFIG=this:later` does: of two entries of a name the first counts.
    #[must_use]
    pub fn merge(mut self, later: Self) -> Self {
        fn join<T>(first: Option<Vec<T>>, then: Option<Vec<T>>) -> Vec<T> {
            let mut all = first.unwrap_or_default();
            all.extend(then.into_iter().flatten());
            all
        }
        self.current_context = self.current_context.filter(|name| !name.is_empty()).or(later.current_context);
        self.clusters = Some(join(self.clusters, later.clusters));
        self.contexts = Some(join(self.contexts, later.contexts));
        self.users = Some(join(self.users, later.users));
        self
    }

    /// The same with every path made whole: relative ones are taken from `directory`, the file's own. To be done before several are
    /// merged.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Self {
        let place = |path: &mut String| {
            if !path.is_empty() {
                *path = resolve(std::mem::take(path), directory);
            }
        };
        for cluster in self.clusters.iter_mut().flatten().filter_map(|named| named.entry.as_mut()) {
            place(&mut cluster.certificate_authority);
        }
        for user in self.users.iter_mut().flatten().filter_map(|named| named.entry.as_mut()) {
            place(&mut user.client_certificate);
            place(&mut user.client_key);
            place(&mut user.token_file);
        }
        self
    }

    /// The names of the contexts, in order.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().flatten().map(|context| context.name.as_str())
    }

    /// How to reach the cluster of a context, or of the current one. Relative paths are taken from `directory`, the file's own.
    ///
    /// # Errors
    /// [`KubeconfigError`] where the context or something that it names is missing, or a field cannot be as it is.
    pub fn access(mut self, context: Option<&str>, directory: &Path) -> Result<ClusterAccess, KubeconfigError> {
        let name = context.map(str::to_owned).or_else(|| self.current_context.take()).unwrap_or_default();
        let context = take(&mut self.contexts, &name).ok_or(KubeconfigError::NoContext(name))?;
        let cluster = take(&mut self.clusters, &context.cluster)
            .ok_or_else(|| KubeconfigError::Dangling { kind: "cluster", name: context.cluster.clone() })?;
        let user = if context.user.is_empty() {
            User::default()
        } else {
            take(&mut self.users, &context.user)
                .ok_or_else(|| KubeconfigError::Dangling { kind: "user", name: context.user.clone() })?
        };
        let Context { cluster: cluster_name, user: user_name, namespace } = context;
        let in_cluster = |field, problem| KubeconfigError::Field { name: cluster_name.clone(), field, problem };
        let in_user = |field, problem| KubeconfigError::Field { name: user_name.clone(), field, problem };
        check_server(&cluster.server).map_err(|problem| in_cluster("server", problem))?;
        let credentials = credentials(user, directory).map_err(|(field, problem)| in_user(field, problem))?;
        let server = cluster.server.trim_end_matches('/').to_owned();
        let mut access = ClusterAccess::new(server, credentials);
        access.certificate_authority = material(cluster.certificate_authority, &cluster.certificate_authority_data, directory)
            .map_err(|problem| in_cluster("certificate-authority-data", problem))?;
        access.insecure = cluster.insecure_skip_tls_verify;
        if access.insecure && access.certificate_authority.is_some() {
            return Err(in_cluster(
                "insecure-skip-tls-verify",
                "a certificate authority is set as well, which would not be used",
            ));
        }
        access.server_name = Some(cluster.tls_server_name).filter(|name| !name.is_empty());
        access.proxy = Some(cluster.proxy_url).filter(|url| !url.is_empty());
        access.namespace = namespace.filter(|name| !name.is_empty());
        Ok(access)
    }
}

fn take<T>(entries: &mut Option<Vec<Named<T>>>, name: &str) -> Option<T> {
    entries.iter_mut().flatten().find(|entry| entry.name == name)?.entry.take()
}

/// In the order of `clientcmd`: data before a file, a token before its file, exec before none.
fn credentials(user: User, directory: &Path) -> Result<Credentials, (&'static str, &'static str)> {
    if user.auth_provider.is_some() {
        return Err(("auth-provider", "these were removed from Kubernetes; use exec"));
    }
    if let Some(exec) = user.exec {
        if exec.command.is_empty() {
            return Err(("exec", "it names no command"));
        }
        return Ok(Credentials::Exec(ExecPlugin {
            command: exec.command,
            arguments: exec.args.unwrap_or_default(),
            environment: exec.env.into_iter().flatten().map(|variable| (variable.name, variable.value)).collect(),
            api_version: exec.api_version,
        }));
    }
    let certificate = material(user.client_certificate, &user.client_certificate_data, directory)
        .map_err(|problem| ("client-certificate-data", problem))?;
    if let Some(certificate) = certificate {
        let key = decoded(user.client_key_data.expose()).map_err(|problem| ("client-key-data", problem))?;
        let key = key.map(|bytes| String::from_utf8(bytes).map(SecretText::new)).transpose();
        let key = key.map_err(|_| ("client-key-data", "it is not PEM"))?;
        let key_file = (key.is_none() && !user.client_key.is_empty()).then(|| resolve(user.client_key, directory));
        if key.is_none() && key_file.is_none() {
            return Err(("client-key", "there is a certificate without its key"));
        }
        return Ok(Credentials::Certificate { certificate, key_file, key });
    }
    if let Some(token) = user.token.non_empty() {
        return Ok(Credentials::Token(token));
    }
    if !user.token_file.is_empty() {
        return Ok(Credentials::TokenFile(resolve(user.token_file, directory)));
    }
    if !user.username.is_empty() {
        return Ok(Credentials::Basic { user: user.username, password: user.password });
    }
    Ok(Credentials::Anonymous)
}

fn material(file: String, data: &str, directory: &Path) -> Result<Option<Material>, &'static str> {
    if let Some(bytes) = decoded(data)? {
        return Ok(Some(Material::Data(bytes)));
    }
    Ok((!file.is_empty()).then(|| Material::File(resolve(file, directory))))
}

fn decoded(data: &str) -> Result<Option<Vec<u8>>, &'static str> {
    if data.is_empty() {
        return Ok(None);
    }
    let joined: String = data.split_ascii_whitespace().collect();
    Base64::decode_vec(&joined).map(Some).map_err(|_| "it is not base64")
}

fn resolve(path: String, directory: &Path) -> String {
    if Path::new(&path).is_absolute() { path } else { directory.join(path).to_string_lossy().into_owned() }
}
