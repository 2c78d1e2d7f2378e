//! Single requests to the API server: each ends within its time, and an answer that is none is told from a refusal.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use toehold_podrun::backend::BackendError;
use toehold_podrun::config::ClusterAccess;
use toehold_podrun::kubernetes::ApiFailure;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::client::Clients;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// JSON as it is.
const JSON: &str = "application/json";
/// RFC 7386.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// The cluster's API server.
#[derive(Clone)]
pub(super) struct Api {
    clients: Clients,
    /// How long a call may take.
    pub(super) call_timeout: Duration,
    limit: Option<Arc<Limit>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("call_timeout", &self.call_timeout).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
struct NoAnswer(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the API server's answer cannot be read: {0}")]
struct Unreadable(&'static str);

/// A call that was not answered.
pub(super) fn unanswered(doing: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> BackendError {
    BackendError::Unanswered { doing: doing.to_owned(), source: source.into() }
}

/// An answer that is not what was asked for.
pub(super) fn unreadable(doing: &str, what: &'static str) -> BackendError {
    unanswered(doing, Unreadable(what))
}

/// `text` as a part of a path or a query (RFC 3986 §2.3).
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// The path of the pods of a namespace, or of one of them.
pub(super) fn pods(namespace: &str, name: Option<&str>) -> String {
    path("/api/v1", namespace, "pods", name)
}

/// The path of the Jobs of a namespace, or of one of them.
pub(super) fn jobs(namespace: &str, name: Option<&str>) -> String {
    path("/apis/batch/v1", namespace, "jobs", name)
}

fn path(root: &str, namespace: &str, kind: &str, name: Option<&str>) -> String {
    let mut path = format!("{root}/namespaces/{}/{kind}", encoded(namespace));
    if let Some(name) = name {
        path.push('/');
        path.push_str(&encoded(name));
    }
    path
}

impl Api {
    pub(super) fn new(clients: Clients, access: &ClusterAccess) -> Self {
        let limit = access.queries_per_second.map(|rate| Arc::new(Limit::new(rate, access.burst)));
        Self { clients, call_timeout: access.call_timeout, limit }
    }

    /// The same without a limit on requests: what keeps pods alive, or ends them, waits for nobody's creations.
    pub(super) fn urgent(&self) -> Self {
        Self { limit: None, ..self.clone() }
    }

    /// A call that ends within its time.
    pub(super) async fn within<T>(
        &self,
        doing: &str,
        call: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let ended = timeout(self.call_timeout, call).await;
        ended.unwrap_or_else(|_| Err(unanswered(doing, NoAnswer(self.call_timeout))))
    }

    /// Sends a request; the answer's body is not read yet.
    pub(super) async fn send(&self, doing: &str, request: Request<Body>) -> Result<Response<Body>, BackendError> {
        self.by(&self.clients.calls, doing, request).await
    }

    /// The same, of one whose connection is to become a stream.
    pub(super) async fn stream(&self, doing: &str, request: Request<Body>) -> Result<Response<Body>, BackendError> {
        self.by(&self.clients.streams, doing, request).await
    }

    async fn by(&self, client: &Client, doing: &str, request: Request<Body>) -> Result<Response<Body>, BackendError> {
        if let Some(limit) = &self.limit {
            limit.wait().await;
        }
        client.send(request).await.map_err(|error| unanswered(doing, error))
    }

    /// Reads.
    pub(super) async fn get(&self, doing: &str, path: &str) -> Result<Value, BackendError> {
        self.json(doing, Method::GET, path, None).await
    }

    /// Creates.
    pub(super) async fn post(&self, doing: &str, path: &str, object: &Value) -> Result<Value, BackendError> {
        self.json(doing, Method::POST, path, Some((JSON, object))).await
    }

    /// Changes what the patch names.
    pub(super) async fn merge(&self, doing: &str, path: &str, change: &Value) -> Result<Value, BackendError> {
        self.json(doing, Method::PATCH, path, Some((MERGE_PATCH, change))).await
    }

    /// Deletes.
    pub(super) async fn delete(&self, doing: &str, path: &str, options: &Value) -> Result<Value, BackendError> {
        self.json(doing, Method::DELETE, path, Some((JSON, options))).await
    }

    async fn json(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Value, BackendError> {
        let only_reads = method == Method::GET;
        let request = Request::builder().method(method).uri(path).header(ACCEPT, JSON);
        let request = match body {
            Some((kind, value)) => request.header(CONTENT_TYPE, kind).body(Body::from(value.to_string().into_bytes())),
            None => request.body(Body::empty()),
        };
        let request = request.map_err(|error| unanswered(doing, error))?;
        self.within(doing, async {
            let answer = self.send(doing, request).await?;
            if !answer.status().is_success() {
                return Err(refusal(doing, answer, only_reads).await);
            }
            let bytes = whole(answer.into_body()).await.map_err(|error| unanswered(doing, error))?;
            serde_json::from_slice(&bytes).map_err(|error| unanswered(doing, error))
        })
        .await
    }
}

async fn whole(body: Body) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
    Ok(Limited::new(body, MAX_ANSWER).collect().await?.to_bytes())
}

/// What an answer says that is no success. Of a request that changes something, an answer of a server in trouble leaves open
/// whether it was carried out.
pub(super) async fn refusal(doing: &str, answer: Response<Body>, only_reads: bool) -> BackendError {
    let status = answer.status();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = match whole(answer.into_body()).await {
        Ok(body) => body,
        Err(error) => return unanswered(doing, error),
    };
    let failure = ApiFailure::from_response(status.as_u16(), retry_after.as_deref(), &body);
    if !only_reads && (status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT) {
        return unanswered(doing, failure);
    }
    BackendError::Refused { doing: doing.to_owned(), failure }
}

/// No more than so many requests a second: only where the operator wants it.
#[derive(Debug)]
struct Limit {
    every: Duration,
    burst: u32,
    /// When the next request would be due if none had been saved up.
    due: Mutex<Instant>,
}

impl Limit {
    fn new(rate: f32, burst: u32) -> Self {
        let every = Duration::try_from_secs_f32(1.0 / rate).unwrap_or(Duration::from_secs(1));
        let limit = Self { every, burst, due: Mutex::new(Instant::now()) };
        let saved = limit.saved_up();
        Self { due: Mutex::new(saved), ..limit }
    }

    /// What would be due now if nothing had been asked for in a long while.
    fn saved_up(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.every.saturating_mul(self.burst.saturating_sub(1))).unwrap_or(now)
    }

    /// One after the other. Who gives up in the queue has taken nothing out of it.
    async fn wait(&self) {
        let mut due = self.due.lock().await;
        let at = (*due).max(self.saved_up());
        tokio::time::sleep_until(at).await;
        *due = at + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_nowhere_else() {
        assert_eq!(pods("a", Some("b.c-1")), "/api/v1/namespaces/a/pods/b.c-1");
        assert_eq!(jobs("a", Some("../x?y#é")), "/apis/batch/v1/namespaces/a/jobs/..%2Fx%3Fy%23%C3%A9");
    }

    #[tokio::test]
    async fn what_a_server_in_trouble_says_leaves_open_whether_it_was_done() {
        let answer = |code: u16| {
            let status = format!(r#"{{"kind":"Status","message":"etcdserver: request timed out","code":{code}}}"#);
            Response::builder().status(code).body(Body::from(status.into_bytes())).unwrap()
        };
        for code in [408, 500, 502, 503, 504] {
            let error = refusal("creating a pod", answer(code), false).await;
            assert!(error.refusal().is_none() && error.words().contains("etcdserver: request timed out"), "{code}: {error:?}");
            assert!(refusal("looking for a pod", answer(code), true).await.refusal().is_some(), "{code}");
        }
        for code in [403, 409, 422, 429] {
            assert!(refusal("creating a pod", answer(code), false).await.refusal().is_some(), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_come_at_the_rate_that_was_set_after_a_burst() {
        let limit = Limit::new(10.0, 3);
        let begun = Instant::now();
        for _ in 0..3 {
            limit.wait().await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..5 {
            limit.wait().await;
        }
        assert!((Duration::from_millis(490)..Duration::from_millis(520)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
