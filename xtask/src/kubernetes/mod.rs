//! `cargo xtask kubernetes`: the real Kubernetes of `xtask/kubernetes`, for the tests and for people.

mod background;
mod binary;
mod cluster;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

pub(crate) use binary::{Building, GO, built_kubectl, is_built};
pub(crate) use cluster::Cluster;

/// Where a test finds the cluster: the environment variable that every client of Kubernetes reads.
pub(crate) const KUBECONFIG: &str = "KUBECONFIG";
/// Where a test finds the cluster's processes: a directory with the socket that takes commands to stop, kill and start them; or [`FOREIGN`].
pub(crate) const CLUSTER: &str = "TOEHOLD_TEST_CLUSTER";
/// What stands there on a cluster whose processes are not ours.
pub(crate) const FOREIGN: &str = "foreign";
/// The program to look at the cluster with.
pub(crate) const KUBECTL: &str = "TOEHOLD_TEST_KUBECTL";

/// The command line of the task.
#[derive(Debug)]
pub(crate) enum Options {
    Up,
    Down,
    Kubectl(Vec<String>),
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        match arguments.split_first() {
            Some((up, [])) if up == "up" => Ok(Self::Up),
            Some((down, [])) if down == "down" => Ok(Self::Down),
            Some((kubectl, rest)) if kubectl == "kubectl" => Ok(Self::Kubectl(rest.to_vec())),
            _ => Err("kubernetes takes up, down, or kubectl with its arguments".into()),
        }
    }
}

/// Does one of the three.
pub(crate) fn run(options: &Options) -> Result<()> {
    match options {
        Options::Up => background::up(),
        Options::Down => background::down(),
        Options::Kubectl(arguments) => background::kubectl(arguments),
    }
}

/// What a test program needs to know of a cluster.
pub(crate) fn environment(kubeconfig: &Path, cluster: &Path, kubectl: &Path) -> Vec<(&'static str, OsString)> {
    vec![(KUBECONFIG, kubeconfig.into()), (CLUSTER, cluster.into()), (KUBECTL, kubectl.into())]
}

/// The directory that keeps the built programs and what clusters write.
fn directory() -> Result<PathBuf> {
    Ok(crate::target::own_cache()?.join("toehold/kubernetes"))
}

/// The script that starts a cluster of this program in this directory, in namespaces of its own.
fn up_script(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(crate::workspace::root().join("xtask/kubernetes/up.sh"));
    command.arg(program).arg(directory);
    command
}
