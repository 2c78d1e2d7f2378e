//! The first process of a pod, and what becomes the processes in it: stages of our own program, told by the name that they are
//! started under.
//!
//! The first process is the subreaper of all that is started in its pod: whatever leaves its session or loses its parents comes back
//! to it. It ends with its connection to the gateway, by whatever that ends, and takes all of them along (P5).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::process::{WaitOptions, WaitStatus, getpid, ioctl_tiocsctty, set_child_subreaper, setsid, wait};

use super::processes;
use super::wire::{self, Answer, Order};

/// What the first process is started as.
pub(super) const FIRST: &str = "toehold-pod";
/// What becomes a process in a pod.
const BECOMES: &str = "toehold-pod-starts";
/// What serves SFTP in a pod; the last part of its path.
pub(super) const FILES: &str = "toehold-sftp-server";
/// Our own program, whatever its file is called by now.
pub(super) const OURSELVES: &str = "/proc/self/exe";

/// Runs the stage that this process was started as; `None`: it is not one.
pub fn stage(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let name = arguments.next()?;
    let name = name.to_str()?;
    match name.rsplit('/').next()? {
        FIRST => Some(match keep() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }),
        BECOMES => Some(become_process(arguments)),
        FILES => Some(super::files::serve_standard_streams()),
        _ => None,
    }
}

/// Leads a session of its own, on the terminal where there is one, and becomes the program.
fn become_process(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = arguments.next() else { return ExitCode::from(127) };
    // Refused only where it leads one already.
    let _ = setsid();
    if io::stdin().is_terminal() {
        // It works without a controlling terminal too, if less well.
        let _ = ioctl_tiocsctty(io::stdin());
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
}

/// The processes that were started, by their numbers.
#[derive(Default)]
struct Running {
    processes: HashMap<i32, u64>,
}

#[derive(Default)]
struct Shared {
    running: Mutex<Running>,
    started: Condvar,
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep() -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let socket = Arc::new(wire::standard_input()?);
    let shared = Arc::new(Shared::default());
    std::thread::Builder::new().stack_size(64 * 1024).spawn({
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        move || see_ends(&socket, &shared)
    })?;
    wire::send(socket.as_fd(), &Answer::Ready, &[])?;
    // What cannot be read ends the pod as well: nobody would know what was meant.
    while let Ok(Some((order, descriptors))) = wire::receive(socket.as_fd()) {
        let number = order.number;
        if let Err(error) = start(&shared, order, descriptors)
            && wire::send(socket.as_fd(), &Answer::Failed { number, reason: error.to_string() }, &[]).is_err()
        {
            break;
        }
    }
    processes::end_all_below_us();
    Ok(())
}

fn start(shared: &Shared, order: Order, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let mut descriptors = descriptors.into_iter();
    let input = descriptors.next().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, errors) = match (descriptors.next(), descriptors.next()) {
        (Some(output), Some(errors)) => (output, errors),
        // A terminal is all three.
        _ => (input.try_clone()?, input.try_clone()?),
    };
    let mut command = Command::new(OURSELVES);
    command
        .arg0(BECOMES)
        .args(order.arguments)
        .env_clear()
        .envs(order.environment)
        .current_dir(order.directory)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors));
    // Held until its number is noted: its end is not seen before.
    let mut running = shared.running();
    let child = command.spawn()?;
    running.processes.insert(i32::try_from(child.id()).unwrap_or_default(), order.number);
    drop(running);
    shared.started.notify_one();
    Ok(())
}

/// Sees every process end that has come to us, and says so of those that were ordered.
fn see_ends(socket: &OwnedFd, shared: &Shared) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let number = shared.running().processes.remove(&pid.as_raw_nonzero().get());
                if let (Some(number), Some(code)) = (number, code(status)) {
                    // The gateway may be gone; the other thread sees that.
                    let _ = wire::send(socket.as_fd(), &Answer::Ended { number, code }, &[]);
                }
            }
            Err(rustix::io::Errno::CHILD) => {
                let running = shared.running();
                if running.processes.is_empty() {
                    drop(shared.started.wait(running));
                }
            }
            Ok(None) | Err(_) => {}
        }
    }
}

fn code(status: WaitStatus) -> Option<u8> {
    let number = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))?;
    Some(u8::try_from(number).unwrap_or(255))
}
