//! Versions 1 and 2 of the join, for Opni's agents.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use toehold_core::Clock as _;
use toehold_joinproto::admission::{DeskError, OpniJoin, OpniRequest};
use toehold_joinproto::opni::{self, OpniError, OpniGateway};
use toehold_joinproto::token::Token;
use tonic::{Code, Request, Response, Status};

use super::hub::{Hub, Peer};
use super::metrics::Counter;
use super::system_rng;
use crate::adapters::grpc::raw::Raw;
use crate::adapters::grpc::{bootstrap, bootstrap_v2};

/// The largest request: a few short texts and a key.
pub(super) const MAX_MESSAGE: usize = 4_096;
/// How often, and with what pauses, it is looked whether there is a signature by now.
const SIGNING_TRIES: u32 = 20;
const SIGNING_WAIT: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct OpniService(pub(super) Arc<Hub>);

type Read = fn(&OpniGateway, &[&[u8]], &[u8]) -> Result<(Token, OpniRequest), OpniError>;

impl OpniService {
    async fn join(&self, request: Request<Raw>) -> Result<Response<Raw>, Status> {
        let peer = Peer::of(&request)?;
        gateway(&peer)?.join(&request.get_ref().0).map_err(|error| refused(&error))?;
        // A token that was made a moment ago is signed in that time.
        for _ in 0..SIGNING_TRIES {
            let answer = peer.serving.signatures.lock().unwrap_or_else(PoisonError::into_inner).answer(self.0.desk.clock.now());
            if let Some(answer) = answer {
                return Ok(Response::new(Raw(Bytes::from_owner(answer))));
            }
            tokio::time::sleep(SIGNING_WAIT).await;
        }
        Err(refused(&OpniError::NotAccepting))
    }

    async fn auth(&self, request: Request<Raw>, read: Read, joined: Counter, not: Counter) -> Result<Response<Raw>, Status> {
        let peer = Peer::of(&request)?;
        let outcome = self.admit(&peer, &request, read).await;
        self.0.metrics.count(if outcome.is_ok() { joined } else { not });
        outcome
    }

    async fn admit(&self, peer: &Peer, request: &Request<Raw>, read: Read) -> Result<Response<Raw>, Status> {
        let gateway = gateway(peer)?;
        let authorization: Vec<&[u8]> =
            request.metadata().get_all("authorization").iter().map(tonic::metadata::MetadataValue::as_encoded_bytes).collect();
        let (token, asked) = read(gateway, &authorization, &request.get_ref().0).map_err(|error| {
            tracing::info!("a join of an agent of Opni's from {} was refused: {error}", peer.source);
            refused(&error)
        })?;
        let join = OpniJoin { token: &token, request: &asked, source: peer.source };
        match self.0.desk.join_opni(join, &mut system_rng()).await {
            Ok(answer) => {
                tracing::info!("an agent of Opni's was answered at {}, with token {}", peer.source, token.id());
                Ok(Response::new(answer.encode().into()))
            }
            Err(error) => {
                self.0.failed("a join of an agent of Opni's", peer.source, &error);
                Err(desk_status(&error))
            }
        }
    }
}

#[tonic::async_trait]
impl bootstrap::bootstrap_server::Bootstrap for OpniService {
    async fn join(&self, request: Request<Raw>) -> Result<Response<Raw>, Status> {
        Self::join(self, request).await
    }

    async fn auth(&self, request: Request<Raw>) -> Result<Response<Raw>, Status> {
        Self::auth(self, request, OpniGateway::auth_v1, Counter::JoinedV1, Counter::RefusedV1).await
    }
}

#[tonic::async_trait]
impl bootstrap_v2::bootstrap_server::Bootstrap for OpniService {
    async fn join(&self, request: Request<Raw>) -> Result<Response<Raw>, Status> {
        Self::join(self, request).await
    }

    async fn auth(&self, request: Request<Raw>) -> Result<Response<Raw>, Status> {
        Self::auth(self, request, OpniGateway::auth_v2, Counter::JoinedV2, Counter::RefusedV2).await
    }
}

fn gateway(peer: &Peer) -> Result<&OpniGateway, Status> {
    peer.serving
        .opni
        .as_ref()
        .ok_or_else(|| Status::unimplemented("this gateway's key is not an Ed25519 key, which the protocol needs"))
}

fn refused(error: &OpniError) -> Status {
    Status::new(Code::from_i32(error.status() as i32), error.to_string())
}

fn desk_status(error: &DeskError) -> Status {
    let (status, message): (opni::Status, String) = error.opni_status();
    Status::new(Code::from_i32(status as i32), message)
}
