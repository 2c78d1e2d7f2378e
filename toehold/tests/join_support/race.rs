//! 64 machines at once.

use std::sync::Arc;

use toehold_joinproto::line::JoinLine;
use toehold_joinproto::v3::Joined;
use tokio::sync::Barrier;
use tonic::{Code, Status};

use super::gateway::{Connection, Dial, Gateway, Session, identity, join_with};
use super::opni_client::{join_v2, until_offered};

/// How many machines there are.
pub const CLIENTS: usize = 64;

/// Lets every machine do this at once, on a connection of its own, at each gateway in turn.
async fn at_once<F>(gateways: &[Gateway], act: impl Fn(usize, Connection) -> F) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let start = Arc::new(Barrier::new(CLIENTS));
    let mut connections = Vec::new();
    for number in 0..CLIENTS {
        let dial = Dial::to(gateways[number % gateways.len()].address);
        connections.push(tokio::spawn(async move { dial.connect_in_time().await }));
    }
    let mut clients = Vec::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let (acts, start) = (act(number, connection.await.unwrap()), Arc::clone(&start));
        clients.push(tokio::spawn(async move {
            start.wait().await;
            acts.await
        }));
    }
    let mut ended = Vec::new();
    for client in clients {
        ended.push(client.await.unwrap());
    }
    ended
}

/// Those who have joined of 64 who come with the same line. All others are told that its token is used up.
pub async fn winners(gateways: &[Gateway], line: &Arc<JoinLine>) -> Vec<Joined> {
    let ended = at_once(gateways, |_, connection| {
        let (line, me) = (Arc::clone(line), identity());
        async move { join_with(&connection, &line, &me, || std::future::ready(())).await }
    });
    let mut winners = Vec::new();
    for end in ended.await {
        match end {
            Ok(joined) => winners.push(joined),
            Err(error) => assert!(error.to_string().contains("used up"), "{error}"),
        }
    }
    winners
}

/// Fails unless whoever has joined has keys that are good at every gateway.
pub async fn are_known(gateways: &[Gateway], winners: &[Joined]) {
    for joined in winners {
        for gateway in gateways {
            let connection = Dial::to(gateway.address).connect_in_time().await;
            Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
        }
    }
}

/// How many have joined of 64 agents of Opni's with the same line, and the others are refused.
pub async fn opni_winners(gateways: &[Gateway], line: &Arc<JoinLine>) -> usize {
    for gateway in gateways {
        until_offered(&Dial::to(gateway.address).connect().await.unwrap(), &[line.token.id().to_string()]).await;
    }
    let ended = at_once(gateways, |number, connection| {
        let line = Arc::clone(line);
        async move { join_v2(&connection, &line, &format!("cluster-{number}")).await }
    });
    // Whoever asks when it is used up is offered no token: none is there that was signed for this line, or none at all.
    let refused = |status: &Status| match status.code() {
        Code::PermissionDenied | Code::NotFound => true,
        Code::Aborted => status.message().contains("another attempt came first"),
        Code::Unavailable => status.message().contains("not accepting"),
        _ => false,
    };
    let mut joined = 0;
    for end in ended.await {
        match end {
            Ok(_) => joined += 1,
            Err(status) => assert!(refused(&status), "{status:?}"),
        }
    }
    joined
}
