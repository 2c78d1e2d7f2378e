//! Agents of Opni's, call by call.

use toehold::adapters::grpc::bootstrap::bootstrap_client::BootstrapClient as V1;
use toehold::adapters::grpc::bootstrap_v2::bootstrap_client::BootstrapClient as V2;
use toehold::adapters::grpc::raw::Raw;
use toehold_joinproto::Trust;
use toehold_joinproto::keyring::Keyring;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::opni::{OpniClient, Version};
use toehold_joinproto::wire::JoinResponse;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::gateway::{Connection, eventually, origin, rng};

/// One raw call.
pub async fn call(connection: &Connection, method: &str, authorization: &[&str], message: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut request = Request::new(Raw::from(message));
    for value in authorization {
        let value: MetadataValue<Ascii> = value.parse().unwrap();
        request.metadata_mut().append("authorization", value);
    }
    let connection = connection.clone();
    let answer = match method {
        "/bootstrap.Bootstrap/Join" => V1::with_origin(connection, origin()).join(request).await?,
        "/bootstrap.Bootstrap/Auth" => V1::with_origin(connection, origin()).auth(request).await?,
        "/bootstrap.v2.Bootstrap/Join" => V2::with_origin(connection, origin()).join(request).await?,
        "/bootstrap.v2.Bootstrap/Auth" => V2::with_origin(connection, origin()).auth(request).await?,
        other => panic!("{other}"),
    };
    Ok(answer.into_inner().0.to_vec())
}

/// The ids of the tokens that the gateway offers.
pub async fn offered(connection: &Connection) -> Vec<String> {
    match call(connection, "/bootstrap.v2.Bootstrap/Join", &[], Vec::new()).await {
        Ok(message) => JoinResponse::decode(&message).unwrap().signatures.into_keys().collect(),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            Vec::new()
        }
    }
}

pub async fn until_offered(connection: &Connection, ids: &[String]) {
    eventually("the tokens are offered", || async {
        let offered = offered(connection).await;
        ids.iter().all(|id| offered.contains(id))
    })
    .await;
}

/// Joins as an agent of Opni's does, by the second version.
pub async fn join_v2(connection: &Connection, line: &JoinLine, id: &str) -> Result<Keyring, Status> {
    let version = Version::V2 { friendly_name: None };
    join_opni(connection, line, id, version).await
}

pub async fn join_opni(connection: &Connection, line: &JoinLine, id: &str, version: Version) -> Result<Keyring, Status> {
    let (join, auth) = (version.join_method(), version.auth_method());
    let waiting = OpniClient { version, client_id: id.to_owned(), token: Some(&line.token) }.start().unwrap();
    let message = call(connection, join, &[], Vec::new()).await?;
    let (waiting, auth_call) =
        waiting.receive(&message, &connection.known, &mut rng()).map_err(|error| Status::not_found(error.to_string()))?;
    let message = call(connection, auth, &[auth_call.authorization.as_str()], auth_call.message).await?;
    Ok(waiting.receive(&message, &Trust::OpniPinned(line.pins.clone())).unwrap())
}
