//! Versions 1 and 2: Opni's two calls, at a gateway of Opni's or one of ours.

use std::time::Duration;

use rand_core::CryptoRng;
use toehold_joinproto::JoinError;
use toehold_joinproto::Trust;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::opni::{OpniClient, Version};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;

use super::directory::Attempt;
use super::error::{AgentError, Stage};
use super::join::Joining;
use super::session::within;
use crate::adapters::gateway_connection::GatewayConnection;
use crate::adapters::grpc::raw::{Raw, RawCodec};

/// A gateway may sign a token that was made a moment ago a moment later: so often it is asked again, and so long after.
const SIGNING_PAUSES: u32 = 4;
const SIGNING_PAUSE: Duration = Duration::from_millis(500);

/// Joins over this connection; the attempt, with the id in it, is durable already. What is left to be done is to authenticate once.
pub(super) async fn call<R: CryptoRng>(
    connection: &GatewayConnection,
    joining: &Joining<'_>,
    version: Version,
    trust: &Trust,
    attempt: &Attempt,
    rng: &mut R,
) -> Result<(), AgentError> {
    let &Joining { line, directory, lock, limits, reached } = joining;
    let refused = |source: JoinError| AgentError::Join { endpoint: line.endpoint.clone(), source };
    let (join_method, auth_method) = (version.join_method(), version.auth_method());
    let call = Call { connection, line, limit: limits.answer };
    let mut pauses = 0..SIGNING_PAUSES;
    let (awaiting, auth) = loop {
        let client = OpniClient { version: version.clone(), client_id: attempt.joined.id.clone(), token: Some(&line.token) };
        let awaiting = client.start().map_err(refused)?;
        let answer = call.unary(join_method, "to name its tokens", None, Vec::new()).await?;
        match awaiting.receive(&answer, connection.identity(), rng) {
            Err(JoinError::NoValidSignature) if pauses.next().is_some() => tokio::time::sleep(SIGNING_PAUSE).await,
            received => break received.map_err(refused)?,
        }
    };
    reached.set(Stage::Proven);
    let authorization = Some(auth.authorization.as_str());
    let answer = call.unary(auth_method, "to let this machine in", authorization, auth.message).await?;
    let keyring = awaiting.receive(&answer, trust).map_err(refused)?;
    reached.set(Stage::Confirmed);
    directory.add_unconfirmed(lock, attempt, keyring)
}

struct Call<'a> {
    connection: &'a GatewayConnection,
    line: &'a JoinLine,
    limit: Duration,
}

impl Call<'_> {
    async fn unary(
        &self,
        path: &'static str,
        doing: &'static str,
        authorization: Option<&str>,
        message: Vec<u8>,
    ) -> Result<Vec<u8>, AgentError> {
        let endpoint = &self.line.endpoint;
        let unexpected = |what| AgentError::Unexpected { endpoint: endpoint.clone(), what };
        let mut request = tonic::Request::new(Raw::from(message));
        if let Some(authorization) = authorization {
            let mut value: MetadataValue<_> =
                authorization.parse().map_err(|_| unexpected("has signed something that cannot be sent back"))?;
            // It holds the token's secret.
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = Grpc::with_origin(self.connection.channel(), self.connection.origin());
        let answered = within(endpoint, self.limit, doing, async {
            client.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
            client.unary(request, PathAndQuery::from_static(path), RawCodec).await
        });
        let answered = answered.await?.map_err(|status| AgentError::of_status(status, endpoint, doing))?;
        Ok(answered.into_inner().0.to_vec())
    }
}
