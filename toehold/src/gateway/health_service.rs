//! gRPC's health service, for load balancers.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::sync::watch;
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

/// Somebody who wants to be told whenever it changes.
struct Watching {
    hub: Arc<Hub>,
    stopping: watch::Receiver<bool>,
    failing: watch::Receiver<BTreeSet<&'static str>>,
    told: Option<HealthCheckResponse>,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            // Marked as seen first: what changes after that wakes it again.
            self.stopping.mark_unchanged();
            self.failing.mark_unchanged();
            let status = HealthService::status(&self.hub);
            if self.told != Some(status) {
                self.told = Some(status);
                return Some((Ok(status), self));
            }
            if self.hub.is_stopping() {
                return None;
            }
            let changed = tokio::select! {
                changed = self.stopping.changed() => changed,
                changed = self.failing.changed() => changed,
            };
            changed.ok()?;
        }
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
        let watching = Watching {
            stopping: self.0.stopping.clone(),
            failing: self.0.failing.subscribe(),
            hub: Arc::clone(&self.0),
            told: None,
        };
        Ok(Response::new(Box::pin(unfold(watching, Watching::next))))
    }
}
