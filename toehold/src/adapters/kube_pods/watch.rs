//! A watch of one pod: a list, and the changes from its version on.

use std::time::Duration;

use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::Value;
use toehold_podrun::backend::{BackendError, PodChange, PodWatch};
use toehold_podrun::kubernetes::{FailureKind, PodSnapshot, WatchDecoder, WatchEvent};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::api::{Api, encoded, pods, refusal, unanswered, unreadable};

const DOING: &str = "watching a pod";

/// After how many seconds the server is asked to end a watch; another follows at once.
const SERVER_ENDS_AFTER: u32 = 290;

/// How long a watch may be silent until it is taken for one that is broken: bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(100);

/// A watch that ends sooner than this is not opened again before this is over.
const SHORT: Duration = Duration::from_secs(1);

/// What becomes of one pod.
#[derive(Debug)]
pub struct KubeWatch {
    api: Api,
    namespace: String,
    selector: String,
    /// What the last list has said, until it is told.
    listed: Option<PodChange>,
    /// From where on changes are wanted; `None`: it is to be listed.
    from: Option<String>,
    stream: Option<Stream>,
    not_before: Instant,
}

#[derive(Debug)]
struct Stream {
    body: Body,
    decoder: WatchDecoder,
    opened: Instant,
    heard: Instant,
}

impl Stream {
    /// The next event; `None` where it is over, however. May be dropped at any time.
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            match self.decoder.next_event() {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("{DOING}: {error}");
                    return None;
                }
            }
            let frame = timeout_at(self.heard + SILENCE, self.body.frame()).await.ok()??.ok()?;
            self.heard = Instant::now();
            if let Some(bytes) = frame.data_ref() {
                self.decoder.push(bytes);
            }
        }
    }
}

impl KubeWatch {
    /// Lists, and watches from there.
    pub(super) async fn open(api: Api, namespace: &str, name: &str) -> Result<Self, BackendError> {
        let mut watch = Self::from(api, namespace, name, None);
        watch.list().await?;
        Ok(watch)
    }

    /// What has changed since this version; `None` lists first.
    pub(super) fn from(api: Api, namespace: &str, name: &str, version: Option<String>) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
            selector: encoded(&format!("metadata.name={name}")),
            listed: None,
            from: version,
            stream: None,
            not_before: Instant::now(),
        }
    }

    async fn list(&mut self) -> Result<(), BackendError> {
        let path = format!("{}?fieldSelector={}", pods(&self.namespace, None), self.selector);
        let mut list = self.api.get(DOING, &path).await?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let version =
            version.filter(|version| !version.is_empty()).ok_or_else(|| unreadable(DOING, "a list without a version"))?;
        self.from = Some(version.to_owned());
        let pod = list.get_mut("items").and_then(Value::as_array_mut).and_then(Vec::pop);
        self.listed = Some(pod.map_or(Ok(PodChange::Gone), state)?);
        Ok(())
    }

    /// `None` where the version is too old.
    fn stream(&self, from: &str) -> impl Future<Output = Result<Option<Stream>, BackendError>> + Send + use<> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={SERVER_ENDS_AFTER}&fieldSelector={}&resourceVersion={}",
            pods(&self.namespace, None),
            self.selector,
            encoded(from)
        );
        let request = Request::get(path).header(ACCEPT, "application/json").body(Body::empty());
        let api = self.api.clone();
        async move {
            let request = request.map_err(|error| unanswered(DOING, error))?;
            let opening = async {
                let answer = api.send(DOING, request).await?;
                if answer.status() == StatusCode::GONE {
                    return Ok(None);
                }
                if !answer.status().is_success() {
                    return Err(refusal(DOING, answer, true).await);
                }
                let now = Instant::now();
                Ok(Some(Stream { body: answer.into_body(), decoder: WatchDecoder::new(), opened: now, heard: now }))
            };
            api.within(DOING, opening).await
        }
    }

    /// It is over, or broken: another is opened, though not in haste where they end at once.
    fn ended(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.not_before = stream.opened + SHORT;
        }
    }
}

fn state(mut pod: Value) -> Result<PodChange, BackendError> {
    // In a list they come without.
    if let Some(object) = pod.as_object_mut() {
        object.entry("kind").or_insert_with(|| "Pod".into());
    }
    let snapshot = PodSnapshot::from_object(pod).map_err(|error| unanswered(DOING, error))?;
    Ok(PodChange::State(snapshot))
}

impl PodWatch for KubeWatch {
    async fn changed(&mut self) -> Result<PodChange, BackendError> {
        loop {
            if let Some(change) = self.listed.take() {
                return Ok(change);
            }
            let Some(from) = &self.from else {
                self.list().await?;
                continue;
            };
            let Some(stream) = &mut self.stream else {
                sleep_until(self.not_before).await;
                let opening = self.stream(from);
                match opening.await? {
                    Some(stream) => self.stream = Some(stream),
                    None => self.from = None,
                }
                continue;
            };
            match stream.next().await {
                Some(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => {
                    let change = state(pod)?;
                    if let PodChange::State(pod) = &change {
                        self.from = Some(pod.resource_version.clone());
                    }
                    return Ok(change);
                }
                Some(WatchEvent::Deleted(pod)) => {
                    if let PodChange::State(pod) = state(pod)? {
                        self.from = Some(pod.resource_version);
                    }
                    return Ok(PodChange::Gone);
                }
                Some(WatchEvent::Bookmark { resource_version, .. }) => self.from = Some(resource_version),
                Some(WatchEvent::Expired) => {
                    self.ended();
                    self.from = None;
                }
                Some(WatchEvent::Failed(failure)) => {
                    self.ended();
                    // What passes by itself is waited for here, and no longer than the pause between two watches.
                    if !failure.is_passing() && failure.kind != FailureKind::Other {
                        return Err(BackendError::Refused { doing: DOING.to_owned(), failure });
                    }
                }
                None => self.ended(),
            }
        }
    }
}
