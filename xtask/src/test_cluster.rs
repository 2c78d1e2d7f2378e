//! The tests on a cluster: on our own as a step of `cargo xtask test`, on any one as `cargo xtask test-cluster`.

use std::path::PathBuf;

use crate::kubernetes::{self, Building, CLUSTER, Cluster, FOREIGN, KUBECONFIG, KUBECTL};
use crate::prerequisites::{self, Part};
use crate::report::Report;
use crate::workspace::Metadata;
use crate::{Result, home_guard, process, test_targets};

/// The modules, in every test program on a cluster, that need one of our own, and what for.
const ON_OUR_OWN: [(&str, &str); 2] =
    [("audited::", "read the API server's audit log"), ("hurting::", "stop and kill the cluster's processes")];

/// Runs them on a cluster of our own, which is up for as long as that takes.
pub(crate) fn on_our_own(building: Building, metadata: &Metadata, without: &[Part]) -> Result<()> {
    let programs = test_targets::on_a_cluster(metadata, without)?;
    let cluster = Cluster::start(&building.finish()?)?;
    let arguments = test_targets::skips(without);
    let tests = test_targets::run_on_a_cluster(&programs, metadata, &arguments, &cluster.environment());
    let ended = cluster.end();
    tests.and(ended)
}

/// `cargo xtask test-cluster`: on the cluster of `KUBECONFIG`.
pub(crate) fn run() -> Result<()> {
    let kubeconfig = std::env::var_os(KUBECONFIG)
        .ok_or("KUBECONFIG is not set: `cargo xtask kubernetes up` starts a cluster and says what to set")?;
    prerequisites::ensure_openssh()?;
    prerequisites::ensure_nats()?;
    let metadata = Metadata::load()?;
    let mut report = Report::new(Vec::new());
    let mut arguments = Vec::new();
    let cluster = std::env::var_os(CLUSTER).filter(|cluster| cluster != FOREIGN);
    if cluster.is_none() {
        for (module, what) in ON_OUR_OWN {
            report.leave_out(format!("tests in the modules {module}, which {what}: {CLUSTER} is not set"));
            arguments.extend(["--skip".to_owned(), module.to_owned()]);
        }
    }
    let cluster = cluster.unwrap_or_else(|| FOREIGN.into());
    let environment = kubernetes::environment(&PathBuf::from(kubeconfig), &PathBuf::from(cluster), &kubectl()?);
    report.step("kubernetes", |_| {
        let programs = test_targets::on_a_cluster(&metadata, &[])?;
        home_guard::untouched(|| test_targets::run_on_a_cluster(&programs, &metadata, &arguments, &environment))
    });
    report.finish()
}

/// The program that was named, the one on `PATH`, or our own where it is built.
fn kubectl() -> Result<PathBuf> {
    let named = std::env::var_os(KUBECTL).map(PathBuf::from).or_else(|| process::find("kubectl"));
    named.or_else(kubernetes::built_kubectl).ok_or_else(|| format!("kubectl is missing; {KUBECTL} can name it").into())
}
