//! What the tests on a Kubernetes cluster share: where it is, a namespace of their own, kubectl to look at it from outside, and the
//! commands that hurt its processes and mend them.
//!
//! `cargo xtask test` starts a cluster and says in the environment where it is; `cargo xtask test-cluster` takes that of `KUBECONFIG`.
//! Nothing here looks at a `KUBECONFIG` that merely happens to be set: without one of the two, a test fails.
#![allow(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    unreachable_pub,
    reason = "test code: a broken assumption is a failed test, and no test uses all of it"
)]

mod hurt;
mod kubectl;
mod namespace;

use std::path::PathBuf;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use hurt::hurt;
pub use kubectl::kubectl;
pub use namespace::Namespace;

/// Held for reading by every test that wants the cluster whole, for writing by those that hurt it.
static WHOLE: RwLock<()> = RwLock::const_new(());

/// The cluster for a test that wants it whole: no test that hurts it runs meanwhile.
pub async fn whole() -> Whole {
    let guard = WHOLE.read().await;
    Whole { cluster: Cluster::find(), _guard: guard }
}

/// The cluster for a test that hurts it: no other test of this program runs meanwhile, and the cluster is mended at the end.
/// Such tests live in a module called `hurting`, by which they are left out where the cluster's processes are not ours.
pub async fn alone() -> Alone {
    let guard = WHOLE.write().await;
    Alone { cluster: Cluster::find(), _guard: guard }
}

/// See [`whole`].
#[derive(Debug)]
pub struct Whole {
    cluster: Cluster,
    _guard: RwLockReadGuard<'static, ()>,
}

/// See [`alone`].
#[derive(Debug)]
pub struct Alone {
    cluster: Cluster,
    _guard: RwLockWriteGuard<'static, ()>,
}

/// Where the cluster is.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The administrator's.
    pub kubeconfig: PathBuf,
    /// The names of the images, all of them on every node or to be had.
    pub images: Images,
}

/// Images that tests run.
#[derive(Clone, Debug)]
pub struct Images {
    /// Busybox with all its applets.
    pub busybox: String,
    /// Busybox, and bash, `/usr/lib/openssh/sftp-server`, rsync and git.
    pub tools: String,
    /// `sleep`, `cat`, `echo`, `env`, `true` and `false` in `/bin`, and no shell.
    pub no_shell: String,
}

impl Cluster {
    fn find() -> Self {
        let said = |name| {
            std::env::var_os(name)
                .unwrap_or_else(|| panic!("{name} is not set: run by `cargo xtask test` or `cargo xtask test-cluster`"))
        };
        // Whoever sets it has decided to run the tests there.
        drop(said("TOEHOLD_TEST_CLUSTER"));
        let image = |variable, ours: &str| std::env::var(variable).unwrap_or_else(|_| ours.to_owned());
        Self {
            kubeconfig: PathBuf::from(said("KUBECONFIG")),
            images: Images {
                busybox: image("TOEHOLD_TEST_IMAGE", "localhost/busybox:1"),
                tools: image("TOEHOLD_TEST_IMAGE_TOOLS", "localhost/tools:1"),
                no_shell: image("TOEHOLD_TEST_IMAGE_NOSHELL", "localhost/noshell:1"),
            },
        }
    }
}

impl std::ops::Deref for Whole {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl std::ops::Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A second panic would end the program with all its other tests.
        if let Err(error) = hurt::tell("mend") {
            eprintln!("the cluster was not mended: {error}");
        }
    }
}
