//! A gateway of pods as a process of its own, and the OpenSSH client against it. Which pods those are, the program says that this is
//! a part of: its `ground` is what they stand on.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::support::keys::ssh_keygen;
use crate::support::server::write_private;
use crate::support::{Done, Toehold, eventually};

/// `pods serve`; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Pods {
    pub(crate) toehold: Toehold,
    pub(crate) ground: Ground,
    /// The options that say which pods are meant.
    which: Vec<String>,
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    pub(crate) announced: Value,
}

impl Pods {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With further options.
    pub(crate) fn with(more: &[&str]) -> Self {
        Self::configured(&json!({}), more)
    }

    /// With a configuration, which is laid over that of the ground.
    pub(crate) fn configured(config: &Value, more: &[&str]) -> Self {
        Self::on_ground(Ground::new(), config, more)
    }

    /// On a ground that is there.
    pub(crate) fn on_ground(ground: Ground, config: &Value, more: &[&str]) -> Self {
        Self::on(Self::prepared(), ground, config, more)
    }

    /// A key and `authorized_keys` beside a state directory that is not there yet.
    pub(crate) fn prepared() -> Toehold {
        let toehold = Toehold::bare();
        let key = ssh_keygen(&file_of(&toehold, "key"), &["-t", "ed25519"]);
        write_private(&file_of(&toehold, "authorized_keys"), format!("{key} alice@example.org\n"));
        toehold
    }

    /// Whose state directory, key and `authorized_keys` are there.
    pub(crate) fn at(toehold: Toehold, more: &[&str]) -> Self {
        Self::on(toehold, Ground::new(), &json!({}), more)
    }

    /// Killed, and started again with another configuration: the same ground and state.
    pub(crate) fn again(mut self, config: &Value, more: &[&str]) -> Self {
        self.end();
        let ground = self.ground.clone();
        Self::on(self.kill(), ground, config, more)
    }

    /// Another gateway on the same ground, with a state directory of its own.
    pub(crate) fn another(&self, config: &Value, more: &[&str]) -> Self {
        Self::on_ground(self.ground.clone(), config, more)
    }

    /// Whose state directory, key and `authorized_keys` are there, on a ground that is there.
    pub(crate) fn on(toehold: Toehold, ground: Ground, config: &Value, more: &[&str]) -> Self {
        let keys = path(&file_of(&toehold, "authorized_keys"));
        Self::with_keys_by(toehold, ground, config, &[&["--authorized-keys", keys.as_str()], more].concat())
    }

    /// With whatever says who may log in.
    pub(crate) fn by(toehold: Toehold, more: &[&str]) -> Self {
        Self::with_keys_by(toehold, Ground::new(), &json!({}), more)
    }

    /// With whatever says who may log in, on a ground that is there.
    pub(crate) fn with_keys_by(toehold: Toehold, ground: Ground, config: &Value, more: &[&str]) -> Self {
        let which = ground.options(&toehold, config);
        Self::with_options(toehold, ground, which, more, |command| command)
    }

    /// Told which pods are meant, and started as something that the command becomes a part of.
    pub(crate) fn with_options(
        toehold: Toehold,
        ground: Ground,
        which: Vec<String>,
        more: &[&str],
        within: impl FnOnce(Command) -> Command,
    ) -> Self {
        let mut arguments = vec!["--json", "pods", "serve", "--listen", "127.0.0.1:0"];
        arguments.extend(which.iter().map(String::as_str));
        arguments.extend(more);
        // Its state directory by a relative path, as people type it: what runs in pods is started in other directories.
        let state = toehold.state();
        let mut command = toehold.command(arguments);
        command.current_dir(state.parent().unwrap()).env("TOEHOLD_STATE_DIR", state.file_name().unwrap());
        let command = within(command);
        Self::started(toehold, ground, which, command)
    }

    /// Another gateway that has the same state directory and lets the same people in, by files alone; it is to be dropped before the first.
    pub(crate) fn beside(first: &Self, more: &[&str]) -> Self {
        let keys = path(&first.file("authorized_keys"));
        let mut arguments = vec!["--json", "pods", "serve", "--listen", "127.0.0.1:0", "--authorized-keys", &keys];
        arguments.extend(first.which.iter().map(String::as_str));
        arguments.extend(more);
        let toehold = Toehold::bare();
        let mut command = toehold.command(arguments);
        command.env("TOEHOLD_STATE_DIR", first.toehold.state());
        Self::started(toehold, first.ground.clone(), first.which.clone(), command)
    }

    fn started(toehold: Toehold, ground: Ground, which: Vec<String>, mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let announced: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said: {line}"));
        assert_eq!(announced["event"], "listening", "{announced}");
        let address: SocketAddr = announced["address"].as_str().unwrap().parse().unwrap();
        let host_key = announced["host_key"].as_str().unwrap();
        let known = format!("[{}]:{} {host_key}\n", address.ip(), address.port());
        write_private(&file_of(&toehold, "known_hosts"), known);
        Self { toehold, ground, which, child: Some(child), stdout, address, announced }
    }

    /// A file of the test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        file_of(&self.toehold, name)
    }

    fn options(&self, key: &Path) -> Vec<String> {
        let mut options = vec!["-F".to_owned(), "none".to_owned(), "-i".to_owned(), path(key)];
        for option in [
            format!("UserKnownHostsFile={}", path(&self.file("known_hosts"))),
            format!("Port={}", self.address.port()),
            "StrictHostKeyChecking=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "BatchMode=yes".to_owned(),
            "LogLevel=ERROR".to_owned(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        options
    }

    /// One of OpenSSH's clients; nothing of the tester's own is used. The host is `anybody@127.0.0.1`.
    pub(crate) fn client(&self, program: &str) -> Command {
        self.client_with_key(program, &self.file("key"))
    }

    /// The same with another key.
    pub(crate) fn client_with_key(&self, program: &str, key: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .args(self.options(key))
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `ssh` with this command line; not started yet.
    pub(crate) fn ssh(&self, line: &str) -> Command {
        self.ssh_with(&[], line)
    }

    pub(crate) fn ssh_with(&self, options: &[&str], line: &str) -> Command {
        let mut command = self.client("ssh");
        command.args(options).arg("anybody@127.0.0.1");
        if !line.is_empty() {
            command.arg(line);
        }
        command
    }

    /// Runs a command line to its end.
    pub(crate) fn run(&self, line: &str) -> Done {
        Done::of(self.ssh(line).output().unwrap())
    }

    /// Runs one that is given this on its standard input.
    pub(crate) fn run_with(&self, line: &str, input: &[u8]) -> Vec<u8> {
        fed(self.ssh(line), input)
    }

    /// `pods …` about the same pods.
    pub(crate) fn about<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> Done {
        let which = self.which.iter().map(String::as_str);
        self.toehold.run(["--json", "pods"].into_iter().chain(arguments).chain(which))
    }

    /// The pods that are there.
    pub(crate) fn list(&self) -> Vec<Value> {
        self.about(["ls"]).ends(0).json()["pods"].as_array().unwrap().clone()
    }

    /// Waits until nothing is left: no pod, nothing of one, no record.
    pub(crate) fn waits_until_empty(&self) {
        eventually("the end of all pods", || self.ground.is_empty(&self.toehold) && self.list().is_empty());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// SIGKILL, as by a crash; its state directory and keys stay.
    pub(crate) fn kill(mut self) -> Toehold {
        self.end();
        std::mem::replace(&mut self.toehold, Toehold::bare())
    }

    /// Waits for its end; its state directory stays.
    pub(crate) fn ends(mut self) -> (Done, Toehold) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.take().unwrap().wait().unwrap();
        let done = Done { code: status.code().unwrap_or(-1), stdout: rest, stderr: String::new() };
        (done, std::mem::replace(&mut self.toehold, Toehold::bare()))
    }

    /// What its metrics say of this name.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let (_, text) = self.told("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().unwrap()
    }

    pub(crate) fn told(&self, what: &str) -> (u16, String) {
        let mut tcp = std::net::TcpStream::connect(self.announced["metrics"].as_str().unwrap()).unwrap();
        write!(tcp, "GET {what} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.as_ref().unwrap().id())).unwrap()
    }

    /// What it has in memory of its own, in KiB: pages of the program's file are the system's to keep and to drop.
    pub(crate) fn memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn file_of(toehold: &Toehold, name: &str) -> PathBuf {
    toehold.state().with_file_name(name)
}

pub(crate) fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// What a command prints that is given this on its standard input; it must end with 0.
pub(crate) fn fed(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Waits until this has begun to grow and has come to a stand.
pub(crate) fn waits_until_still(passed: &AtomicUsize) {
    let mut last = 0;
    eventually("a standstill", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = passed.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut last, now);
        before > 1_000_000 && now - before <= 65_536
    });
}

/// Whether a process is there and runs.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z") && !rest.starts_with(" X"))
}

/// A session whose output is read as it comes; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Session {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            let mut stderr = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("it has ended: {stderr}");
        }
        line.trim_end().to_owned()
    }

    pub(crate) fn number(&mut self) -> i32 {
        self.line().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn ends(mut self) -> Done {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.lines.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Done { code, stdout, stderr }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
