//! What is told over HTTP: health, metrics, the status page and its changes. Nothing can be changed by it.
//!
//! There is no login, so that it belongs on loopback. Even there, pages of other origins are kept out: by the name that they have to call
//! us by (DNS rebinding), and by what the browser says about who asks.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use toehold_core::Clock as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::board::Board;
use super::page::{CONTENT_SECURITY_POLICY, Pages, View, page};
use super::picture::Picture;
use crate::accepting::{PAUSE, is_of_one_connection};
use crate::adapters::system_clock::SystemClock;
use crate::cli::Signals;
use crate::gateway::GatewayLook;

/// How many connections there may be at once.
const MAX_CONNECTIONS: usize = 64;
/// How many of them may wait for changes.
const MAX_STREAMS: usize = 32;
/// How long somebody may take to ask.
const ASKING: Duration = Duration::from_secs(10);
/// How long a question and its answer may take together.
const ANSWERING: Duration = Duration::from_secs(60);
/// How long changes are told on one connection; a browser then comes again.
const STREAMING: Duration = Duration::from_secs(15 * 60);
/// How often something is sent where nothing has changed, so that who has gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How long changes wait for others that come with them.
const SETTLE: Duration = Duration::from_millis(200);
/// The most bytes of a question.
const MAX_QUESTION: usize = 16 * 1024;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What is told.
#[derive(Debug)]
pub struct Site {
    /// How the tasks are.
    pub board: Board,
    /// What is in the store.
    pub picture: Picture,
    /// The gateway, while one runs in this process.
    pub gateway: Mutex<Option<GatewayLook>>,
    /// The pods of the cluster, where it is looked at: name, principal, user.
    pub cluster: Mutex<Option<Vec<(String, String, String)>>>,
    /// The names that we may be called by, beside addresses and `localhost`.
    pub names: Vec<String>,
    /// Another one for every process, so that a page of an earlier one is known to be old.
    pub instance: String,
}

impl Site {
    fn gateway(&self) -> Option<GatewayLook> {
        self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why we are not ready; nothing where we are.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = self.board.reasons();
        if self.gateway().and_then(|gateway| gateway.is_ready()) == Some(false) {
            reasons.push("gateway: it cannot follow the store".to_owned());
        }
        reasons
    }

    fn metrics(&self) -> String {
        let mut text = self.board.metrics(self.reasons().is_empty());
        text.extend(self.gateway().and_then(|gateway| gateway.metrics()));
        text
    }

    async fn version(&self) -> String {
        format!("{}.{}.{}", self.instance, self.picture.now().await.version, *self.board.changes().borrow())
    }

    async fn page(&self, query: Option<&str>) -> String {
        let taken = self.picture.now().await;
        let version = format!("{}.{}.{}", self.instance, taken.version, *self.board.changes().borrow());
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let view = View {
            taken: &taken,
            tasks: &self.board.tasks(),
            reasons: &self.reasons(),
            connected: self.gateway().and_then(|gateway| gateway.agents()),
            cluster: cluster.as_deref(),
            pages: Pages::of(query),
            now: SystemClock.now(),
            version: &version,
        };
        page(&view).into_string()
    }
}

/// Tells whoever asks, until `stop`.
pub async fn serve(listener: TcpListener, site: Arc<Site>, mut stop: Signals) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                // Whoever comes when all places are taken is turned away at once.
                Ok((tcp, _)) => if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    connections.spawn(connection(tcp, Arc::clone(&site), Arc::clone(&streams), place));
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!("accepting connections to the status page failed: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }
    connections.shutdown().await;
}

async fn connection(tcp: TcpStream, site: Arc<Site>, streams: Arc<Semaphore>, place: OwnedSemaphorePermit) {
    let is_stream = Arc::new(AtomicBool::new(false));
    let service = {
        let is_stream = Arc::clone(&is_stream);
        service_fn(move |request: Request<Incoming>| {
            let (asked, _) = request.into_parts();
            let (site, streams, is_stream) = (Arc::clone(&site), Arc::clone(&streams), Arc::clone(&is_stream));
            async move { Ok::<_, Infallible>(answer(&asked, &site, streams, &is_stream).await) }
        })
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(ASKING).keep_alive(false).max_buf_size(MAX_QUESTION);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(tcp), service));
    // A reader that goes away does not matter, and one that reads too slowly is cut off.
    if timeout(ANSWERING, serving.as_mut()).await.is_err() && is_stream.load(Ordering::Relaxed) {
        let _ = timeout(STREAMING, serving).await;
    }
    drop(place);
}

async fn answer(asked: &Parts, site: &Arc<Site>, streams: Arc<Semaphore>, is_stream: &AtomicBool) -> Response<Body> {
    let plain =
        |status, text: &str| with_headers(status, "text/plain; charset=utf-8", Full::new(text.to_owned().into()).boxed_unsync());
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "this can only be read\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if asked.uri.authority().is_some() || !is_called_by_our_name(&asked.headers, &site.names) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "by this name nobody is here; see --http-host\n");
    }
    match asked.uri.path() {
        "/" => {
            let html = site.page(asked.uri.query()).await;
            with_headers(StatusCode::OK, "text/html; charset=utf-8", Full::new(html.into()).boxed_unsync())
        }
        "/events" if is_of_another_site(&asked.headers) => plain(StatusCode::FORBIDDEN, "only its own page may ask for that\n"),
        "/events" => match streams.try_acquire_owned() {
            Ok(place) => {
                is_stream.store(true, Ordering::Relaxed);
                with_headers(StatusCode::OK, "text/event-stream", events(Arc::clone(site), place))
            }
            Err(_) => {
                let mut refused = plain(StatusCode::SERVICE_UNAVAILABLE, "too many are looking\n");
                refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
                refused
            }
        },
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let reasons = site.reasons();
            if reasons.is_empty() {
                plain(StatusCode::OK, "ready\n")
            } else {
                plain(StatusCode::SERVICE_UNAVAILABLE, &format!("not ready\n{}\n", reasons.join("\n")))
            }
        }
        "/metrics" => {
            let text = Full::new(site.metrics().into()).boxed_unsync();
            with_headers(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        _ => plain(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz and /readyz\n"),
    }
}

fn with_headers(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Whether the name in `Host` is one of ours: else somebody has made a browser take us for another site, which is then read by that
/// site's pages. An address cannot be made to stand for anybody else.
fn is_called_by_our_name(headers: &HeaderMap, names: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host.to_str().ok() else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    let is = |ours: &str| ours.eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name));
    name.parse::<IpAddr>().is_ok() || is("localhost") || names.iter().any(|ours| is(ours))
}

/// Whether the browser says that a page of another site asks. One that says nothing is no browser, or an old one.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Tells of changes, and what stands for the state after them.
fn events(site: Arc<Site>, place: OwnedSemaphorePermit) -> Body {
    struct Telling {
        site: Arc<Site>,
        _place: OwnedSemaphorePermit,
        board: watch::Receiver<u64>,
        store: watch::Receiver<u64>,
        told: Option<String>,
    }
    let (board, store) = (site.board.changes(), site.picture.changes());
    let telling = Telling { site, _place: place, board, store, told: None };
    let stream = unfold(telling, |mut telling| async move {
        loop {
            telling.board.borrow_and_update();
            telling.store.borrow_and_update();
            let version = telling.site.version().await;
            if telling.told.as_ref() != Some(&version) {
                let text = format!("event: state\ndata: {version}\n\n");
                telling.told = Some(version);
                return Some((Ok(Frame::data(Bytes::from(text))), telling));
            }
            let pause = if telling.site.picture.is_stale() { SETTLE } else { HEARTBEAT };
            tokio::select! {
                // Neither ends before the site does.
                _ = telling.board.changed() => sleep(SETTLE).await,
                _ = telling.store.changed() => sleep(SETTLE).await,
                () = sleep(pause) => if pause == HEARTBEAT {
                    return Some((Ok(Frame::data(Bytes::from_static(b": still here\n\n"))), telling));
                }
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        is_called_by_our_name(&headers, &["ops.example.net".to_owned()])
    }

    #[test]
    fn a_name_that_is_not_ours_is_nobodys() {
        for ours in ["127.0.0.1", "127.0.0.1:8080", "[::1]:80", "[::1]", "localhost", "LocalHost:1", "ops.example.net.:443"] {
            assert!(called(ours), "{ours}");
        }
        for other in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[evil", "x@127.0.0.1", "ops.example"]
        {
            assert!(!called(other), "{other}");
        }
        assert!(!is_called_by_our_name(&HeaderMap::new(), &[]));
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("localhost"));
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!is_called_by_our_name(&two, &[]));
    }
}
