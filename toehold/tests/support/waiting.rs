//! Waiting for what another process does, and a `host add` that shows its line and waits for somebody to paste it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cli::{Done, Toehold};
use super::inside::Inside;

/// Waits until something is so that no event tells of: another process brings it about.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in two minutes");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Waiting {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    /// The session's id.
    pub session: String,
    /// The line to paste.
    pub command: String,
}

impl Waiting {
    /// Starts `host add` of this host, and waits until it has shown the line.
    pub fn start(toehold: &Toehold, host: &Inside, more: &[&str]) -> Self {
        let (account, file) = (host.account(), host.host_key_file());
        let mut arguments =
            vec!["--json", "host", "add", &account, "--home", host.home(), "--host-key-file", file.to_str().unwrap()];
        arguments.extend(more);
        let mut child = toehold.spawn(arguments);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let text = |document: &Value, name: &str| document[name].as_str().unwrap().to_owned();
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let ended = child.wait_with_output().unwrap();
                panic!("ended without a line: {}", String::from_utf8_lossy(&ended.stderr));
            }
            let document: Value = serde_json::from_str(&line).unwrap();
            if document["event"] == "command" {
                let (session, command) = (text(&document, "session"), text(&document, "command"));
                return Self { child: Some(child), stdout, session, command };
            }
        }
    }

    /// Runs the line, as somebody does who pastes it on the host.
    pub fn paste(&self) -> Output {
        Command::new("sh").args(["-c", &self.command]).output().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Waits for its end. On standard output is what it printed after the line.
    pub fn ends(mut self) -> Done {
        let mut stdout = String::new();
        self.stdout.read_to_string(&mut stdout).unwrap();
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        Done { code: output.status.code().unwrap_or(-1), stdout, stderr: String::from_utf8(output.stderr).unwrap() }
    }

    /// SIGKILL, as by a crash.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
