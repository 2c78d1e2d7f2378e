//! One connection to one gateway: TLS that knows it by its pins, and HTTP/2 over it.
//!
//! Nothing is dialled again behind the caller's back: what the gateway proved holds for the calls on this very connection, which has
//! ended for good once it breaks.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use toehold_joinproto::v3::{EXPORTER_LABEL, Exporter};
use toehold_joinproto::{Endpoint, GatewayIdentity, JoinError, Trust};
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::dial::dial;
use super::gateway_verifier::{GatewayVerifier, refusal};

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct GatewayLimits {
    /// To accept a TCP connection.
    pub connect: Duration,
    /// From there to the end of the TLS handshake.
    pub handshake: Duration,
    /// To answer one message.
    pub answer: Duration,
}

/// Why there is no connection to the gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayConnectionError {
    /// Nobody accepts a TCP connection there.
    #[error("the gateway {endpoint} cannot be reached")]
    Unreachable {
        /// Where.
        endpoint: Endpoint,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the gateway {endpoint} took over {} s {doing}", limit.as_secs())]
    TimedOut {
        /// Where.
        endpoint: Endpoint,
        /// What it took too long for.
        doing: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// Whoever answers there is not the gateway, by its certificates.
    #[error("whoever answers at {endpoint} is not the gateway that was named")]
    NotTheGateway {
        /// Where.
        endpoint: Endpoint,
        /// In what way.
        #[source]
        source: JoinError,
    },
    /// The handshake failed for another reason.
    #[error("TLS with the gateway {endpoint} failed")]
    Tls {
        /// Where.
        endpoint: Endpoint,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// HTTP/2 could not be begun.
    #[error("HTTP/2 with the gateway {endpoint} failed")]
    Http {
        /// Where.
        endpoint: Endpoint,
        /// What failed.
        #[source]
        source: hyper::Error,
    },
}

/// A connection to the gateway, which was known in its handshake. Cut when it is dropped.
pub struct GatewayConnection {
    identity: GatewayIdentity,
    exporter: Exporter,
    channel: OneConnection,
    origin: http::Uri,
    driver: AbortHandle,
}

impl GatewayConnection {
    /// Connects; whoever is not the gateway by `trust` is told nothing and not asked again.
    ///
    /// # Errors
    /// [`GatewayConnectionError`].
    pub async fn open(endpoint: &Endpoint, trust: Trust, limits: GatewayLimits) -> Result<Self, GatewayConnectionError> {
        let timed_out = |doing, limit| GatewayConnectionError::TimedOut { endpoint: endpoint.clone(), doing, limit };
        let unreachable = |source| GatewayConnectionError::Unreachable { endpoint: endpoint.clone(), source };
        let stream = tokio::time::timeout(limits.connect, dial(endpoint.host(), endpoint.port()))
            .await
            .map_err(|_| timed_out("to accept a connection", limits.connect))?
            .map_err(unreachable)?;
        tokio::time::timeout(limits.handshake, Self::over(stream, endpoint, trust))
            .await
            .map_err(|_| timed_out("for the TLS handshake", limits.handshake))?
    }

    async fn over(stream: tokio::net::TcpStream, endpoint: &Endpoint, trust: Trust) -> Result<Self, GatewayConnectionError> {
        let tls = |source| match refusal_in(&source) {
            Some(refusal) => GatewayConnectionError::NotTheGateway { endpoint: endpoint.clone(), source: refusal.clone() },
            None => GatewayConnectionError::Tls { endpoint: endpoint.clone(), source },
        };
        let verifier = GatewayVerifier::new(trust, endpoint.host());
        let config = verifier.config().map_err(|error| tls(io::Error::other(error)))?;
        let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|error| tls(io::Error::other(error)))?;
        let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.map_err(tls)?;
        let (_, session) = stream.get_ref();
        let material = session.export_keying_material([0; 32], EXPORTER_LABEL.as_bytes(), None);
        let exporter = Exporter(material.map_err(|error| tls(io::Error::other(error)))?);
        let identity = verifier.known().cloned().ok_or_else(|| tls(io::Error::other("no certificate was presented")))?;
        let http = |source| GatewayConnectionError::Http { endpoint: endpoint.clone(), source };
        let (sender, connection) =
            http2::Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the gateway has ended");
            }
        });
        let origin = http::Uri::builder().scheme("https").authority(endpoint.to_string()).path_and_query("/").build();
        let origin = origin.map_err(|error| tls(io::Error::other(error)))?;
        Ok(Self { identity, exporter, channel: OneConnection(sender), origin, driver: driver.abort_handle() })
    }

    /// The gateway as it was known in this connection's handshake.
    pub fn identity(&self) -> &GatewayIdentity {
        &self.identity
    }

    /// What this connection exports.
    pub fn exporter(&self) -> Exporter {
        self.exporter
    }

    /// What a client makes its calls through.
    pub fn channel(&self) -> OneConnection {
        self.channel.clone()
    }

    /// The scheme and authority that calls name.
    pub fn origin(&self) -> http::Uri {
        self.origin.clone()
    }
}

impl Drop for GatewayConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for GatewayConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayConnection").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn refusal_in(error: &io::Error) -> Option<&JoinError> {
    error.get_ref()?.downcast_ref::<rustls::Error>().and_then(refusal)
}

/// The sending half of an HTTP/2 connection as what tonic calls; there is nothing behind it that would connect again.
#[derive(Clone, Debug)]
pub struct OneConnection(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for OneConnection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
