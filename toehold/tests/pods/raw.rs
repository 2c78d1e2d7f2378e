//! What the OpenSSH client does not do, done by hand: signals, and requests in any order.

use std::sync::Arc;

use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Sig};

use crate::gateway::Pods;

pub(crate) struct Client {
    pub(crate) handle: Handle<Anybody>,
}

/// Takes any host key: it is our own process.
pub(crate) struct Anybody;

impl client::Handler for Anybody {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

impl Client {
    pub(crate) async fn log_in(pods: &Pods) -> Self {
        let key = PrivateKey::from_openssh(std::fs::read(pods.file("key")).unwrap()).unwrap();
        let mut handle = client::connect(Arc::default(), pods.address, Anybody).await.unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
        assert!(handle.authenticate_publickey("anybody", key).await.unwrap().success());
        Self { handle }
    }

    pub(crate) async fn open(&self) -> Channel<client::Msg> {
        self.handle.channel_open_session().await.unwrap()
    }
}

/// Waits for this on standard output.
pub(crate) async fn until_output(channel: &mut Channel<client::Msg>, wanted: &[u8]) {
    let mut got = Vec::new();
    while got != wanted {
        if let ChannelMsg::Data { data } = channel.wait().await.expect("more output") {
            got.extend_from_slice(&data);
        }
    }
}

/// All that comes until the channel is closed.
async fn rest(channel: &mut Channel<client::Msg>) -> Vec<ChannelMsg> {
    let mut all = Vec::new();
    while let Some(message) = channel.wait().await {
        all.push(message);
    }
    all
}

#[tokio::test]
async fn signals_reach_the_process_and_what_it_died_of_is_told() {
    let pods = Pods::start();
    let client = Client::log_in(&pods).await;
    let mut channel = client.open().await;
    // The signal reaches what the shell has started too, which is in the same group.
    channel.exec(true, "trap 'echo asked' USR1; echo begun; while :; do sleep 0.02; done 2>/dev/null").await.unwrap();
    until_output(&mut channel, b"begun\n").await;
    channel.signal(Sig::USR1).await.unwrap();
    until_output(&mut channel, b"asked\n").await;
    channel.signal(Sig::TERM).await.unwrap();
    let end = rest(&mut channel).await;
    let place = |wanted: fn(&ChannelMsg) -> bool| end.iter().position(wanted);
    let told = place(|message| matches!(message, ChannelMsg::ExitSignal { signal_name: Sig::TERM, .. }));
    assert!(told.is_some() && told < place(|message| matches!(message, ChannelMsg::Eof)), "{end:?}");
}

#[tokio::test]
async fn a_channel_that_is_closed_ends_its_process_and_the_pod_lives_on() {
    let pods = Pods::start();
    let client = Client::log_in(&pods).await;
    let mut channel = client.open().await;
    channel.exec(true, "trap '' HUP; echo $$; sleep 600; sleep 600").await.unwrap();
    let number = loop {
        if let ChannelMsg::Data { data } = channel.wait().await.unwrap() {
            break String::from_utf8(data.to_vec()).unwrap().trim().parse().unwrap();
        }
    };
    channel.close().await.unwrap();
    let ground = pods.ground.clone();
    tokio::task::spawn_blocking(move || crate::support::eventually("its end", || !ground.is_alive(number))).await.unwrap();
    let mut other = client.open().await;
    other.exec(true, "echo here").await.unwrap();
    until_output(&mut other, b"here\n").await;
}

#[tokio::test]
async fn what_comes_before_the_start_and_after_it_is_taken_or_refused_as_it_should_be() {
    let pods = Pods::start();
    let client = Client::log_in(&pods).await;
    let mut channel = client.open().await;
    // The end of the input is there before the command is.
    channel.set_env(true, "WORD", "set").await.unwrap();
    channel.eof().await.unwrap();
    channel.exec(true, "cat; echo $WORD").await.unwrap();
    channel.set_env(true, "WORD", "late").await.unwrap();
    channel.exec(true, "echo twice").await.unwrap();
    let all = rest(&mut channel).await;
    let count = |wanted: fn(&ChannelMsg) -> bool| all.iter().filter(|message| wanted(message)).count();
    assert_eq!(count(|message| matches!(message, ChannelMsg::Success)), 2, "{all:?}");
    assert_eq!(count(|message| matches!(message, ChannelMsg::Failure)), 2, "{all:?}");
    assert!(all.iter().any(|message| matches!(message, ChannelMsg::Data { data } if &data[..] == b"set\n")), "{all:?}");
    assert!(all.iter().any(|message| matches!(message, ChannelMsg::ExitStatus { exit_status: 0 })), "{all:?}");
}
