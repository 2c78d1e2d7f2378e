//! What goes into a process and comes out of it.
//!
//! The two halves share a WebSocket. Nothing is queued: who writes waits until the kernel has taken it, and what is not asked for is
//! not read. An API server that says nothing is asked whether it is there: in the stream, and where a ping may stand behind input that
//! nobody takes, beside it, and the kernel is asked whether anything that was sent still arrives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use toehold_podrun::backend::{BackendError, ExecRequest, Output, ProcessInput, ProcessOutput};
use toehold_podrun::exec::{ExecEnd, Frame, Protocol, TerminalSize, encode_resize, encode_stdin};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::KubePods;
use super::acknowledged::Ends;
use super::api::unanswered;
use super::exec::{Opened, Socket};

const DOING: &str = "talking to a process in a pod";

/// How long a stream may be silent once it was told how the process ended, until it is not waited for any more. What came before that may
/// have been overtaken by it.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

type Sink = SplitSink<Socket, Message>;

/// What a terminal takes for the end of its input (`VEOF`), at the beginning of a line.
const END_OF_INPUT: u8 = 4;

/// Input that everything behind an API server holds at least for a process that takes none, in bytes: already the pipes and terminals of a
/// node hold more. As long as no more was sent in all, nothing holds a ping up on its way.
const ALWAYS_TAKEN: u64 = 32 * 1024;

/// What both halves know.
#[derive(Debug)]
struct Shared {
    sink: Mutex<Sink>,
    /// Bytes of input so far.
    sent: AtomicU64,
}

/// The way into a process in a cluster.
#[derive(Debug)]
pub struct KubeInput {
    shared: Arc<Shared>,
    protocol: Protocol,
    is_terminal: bool,
    is_closed: bool,
}

/// The way out of a process in a cluster.
pub struct KubeOutput {
    stream: SplitStream<Socket>,
    shared: Arc<Shared>,
    protocol: Protocol,
    end: ExecEnd,
    /// Until when the rest is waited for, once it is known how the process ended.
    until: Option<Instant>,
    is_over: bool,
    life: Life,
}

impl std::fmt::Debug for KubeOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeOutput").field("protocol", &self.protocol).field("end", &self.end).finish_non_exhaustive()
    }
}

/// Whether the other end is still there.
struct Life {
    backend: KubePods,
    request: ExecRequest,
    /// How long it may be silent until it is asked, and then until it is given up.
    patience: Duration,
    asked: Asked,
    /// When something is to be done about its silence.
    at: Instant,
    ends: Option<Ends>,
}

/// How far it was asked.
enum Asked {
    Nothing,
    /// A ping is to be sent, or on its way.
    Ping {
        is_sent: bool,
    },
    /// A call beside the stream, and what the kernel knows; whether there is hope.
    Beside(BoxFuture<'static, bool>),
}

/// What comes next.
enum Next {
    Message(Option<Result<Message, SocketError>>),
    Silence,
    PingSent,
    Beside(bool),
    Over,
}

/// Both halves of a stream.
pub(super) fn halves(opened: Opened, backend: KubePods, request: ExecRequest) -> (KubeInput, KubeOutput) {
    let Opened { socket, protocol, ends } = opened;
    let (patience, is_terminal) = (backend.api.call_timeout, request.terminal.is_some());
    let (sink, stream) = socket.split();
    let shared = Arc::new(Shared { sink: Mutex::new(sink), sent: AtomicU64::new(0) });
    let life = Life { backend, request, patience, asked: Asked::Nothing, at: Instant::now() + patience, ends };
    let input = KubeInput { shared: Arc::clone(&shared), protocol, is_terminal, is_closed: false };
    (input, KubeOutput { stream, shared, protocol, end: ExecEnd::new(), until: None, is_over: false, life })
}

impl KubeInput {
    async fn send(&self, message: Vec<u8>) -> Result<(), BackendError> {
        self.shared.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        let mut sink = self.shared.sink.lock().await;
        sink.send(Message::Binary(message.into())).await.map_err(|error| unanswered(DOING, error))
    }
}

impl ProcessInput for KubeInput {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_closed {
            let mut message = Vec::new();
            let taken = encode_stdin(rest, &mut message);
            self.send(message).await?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<bool, BackendError> {
        if self.is_terminal {
            // Closed, it would take the terminal along, and with that what the process has yet to print. Who reads it line by line sees the
            // end by this.
            self.write(&[END_OF_INPUT]).await?;
            self.is_closed = true;
            return Ok(true);
        }
        let Some(message) = self.protocol.close_stdin() else { return Ok(false) };
        if !self.is_closed {
            self.is_closed = true;
            self.send(message.to_vec()).await?;
        }
        Ok(true)
    }

    /// An API server passes on what comes from a node until it can pass on no more of what goes there, whichever is sooner; and what a process
    /// that has ended does not take can hold all of it up for ever.
    fn loses_ends(&self) -> bool {
        !self.is_terminal && self.protocol.close_stdin().is_some()
    }

    async fn resize(&mut self, size: TerminalSize) -> Result<(), BackendError> {
        self.send(encode_resize(size)).await
    }
}

/// Sends a ping; dropped before its end, it is as if nothing had been done, or the ping were on its way.
async fn ping(shared: &Shared, is_sent: &mut bool) {
    let mut sink = shared.sink.lock().await;
    if !*is_sent && sink.feed(Message::Ping(Bytes::new())).await.is_ok() {
        *is_sent = true;
    }
    // What fails here fails for the other half as well.
    let _ = sink.flush().await;
}

impl Life {
    /// Something came.
    fn heard(&mut self) {
        self.asked = Asked::Nothing;
        self.at = Instant::now() + self.patience;
    }

    /// Nothing came in time; `false`: there is nobody.
    fn silent(&mut self, shared: &Shared) -> bool {
        match self.asked {
            Asked::Nothing => {
                self.asked = Asked::Ping { is_sent: false };
                self.at = Instant::now() + self.patience;
                true
            }
            Asked::Ping { is_sent: true } if shared.sent.load(Ordering::Relaxed) <= ALWAYS_TAKEN => false,
            // The ping stands behind input, which the process may not be taking: no answer to it is no sign of anything.
            Asked::Ping { .. } => {
                let (backend, request, ends) = (self.backend.clone(), self.request.clone(), self.ends);
                self.asked = Asked::Beside(async move { !is_deaf(ends).await && backend.is_there(&request).await }.boxed());
                true
            }
            Asked::Beside(_) => false,
        }
    }
}

/// Whether the other end's kernel is silent as well.
async fn is_deaf(ends: Option<Ends>) -> bool {
    let Some(ends) = ends else { return false };
    tokio::task::spawn_blocking(move || ends.are_silent()).await.unwrap_or(false)
}

impl KubeOutput {
    async fn event(&mut self) -> Next {
        let Self { stream, shared, life, until, .. } = self;
        let is_asking_beside = matches!(life.asked, Asked::Beside(_));
        let at = life.at;
        tokio::select! {
            biased;
            message = stream.next() => Next::Message(message),
            () = async { match until { Some(until) => sleep_until(*until).await, None => std::future::pending().await } } => Next::Over,
            next = async {
                match &mut life.asked {
                    Asked::Nothing | Asked::Ping { is_sent: true } => std::future::pending().await,
                    Asked::Ping { is_sent } => {
                        ping(shared, is_sent).await;
                        Next::PingSent
                    }
                    Asked::Beside(answer) => Next::Beside(answer.await),
                }
            } => next,
            () = sleep_until(at), if !is_asking_beside => Next::Silence,
        }
    }

    fn wait_on(&mut self) {
        self.until = Some(Instant::now() + LAST_OUTPUT);
    }

    fn over(&mut self) -> Output<Bytes> {
        self.is_over = true;
        Output::Ended(std::mem::take(&mut self.end).finish())
    }

    /// A piece of output, where there is one in it.
    fn take(&mut self, message: &Bytes) -> Option<Output<Bytes>> {
        let rest = || message.slice(1..);
        match self.protocol.decode(message) {
            Frame::Stdout(data) if !data.is_empty() => Some(Output::Stdout(rest())),
            Frame::Stderr(data) if !data.is_empty() => Some(Output::Stderr(rest())),
            Frame::Status(status) => {
                self.end.status(status);
                self.wait_on();
                None
            }
            Frame::Stdout(_) | Frame::Stderr(_) | Frame::Closed(_) | Frame::Unknown => None,
        }
    }
}

impl ProcessOutput for KubeOutput {
    type Chunk = Bytes;

    async fn next(&mut self) -> Output<Bytes> {
        if self.is_over {
            return std::future::pending().await;
        }
        // Whoever takes the output may have been slow to: what was on its way meanwhile could not come.
        if self.until.is_some() {
            self.wait_on();
        }
        loop {
            match self.event().await {
                Next::Message(Some(Ok(Message::Binary(message)))) => {
                    self.life.heard();
                    if let Some(output) = self.take(&message) {
                        return output;
                    }
                }
                Next::Message(Some(Ok(Message::Close(_))) | None) | Next::Over => return self.over(),
                Next::Message(Some(Ok(_))) | Next::Beside(true) => self.life.heard(),
                Next::Message(Some(Err(error))) => {
                    tracing::debug!("{DOING}: {error}");
                    return self.over();
                }
                Next::PingSent => {}
                Next::Silence if self.life.silent(&self.shared) => {}
                Next::Silence | Next::Beside(false) => {
                    tracing::warn!("{DOING}: the API server does not answer any more");
                    return self.over();
                }
            }
        }
    }
}

impl KubePods {
    /// Whether the API server answers, and does not say that the pod is gone.
    async fn is_there(&self, request: &ExecRequest) -> bool {
        match self.uid(&request.namespace, &request.pod).await {
            Ok(uid) => uid.as_ref() == Some(&request.uid),
            // It answers, if only that it is in trouble.
            Err(error) => error.refusal().is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::header::{CONNECTION, UPGRADE};
    use http::{HeaderValue, Request, Response, StatusCode};
    use http_body_util::Empty;
    use hyper::upgrade::Upgraded;
    use hyper_util::rt::TokioIo;
    use toehold_podrun::config::Config;
    use toehold_podrun::exec::Outcome;
    use tokio::sync::oneshot;
    use tokio::time::sleep;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    async fn socket(upgraded: Upgraded, role: Role) -> Socket {
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), role, None).await
    }

    /// A stream into a pod with the API server's end of it, over no network.
    async fn stream() -> (KubeInput, KubeOutput, Socket) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (tell, told) = oneshot::channel();
        let tell = Mutex::new(Some(tell));
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let tell = tell.lock().unwrap().take().unwrap();
            tokio::spawn(async move { tell.send(hyper::upgrade::on(request).await.unwrap()) });
            let mut answer = Response::new(Empty::<Bytes>::new());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            async move { Ok::<_, Infallible>(answer) }
        });
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        tokio::spawn(server.with_upgrades());
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::get("/").header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let ours = socket(hyper::upgrade::on(answer).await.unwrap(), Role::Client).await;
        let theirs = socket(told.await.unwrap(), Role::Server).await;
        let access = Config::parse(r#"{"connection": {"host": "http://127.0.0.1:1"}}"#).unwrap().validate().unwrap().cluster;
        let request = ExecRequest {
            namespace: "guests".to_owned(),
            pod: "p".to_owned(),
            uid: "u".parse().unwrap(),
            container: "shell".to_owned(),
            command: Some(vec!["true".to_owned()]),
            terminal: None,
        };
        let opened = Opened { socket: ours, protocol: Protocol::V5, ends: None };
        let (input, output) = halves(opened, KubePods::connect(&access).await.unwrap(), request);
        (input, output, theirs)
    }

    /// A background process says something again and again, each time just before it would not be waited for any more.
    #[tokio::test]
    async fn what_comes_after_the_status_is_waited_for_until_it_is_silent_and_every_piece_renews_the_wait() {
        const PIECES: u8 = 6;
        let (_input, mut output, mut server) = stream().await;
        tokio::time::pause();
        let begun = Instant::now();
        let message = |channel: u8, text: &str| Message::Binary([&[channel], text.as_bytes()].concat().into());
        let saying = async {
            server.send(message(3, r#"{"status": "Success"}"#)).await.unwrap();
            for number in 0..PIECES {
                sleep(LAST_OUTPUT * 3 / 4).await;
                server.send(message(1 + number % 2, &number.to_string())).await.unwrap();
            }
            // It stays open: whoever speaks once more is not heard.
            sleep(LAST_OUTPUT * 2).await;
            let _ = server.send(message(1, "late")).await;
        };
        let hearing = async {
            let mut heard = Vec::new();
            loop {
                match output.next().await {
                    Output::Stdout(piece) | Output::Stderr(piece) => heard.extend(piece),
                    Output::Closed => {}
                    Output::Ended(outcome) => return (heard, outcome, begun.elapsed()),
                }
            }
        };
        let ((heard, outcome, took), ()) = tokio::join!(hearing, saying);
        assert_eq!((String::from_utf8_lossy(&heard).as_ref(), outcome), ("012345", Outcome::Exited(0)));
        let due = LAST_OUTPUT * 3 / 4 * u32::from(PIECES) + LAST_OUTPUT;
        assert!((due..due + Duration::from_millis(100)).contains(&took), "{took:?} and not {due:?}");
    }
}
