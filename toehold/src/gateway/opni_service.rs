//! Versions 1 and 2 of the join, for Opni's agents.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use toehold_core::Clock as _;
use toehold_joinproto::admission::{DeskError, OpniJoin, OpniRequest};
use toehold_joinproto::opni::{self, OpniError, OpniGateway};
use toehold_joinproto::token::Token;
use tonic::body::Body;
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
                let mut response = Response::new(Raw::default());
                response.extensions_mut().insert(Shared(answer));
                return Ok(response);
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
                let agent = match &asked {
                    OpniRequest::V1(asked) => &asked.client_id,
                    OpniRequest::V2(asked) => &asked.client_id,
                };
                self.0.joined(agent, "opni", &token.id().to_string(), peer.source);
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

/// An answer that all who ask have in common. The codec would copy it for each of them: 1.3 MB with 10,000 tokens, for anybody.
#[derive(Clone, Debug)]
struct Shared(Arc<[u8]>);

/// Puts the answer that all share in the place of the body that was to be encoded.
pub(super) fn share(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove() {
        Some(Shared(answer)) => response.map(|_| shared(answer)),
        None => response,
    }
}

/// A gRPC message, not compressed, and that all went well.
fn shared(answer: Arc<[u8]>) -> Body {
    let length = u32::try_from(answer.len()).unwrap_or(u32::MAX).to_be_bytes();
    let head = Bytes::from([&[0][..], &length].concat());
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Frame::data(head), Frame::data(Bytes::from_owner(answer)), Frame::trailers(trailers)];
    Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Status>))))
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_gets_the_same_bytes_and_no_copy_of_them() {
        let answer: Arc<[u8]> = vec![7; 1_300_000].into();
        for _ in 0..2 {
            let mut response = http::Response::new(Body::empty());
            response.extensions_mut().insert(Shared(Arc::clone(&answer)));
            let mut body = share(response).into_body();
            let head = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(head[..], [0, 0, 0x13, 0xd6, 0x20]);
            let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((data.as_ptr(), data.len()), (answer.as_ptr(), answer.len()));
            let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers["grpc-status"], "0");
            assert!(body.frame().await.is_none());
        }
    }
}
