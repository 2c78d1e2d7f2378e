//! The act with a client inside this process, where the machine has none.

use std::sync::Arc;
use std::time::Instant;

use russh::client::{self, Msg};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg};
use russh_sftp::client::SftpSession;
use toehold_core::PublicKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Act, COMMAND, FIRST, FIRST_ANSWER, PATIENCE, SIZE, SIZE_ANSWER, Steps, Way};
use crate::cli::Failure;

/// Takes the gateway's own key alone.
struct Somebody(PublicKey);

impl client::Handler for Somebody {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else { return Ok(false) };
        Ok(key.to_bytes().is_ok_and(|blob| blob == self.0.blob()))
    }
}

/// Reads until a line ends with this; a shell may tell the terminal something before it.
async fn waits_for(channel: &mut Channel<Msg>, wanted: &str) -> bool {
    let reading = async {
        let mut text = String::new();
        while let Some(message) = channel.wait().await {
            if let ChannelMsg::Data { data } = message {
                text.push_str(&String::from_utf8_lossy(&data));
                if text.lines().any(|line| line.trim_end().ends_with(wanted)) {
                    return true;
                }
            }
        }
        false
    };
    timeout(PATIENCE, reading).await.unwrap_or(false)
}

/// Reads to the end: what was printed, and the exit code.
async fn to_the_end(channel: &mut Channel<Msg>) -> (Vec<u8>, Option<i32>) {
    let (mut printed, mut code) = (Vec::new(), None);
    let reading = async {
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => printed.extend_from_slice(&data),
                ChannelMsg::ExitStatus { exit_status } => code = i32::try_from(exit_status).ok(),
                _ => {}
            }
        }
    };
    // What did not come in time is missing from what is returned.
    let _ = timeout(PATIENCE, reading).await;
    (printed, code)
}

pub(super) async fn play(way: &Way, steps: Steps) -> Result<Act, Failure> {
    let mut act = Act { client: "russh", ..Act::default() };
    let since = Instant::now();
    let mut connection = client::connect(Arc::default(), way.address, Somebody(way.host_key.clone())).await?;
    let key = PrivateKey::from_openssh(way.key.to_openssh("")?.expose())?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    if !connection.authenticate_publickey("somebody", key).await?.success() {
        return Err(Failure::new("the gateway for pods does not let the demo's key in"));
    }
    let mut shell = connection.channel_open_session().await?;
    shell.request_pty(true, "xterm", 80, 24, 0, 0, &[]).await?;
    shell.request_shell(true).await?;
    shell.data(FIRST.as_bytes()).await?;
    act.shell = waits_for(&mut shell, FIRST_ANSWER).await;
    if !act.shell {
        return Ok(act);
    }
    steps.done("somebody came by SSH, and has a shell in a pod of their own", since);

    let since = Instant::now();
    let mut command = connection.channel_open_session().await?;
    command.exec(true, COMMAND).await?;
    act.command = to_the_end(&mut command).await == (b"Linux\n".to_vec(), Some(0));
    if act.command {
        steps.done("ran a command in the same pod, over the same connection", since);
    }

    let since = Instant::now();
    let channel = connection.channel_open_session().await?;
    channel.request_subsystem(true, "sftp").await?;
    let sftp = SftpSession::new(channel.into_stream()).await?;
    let content: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_be_bytes).collect();
    let mut file = sftp.create("there").await?;
    file.write_all(&content).await?;
    file.shutdown().await?;
    let (mut file, mut got) = (sftp.open("there").await?, Vec::new());
    file.read_to_end(&mut got).await?;
    sftp.close().await?;
    act.copied = got == content;
    if act.copied {
        steps.done("copied 128 KiB there and back by sftp", since);
    }

    let since = Instant::now();
    shell.window_change(SIZE.0.into(), SIZE.1.into(), 0, 0).await?;
    shell.data(&b"stty size\n"[..]).await?;
    act.resized = waits_for(&mut shell, SIZE_ANSWER).await;
    if act.resized {
        steps.done("made the window larger, and the shell saw it", since);
    }

    let since = Instant::now();
    shell.data(&b"exit 42\n"[..]).await?;
    act.code = to_the_end(&mut shell).await.1;
    if act.code == Some(42) {
        steps.done("left with exit 42, and was told so", since);
    }
    // The gateway sees the end of the connection either way.
    let _ = connection.disconnect(russh::Disconnect::ByApplication, "", "").await;
    Ok(act)
}
