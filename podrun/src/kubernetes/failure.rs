//! What a Kubernetes API server refuses, and whether asking again can help.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// How much of a server's message is passed on, in characters.
const MAX_MESSAGE: usize = 600;

/// What kind of refusal it is. Kinds that can pass by themselves are told from those that cannot ([`ApiFailure::is_passing`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureKind {
    /// 409: an object of that name is there.
    AlreadyExists,
    /// 400, 405, 406, 415: the request is not one that this server takes.
    BadRequest,
    /// 409: an object of that name is there and on its way out.
    BeingDeleted,
    /// 409: the object has another UID or version than was said.
    Conflict,
    /// 410: the version asked for is too old; list again.
    Expired,
    /// 403: we may not do that.
    Forbidden,
    /// 500.
    InternalError,
    /// 422: the object is not valid.
    Invalid,
    /// 403: the namespace is being deleted.
    NamespaceTerminating,
    /// 404.
    NotFound,
    /// 403: a quota is used up, or wants limits that the pod does not name.
    Quota,
    /// 403: the namespace's pod security level does not allow such a pod.
    PodSecurity,
    /// 408, 504: it took too long.
    Timeout,
    /// 429: too many requests.
    TooManyRequests,
    /// 401: who we are is not known.
    Unauthorized,
    /// 502, 503: no server behind it at the moment.
    Unavailable,
    /// 403 with an empty body: the server knows none of the WebSocket subprotocols that were offered. Not a refusal of rights.
    UnknownProtocol,
    /// Anything else.
    Other,
}

/// A refusal by the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiFailure {
    /// What kind it is.
    pub kind: FailureKind,
    /// The HTTP status, or the code in the `Status`.
    pub code: u16,
    /// The server's message, without control characters and cut to 600 characters.
    pub message: String,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
}

/// `Status` of `meta/v1`, as much of it as decides anything.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    reason: String,
    code: Option<u16>,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl ApiFailure {
    /// Out of an HTTP answer that is not a success. Any body is read: a `Status`, a text, nothing.
    pub fn from_response(code: u16, retry_after: Option<&str>, body: &[u8]) -> Self {
        let status = serde_json::from_slice::<Status>(body).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default()).trim().to_owned(),
            ..Status::default()
        });
        let header = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        let empty = body.iter().all(u8::is_ascii_whitespace);
        let mut failure = Self::from_status(code, &status);
        if code == 403 && empty {
            failure.kind = FailureKind::UnknownProtocol;
        }
        failure.retry_after = header.or(failure.retry_after);
        failure
    }

    /// Out of a `Status` that stands where an object was expected, as in a watch.
    pub fn from_status_object(status: &serde_json::Value) -> Self {
        let status = Status::deserialize(status).unwrap_or_default();
        Self::from_status(status.code.unwrap_or(500), &status)
    }

    fn from_status(code: u16, status: &Status) -> Self {
        let retry_after = status.details.retry_after_seconds.map(Duration::from_secs);
        Self { kind: kind(code, status), code, message: cleaned(&status.message), retry_after }
    }

    /// A failure of which nothing but its kind is known, for backends that are no Kubernetes.
    pub fn new(kind: FailureKind, code: u16, message: &str) -> Self {
        Self { kind, code, message: cleaned(message), retry_after: None }
    }

    /// Whether the same request may succeed later although nobody changes anything.
    pub fn is_passing(&self) -> bool {
        matches!(
            self.kind,
            FailureKind::BeingDeleted
                | FailureKind::Expired
                | FailureKind::InternalError
                | FailureKind::Timeout
                | FailureKind::TooManyRequests
                | FailureKind::Unavailable
        )
    }

    /// What the person at the other end of the SSH connection is told, in one line.
    pub fn words(&self) -> String {
        let what = match self.kind {
            FailureKind::AlreadyExists => "something of that name is there already",
            FailureKind::BadRequest => "the cluster does not take this request",
            FailureKind::BeingDeleted => "something of that name is still being deleted",
            FailureKind::Conflict => "it was changed by somebody else in the meantime",
            FailureKind::Expired => "the cluster no longer has that version",
            FailureKind::Forbidden => "the gateway is not allowed to do this in the cluster",
            FailureKind::InternalError => "the cluster failed",
            FailureKind::Invalid => "the pod's specification is not valid",
            FailureKind::NamespaceTerminating => "the namespace is being deleted",
            FailureKind::NotFound => "it is not there",
            FailureKind::Quota => "the quota does not allow another pod like this",
            FailureKind::PodSecurity => "the namespace's security level does not allow such a pod",
            FailureKind::Timeout => "the cluster took too long",
            FailureKind::TooManyRequests => "the cluster is busy",
            FailureKind::Unauthorized => "the cluster does not know the gateway",
            FailureKind::Unavailable => "the cluster cannot be reached at the moment",
            FailureKind::UnknownProtocol => "the cluster is too old for the gateway: it knows no exec protocol of ours",
            FailureKind::Other => "the cluster refused",
        };
        if self.message.is_empty() { what.to_owned() } else { format!("{what}: {}", self.message) }
    }
}

impl fmt::Display for ApiFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (HTTP {})", self.words(), self.code)
    }
}

impl std::error::Error for ApiFailure {}

fn kind(code: u16, status: &Status) -> FailureKind {
    let says = |text: &str| status.message.contains(text);
    match (code, status.reason.as_str()) {
        (401, _) => FailureKind::Unauthorized,
        (403, _) if status.details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating") => {
            FailureKind::NamespaceTerminating
        }
        (403, _) if says("exceeded quota:") || says("failed quota:") => FailureKind::Quota,
        (403, _) if says("violates PodSecurity") => FailureKind::PodSecurity,
        (403, _) => FailureKind::Forbidden,
        (404, _) => FailureKind::NotFound,
        (409, "AlreadyExists") if says("object is being deleted:") => FailureKind::BeingDeleted,
        (409, "AlreadyExists") => FailureKind::AlreadyExists,
        (409, _) => FailureKind::Conflict,
        (410, _) => FailureKind::Expired,
        (422, _) => FailureKind::Invalid,
        (429, _) => FailureKind::TooManyRequests,
        (408 | 504, _) => FailureKind::Timeout,
        (502 | 503, _) => FailureKind::Unavailable,
        (500, _) => FailureKind::InternalError,
        (400 | 405 | 406 | 415, _) => FailureKind::BadRequest,
        _ => FailureKind::Other,
    }
}

/// One line that is safe to print on a stranger's terminal.
pub(crate) fn cleaned(message: &str) -> String {
    let mut words = message.chars().map(|c| if c.is_control() { ' ' } else { c });
    let text: String = words.by_ref().take(MAX_MESSAGE).collect();
    if words.next().is_some() { format!("{}…", text.trim()) } else { text.trim().to_owned() }
}
