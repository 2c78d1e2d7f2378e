//! A gateway that says what one of Opni's said when it was recorded: its certificates, its key, its answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::middle::{Certified, acceptor};

/// PKCS #8 of an Ed25519 key (RFC 8410), up to its seed.
const PKCS8: [u8; 16] = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The recorded exchanges.
pub fn exchanges(op: &str) -> Vec<Value> {
    let text = include_str!("../vectors/opni_exchanges.jsonl");
    let cases: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    cases.into_iter().filter(|case| case["op"] == op).collect()
}

pub fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The recorded chain, leaf first, as DER.
pub fn chain(case: &Value) -> Vec<Vec<u8>> {
    let chain = case["input"]["server_chain_der_b64"].as_array().unwrap();
    chain.iter().map(|der| Base64::decode_vec(der.as_str().unwrap()).unwrap()).collect()
}

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub authorization: Vec<String>,
    pub message: Vec<u8>,
}

/// The server; it lives as long as this.
#[derive(Debug)]
pub struct OpniGateway {
    pub address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    connections: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl OpniGateway {
    /// Answers with these recorded calls, in turn; a session of ours it does not know.
    pub async fn start(case: &Value, rpcs: &[Value]) -> Self {
        let key = [&PKCS8[..], &hex(case["input"]["server_leaf_key_seed_hex"].as_str().unwrap())].concat();
        let certified = Certified {
            chain: chain(case).into_iter().map(CertificateDer::from).collect(),
            key: PrivatePkcs8KeyDer::from(key).into(),
        };
        let acceptor = acceptor(certified);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let rpcs = Arc::new(rpcs.to_vec());
        let (seen, counted) = (Arc::clone(&calls), Arc::clone(&connections));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                *counted.lock().unwrap() += 1;
                let (acceptor, seen, rpcs) = (acceptor.clone(), Arc::clone(&seen), Arc::clone(&rpcs));
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&seen), Arc::clone(&rpcs)));
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, calls, connections, _tasks: tasks }
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

async fn answer(
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<Call>>>,
    rpcs: Arc<Vec<Value>>,
) -> Result<Response<Body>, hyper::Error> {
    let method = request.uri().path().to_owned();
    let authorization = request.headers().get_all("authorization").iter();
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned()).collect();
    if !method.starts_with("/bootstrap.") {
        return Ok(response("12", &[]));
    }
    let body = request.into_body().collect().await?.to_bytes();
    let place = {
        let mut calls = calls.lock().unwrap();
        calls.push(Call { method: method.clone(), authorization, message: body.get(5..).unwrap_or_default().to_vec() });
        calls.len() - 1
    };
    let Some(rpc) = rpcs.get(place).filter(|rpc| rpc["method"] == method.as_str()) else { return Ok(response("2", &[])) };
    let status = rpc["status_number"].to_string();
    let message = rpc["response_hex"].as_str().map(hex).unwrap_or_default();
    Ok(response(&status, &message))
}

/// gRPC's framing: a flag, a length, the message; the status comes in the trailers.
fn response(status: &str, message: &[u8]) -> Response<Body> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    let body = if status == "0" { Bytes::from(frame) } else { Bytes::new() };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_static("as it was recorded"));
    let body = Full::new(body).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}
