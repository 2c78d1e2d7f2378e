//! A logged-in connection with SFTP on it.

use std::fmt;
use std::time::Duration;

use russh::{ChannelMsg, Disconnect};
use toehold_core::{ConnectError, HostSession, PublicKey, Route, Source};

use super::Limits;
use super::handshake::{Ended, Hop};
use crate::adapters::russh_files::RusshFiles;

/// How long a host gets to take our leave.
const FAREWELL: Duration = Duration::from_secs(2);

/// A logged-in connection, with the connections to the jump hosts that it runs through. All of them are cut when it is
/// dropped; [`HostSession::close`] says goodbye first.
pub struct RusshSession {
    files: RusshFiles,
    queried: Option<bool>,
    software: Option<String>,
    hop: Hop,
    below: Vec<Hop>,
}

impl fmt::Debug for RusshSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RusshSession").field("host_key", self.hop.host_key()).finish_non_exhaustive()
    }
}

impl RusshSession {
    pub(super) async fn open(
        mut hop: Hop,
        below: Vec<Hop>,
        route: &Route,
        limits: &Limits,
        queried: Option<bool>,
    ) -> Result<Self, ConnectError> {
        let opening = open_sftp(&hop, limits);
        let result = hop.deadline.within(route, "starting SFTP", opening).await?;
        match result {
            Ok(files) => Ok(Self { files, queried, software: hop.software(), hop, below }),
            Err(NoSftp::Refused(reason)) => match hop.seen.ended() {
                Some(Ended::Error(source)) => {
                    Err(ConnectError::Broken { route: route.to_string(), doing: "starting SFTP", source })
                }
                _ => Err(ConnectError::NoSftp { route: route.to_string(), reason }),
            },
            Err(NoSftp::Broken(error)) => {
                let source: Source = hop.reason(error).await;
                Err(ConnectError::Broken { route: route.to_string(), doing: "starting SFTP", source })
            }
        }
    }
}

enum NoSftp {
    Refused(String),
    Broken(russh::Error),
}

async fn open_sftp(hop: &Hop, limits: &Limits) -> Result<RusshFiles, NoSftp> {
    let mut channel = hop.handle.channel_open_session().await.map_err(|error| match error {
        russh::Error::ChannelOpenFailure(reason) => NoSftp::Refused(format!("it opens no session: {}", reason.description())),
        error => NoSftp::Broken(error),
    })?;
    channel.request_subsystem(true, "sftp").await.map_err(NoSftp::Broken)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) => return Err(NoSftp::Refused("it refuses the subsystem sftp".to_owned())),
            Some(ChannelMsg::WindowAdjusted { .. }) => {}
            Some(_) | None => return Err(NoSftp::Refused("it ended the session".to_owned())),
        }
    }
    RusshFiles::open(channel.into_stream(), limits.request).await.map_err(NoSftp::Refused)
}

impl HostSession for RusshSession {
    type Files = RusshFiles;

    fn host_key(&self) -> &PublicKey {
        self.hop.host_key()
    }

    fn queried(&self) -> Option<bool> {
        self.queried
    }

    fn software(&self) -> Option<&str> {
        self.software.as_deref()
    }

    fn files(&mut self) -> &mut RusshFiles {
        &mut self.files
    }

    async fn close(self) {
        close(self.hop, self.below).await;
    }
}

/// Says goodbye to every host on the way, the farthest first, and cuts what does not answer.
pub(super) async fn close(hop: Hop, mut below: Vec<Hop>) {
    let farewell = async {
        leave(hop).await;
        while let Some(jump) = below.pop() {
            leave(jump).await;
        }
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

async fn leave(mut hop: Hop) {
    if hop.handle.disconnect(Disconnect::ByApplication, "", "").await.is_ok() {
        hop.handle_ended().await;
    }
}
