//! Somebody in the middle who ends TLS: a client sees its certificate, and its frames go on over a connection of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use futures_util::stream::unfold;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use toehold::adapters::grpc::join_v3::Frame;
use toehold::adapters::grpc::join_v3::join_client::JoinClient;
use toehold::adapters::grpc::join_v3::join_server::{Join, JoinServer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status, Streaming};

use super::gateway::{Dial, origin, streamed};
use super::relay::Side;

/// A certificate with its key.
#[derive(Debug)]
pub struct Certified {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// What becomes of a frame on its way: it may be changed; `false` ends the conversation there.
pub type Change = Arc<dyn Fn(Side, &mut Vec<u8>) -> bool + Send + Sync>;

/// Passes all on as it is.
pub fn unchanged() -> Change {
    Arc::new(|_, _| true)
}

/// What went by, and which side had sent it.
type Frames = Arc<Mutex<Vec<(Side, Vec<u8>)>>>;

/// In the middle, on a port of its own.
#[derive(Debug)]
pub struct Middle {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    frames: Frames,
    _tasks: JoinSet<()>,
}

impl Middle {
    /// Between clients and a gateway.
    pub async fn start(certified: Certified, to: SocketAddr, change: Change) -> Self {
        let acceptor = acceptor(certified);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, frames) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let service = Conversations { to, change, frames: Arc::clone(&frames) };
        let counted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, server) = (acceptor.clone(), JoinServer::new(service.clone()));
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| server.clone().call(request));
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, connections, frames, _tasks: tasks }
    }

    /// How many connections clients have made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// All frames as they came.
    pub fn frames(&self) -> Vec<(Side, Vec<u8>)> {
        self.frames.lock().unwrap().clone()
    }
}

/// TLS as a gateway has it, with this certificate.
pub fn acceptor(Certified { chain, key }: Certified) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[derive(Clone)]
struct Conversations {
    to: SocketAddr,
    change: Change,
    frames: Frames,
}

impl Conversations {
    /// Keeps the frame, and changes it.
    fn seen(&self, side: Side, frame: &mut Frame) -> bool {
        self.frames.lock().unwrap().push((side, frame.frame.clone()));
        (self.change)(side, &mut frame.frame)
    }
}

#[tonic::async_trait]
impl Join for Conversations {
    type ConverseStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn converse(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::ConverseStream>, Status> {
        let mut from_client = request.into_inner();
        let gateway = Dial::to(self.to).connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (to_gateway, frames) = streamed();
        let up = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(mut frame)) = from_client.message().await {
                if !up.seen(Side::Client, &mut frame) || to_gateway.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let answers = JoinClient::with_origin(gateway, origin()).converse(frames).await?.into_inner();
        let down = unfold((answers, self.clone()), |(mut answers, down)| async move {
            let mut frame = match answers.message().await {
                Ok(frame) => frame?,
                Err(status) => return Some((Err(status), (answers, down))),
            };
            down.seen(Side::Gateway, &mut frame).then_some((Ok(frame), (answers, down)))
        });
        Ok(Response::new(Box::pin(down)))
    }
}
