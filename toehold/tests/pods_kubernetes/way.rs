//! The way to the API server, with somebody on it who does harm.
//!
//! It is spoken to in plain HTTP and speaks TLS to the server, so that it sees what is asked for and where a stream into a pod begins. It
//! answers nothing by itself: there is the real server, or silence.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64ct::Encoding as _;
use memchr::memmem;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use crate::ground::Ground;

/// How a stream is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// As by a server that ends.
    End,
    /// As by a machine that no longer knows the connection.
    Reset,
}

/// What is done to everything that comes by.
#[derive(Debug, Default)]
struct Harm {
    /// How long each piece is held up, in milliseconds.
    slow: AtomicU64,
    /// What connections of lower numbers carry is taken and thrown away, both ways.
    swallowed: AtomicUsize,
    /// After how many bytes of a stream it is cut, and how.
    cut: Mutex<Option<(usize, Cut)>>,
    /// Requests with this in them are never passed on.
    held: Mutex<Option<Vec<u8>>>,
    /// What a request has in the place of something else.
    rewritten: Vec<(Vec<u8>, Vec<u8>)>,
    /// Which requests: those with this in them.
    of_which: Vec<u8>,
    /// Connections so far.
    connections: AtomicUsize,
    /// Streams into pods so far.
    streams: AtomicUsize,
}

/// A proxy to the API server.
#[derive(Debug)]
pub(crate) struct Way {
    address: SocketAddr,
    harm: Arc<Harm>,
    runtime: Option<Runtime>,
}

impl Way {
    pub(crate) fn of(ground: &Ground) -> Self {
        Self::rewriting(ground, &[])
    }

    /// With something else in the place of what stands in requests.
    pub(crate) fn rewriting(ground: &Ground, rewritten: &[(&str, &str)]) -> Self {
        Self::rewriting_some(ground, "", rewritten)
    }

    /// The same, in requests with this in them alone.
    pub(crate) fn rewriting_some(ground: &Ground, of_which: &str, rewritten: &[(&str, &str)]) -> Self {
        let rewritten = rewritten.iter().map(|(from, to)| (from.as_bytes().to_vec(), to.as_bytes().to_vec())).collect();
        let harm = Arc::new(Harm { rewritten, of_which: of_which.as_bytes().to_vec(), ..Harm::default() });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = Server::of(ground);
        let listener = {
            let _inside = runtime.enter();
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.set_nonblocking(true).unwrap();
            TcpListener::from_std(listener).unwrap()
        };
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&harm);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, harm) = (server.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Some(connected) = server.connect().await {
                        pass(client, connected, &harm).await;
                    }
                });
            }
        });
        Self { address, harm, runtime: Some(runtime) }
    }

    /// A gateway's `connection` by this way, as the gateway's account.
    pub(crate) fn connection(&self, ground: &Ground) -> Value {
        let token = ground.kubeconfig()["users"][0]["user"]["token"].clone();
        json!({ "host": self.host(), "bearerToken": token, "timeout": "2s" })
    }

    pub(crate) fn host(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds every piece up for so long.
    pub(crate) fn slow(&self, by: Duration) {
        self.harm.slow.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// From now on nothing arrives any more by connections that are open, and nobody is told.
    pub(crate) fn swallow(&self) {
        self.harm.swallowed.store(self.harm.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// From now on nothing arrives by any.
    pub(crate) fn swallow_all(&self) {
        self.harm.swallowed.store(usize::MAX, Ordering::SeqCst);
    }

    /// Streams that begin from now on are cut after so many bytes.
    pub(crate) fn cut(&self, after: usize, how: Cut) {
        *self.harm.cut.lock().unwrap() = Some((after, how));
    }

    /// Takes requests with this in them and says nothing.
    pub(crate) fn hold(&self, requests: &str) {
        *self.harm.held.lock().unwrap() = Some(requests.as_bytes().to_vec());
    }

    /// Does nothing any more.
    pub(crate) fn mend(&self) {
        self.harm.slow.store(0, Ordering::SeqCst);
        self.harm.swallowed.store(0, Ordering::SeqCst);
        *self.harm.cut.lock().unwrap() = None;
        *self.harm.held.lock().unwrap() = None;
    }

    /// How many streams into pods have come by.
    pub(crate) fn streams(&self) -> usize {
        self.harm.streams.load(Ordering::SeqCst)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The API server.
#[derive(Clone)]
struct Server {
    authority: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Server {
    fn of(ground: &Ground) -> Self {
        let cluster = &ground.kubeconfig()["clusters"][0]["cluster"];
        let authority = cluster["server"].as_str().unwrap().strip_prefix("https://").unwrap().trim_end_matches('/').to_owned();
        let host = authority.rsplit_once(':').unwrap().0.trim_matches(['[', ']']).to_owned();
        let pem = base64ct::Base64::decode_vec(cluster["certificate-authority-data"].as_str().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { authority, name: ServerName::try_from(host).unwrap(), tls: TlsConnector::from(Arc::new(config)) }
    }

    /// `None` where it is not there: whoever came is closed.
    async fn connect(&self) -> Option<impl AsyncRead + AsyncWrite + Send + 'static> {
        let tcp = TcpStream::connect(&self.authority).await.ok()?;
        let _ = tcp.set_nodelay(true);
        self.tls.connect(self.name.clone(), tcp).await.ok()
    }
}

async fn pass(client: TcpStream, server: impl AsyncRead + AsyncWrite + Send, harm: &Harm) {
    let number = harm.connections.fetch_add(1, Ordering::SeqCst);
    let is_swallowed = || number < harm.swallowed.load(Ordering::SeqCst);
    let held_up = || tokio::time::sleep(Duration::from_millis(harm.slow.load(Ordering::SeqCst)));
    let _ = client.set_nodelay(true);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            let mut piece = buffer[..length].to_vec();
            if is_swallowed() {
                continue;
            }
            let is_held = harm.held.lock().unwrap().as_ref().is_some_and(|held| memmem::find(&piece, held).is_some());
            if is_held {
                std::future::pending::<()>().await;
            }
            let is_meant = memmem::find(&piece, &harm.of_which).is_some();
            for (from, to) in harm.rewritten.iter().filter(|_| is_meant) {
                while let Some(at) = memmem::find(&piece, from) {
                    piece.splice(at..at + from.len(), to.iter().copied());
                }
            }
            held_up().await;
            if to_server.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
        std::future::pending::<()>().await;
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        // What is left of a stream until it is cut.
        let mut left: Option<(usize, Cut)> = None;
        let mut is_stream = false;
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let mut piece = &buffer[..length];
            if is_swallowed() {
                continue;
            }
            held_up().await;
            if !is_stream && piece.starts_with(b"HTTP/1.1 101 ") {
                is_stream = true;
                harm.streams.fetch_add(1, Ordering::SeqCst);
                left = *harm.cut.lock().unwrap();
                let head = memmem::find(piece, b"\r\n\r\n").unwrap() + 4;
                if to_client.write_all(&piece[..head]).await.is_err() {
                    break;
                }
                piece = &piece[head..];
            }
            let is_last = left.as_ref().is_some_and(|(left, _)| piece.len() >= *left);
            if let Some((left, _)) = &mut left {
                piece = &piece[..piece.len().min(*left)];
                *left -= piece.len();
            }
            if to_client.write_all(piece).await.is_err() || is_last {
                break;
            }
        }
        left.filter(|(left, _)| *left == 0).map(|(_, how)| how)
    };
    let cut = tokio::select! {
        cut = down => cut,
        () = up => None,
    };
    if let Some(Cut::Reset) = cut {
        let _ = rustix::net::sockopt::set_socket_linger(to_client.as_ref(), Some(Duration::ZERO));
    }
}
