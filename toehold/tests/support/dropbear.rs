//! Dropbear as it is installed.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use toehold_core::{Account, HostKeyPolicy, PublicKey, Route};

use super::server::{Server, current_user, directory, free_port, make_home, passwd_with_home, with_mounts, write_private};

const DROPBEAR: &str = "/usr/sbin/dropbear";

/// A dropbear with a home directory of its own.
///
/// It reads `~/.ssh/authorized_keys` of the home in `/etc/passwd` and cannot be told another, so it runs in a mount
/// namespace whose `/etc/passwd` says so (the tests run as root).
#[derive(Debug)]
pub struct RealDropbear {
    server: Server,
    directory: TempDir,
    port: u16,
    host_key: PublicKey,
}

impl RealDropbear {
    /// With an ed25519 host key, nothing in `authorized_keys`, and OpenSSH's `sftp-server` where it is installed.
    pub fn start() -> Self {
        assert!(Path::new(DROPBEAR).exists(), "{DROPBEAR} is missing: apt-get install dropbear-bin");
        let directory = directory("dropbear");
        let home = directory.path().join("home");
        make_home(&home);
        let passwd = passwd_with_home(directory.path(), &home);
        let mounts = [format!("--bind '{}' /etc/passwd", passwd.display())];
        let host_key_file = directory.path().join("dropbear_ed25519_host_key");
        let output = Command::new("dropbearkey").args(["-t", "ed25519", "-f"]).arg(&host_key_file).output().unwrap();
        assert!(output.status.success(), "dropbearkey: {}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(&output.stdout);
        let host_key = told.lines().find(|line| line.starts_with("ssh-ed25519 ")).unwrap().parse().unwrap();
        for _ in 0..20 {
            let port = free_port();
            let mut command = with_mounts(&mounts, DROPBEAR);
            command.args(["-F", "-E", "-p"]).arg(format!("127.0.0.1:{port}")).arg("-r").arg(&host_key_file);
            if let Some(server) = Server::start(&mut command, "Not backgrounding") {
                // It logs that before it listens.
                if server.listens_on(port) {
                    return Self { server, directory, port, host_key };
                }
            }
        }
        panic!("dropbear does not start");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn account(&self) -> Account {
        Account::new(&current_user(), "127.0.0.1", self.port).unwrap()
    }

    pub fn route(&self) -> Route {
        Route::direct(self.account())
    }

    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    pub fn authorized_keys(&self) -> PathBuf {
        self.home().join(".ssh/authorized_keys")
    }

    /// Replaces `authorized_keys`.
    pub fn authorize(&self, lines: impl AsRef<[u8]>) {
        write_private(&self.authorized_keys(), lines);
    }

    pub fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    pub fn pin(&self) -> HostKeyPolicy {
        HostKeyPolicy::Exactly(self.host_key.clone())
    }
}

impl Deref for RealDropbear {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
