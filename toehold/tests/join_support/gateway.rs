//! A gateway as a process of its own, and raw clients of it.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::unfold;
use futures_util::{FutureExt as _, Stream};
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use toehold::adapters::grpc::agent_v1::agent_client::AgentClient;
use toehold::adapters::grpc::agent_v1::{self as wire, answer, request};
use toehold::adapters::grpc::join_v3::Frame;
use toehold::adapters::grpc::join_v3::join_client::JoinClient;
use toehold_core::Timestamp;
use toehold_joinproto::challenge::Assertion;
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::line::JoinLine;
use toehold_joinproto::v3::{AgentIdentity, ClientConfig as JoinConfig, EXPORTER_LABEL, Exporter, FreshIdentity, Joined};
use toehold_joinproto::{GatewayIdentity, JoinError, Trust};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Request, Status, Streaming};

use crate::support::cli::{Done, Toehold};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// `gateway serve`; killed when it is dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Option<Child>,
    stdout: BufReader<std::process::ChildStdout>,
    pub address: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub announced: Value,
}

impl Gateway {
    /// On a port of its own on the first loopback address.
    pub fn start(toehold: &Toehold, more: &[&str]) -> Self {
        Self::start_at(toehold, "127.0.0.1:0", more)
    }

    pub fn start_at(toehold: &Toehold, listen: &str, more: &[&str]) -> Self {
        let mut arguments = vec!["--json", "gateway", "serve", "--listen", listen];
        arguments.extend(more);
        let mut child =
            toehold.command(arguments).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("gateway serve");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let announced: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("it said: {line}"));
        assert_eq!(announced["event"], "listening", "{announced}");
        let address = announced["address"].as_str().unwrap().parse().unwrap();
        let metrics = announced["metrics"].as_str().map(|address| address.parse().unwrap());
        Self { child: Some(child), stdout, address, metrics, announced }
    }

    /// SIGKILL, as by a crash; waits until it is gone.
    pub fn kill(mut self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM; how it ended.
    pub fn stop(self) -> Done {
        self.signal(Signal::TERM);
        self.ends()
    }

    /// How it ends.
    pub fn ends(mut self) -> Done {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        let status = self.child.take().unwrap().wait().unwrap();
        Done { code: status.code().unwrap_or(-1), stdout: rest, stderr: String::new() }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.as_ref().unwrap().id())).unwrap()
    }

    /// What it has spent of the processors.
    pub fn processor_time(&self) -> Duration {
        processor_time(self.child.as_ref().unwrap())
    }

    /// What it has in memory, in KiB.
    pub fn memory(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            let _ = child.wait();
        }
    }

    /// What it tells of itself at a path.
    pub async fn told(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut tcp = TcpStream::connect(self.metrics.expect("--metrics")).await.unwrap();
        tcp.write_all(format!("GET {path} HTTP/1.1\r\nhost: gateway\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// One of its counters.
    pub async fn counted(&self, name: &str) -> u64 {
        let (_, text) = self.told("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name) && line.as_bytes()[name.len()] == b' ');
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// What a process has spent of the processors.
pub fn processor_time(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux counts them in hundredths of a second for everybody.
    Duration::from_millis(ticks * 10)
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// A token's line, as `token create` prints it, for a gateway that listens there.
pub fn line(toehold: &Toehold, address: SocketAddr, more: &[&str]) -> JoinLine {
    let endpoint = address.to_string();
    let mut arguments = vec!["--json", "token", "create", "--endpoint", &endpoint];
    arguments.extend(more);
    let document = toehold.run(arguments).ends(0).json();
    document["line"].as_str().unwrap().parse().unwrap()
}

/// An identity as an agent has it, saved.
pub fn identity() -> AgentIdentity {
    FreshIdentity::generate(&mut rng()).saved()
}

pub fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// Knows the gateway by `trust`, and remembers who it was.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    seen: Mutex<Option<GatewayIdentity>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<&[u8]> = std::iter::once(leaf).chain(rest).map(AsRef::as_ref).collect();
        let now = Timestamp::from_unix_seconds(now.as_secs().try_into().unwrap());
        let known = self.trust.check(&chain, &name.to_str(), now).map_err(|error| rustls::Error::General(error.to_string()))?;
        *self.seen.lock().unwrap() = Some(known);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// One connection to a gateway.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    pub known: GatewayIdentity,
    pub exporter: Exporter,
}

/// What a connection is made of.
#[derive(Clone, Debug)]
pub struct Dial {
    pub address: SocketAddr,
    pub from: IpAddr,
    /// Sent before TLS, as a load balancer does.
    pub header: Vec<u8>,
    pub trust: Trust,
}

impl Dial {
    pub fn to(address: SocketAddr) -> Self {
        Self { address, from: [127, 0, 0, 1].into(), header: Vec::new(), trust: Trust::DangerousInsecure }
    }

    pub fn from(self, source: &str) -> Self {
        Self { from: source.parse().unwrap(), ..self }
    }

    pub fn header(self, header: &[u8]) -> Self {
        Self { header: header.to_vec(), ..self }
    }

    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    pub async fn tcp(&self) -> std::io::Result<TcpStream> {
        use tokio::io::AsyncWriteExt as _;
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.from, 0).into())?;
        let mut tcp = socket.connect(self.address).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(&self.header).await?;
        Ok(tcp)
    }

    /// TLS as a client of ours sets it up, but for what it keeps of one connection for the next.
    pub fn tls(&self) -> ClientConfig {
        self.verified().0
    }

    fn verified(&self) -> (ClientConfig, Arc<Verifier>) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let verifier = Arc::new(Verifier { trust: self.trust.clone(), seen: Mutex::new(None), algorithms });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        (config, verifier)
    }

    pub async fn connect(&self) -> std::io::Result<Connection> {
        let (mut config, verifier) = self.verified();
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::IpAddress(self.address.ip().into());
        let tls = TlsConnector::from(Arc::new(config)).connect(name, self.tcp().await?).await?;
        let exporter = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL.as_bytes(), Some(&[])).unwrap();
        let known = verifier.seen.lock().unwrap().clone().unwrap();
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Connection { sender, known, exporter: Exporter(exporter) })
    }

    /// Tries until the gateway takes the connection.
    pub async fn connect_in_time(&self) -> Connection {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.connect().await {
                Ok(connection) => return connection,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.sender.send_request(request).boxed()
    }
}

/// The same for every client: the gateway looks at the path alone.
pub fn origin() -> http::Uri {
    "https://gateway".parse().unwrap()
}

/// How a join ended that did not succeed.
#[derive(Debug)]
pub enum NotJoined {
    /// The client's own machine says so.
    Join(JoinError),
    /// The connection or the call failed.
    Call(Status),
}

impl From<JoinError> for NotJoined {
    fn from(error: JoinError) -> Self {
        Self::Join(error)
    }
}

impl From<Status> for NotJoined {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl std::fmt::Display for NotJoined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Join(error) => error.fmt(f),
            Self::Call(status) => status.fmt(f),
        }
    }
}

/// A stream of what is sent into the channel.
pub fn streamed<T: Send + 'static>() -> (mpsc::Sender<T>, impl Stream<Item = T> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(16);
    (sender, unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) }))
}

/// A conversation of the third version, frame by frame.
#[derive(Debug)]
pub struct Talk {
    sender: mpsc::Sender<Frame>,
    answers: Streaming<Frame>,
}

impl Talk {
    /// Begins, with a first frame.
    pub async fn begin(connection: &Connection, first: Vec<u8>) -> Result<(Self, Vec<u8>), Status> {
        let (sender, frames) = streamed();
        sender.send(Frame { frame: first }).await.unwrap();
        let answers = JoinClient::with_origin(connection.clone(), origin()).converse(frames).await?.into_inner();
        let mut talk = Self { sender, answers };
        let answer = talk.next().await?;
        Ok((talk, answer))
    }

    pub async fn say(&mut self, frame: Vec<u8>) -> Result<Vec<u8>, Status> {
        let _ = self.sender.send(Frame { frame }).await;
        self.next().await
    }

    /// Says nothing, and waits.
    pub async fn next(&mut self) -> Result<Vec<u8>, Status> {
        match self.answers.message().await? {
            Some(frame) => Ok(frame.frame),
            None => Err(Status::unavailable("the conversation was ended")),
        }
    }
}

/// Joins over a connection; `before_confirm` is called when all but the last frame was said.
pub async fn join_with<F: Future<Output = ()>>(
    connection: &Connection,
    line: &JoinLine,
    identity: &AgentIdentity,
    before_confirm: impl FnOnce() -> F,
) -> Result<Joined, NotJoined> {
    let config = JoinConfig {
        endpoint: &line.endpoint,
        identity,
        token: &line.token,
        gateway: &connection.known,
        exporter: connection.exporter,
    };
    let (waiting, hello) = config.start(&mut rng());
    let (mut talk, retry) = Talk::begin(connection, hello).await?;
    let (waiting, offer) = waiting.receive(&retry, &mut rng())?;
    let (waiting, proof) = waiting.receive(&talk.say(offer).await?)?;
    let accepted = waiting.receive(&talk.say(proof).await?)?;
    before_confirm().await;
    let confirm = accepted.confirm().to_vec();
    let done = talk.say(confirm).await?;
    Ok(accepted.receive(&done)?)
}

/// Joins at a gateway, over a connection of its own.
pub async fn join(dial: &Dial, line: &JoinLine, identity: &AgentIdentity) -> Result<Joined, NotJoined> {
    let connection = dial.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    join_with(&connection, line, identity, || std::future::ready(())).await
}

/// Joins where the gateway gives a stranger so little time that a busy machine may need several tries: all are the same admission.
pub async fn join_in_time(dial: &Dial, line: &JoinLine, identity: &AgentIdentity) -> Joined {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match join(dial, line, identity).await {
            Ok(joined) => return joined,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    }
}

/// Authenticates on a connection of its own, as [`join_in_time`] joins.
pub async fn session_in_time(dial: &Dial, joined: &Joined) -> (Connection, Session) {
    let (id, keys) = (joined.id.to_string(), &joined.keyring.shared_keys[0]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let connection = dial.connect_in_time().await;
        match Session::open(&connection, &id, keys).await {
            Ok(session) => return (connection, session),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    }
}

/// The session of an agent that has joined.
#[derive(Debug)]
pub struct Session {
    sender: mpsc::Sender<wire::Request>,
    answers: Streaming<wire::Answer>,
    /// Those that the gateway sent first.
    pub pins: Vec<String>,
}

impl Session {
    /// Authenticates, and checks that the gateway does.
    pub async fn open(connection: &Connection, id: &str, keys: &SharedKeys) -> Result<Self, Status> {
        let assertion = Assertion::new(id, &mut rng()).unwrap();
        let (sender, requests) = streamed();
        let mut request = Request::new(requests);
        for (name, value) in assertion.metadata() {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        let mut answers = AgentClient::with_origin(connection.clone(), origin()).session(request).await?.into_inner();
        let answer::Answer::Challenge(challenge) = next(&mut answers).await? else { panic!("no challenge") };
        let (waiting, response) = assertion.respond(&challenge, keys).unwrap();
        sender.send(wire::Request { request: Some(request::Request::Response(response)) }).await.unwrap();
        let answer::Answer::Proof(proof) = next(&mut answers).await? else { panic!("no proof") };
        waiting.finish(&proof, keys).expect("the gateway has the keys");
        let answer::Answer::Pins(pins) = next(&mut answers).await? else { panic!("no pins") };
        Ok(Self { sender, answers, pins: pins.pins })
    }

    pub async fn next(&mut self) -> Result<answer::Answer, Status> {
        next(&mut self.answers).await
    }

    pub async fn ask(&mut self, request: request::Request) -> Result<answer::Answer, Status> {
        let _ = self.sender.send(wire::Request { request: Some(request) }).await;
        self.next().await
    }

    pub async fn ping(&mut self) -> Result<answer::Answer, Status> {
        self.ask(request::Request::Ping(wire::Ping { payload: b"here?".to_vec() })).await
    }
}

async fn next(answers: &mut Streaming<wire::Answer>) -> Result<answer::Answer, Status> {
    match answers.message().await? {
        Some(answer) => Ok(answer.answer.expect("an answer")),
        None => Err(Status::unavailable("the session was ended")),
    }
}

/// Waits for something to become true.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
