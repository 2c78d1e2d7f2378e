//! The least that sends an answer: TLS and HTTP/2 set up as the gateway's, and one and the same answer to whatever is asked. A process of its
//! own, so that what it spends of the processors can be told.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::join_support::gateway::processor_time;

/// Names the file that has the answer.
const ANSWER: &str = "TOEHOLD_BENCH_FLOOR";

/// The answer to serve, where this process is the one that serves it.
pub(crate) fn asked_for() -> Option<Bytes> {
    std::env::var_os(ANSWER).map(|path| std::fs::read(path).unwrap().into())
}

/// That process; ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Floor {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Floor {
    pub(crate) fn start(answer: &[u8]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all(answer).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command.env(ANSWER, file.path()).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }

    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(&self.child)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn serve(answer: Bytes) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["gateway".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let key = PrivatePkcs8KeyDer::from(pair.serialize_der()).into();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    let head = Bytes::from([&[0][..], &length].concat());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (acceptor, head, answer) = (acceptor.clone(), head.clone(), answer.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |_| {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let frames = [Frame::data(head.clone()), Frame::data(answer.clone()), Frame::trailers(trailers)];
                let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
                let response = Response::builder().header("content-type", "application/grpc").body(body).unwrap();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(65_535).initial_connection_window_size(65_535).max_send_buf_size(65_535);
            let _ = builder.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}
