//! The demo's hosts: inside this process, or real `sshd` processes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use toehold_core::{Account, PublicKey};
use toehold_keygen::{KeyAlgorithm, KeyPair};

use crate::adapters::local_host::LocalHost;
use crate::cli::Failure;

const SSHD: [&str; 3] = ["/usr/sbin/sshd", "/usr/bin/sshd", "/usr/local/sbin/sshd"];

/// One host, with a real `authorized_keys` in a directory of its own.
pub(super) enum DemoHost {
    Inside { host: LocalHost, host_key_file: PathBuf },
    Sshd(Sshd),
}

impl DemoHost {
    /// Starts one on loopback whose `authorized_keys` holds `foreign`.
    pub(super) async fn start(directory: &Path, sshd: bool, foreign: &str) -> Result<Self, Failure> {
        let home = directory.join("home");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(".ssh"))?;
        write_private(&home.join(".ssh/authorized_keys"), foreign.as_bytes())?;
        let user = current_user()?;
        if sshd {
            return Ok(Self::Sshd(Sshd::start(directory, &user)?));
        }
        let host = LocalHost::builder(directory, user).start().await?;
        Ok(Self::Inside { host, host_key_file: directory.join("ssh_host_ed25519_key.pub") })
    }

    pub(super) fn account(&self) -> &Account {
        match self {
            Self::Inside { host, .. } => host.account(),
            Self::Sshd(sshd) => &sshd.account,
        }
    }

    pub(super) fn home(&self) -> &Path {
        match self {
            Self::Inside { host, .. } => host.home(),
            Self::Sshd(sshd) => &sshd.home,
        }
    }

    pub(super) fn host_key(&self) -> &PublicKey {
        match self {
            Self::Inside { host, .. } => host.host_key(),
            Self::Sshd(sshd) => &sshd.host_key,
        }
    }

    pub(super) fn host_key_file(&self) -> &Path {
        match self {
            Self::Inside { host_key_file, .. } => host_key_file,
            Self::Sshd(sshd) => &sshd.host_key_file,
        }
    }

    pub(super) fn is_sshd(&self) -> bool {
        matches!(self, Self::Sshd(_))
    }

    pub(super) async fn stop(self) {
        match self {
            Self::Inside { host, .. } => host.stop().await,
            Self::Sshd(sshd) => drop(sshd),
        }
    }
}

/// An `sshd` of this machine on a loopback port; ends when it is dropped.
pub(super) struct Sshd {
    child: Child,
    account: Account,
    home: PathBuf,
    host_key: PublicKey,
    host_key_file: PathBuf,
}

impl Sshd {
    fn start(directory: &Path, user: &str) -> Result<Self, Failure> {
        let Some(program) = SSHD.iter().find(|path| Path::new(path).exists()) else {
            return Err(Failure::new("there is no sshd on this machine")
                .hint("install it (apt-get install openssh-server), or run the demo without --sshd"));
        };
        if rustix::process::geteuid().is_root() {
            // Where sshd gives up its privileges; its start script would make it.
            fs::create_dir_all("/run/sshd")?;
        }
        let pair = KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519)?;
        let key_file = directory.join("ssh_host_ed25519_key");
        write_private(&key_file, pair.to_openssh("demo host key")?.expose())?;
        let host_key_file = directory.join("ssh_host_ed25519_key.pub");
        write_private(&host_key_file, format!("{}\n", pair.public_key()).as_bytes())?;
        let home = directory.join("home").canonicalize()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = directory.join("sshd_config");
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey \"{}\"\nAuthorizedKeysFile \"{}/.ssh/authorized_keys\"\n\
             PidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n",
            key_file.display(),
            home.display()
        );
        write_private(&config, text.as_bytes())?;
        let log = fs::File::create(directory.join("log"))?;
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()?;
        let account = Account::new(user, "127.0.0.1", port)?;
        let mut sshd = Self { child, account, home, host_key: pair.public_key().clone(), host_key_file };
        sshd.wait_until_it_answers(port).map_err(|error| {
            let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
            Failure::new(format!("sshd does not answer: {error}: {}", log.trim()))
        })?;
        Ok(sshd)
    }

    fn wait_until_it_answers(&mut self, port: u16) -> std::io::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut greeting = [0; 4];
            let answer = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                stream.read_exact(&mut greeting)
            });
            match answer {
                Ok(()) if greeting == *b"SSH-" => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                _ => {}
            }
            if self.child.try_wait()?.is_some() {
                return Err(std::io::Error::other("it has ended"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

/// Who this process runs as, by the name that the installation command will compare.
fn current_user() -> Result<String, Failure> {
    let output = Command::new("id").arg("-un").output()?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !name.is_empty() { Ok(name) } else { Err(Failure::new("id -un does not say who runs this")) }
}
