//! An SSH host inside this process, on loopback, with a real directory as its files: for `toehold demo` and for tests.
//!
//! Whoever may log in stands in a real `.ssh/authorized_keys`, which is read at every attempt with the eyes of OpenSSH's
//! `sshd`. The only thing that it serves is SFTP, confined to its home directory.

mod connection;
mod fault;
mod sftp;
mod tree;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use russh::keys::PrivateKey;
use russh::{MethodKind, MethodSet, SshId, server};
use toehold_core::{Account, PublicKey, Route};
use toehold_keygen::{KeyAlgorithm, KeyPair};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

#[cfg(test)]
pub(crate) use connection::serve_files;
pub use fault::Fault;
pub(in crate::adapters) use tree::status;

use fault::Faults;

const HOST_KEY: &str = "ssh_host_ed25519_key";

/// How a [`LocalHost`] is to be.
#[derive(Clone, Debug)]
pub struct LocalHostBuilder {
    directory: PathBuf,
    user: String,
    posix_rename: bool,
    fsync: bool,
    chroot: bool,
    utc_offset: i32,
    clock_error: i32,
}

impl LocalHostBuilder {
    /// Whether its SFTP server has `posix-rename@openssh.com` (default: yes).
    #[must_use]
    pub fn posix_rename(mut self, yes: bool) -> Self {
        self.posix_rename = yes;
        self
    }

    /// Whether its SFTP server has `fsync@openssh.com` (default: yes).
    #[must_use]
    pub fn fsync(mut self, yes: bool) -> Self {
        self.fsync = yes;
        self
    }

    /// Whether SFTP calls the home directory `/` (default: no, paths are those of this machine).
    #[must_use]
    pub fn chroot(mut self, yes: bool) -> Self {
        self.chroot = yes;
        self
    }

    /// How many seconds the clock is wrong that its files' times come from; positive where it is ahead (default: 0).
    #[must_use]
    pub fn clock_error(mut self, seconds: i32) -> Self {
        self.clock_error = seconds;
        self
    }

    /// How many seconds its clock is ahead of UTC, for an `expiry-time` in local time (default: 0).
    #[must_use]
    pub fn utc_offset(mut self, seconds: i32) -> Self {
        self.utc_offset = seconds;
        self
    }

    /// Makes what is missing of the directory and begins to listen, on a port of 127.0.0.1 that the kernel chooses.
    ///
    /// # Errors
    /// What the file system or the network said; a host key file that is none.
    pub async fn start(self) -> io::Result<LocalHost> {
        let home = self.directory.join("home");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(home.join(".ssh"))?;
        let home = home.canonicalize()?;
        let (key, host_key) = host_key(&self.directory)?;
        let (other_key, _) = new_key()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let faults = Arc::new(Faults::default());
        let shared = Arc::new(Shared {
            own: Arc::new(configuration(key)),
            other: Arc::new(configuration(other_key)),
            home: home.clone(),
            faults: Arc::clone(&faults),
            options: self.clone(),
        });
        let accepting = tokio::spawn(accept(listener, shared));
        let account = Account::new(&self.user, &Ipv4Addr::LOCALHOST.to_string(), port).map_err(io::Error::other)?;
        Ok(LocalHost { directory: self.directory, home, account, host_key, faults, accepting })
    }
}

/// What all connections of a host share.
struct Shared {
    own: Arc<server::Config>,
    other: Arc<server::Config>,
    home: PathBuf,
    faults: Arc<Faults>,
    options: LocalHostBuilder,
}

/// A running host. It ends, with its connections, when it is dropped or [stopped](Self::stop).
#[derive(Debug)]
pub struct LocalHost {
    directory: PathBuf,
    home: PathBuf,
    account: Account,
    host_key: PublicKey,
    faults: Arc<Faults>,
    accepting: JoinHandle<()>,
}

impl LocalHost {
    /// A host whose files are in `directory`, with one account. What is not there is made when it starts:
    /// `home/.ssh` (0700), `ssh_host_ed25519_key` (0600) and `ssh_host_ed25519_key.pub`.
    pub fn builder(directory: impl Into<PathBuf>, user: impl Into<String>) -> LocalHostBuilder {
        LocalHostBuilder {
            directory: directory.into(),
            user: user.into(),
            posix_rename: true,
            fsync: true,
            chroot: false,
            utc_offset: 0,
            clock_error: 0,
        }
    }

    /// The account that can be logged in to, with the port.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The direct route to it.
    pub fn route(&self) -> Route {
        Route::direct(self.account.clone())
    }

    /// The host key.
    pub fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// The file with the public half of the host key.
    pub fn host_key_file(&self) -> PathBuf {
        self.directory.join(HOST_KEY).with_extension("pub")
    }

    /// The account's home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The file that says who may log in; it need not be there.
    pub fn authorized_keys_file(&self) -> PathBuf {
        self.home.join(".ssh/authorized_keys")
    }

    /// From now on the host misbehaves like this, or no longer. SFTP requests are counted from here.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.faults.set(fault);
    }

    /// Whether new connections get another host key, as from a man in the middle.
    pub fn show_another_host_key(&self, yes: bool) {
        self.faults.show_another_host_key(yes);
    }

    /// SFTP requests since the start or the last [`set_fault`](Self::set_fault), over all connections.
    pub fn requests(&self) -> u64 {
        self.faults.requests()
    }

    /// Whether it holds a request back, by [`Fault::HoldRequest`].
    pub fn is_holding(&self) -> bool {
        self.faults.is_holding()
    }

    /// Stops listening and cuts every connection.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for LocalHost {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(connection::serve(stream, peer.ip(), Arc::clone(&shared)));
                }
                // Out of file descriptors, say: others may give theirs back.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn configuration(key: PrivateKey) -> server::Config {
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    server::Config {
        server_id: SshId::Standard(concat!("SSH-2.0-ToeholdLocalHost_", env!("CARGO_PKG_VERSION")).into()),
        methods,
        // Nobody guesses keys, and a tool that asks waits for each answer.
        auth_rejection_time: Duration::ZERO,
        keys: vec![key],
        max_auth_attempts: 6,
        inactivity_timeout: None,
        ..server::Config::default()
    }
}

/// The host key in the directory, made where there is none.
fn host_key(directory: &Path) -> io::Result<(PrivateKey, PublicKey)> {
    let path = directory.join(HOST_KEY);
    let (key, public_key) = match fs::read(&path) {
        Ok(bytes) => {
            let bytes = toehold_core::SecretBytes::new(bytes);
            let key = PrivateKey::from_openssh(bytes.expose()).map_err(io::Error::other)?;
            let public_key = public_half(&key)?;
            (key, public_key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (key, public_key) = new_key()?;
            let text = key.to_openssh(ssh_key::LineEnding::LF).map_err(io::Error::other)?;
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            (key, public_key)
        }
        Err(error) => return Err(error),
    };
    fs::write(path.with_extension("pub"), format!("{public_key}\n"))?;
    Ok((key, public_key))
}

fn new_key() -> io::Result<(PrivateKey, PublicKey)> {
    let pair = KeyPair::generate(&mut UnwrapErr(SysRng), KeyAlgorithm::Ed25519).map_err(io::Error::other)?;
    let text = pair.to_openssh("").map_err(io::Error::other)?;
    let key = PrivateKey::from_openssh(text.expose()).map_err(io::Error::other)?;
    Ok((key, pair.public_key().clone()))
}

/// A key of russh as one of ours.
fn public_half(key: &russh::keys::PrivateKey) -> io::Result<PublicKey> {
    let blob = key.public_key().to_bytes().map_err(io::Error::other)?;
    PublicKey::from_blob(&blob).map_err(io::Error::other)
}
