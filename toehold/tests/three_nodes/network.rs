//! Two networks of their own, with two cables between them: one for what the servers of the store say to each other, which can be
//! pulled, and one for all else.
//!
//! They have no names: the kernel removes each with its last process and the last file of the test that stands for it, so that
//! nothing is left of a test that was killed either.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, gettid, move_into_link_name_space};

/// The cable of the store's servers, and the addresses at its ends.
const STORE: [&str; 2] = ["10.77.1.1", "10.77.1.2"];
/// The cable of all else.
const ELSE: [&str; 2] = ["10.77.2.1", "10.77.2.2"];

/// A network of its own, or this machine's.
#[derive(Clone, Debug)]
pub struct Network {
    file: Option<Arc<File>>,
    /// Where the store's servers reach each other.
    pub store: &'static str,
    /// Where hosts and gateways are reached.
    pub here: &'static str,
}

impl Network {
    /// This machine's own.
    pub fn machine() -> Self {
        Self { file: None, store: "127.0.0.1", here: "127.0.0.1" }
    }

    fn new(side: usize) -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-ec", "ip link set lo up; echo up; read -r end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "up\n", "a network namespace can be made: the tests run as root, with Debian's iproute2");
        let file = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        // It has done its part: the file keeps the network.
        drop(child.stdin.take());
        child.wait().unwrap();
        Self { file: Some(Arc::new(file)), store: STORE[side], here: ELSE[side] }
    }

    /// Does this in there: connections that are made, and processes that are started.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            if let Some(file) = &self.file {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            }
            work()
        };
        let done = std::thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub fn is_machine(&self) -> bool {
        self.file.is_none()
    }

    /// What a command begins with that is to run in there.
    pub fn command(&self) -> Vec<String> {
        let path = |file: &Arc<File>| format!("--net=/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        self.file.iter().flat_map(|file| ["nsenter".to_owned(), path(file)]).collect()
    }

    fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let output = self.enter(|| Command::new("ip").args(&arguments).output().expect("ip runs"));
        assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Both of them.
#[derive(Debug)]
pub struct Halves {
    pub left: Network,
    pub right: Network,
}

impl Halves {
    pub fn new() -> Self {
        let (left, right) = (Network::new(0), Network::new(1));
        // A thread stands for the network that it is in.
        right.enter(|| {
            let there = gettid().as_raw_nonzero();
            for cable in ["store", "else"] {
                left.ip(&format!("link add name {cable} type veth peer name {cable} netns {there}"));
            }
        });
        for network in [&left, &right] {
            for (cable, address) in [("store", network.store), ("else", network.here)] {
                network.ip(&format!("address add {address}/24 dev {cable}"));
                network.ip(&format!("link set {cable} up"));
            }
        }
        Self { left, right }
    }

    /// Pulls the cable between the servers.
    pub fn cut(&self) {
        self.left.ip("link set store down");
    }

    /// Plugs it in again.
    pub fn mend(&self) {
        self.left.ip("link set store up");
    }
}
