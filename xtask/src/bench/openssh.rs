//! An OpenSSH server on a loopback port, with a home of its own below `target/`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, process};

/// A running server; it ends with this value.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    directory: PathBuf,
    port: u16,
    user: String,
}

impl Server {
    /// Starts so many, in directories below `directory`, which is emptied.
    pub(super) fn start_many(directory: &Path, count: usize) -> Result<Vec<Self>> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        (0..count).map(|number| Self::start(&directory.join(number.to_string()))).collect()
    }

    /// Starts one in `directory`, which is emptied. Its only user is ours; the file of authorized keys is that of [`Server::home`].
    pub(super) fn start(directory: &Path) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        let ssh = directory.join("home/.ssh");
        fs::create_dir_all(&ssh)?;
        private(&ssh, 0o700)?;
        for name in ["host_key", "client_key"] {
            let mut keygen = Command::new("ssh-keygen");
            process::output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(directory.join(name)))?;
        }
        // Held only to learn a free number; taken by somebody else in between, the start below fails and says so.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let user = process::text(Command::new("id").arg("-un"))?.trim().to_owned();
        let configuration = directory.join("sshd_config");
        let root = directory.display();
        fs::write(
            &configuration,
            format!(
                "# The plain logins' shell reads the start-up files of an empty home, not those of whoever measures.\n\
                 SetEnv HOME={root}/home\n\
                 AuthorizedKeysFile {root}/home/.ssh/authorized_keys\n\
                 HostKey {root}/host_key\n\
                 KbdInteractiveAuthentication no\n\
                 ListenAddress 127.0.0.1\n\
                 LogLevel ERROR\n\
                 MaxStartups 100\n\
                 PasswordAuthentication no\n\
                 PermitRootLogin prohibit-password\n\
                 PidFile none\n\
                 Port {port}\n\
                 StrictModes no\n\
                 Subsystem sftp internal-sftp\n\
                 UsePAM no\n"
            ),
        )?;
        let sshd = process::find("sshd").ok_or("sshd is not installed")?;
        let log = fs::File::create(directory.join("sshd.log"))?;
        let child =
            Command::new(sshd).arg("-D").arg("-e").arg("-f").arg(&configuration).stdin(Stdio::null()).stderr(log).spawn()?;
        let mut server = Self { child, directory: directory.to_owned(), port, user };
        server.reset()?;
        server.wait()?;
        let host_key = fs::read_to_string(directory.join("host_key.pub"))?;
        fs::write(directory.join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}"))?;
        Ok(server)
    }

    /// `user@127.0.0.1:port`.
    pub(super) fn account(&self) -> String {
        self.account_at(self.port)
    }

    /// The same by way of another port.
    pub(super) fn account_at(&self, port: u16) -> String {
        format!("{}@127.0.0.1:{port}", self.user)
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The fingerprint of its host key.
    pub(super) fn host_key(&self) -> Result<String> {
        let printed = process::text(Command::new("ssh-keygen").arg("-lf").arg(self.directory.join("host_key.pub")))?;
        let fingerprint = printed.split_ascii_whitespace().find(|word| word.starts_with("SHA256:"));
        fingerprint.map(str::to_owned).ok_or_else(|| format!("ssh-keygen printed no fingerprint: {printed}").into())
    }

    /// The home directory whose keys the server knows.
    pub(super) fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Puts the file of authorized keys back to our plain client's key alone.
    pub(super) fn reset(&self) -> Result<()> {
        let ssh = self.home().join(".ssh");
        for entry in fs::read_dir(&ssh)? {
            fs::remove_file(entry?.path())?;
        }
        let file = ssh.join("authorized_keys");
        fs::copy(self.directory.join("client_key.pub"), &file)?;
        private(&file, 0o600)
    }

    /// A plain `ssh host true` with nothing of the user's configuration.
    pub(super) fn plain_login(&self) -> Command {
        self.login(self.port, &[])
    }

    /// The same by way of another port, with the key exchange that costs both sides least.
    pub(super) fn curve25519_login(&self, port: u16) -> Command {
        let alias = format!("HostKeyAlias=[127.0.0.1]:{}", self.port);
        self.login(port, &["-o", "KexAlgorithms=curve25519-sha256", "-o", &alias])
    }

    fn login(&self, port: u16, options: &[&str]) -> Command {
        self.ssh(port, options, "true")
    }

    /// The private key that it lets in.
    pub(super) fn client_key(&self) -> PathBuf {
        self.directory.join("client_key")
    }

    /// Makes the key of another server on loopback known to the client.
    pub(super) fn knows(&self, port: u16, host_key: &str) -> Result<()> {
        let file = self.directory.join("known_hosts");
        let known = fs::read_to_string(&file)?;
        Ok(fs::write(file, format!("{known}[127.0.0.1]:{port} {host_key}\n"))?)
    }

    /// `ssh` to this port of loopback with nothing of the user's configuration.
    pub(super) fn ssh(&self, port: u16, options: &[&str], line: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", self.directory.join("known_hosts").display())).args(options);
        ssh.arg("-i").arg(self.client_key()).arg("-p").arg(port.to_string());
        ssh.arg(format!("{}@127.0.0.1", self.user)).arg(line);
        ssh
    }

    /// Waits until the port answers.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.directory.join("sshd.log"))?;
                return Err(format!("sshd ended with {status}: {}", log.trim_end()).into());
            }
            if Instant::now() > deadline {
                return Err("sshd did not begin to listen within 10 s".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn private(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}
