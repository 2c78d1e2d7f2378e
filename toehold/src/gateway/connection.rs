//! One connection: PROXY header, TLS, HTTP/2. Nothing here is awaited by anybody else.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use toehold_joinproto::v3::{EXPORTER_LABEL, Exporter};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::agent_service::{self, AgentService};
use super::health_service::{self, HealthService};
use super::hub::{Hub, Peer};
use super::join_service::{self, JoinService};
use super::limits::Place;
use super::metrics::Counter;
use super::opni_service::{self, OpniService};
use super::proxy_protocol::{self, Step};
use crate::adapters::grpc::agent_v1::agent_server::AgentServer;
use crate::adapters::grpc::health_v1::health_server::HealthServer;
use crate::adapters::grpc::join_v3::join_server::JoinServer;
use crate::adapters::grpc::{bootstrap, bootstrap_v2};

/// Calls that a connection may have open at once: an agent has one, a joining machine two.
const MAX_STREAMS: u32 = 16;
/// Bytes of a call's headers; a bearer of Opni's is about 300.
const MAX_HEADERS: u32 = 8_192;
/// How often a silent connection is asked whether it is still there, and how long it has to answer.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(20));

/// The services, ready to be called.
#[derive(Clone, Debug)]
pub(super) struct Services {
    hub: Arc<Hub>,
    v1: bootstrap::bootstrap_server::BootstrapServer<OpniService>,
    v2: bootstrap_v2::bootstrap_server::BootstrapServer<OpniService>,
    v3: JoinServer<JoinService>,
    agent: AgentServer<AgentService>,
    health: HealthServer<HealthService>,
}

impl Services {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        let opni = Arc::new(OpniService(Arc::clone(hub)));
        Self {
            hub: Arc::clone(hub),
            v1: bootstrap::bootstrap_server::BootstrapServer::from_arc(Arc::clone(&opni))
                .max_decoding_message_size(opni_service::MAX_MESSAGE),
            v2: bootstrap_v2::bootstrap_server::BootstrapServer::from_arc(opni)
                .max_decoding_message_size(opni_service::MAX_MESSAGE),
            v3: JoinServer::new(JoinService(Arc::clone(hub))).max_decoding_message_size(join_service::MAX_MESSAGE),
            agent: AgentServer::new(AgentService(Arc::clone(hub))).max_decoding_message_size(agent_service::MAX_MESSAGE),
            health: HealthServer::new(HealthService(Arc::clone(hub))).max_decoding_message_size(health_service::MAX_MESSAGE),
        }
    }

    async fn call(mut self, peer: Arc<Peer>, mut request: Request<Incoming>) -> Response<Body> {
        if !self.hub.limits.call(peer.source, Instant::now()) {
            self.hub.metrics.count(Counter::CallRefused);
            return Status::resource_exhausted("too many calls from this network; wait a minute").into_http();
        }
        request.extensions_mut().insert(peer);
        let service = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let answered = match service.as_str() {
            "bootstrap.Bootstrap" => self.v1.call(request).await.map(opni_service::share),
            "bootstrap.v2.Bootstrap" => self.v2.call(request).await.map(opni_service::share),
            "toehold.join.v3.Join" => self.v3.call(request).await,
            "toehold.agent.v1.Agent" => self.agent.call(request).await,
            "grpc.health.v1.Health" => self.health.call(request).await,
            _ => return Status::unimplemented("there is no such service here").into_http(),
        };
        answered.unwrap_or_else(|error| match error {})
    }
}

/// Whether this address is a load balancer's, which says who is behind it.
pub(super) fn is_balancer(address: IpAddr, proxy_from: &[IpNet]) -> bool {
    proxy_from.iter().any(|network| network.contains(&address))
}

/// Sees a connection through, from its first byte to its last. A load balancer's `place` is not identified yet.
pub(super) async fn handle(services: Services, mut tcp: TcpStream, address: IpAddr, mut place: Place, is_balancer: bool) {
    let hub = Arc::clone(&services.hub);
    let options = *hub.limits.options();
    let begun = tokio::time::Instant::now();
    let handshake = begun + options.handshake;
    let mut source = address;
    if is_balancer {
        let Ok(Ok(behind)) = timeout_at(handshake, behind(&mut tcp)).await else {
            hub.metrics.count(Counter::ProxyHeaderBad);
            return;
        };
        source = behind.unwrap_or(address);
        if let Err(refused) = place.identify(source, Instant::now()) {
            hub.metrics.count(Counter::ConnectionRefused);
            tracing::debug!("a connection from {source} was refused: {refused}");
            return;
        }
    }
    let serving = hub.serving.borrow().clone();
    let acceptor = TlsAcceptor::from(Arc::clone(&serving.tls));
    let tls = match timeout_at(handshake, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            hub.metrics.count(Counter::HandshakeFailed);
            return tracing::debug!("a TLS handshake with {source} failed: {error}");
        }
        Err(_) => {
            hub.metrics.count(Counter::HandshakeFailed);
            return tracing::debug!("a TLS handshake with {source} took too long");
        }
    };
    let material = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL.as_bytes(), Some(&[]));
    let Ok(exporter) = material else {
        hub.metrics.count(Counter::HandshakeFailed);
        return;
    };
    hub.metrics.count(Counter::HandshakeDone);
    let peer = Arc::new(Peer::new(source, Exporter(exporter), serving, place));
    let for_calls = Arc::clone(&peer);
    let call = move |request| services.clone().call(Arc::clone(&for_calls), request);
    let is_known = || peer.is_authenticated();
    let lifetime = options.stranger_lifetime;
    match drive(tls, call, (begun + lifetime, lifetime), is_known, peer.over(lifetime), hub.stopping.clone()).await {
        End::Closed => {}
        End::Panicked => hub.metrics.count(Counter::Panic),
        End::TimedOut => {
            hub.metrics.count(Counter::StrangerTimedOut);
            tracing::debug!("a connection from {source} was closed: nobody authenticated in time");
        }
    }
}

/// Who is behind a load balancer; `None`: it speaks for itself. `Err`: its header cannot be read.
async fn behind(tcp: &mut TcpStream) -> Result<Option<IpAddr>, ()> {
    let mut read = Vec::new();
    loop {
        match proxy_protocol::step(&read).map_err(drop)? {
            Step::Done(behind) => return Ok(behind),
            Step::Read(count) => {
                let before = read.len();
                read.resize(before + count, 0);
                let place = read.get_mut(before..).ok_or(())?;
                tcp.read_exact(place).await.map_err(drop)?;
            }
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Panicked,
    TimedOut,
}

/// Serves calls over a stream until it ends, until `deadline` where nobody is known by then, or until one of its calls panics; told to
/// stop, it takes no new calls. Nor does it once it is `over`: then those that are open have `grace` to end.
async fn drive<IO, C, F>(
    io: IO,
    call: C,
    (deadline, grace): (tokio::time::Instant, Duration),
    is_known: impl Fn() -> bool,
    over: impl Future<Output = ()>,
    mut stopping: watch::Receiver<bool>,
) -> End
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    C: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let panicked = Arc::new(Notify::new());
    let mut builder = http2::Builder::new(Watched(Arc::clone(&panicked)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .max_send_buf_size(65_535)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1);
    let service = hyper::service::service_fn(move |request| call(request).map(Ok::<_, Infallible>));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut late = pin!(tokio::time::sleep_until(deadline));
    let mut over = pin!(over);
    let (mut is_ending, mut is_over) = (false, false);
    loop {
        tokio::select! {
            // The peer went, or broke the protocol: it is over either way.
            _ = connection.as_mut() => return End::Closed,
            () = panicked.notified() => return End::Panicked,
            () = late.as_mut(), if is_over || !is_known() => {
                if is_over {
                    return End::Closed;
                }
                if !is_known() {
                    return End::TimedOut;
                }
            }
            () = over.as_mut(), if !is_over => {
                is_over = true;
                late.as_mut().reset(tokio::time::Instant::now() + grace);
                connection.as_mut().graceful_shutdown();
            }
            _ = stopping.wait_for(|stopping| *stopping), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Runs a connection's calls, and says when one of them panics: then that connection ends, and no other.
#[derive(Clone, Debug)]
struct Watched(Arc<Notify>);

impl<F> hyper::rt::Executor<F> for Watched
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let panicked = Arc::clone(&self.0);
        tokio::spawn(async move {
            let future: Pin<Box<dyn Future<Output = F::Output> + Send>> = Box::pin(future);
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                panicked.notify_one();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    async fn client(io: tokio::io::DuplexStream) -> hyper::client::conn::http2::SendRequest<Empty<bytes::Bytes>> {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn start(deadline: Duration) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<End>, watch::Sender<bool>) {
        start_with(deadline, false, std::future::pending())
    }

    fn start_with(
        deadline: Duration,
        is_known: bool,
        over: impl Future<Output = ()> + Send + 'static,
    ) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<End>, watch::Sender<bool>) {
        let (ours, theirs) = tokio::io::duplex(65_536);
        let (stop, stopping) = watch::channel(false);
        let call = |request: Request<Incoming>| async move {
            assert!(request.uri().path() != "/panic", "on purpose");
            if request.uri().path() == "/held" {
                std::future::pending::<()>().await;
            }
            Status::ok("").into_http()
        };
        let deadlines = (tokio::time::Instant::now() + deadline, deadline);
        (theirs, tokio::spawn(drive(ours, call, deadlines, move || is_known, over, stopping)), stop)
    }

    fn request(path: &str) -> Request<Empty<bytes::Bytes>> {
        Request::post(format!("http://gateway{path}")).body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_no_other() {
        let (io, first, _stop) = start(Duration::from_secs(600));
        let (other_io, second, _other_stop) = start(Duration::from_secs(600));
        let (mut bad, mut good) = (client(io).await, client(other_io).await);
        good.send_request(request("/fine")).await.unwrap();
        assert!(bad.send_request(request("/panic")).await.is_err());
        assert_eq!(first.await.unwrap(), End::Panicked);
        good.send_request(request("/fine")).await.unwrap();
        drop(good);
        assert_eq!(second.await.unwrap(), End::Closed);
    }

    #[tokio::test]
    async fn nobody_stays_a_stranger_for_ever() {
        let (io, driven, _stop) = start(Duration::from_millis(50));
        let mut sender = client(io).await;
        sender.send_request(request("/fine")).await.unwrap();
        assert_eq!(driven.await.unwrap(), End::TimedOut);
    }

    #[tokio::test]
    async fn once_it_is_over_it_closes_and_what_is_open_has_its_time_and_no_more() {
        for (path, grace) in [("/fine", Duration::from_secs(600)), ("/held", Duration::from_millis(50))] {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            let (io, driven, _stop) = start_with(grace, true, async { ended.await.unwrap() });
            let mut sender = client(io).await;
            let held = tokio::spawn(sender.send_request(request(path)));
            sender.send_request(request("/fine")).await.unwrap();
            end.send(()).unwrap();
            assert_eq!(driven.await.unwrap(), End::Closed, "{path}");
            assert_eq!(held.await.unwrap().is_ok(), path == "/fine");
        }
    }

    #[tokio::test]
    async fn told_to_stop_it_closes_in_peace() {
        let (io, driven, stop) = start(Duration::from_secs(600));
        let mut sender = client(io).await;
        sender.send_request(request("/fine")).await.unwrap();
        stop.send(true).unwrap();
        assert_eq!(driven.await.unwrap(), End::Closed);
    }
}
