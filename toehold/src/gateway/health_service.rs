//! gRPC's health service, for load balancers.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tonic::{Request, Response, Status};

use super::hub::Hub;
use crate::adapters::grpc::health_v1::health_check_response::ServingStatus;
use crate::adapters::grpc::health_v1::health_server::Health;
use crate::adapters::grpc::health_v1::{HealthCheckRequest, HealthCheckResponse};

/// The largest request.
pub(super) const MAX_MESSAGE: usize = 512;
/// The services that it speaks of; the empty name is all of them.
const SERVICES: [&str; 5] =
    ["", "bootstrap.Bootstrap", "bootstrap.v2.Bootstrap", "toehold.join.v3.Join", "toehold.agent.v1.Agent"];

#[derive(Debug)]
pub(super) struct HealthService(pub(super) Arc<Hub>);

impl HealthService {
    fn status(hub: &Hub) -> HealthCheckResponse {
        let status = if hub.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status.into() }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service"));
        }
        Ok(Response::new(Self::status(&self.0)))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !SERVICES.contains(&request.get_ref().service.as_str()) {
            return Err(Status::not_found("there is no such service"));
        }
        let first = Some(Self::status(&self.0));
        let stream = unfold((first, Arc::clone(&self.0)), |(first, hub)| async move {
            if let Some(first) = first {
                return Some((Ok(first), (None, hub)));
            }
            if hub.is_stopping() {
                return None;
            }
            let mut stopping = hub.stopping.clone();
            let _ = stopping.wait_for(|stopping| *stopping).await;
            Some((Ok(Self::status(&hub)), (None, hub)))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
