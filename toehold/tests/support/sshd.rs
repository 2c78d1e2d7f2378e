//! OpenSSH's `sshd` as it is installed.

use std::fmt::Write as _;
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use toehold_core::{Account, HostKeyPolicy, PublicKey, Route};

use super::keys::ssh_keygen;
use super::server::{Server, current_user, directory, free_port, make_home, passwd_with_home, with_mounts, write_private};

const SSHD: &str = "/usr/sbin/sshd";

/// An `sshd` of its own: one port of an address, 127.0.0.1 if not said otherwise, one home directory for the account that the test runs as.
#[derive(Debug)]
pub struct RealSshd {
    server: Option<Server>,
    mounts: Vec<String>,
    directory: TempDir,
    address: &'static str,
    port: u16,
    host_keys: Vec<PublicKey>,
}

/// How a [`RealSshd`] is to be.
#[derive(Debug)]
pub struct Builder {
    host_keys: Vec<Vec<&'static str>>,
    address: &'static str,
    port: Option<u16>,
    lines: String,
    subsystem: &'static str,
    own_home: bool,
    small_disk: Option<&'static str>,
    small_ssh: Option<&'static str>,
}

impl RealSshd {
    /// With one ed25519 host key and nothing in `authorized_keys`.
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder {
            host_keys: Vec::new(),
            address: "127.0.0.1",
            port: None,
            lines: String::new(),
            subsystem: "sftp internal-sftp",
            own_home: false,
            small_disk: None,
            small_ssh: None,
        }
    }

    /// Ends it with all its connections: from now on nobody listens there.
    pub fn go_away(&mut self) {
        self.server = None;
    }

    /// Starts it again, at the same place and as it was.
    pub fn come_back(&mut self) {
        let config = self.directory.path().join("sshd_config");
        let mut command = with_mounts(&self.mounts, SSHD);
        self.server = Server::start(command.args(["-D", "-e", "-f"]).arg(&config), &listens(self.address));
        assert!(self.server.is_some(), "sshd does not start again");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The account that the test runs as, on this server.
    pub fn account(&self) -> Account {
        Account::new(&current_user(), self.address, self.port).unwrap()
    }

    pub fn route(&self) -> Route {
        Route::direct(self.account())
    }

    /// The home directory as far as `authorized_keys` is concerned. SFTP starts in the account's real one, except with
    /// [`Builder::own_home`].
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

    /// The public halves of the host keys, in the order in which they were asked for.
    pub fn host_keys(&self) -> &[PublicKey] {
        &self.host_keys
    }

    pub fn host_key(&self) -> &PublicKey {
        &self.host_keys[0]
    }

    /// The policy that takes the first host key only.
    pub fn pin(&self) -> HostKeyPolicy {
        HostKeyPolicy::Exactly(self.host_key().clone())
    }

    /// The `.pub` file of the host key with this index.
    pub fn host_key_file(&self, index: usize) -> PathBuf {
        host_key_path(self.directory.path(), index).with_extension("pub")
    }

    /// The arguments with which `ssh` reaches it: everything but the command to run.
    pub fn ssh_arguments(&self, identity_file: &Path) -> Vec<String> {
        let known_hosts = self.directory.path().join("known_hosts");
        let keys: String =
            self.host_keys.iter().fold(String::new(), |text, key| text + &format!("[{}]:{} {key}\n", self.address, self.port));
        fs::write(&known_hosts, keys).unwrap();
        let mut arguments: Vec<String> =
            ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-p"].map(str::to_owned).to_vec();
        arguments.push(self.port.to_string());
        arguments.push(format!("-oUserKnownHostsFile={}", known_hosts.display()));
        arguments.push(format!("-i{}", identity_file.display()));
        arguments.push(format!("{}@{}", current_user(), self.address));
        arguments
    }
}

impl Deref for RealSshd {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("the server is there")
    }
}

fn listens(address: &str) -> String {
    format!("Server listening on {address}")
}

fn host_key_path(directory: &Path, index: usize) -> PathBuf {
    directory.join(format!("ssh_host_{index}_key"))
}

impl Builder {
    /// One more host key, as arguments of `ssh-keygen`: `["-t", "rsa", "-b", "3072"]`.
    pub fn host_key(mut self, arguments: &[&'static str]) -> Self {
        self.host_keys.push(arguments.to_vec());
        self
    }

    /// At this address of the machine, or of the network that the test is in.
    pub fn address(mut self, address: &'static str) -> Self {
        self.address = address;
        self
    }

    /// On this port instead of a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// One more line of `sshd_config`. The first value that is set counts, and these lines stand first.
    pub fn config(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// Another subsystem than `sftp internal-sftp`.
    pub fn subsystem(mut self, subsystem: &'static str) -> Self {
        self.subsystem = subsystem;
        self
    }

    /// The account's home in `/etc/passwd` is [`RealSshd::home`], as this server sees it.
    pub fn own_home(mut self) -> Self {
        self.own_home = true;
        self
    }

    /// `small` in the home is a disk of this size, such as `64k`. Only this server sees what is on it.
    pub fn small_disk(mut self, size: &'static str) -> Self {
        self.small_disk = Some(size);
        self
    }

    /// `.ssh` in the home is a disk of this size, empty at first. Only this server sees what is on it.
    pub fn small_ssh(mut self, size: &'static str) -> Self {
        self.small_ssh = Some(size);
        self
    }

    pub fn start(mut self) -> RealSshd {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: apt-get install openssh-server");
        fs::create_dir_all("/run/sshd").expect("/run/sshd can be made: the tests run as root");
        if self.host_keys.is_empty() {
            self.host_keys.push(vec!["-t", "ed25519"]);
        }
        let directory = directory("sshd");
        make_home(&directory.path().join("home"));
        let host_keys: Vec<PublicKey> = self
            .host_keys
            .iter()
            .enumerate()
            .map(|(index, arguments)| ssh_keygen(&host_key_path(directory.path(), index), arguments))
            .collect();
        let home = directory.path().join("home");
        let mut mounts = Vec::new();
        if self.own_home {
            let passwd = passwd_with_home(directory.path(), &home);
            mounts.push(format!("--bind '{}' /etc/passwd", passwd.display()));
        }
        if let Some(size) = self.small_disk {
            fs::create_dir(home.join("small")).unwrap();
            mounts.push(format!("-t tmpfs -o size={size},mode=700 tmpfs '{}'", home.join("small").display()));
        }
        if let Some(size) = self.small_ssh {
            mounts.push(format!("-t tmpfs -o size={size},mode=700 tmpfs '{}'", home.join(".ssh").display()));
        }
        for _ in 0..20 {
            let port = self.port.unwrap_or_else(free_port);
            let config = directory.path().join("sshd_config");
            fs::write(&config, self.sshd_config(directory.path(), port)).unwrap();
            let mut command = with_mounts(&mounts, SSHD);
            command.args(["-D", "-e", "-f"]).arg(&config);
            // Another process may have taken the port since it was found free.
            if let Some(server) = Server::start(&mut command, &listens(self.address)) {
                return RealSshd { server: Some(server), mounts, directory, address: self.address, port, host_keys };
            }
        }
        panic!("sshd does not start");
    }

    fn sshd_config(&self, directory: &Path, port: u16) -> String {
        let mut config = self.lines.clone();
        for index in 0..self.host_keys.len() {
            writeln!(config, "HostKey {}", host_key_path(directory, index).display()).unwrap();
        }
        let authorized_keys = directory.join("home/.ssh/authorized_keys");
        write!(
            config,
            "ListenAddress {2}\n\
             Port {port}\n\
             AuthorizedKeysFile {0} {0}2\n\
             LogLevel VERBOSE\n\
             MaxStartups 1000\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n\
             PermitRootLogin yes\n\
             PidFile none\n\
             StrictModes yes\n\
             Subsystem {1}\n\
             UseDNS no\n\
             UsePAM no\n",
            authorized_keys.display(),
            self.subsystem,
            self.address,
        )
        .unwrap();
        config
    }
}
