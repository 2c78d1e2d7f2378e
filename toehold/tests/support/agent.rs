//! OpenSSH's `ssh-agent` as it is installed.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::server::Server;

/// An agent of its own, at a socket of its own.
#[derive(Debug)]
pub struct RealAgent {
    _server: Server,
    directory: TempDir,
}

impl RealAgent {
    pub fn start() -> Self {
        // A socket's path has about 100 bytes at most.
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let mut command = Command::new("sh");
        // It says where it is on standard output, which the test does not read.
        command.args(["-c", "exec ssh-agent -D -a \"$0\" >&2"]).arg(&socket);
        let server = Server::start(&mut command, "SSH_AUTH_SOCK").expect("ssh-agent runs (apt-get install openssh-client)");
        Self { _server: server, directory }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    /// The keys that it holds, as `ssh-add -L` lists them.
    pub fn keys(&self) -> Vec<String> {
        let output = Command::new("ssh-add").arg("-L").env("SSH_AUTH_SOCK", self.socket()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let key = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        text.lines().filter(|line| line.starts_with("ssh-") || line.starts_with("ecdsa-")).map(key).collect()
    }
}
