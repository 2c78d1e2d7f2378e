//! Which cluster is meant: what the configuration says, a kubeconfig, or the one that we run in.

use std::io;
use std::path::{Path, PathBuf};

use toehold_podrun::config::{
    ClusterAccess, InClusterError, Kubeconfig, KubeconfigError, MAX_KUBECONFIG, SERVICE_ACCOUNT, in_cluster,
};

/// Why no cluster was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// Two places say which.
    #[error("the configuration's connection names a cluster, and so does the kubeconfig; which one is meant?")]
    Two,
    /// No place says which.
    #[error("there is no cluster: the configuration names none, there is no kubeconfig, and {0}")]
    None(#[source] InClusterError),
    /// A kubeconfig cannot be read.
    #[error("reading the kubeconfig {} failed", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kubeconfig does not lead to a cluster.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
}

/// Finds the cluster. `configured` is what the configuration says, `kubeconfig` and `context` what the command line names. Otherwise
/// it is the files in `KUBECONFIG`, then `~/.kube/config`, then the cluster that we run in.
///
/// # Errors
/// [`DiscoverError`].
pub fn discover(
    configured: ClusterAccess,
    kubeconfig: Option<&Path>,
    context: Option<&str>,
) -> Result<ClusterAccess, DiscoverError> {
    if configured.is_named() {
        return if kubeconfig.is_some() || context.is_some() { Err(DiscoverError::Two) } else { Ok(configured) };
    }
    let found = match kubeconfig {
        Some(path) => Some(read(path)?),
        None => usual()?,
    };
    let access = match found {
        Some(found) => found.access(context, Path::new("/"))?,
        None => {
            let namespace = std::fs::read_to_string(format!("{SERVICE_ACCOUNT}/namespace")).ok();
            in_cluster(|name| std::env::var(name).ok(), namespace.as_deref()).map_err(DiscoverError::None)?
        }
    };
    Ok(access.with_limits_of(&configured))
}

/// What `kubectl` would read; a file of `KUBECONFIG` that is not there is passed over, as it does.
fn usual() -> Result<Option<Kubeconfig>, DiscoverError> {
    let named = std::env::var_os("KUBECONFIG").filter(|named| !named.is_empty());
    let paths: Vec<PathBuf> = match &named {
        Some(named) => std::env::split_paths(named).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => etcetera::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    };
    let mut found: Option<Kubeconfig> = None;
    for path in paths {
        match read(&path) {
            Ok(next) => found = Some(found.unwrap_or_default().merge(next)),
            Err(DiscoverError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Kubeconfig, DiscoverError> {
    let failed = |source| DiscoverError::Read { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    let size = std::fs::metadata(&path).map_err(failed)?.len();
    if size > MAX_KUBECONFIG as u64 {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    Ok(Kubeconfig::parse(&text)?.in_directory(path.parent().unwrap_or(Path::new("/"))))
}
