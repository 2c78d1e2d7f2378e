//! A cluster for people: it goes on when the command that started it is over.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::cluster::{Ready, ready};
use super::{CLUSTER, KUBECONFIG, KUBECTL, binary, directory, up_script};
use crate::{Result, prerequisites};

/// What every cluster holds while it is up; `xtask/kubernetes/up.sh` takes it.
const LOCK: &str = "/run/toehold-kubernetes.lock";
/// How long a cluster may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

fn place() -> Result<PathBuf> {
    Ok(directory()?.join("cluster"))
}

pub(super) fn up() -> Result<()> {
    prerequisites::ensure_kubernetes()?;
    let program = binary::ensure()?;
    let place = place()?;
    if UnixStream::connect(place.join("control")).is_ok() {
        println!("it is up already");
        say(&place.join("kubeconfig"), &place, &program);
        return Ok(());
    }
    if is_locked(Path::new(LOCK), Duration::ZERO)? {
        return Err("another cluster is up on this machine, such as that of a running `cargo xtask test`".into());
    }
    fs::create_dir_all(&place)?;
    let log_file = place.with_extension("log");
    // Without standard input, and in a process group of its own, so that neither the end of this command nor Ctrl-C ends it.
    let mut script = up_script(&program, &place);
    script.arg("--detached").process_group(0);
    let log = fs::File::create(&log_file)?;
    let mut child = script.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().ok_or("a child without a standard output")?);
    let Ready { kubeconfig } = ready(&mut stdout).map_err(|error| {
        let said = fs::read_to_string(&log_file).unwrap_or_default();
        format!("{error}; its logs are in {}\n{}", place.display(), said.trim_end())
    })?;
    say(&kubeconfig, &place, &program);
    Ok(())
}

fn say(kubeconfig: &Path, place: &Path, program: &Path) {
    println!("Kubernetes is up; `cargo xtask kubernetes down` ends it. For programs, and for `cargo xtask test-cluster`:");
    println!("    export {KUBECONFIG}={} {CLUSTER}={}", kubeconfig.display(), place.display());
    println!("    export {KUBECTL}={}", program.with_file_name("kubectl").display());
}

pub(super) fn down() -> Result<()> {
    let place = place()?;
    let Ok(mut control) = UnixStream::connect(place.join("control")) else {
        println!("no cluster of `cargo xtask kubernetes up` is up");
        return Ok(());
    };
    // Whoever answers here is a cluster of ours, whatever its number: its end is that of the connection.
    control.set_read_timeout(Some(PATIENCE))?;
    control.write_all(b"end\n")?;
    let _ = control.read_to_end(&mut Vec::new());
    // Its containers go a moment later; what it holds in its directory goes with the last of them.
    if is_locked(&place.join("lock"), PATIENCE)? {
        return Err(format!("it has not ended after {} s", PATIENCE.as_secs()).into());
    }
    println!("Kubernetes is down");
    Ok(())
}

pub(super) fn kubectl(arguments: &[String]) -> Result<()> {
    let place = place()?;
    if UnixStream::connect(place.join("control")).is_err() {
        return Err("no cluster is up: cargo xtask kubernetes up".into());
    }
    let mut kubectl = Command::new(binary::ensure()?.with_file_name("kubectl"));
    // Whatever the user's own kubeconfig is: this is for the cluster of `up` alone.
    Err(kubectl.args(arguments).env(KUBECONFIG, place.join("kubeconfig")).exec().into())
}

/// Whether somebody holds a lock, and still does after so long.
fn is_locked(lock: &Path, patience: Duration) -> Result<bool> {
    let mut flock = Command::new("flock");
    flock.args(["--timeout", &patience.as_secs().to_string(), "--conflict-exit-code", "75"]);
    let status = flock.arg(lock).arg("true").status()?;
    match status.code() {
        Some(0) => Ok(false),
        Some(75) => Ok(true),
        _ => Err(format!("{} cannot be locked: flock ended with {status}; are you root?", lock.display()).into()),
    }
}
