//! Commands to the process that runs the cluster's processes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take: the cluster's own limit for one component's start is a minute, and mending starts all of them.
const PATIENCE: Duration = Duration::from_secs(330);

/// Gives a command and waits until it is done: `stop`, `continue`, `kill` or `start`, and `etcd`, `kube-apiserver`,
/// `kube-controller-manager`, `kube-scheduler` or `kubelet`. When `stop` is done, every thread stands still; when `kill` is, the
/// process is gone; when `start` is, it is ready, for as long as what it needs is.
///
/// Only under [`alone`](super::alone), which mends everything at the end.
#[track_caller]
pub fn hurt(command: &str) -> Value {
    tell(command).unwrap_or_else(|error| panic!("{command}: {error}"))
}

pub(super) fn tell(command: &str) -> Result<Value, String> {
    let directory = PathBuf::from(std::env::var_os("TOEHOLD_TEST_CLUSTER").ok_or("TOEHOLD_TEST_CLUSTER is not set")?);
    let say = |error: std::io::Error| format!("{}: {error}", directory.join("control").display());
    let mut control = UnixStream::connect(directory.join("control")).map_err(say)?;
    control.set_read_timeout(Some(PATIENCE)).map_err(say)?;
    control.write_all(format!("{command}\n").as_bytes()).map_err(say)?;
    let mut line = String::new();
    BufReader::new(control).read_line(&mut line).map_err(say)?;
    let answer: Value = serde_json::from_str(&line).map_err(|error| format!("the cluster answered {line:?}: {error}"))?;
    match &answer["error"] {
        Value::Null => Ok(answer),
        error => Err(error.to_string()),
    }
}
