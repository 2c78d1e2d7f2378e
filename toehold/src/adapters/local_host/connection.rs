//! One connection to a local host: the login, and the one subsystem.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::server::{self, Auth, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use toehold_core::{PublicKey, Timestamp};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Login};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Shared;
use super::fault::{Fault, Turn};
use super::sftp::Sftp;
use super::tree::Tree;
use crate::adapters::russh_connector::{Lifeline, Tethered};

/// Serves a connection until it ends. Dropping the future cuts it.
pub(super) async fn serve(mut stream: TcpStream, peer: IpAddr, shared: Arc<Shared>) {
    if shared.faults.is(Fault::HangAtGreeting) {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        return;
    }
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let config = Arc::clone(if shared.faults.another_host_key() { &shared.other } else { &shared.own });
    let (stream, lifeline) = Tethered::new(Box::new(stream));
    let (_here, gone) = watch::channel(());
    let wire = Wire(Arc::new(Mutex::new(Some(lifeline))));
    let _cut_when_dropped = CutWhenDropped(wire.clone());
    let client = Client { peer, shared, wire, gone, sftp_allowed: false, channels: HashMap::new() };
    if let Ok(session) = server::run_stream(config, stream, client).await {
        let _ = session.await;
    }
}

/// The means to cut a connection.
#[derive(Clone)]
pub(super) struct Wire(Arc<Mutex<Option<Lifeline>>>);

impl Wire {
    fn cut(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

struct CutWhenDropped(Wire);

impl Drop for CutWhenDropped {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// Ends when the connection has.
async fn until_gone(mut gone: watch::Receiver<()>) {
    while gone.changed().await.is_ok() {}
}

/// What decides over the SFTP requests of one connection.
pub(super) struct Gate {
    shared: Arc<Shared>,
    wire: Wire,
    gone: watch::Receiver<()>,
}

impl Gate {
    /// Does the work where this request is to be served; `None` where it is not to be answered, and then only once the
    /// connection is gone.
    pub(super) async fn pass<T>(&self, work: impl FnOnce() -> T + Send) -> Option<T> {
        match self.shared.faults.turn() {
            Turn::Serve => return Some(work()),
            Turn::ServeAndDrop => {
                work();
                self.wire.cut();
            }
            Turn::Drop => self.wire.cut(),
            Turn::Hang => {}
            Turn::Hold(fault) => tokio::select! {
                () = self.shared.faults.change(fault) => return Some(work()),
                () = until_gone(self.gone.clone()) => return None,
            },
        }
        until_gone(self.gone.clone()).await;
        None
    }
}

/// Our side of russh's task.
struct Client {
    peer: IpAddr,
    shared: Arc<Shared>,
    wire: Wire,
    gone: watch::Receiver<()>,
    /// What the line of the login allows.
    sftp_allowed: bool,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Client {
    /// Reads the files anew; `None` where no line admits the key, else whether that line allows SFTP.
    fn admits(&self, user: &str, key: &russh::keys::PublicKey) -> Option<bool> {
        if user != self.shared.options.user {
            return None;
        }
        let key = PublicKey::from_blob(&key.to_bytes().ok()?).ok()?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = Timestamp::from_unix_seconds(i64::try_from(seconds).unwrap_or(i64::MAX));
        let login = Login { now, utc_offset: self.shared.options.utc_offset, peer: Some(self.peer) };
        // The two files that sshd reads unless it is told otherwise.
        let authorized = ["authorized_keys", "authorized_keys2"].iter().find_map(|name| {
            let file = fs::read(self.shared.home.join(".ssh").join(name)).ok()?;
            AuthorizedKeys::parse(file).authorizes_login(&key, &login)
        })?;
        Some(match authorized.effect.command.as_deref() {
            None | Some(b"internal-sftp") => true,
            // No command is ever run here; a server of files is what this one is meant for.
            Some(command) => command.ends_with(b"/sftp-server"),
        })
    }
}

fn refused() -> Auth {
    // Without the list the client would be told that no method is left, and could not try another key.
    let mut methods = MethodSet::empty();
    methods.push(MethodKind::PublicKey);
    Auth::Reject { proceed_with_methods: Some(methods), partial_success: false }
}

impl server::Handler for Client {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        if self.shared.faults.is(Fault::HangAfterKeyExchange) {
            until_gone(self.gone.clone()).await;
        }
        Ok(None)
    }

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        Ok(refused())
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, russh::Error> {
        if self.shared.faults.is(Fault::HangInLogin) {
            until_gone(self.gone.clone()).await;
        }
        Ok(self.admits(user, offer.public_key).map_or_else(refused, |_| Auth::Accept))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(match self.admits(user, key.public_key) {
            None => refused(),
            Some(sftp_allowed) => {
                self.sftp_allowed = sftp_allowed;
                Auth::Accept
            }
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: server::ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_eof(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.close(channel)
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), russh::Error> {
        self.channels.remove(&channel);
        Ok(())
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), russh::Error> {
        session.channel_failure(channel)
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(&mut self, id: ChannelId, name: &str, session: &mut Session) -> Result<(), russh::Error> {
        if name != "sftp" || !self.sftp_allowed {
            return session.channel_failure(id);
        }
        let Some(channel) = self.channels.remove(&id) else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        if self.shared.faults.is(Fault::HangAtSftpStart) {
            self.channels.insert(id, channel);
            return Ok(());
        }
        let gate = Gate { shared: Arc::clone(&self.shared), wire: self.wire.clone(), gone: self.gone.clone() };
        let options = &self.shared.options;
        let tree = Tree::new(self.shared.home.clone(), options.chroot, options.clock_error);
        russh_sftp::server::run(channel.into_stream(), Sftp::new(gate, tree, options.posix_rename, options.fsync)).await;
        Ok(())
    }
}

/// Serves the files of `home` alone, without SSH around them.
#[cfg(test)]
pub(crate) fn serve_files<S>(stream: S, home: &std::path::Path) -> std::io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let own = Arc::new(super::configuration(super::new_key()?.0));
    let options = super::LocalHost::builder(home, "ops");
    let shared = Shared { other: Arc::clone(&own), own, home: home.to_owned(), faults: Arc::default(), options };
    let gate = Gate { shared: Arc::new(shared), wire: Wire(Arc::default()), gone: watch::channel(()).1 };
    let tree = Tree::new(home.to_owned(), false, 0);
    tokio::spawn(async move { russh_sftp::server::run(stream, Sftp::new(gate, tree, true, true)).await });
    Ok(())
}
