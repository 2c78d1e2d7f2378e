//! A cluster that lives as long as the tests that use it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{directory, up_script};
use crate::Result;
use crate::report::seconds;

/// Ends by itself in less; what does not is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster says of itself once it is ready.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub(super) kubeconfig: PathBuf,
}

/// A running cluster, which ends with this value; and with this process, whose end closes its standard input.
#[derive(Debug)]
pub(crate) struct Cluster {
    child: Child,
    // What it says later belongs to commands that nobody gives there; but it must be able to say it.
    _stdout: BufReader<ChildStdout>,
    kubeconfig: PathBuf,
    directory: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// Starts one and waits until its node is ready.
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let start = Instant::now();
        let directory = directory()?.join("cluster-of-tests");
        let mut child = up_script(program, &directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("a child without a standard output")?);
        match ready(&mut stdout) {
            Ok(Ready { kubeconfig }) => {
                println!("Kubernetes is up after {}, in {}", seconds(start.elapsed()), directory.display());
                Ok(Self { child, _stdout: stdout, kubeconfig, directory, kubectl: program.with_file_name("kubectl") })
            }
            Err(error) => {
                let status = end(&mut child)?;
                Err(format!("{error} ({status}); its logs are in {}", directory.display()).into())
            }
        }
    }

    /// What a test program needs to know.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        super::environment(&self.kubeconfig, &self.directory, &self.kubectl)
    }

    /// Ends it; an error where it had ended before.
    pub(crate) fn end(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(format!("the cluster ended by itself, {status}; its logs are in {}", self.directory.display()).into());
        }
        end(&mut self.child)?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = end(&mut self.child);
    }
}

/// Reads what a cluster says when it is ready.
pub(super) fn ready(stdout: &mut BufReader<ChildStdout>) -> Result<Ready> {
    let mut line = String::new();
    if stdout.read_line(&mut line)? == 0 {
        return Err("Kubernetes did not come up".into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Ends it by the end of its standard input, and by SIGKILL where that is not enough; everything that it has started goes too.
fn end(child: &mut Child) -> Result<ExitStatus> {
    drop(child.stdin.take());
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    Ok(child.wait()?)
}
