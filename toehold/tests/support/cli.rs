//! The program itself, with a state directory of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::server::{directory, make_home, passwd_with_home};

/// `toehold` with a state directory of its own.
#[derive(Debug)]
pub struct Toehold {
    directory: TempDir,
    environment: Vec<(&'static str, String)>,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks the exit code and hands the result on.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The JSON documents on standard output, one a line.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
    }

    /// The only JSON document on standard output, or the last one.
    pub fn json(&self) -> Value {
        self.lines().pop().expect("a document")
    }
}

impl Toehold {
    /// Initialised.
    pub fn new() -> Self {
        let toehold = Self::bare();
        toehold.run(["init"]).ends(0);
        toehold
    }

    /// Not initialised.
    pub fn bare() -> Self {
        Self { directory: directory("toehold"), environment: Vec::new() }
    }

    /// With a variable in the environment of every command.
    #[must_use]
    pub fn with_env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// A variable that the environment of every command has.
    pub fn variable(&self, name: &str) -> String {
        self.environment.iter().rfind(|(there, _)| *there == name).map(|(_, value)| value.clone()).unwrap()
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The home of the program, and of whatever it starts that goes by the environment: never the tester's.
    fn home(&self) -> PathBuf {
        let home = self.directory.path().join("home");
        make_home(&home);
        home
    }

    /// A shell for `--via` in which the account's home is, by `/etc/passwd`, the directory that comes with it. A script that is
    /// not told another home works there, and not in the tester's. The tests run as root.
    pub fn shell_elsewhere(&self) -> (String, PathBuf) {
        let home = self.directory.path().join("elsewhere");
        make_home(&home);
        let passwd = passwd_with_home(self.directory.path(), &home);
        let mounting = format!("mount --bind {} /etc/passwd; exec sh", passwd.display());
        (format!("unshare --mount --propagation private sh -ec '{mounting}'"), home.join(".ssh"))
    }

    /// Not started yet; nothing of the environment that would change what it does.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toehold"));
        command
            .args(arguments)
            .env("TOEHOLD_STATE_DIR", self.state())
            .env("HOME", self.home())
            .env_remove("XDG_DATA_HOME")
            .env_remove("RUST_LOG")
            .env_remove("SSH_AUTH_SOCK")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// Started, with its output in pipes.
    pub fn spawn<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn wait(child: Child) -> Done {
        Done::of(child.wait_with_output().unwrap())
    }

    /// The sessions that are not settled, or all.
    pub fn sessions(&self, all: bool) -> Vec<Value> {
        let arguments: &[&str] = if all { &["--json", "session", "ls", "--all"] } else { &["--json", "session", "ls"] };
        let document = self.run(arguments.iter().copied()).ends(0).json();
        document["sessions"].as_array().unwrap().clone()
    }

    /// The master key's public half, as it stands in a line.
    pub fn master_key(&self) -> String {
        self.run(["--json", "key", "show"]).ends(0).json()["public_key"].as_str().unwrap().to_owned()
    }
}
