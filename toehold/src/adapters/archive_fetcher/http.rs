//! One request for an archive, redirects followed.

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE,
    LAST_MODIFIED, LOCATION, PROXY_AUTHORIZATION, RANGE, USER_AGENT,
};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use toehold_specsign::{ManagedMachine, Source, SourcePolicy, SourceScheme};
use tokio::time::{Instant, timeout};
use url::Url;
use zeroize::Zeroizing;

use super::FetchLimits;
use super::body::Position;
use super::connect::{AGENT, Connector};
use crate::cli::chain;

/// How often a server may lead elsewhere.
const MAX_REDIRECTS: usize = 5;

/// Bytes that room is made for when something is to be read, and that an answer's head may have. There can be room for nearly twice as
/// many, and several such pieces are on their way through us at once.
pub(super) const MAX_PIECE: usize = 64 * 1024;

/// Where an archive comes from, and what is said there.
pub(super) struct Origin {
    source: Source,
    authorization: Option<HeaderValue>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Origin {
    pub(super) fn new(machine: &ManagedMachine) -> Self {
        let authorization = machine.credentials_for(&machine.source).and_then(|credentials| {
            // RFC 7617 §2.
            let mut pair = Zeroizing::new(Vec::with_capacity(credentials.username.len() + credentials.password.len() + 1));
            pair.extend_from_slice(credentials.username.as_bytes());
            pair.push(b':');
            pair.extend_from_slice(credentials.password.expose());
            let value = Zeroizing::new(format!("Basic {}", Base64::encode_string(&pair)));
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self { source: machine.source.clone(), authorization }
    }
}

/// Why a request came to nothing, and whether the same one can come to more.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) reason: String,
    pub(super) passes: bool,
}

impl Trouble {
    fn stays(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: false }
    }

    fn passes(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: true }
    }

    /// Of the client, which names no URL: that could be one of a proxy, with a password.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        Self::passes(chain(error))
    }
}

/// What a server begins to send.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Where in the archive it begins.
    pub(super) from: u64,
    /// How long the whole archive is, where it says so.
    pub(super) length: Option<u64>,
    /// What names this very content.
    pub(super) validator: Option<HeaderValue>,
}

/// The client, made when it is needed for the first time.
#[derive(Debug)]
pub(super) struct Web {
    policy: SourcePolicy,
    limits: FetchLimits,
    client: OnceLock<(Client<Connector, Empty<Bytes>>, Connector)>,
}

impl Web {
    pub(super) fn new(policy: SourcePolicy, limits: FetchLimits) -> Self {
        // A server does not lead to this host's files.
        Self { policy: SourcePolicy { allow_file: false, ..policy }, limits, client: OnceLock::new() }
    }

    fn client(&self) -> &(Client<Connector, Empty<Bytes>>, Connector) {
        self.client.get_or_init(|| {
            let connector = Connector::new(self.limits.connect);
            let mut client = Client::builder(TokioExecutor::new());
            client.pool_timer(TokioTimer::new()).http1_max_buf_size(MAX_PIECE);
            (client.build(connector.clone()), connector)
        })
    }

    /// Asks for an archive from a position on.
    pub(super) async fn ask(&self, origin: &Origin, position: &Position, deadline: Instant) -> Result<Answer, Trouble> {
        let mut target = origin.source.clone();
        // Who was led away is a stranger, also when led back.
        let mut at_home = true;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.request(&target, origin.authorization.as_ref().filter(|_| at_home), position, deadline).await?;
            if !response.status().is_redirection() {
                return judge(response, position);
            }
            target = self.led_to(&target, &response)?;
            at_home &= target.same_origin(&origin.source);
        }
        Err(Trouble::stays(format!("the server leads elsewhere more than {MAX_REDIRECTS} times")))
    }

    async fn request(
        &self,
        target: &Source,
        authorization: Option<&HeaderValue>,
        position: &Position,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Trouble> {
        let no_url = |error: &(dyn Error + 'static)| Trouble::stays(format!("{target} cannot be asked for: {}", chain(error)));
        let url = Url::parse(target.as_str()).map_err(|error| no_url(&error))?;
        let uri: Uri = url.as_str().parse().map_err(|error: http::uri::InvalidUri| no_url(&error))?;
        let (client, connector) = self.client();
        let proxy_authorization = connector.proxy_authorization(&uri);
        // What is hashed is what is stored there: nothing is to be packed for the way.
        let mut request = Request::get(uri).header(ACCEPT, "*/*").header(ACCEPT_ENCODING, "identity").header(USER_AGENT, AGENT);
        if let Some(value) = proxy_authorization {
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value.clone());
        }
        if position.received > 0 {
            request = request.header(RANGE, format!("bytes={}-", position.received));
            if let Some(validator) = &position.validator {
                request = request.header(IF_RANGE, validator.clone());
            }
        }
        let patience = (self.limits.connect + self.limits.idle).min(deadline.saturating_duration_since(Instant::now()));
        let request = request.body(Empty::new()).map_err(|error| no_url(&error))?;
        match timeout(patience, client.request(request)).await {
            Ok(sent) => sent.map_err(|error| Trouble::of(&error)),
            Err(_) => Err(Trouble::passes(format!("{} did not answer in time", target.host()))),
        }
    }

    /// The place that a redirect names.
    fn led_to(&self, from: &Source, response: &Response<Incoming>) -> Result<Source, Trouble> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Trouble::stays(format!("{} leads elsewhere without saying where", from.host())))?;
        let refused = |why: String| Trouble::stays(format!("{} leads to a place that is not taken: {why}", from.host()));
        let mut url = Url::parse(from.as_str()).and_then(|url| url.join(location)).map_err(|error| refused(error.to_string()))?;
        url.set_fragment(None);
        let target = Source::parse(url.as_str(), self.policy).map_err(|error| refused(error.to_string()))?;
        if from.scheme() == SourceScheme::Https && target.scheme() != SourceScheme::Https {
            return Err(refused("from https to plain http".to_owned()));
        }
        Ok(target)
    }
}

/// Only the content, whole or from where it was left on, is an answer.
fn judge(response: Response<Incoming>, position: &Position) -> Result<Answer, Trouble> {
    let status = response.status();
    let headers = response.headers();
    let validator = validator(headers);
    match status {
        StatusCode::OK => {
            let length = number(headers, &CONTENT_LENGTH);
            Ok(Answer { response, from: 0, length, validator })
        }
        StatusCode::PARTIAL_CONTENT if position.received > 0 => {
            let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).and_then(range);
            match range {
                Some((from, length)) if from == position.received => Ok(Answer { response, from, length, validator }),
                _ => Err(Trouble::stays("the server sends another part than was asked for")),
            }
        }
        _ => {
            let passes =
                status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT;
            Err(Trouble { reason: format!("the server answers {status}"), passes })
        }
    }
}

/// A validator that tells one content from every other: a strong `ETag`, or the date (RFC 9110 §13.1.5).
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let strong = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    strong.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// `bytes FROM-TO/LENGTH` (RFC 9110 §14.4).
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, length.parse().ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_servers_write_them() {
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 0-0/*"), Some((0, None)));
        for none in ["", "bytes", "bytes */10", "bytes 5/10", "bytes -1-2/3", "lines 0-1/2", "bytes 99999999999999999999-1/2"] {
            assert_eq!(range(none), None, "{none}");
        }
    }

    #[test]
    fn only_what_names_one_content_is_a_validator() {
        let of = |headers: &[(HeaderName, &str)]| {
            let headers: HeaderMap = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
            validator(&headers).map(|value| value.to_str().unwrap().to_owned())
        };
        let date = "Thu, 01 Jan 2026 00:00:00 GMT";
        assert_eq!(of(&[(ETAG, "\"a\""), (LAST_MODIFIED, date)]).as_deref(), Some("\"a\""));
        assert_eq!(of(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, date)]).as_deref(), Some(date), "a weak one names several");
        assert_eq!(of(&[(ETAG, "W/\"a\"")]), None);
    }

    proptest! {
        #[test]
        fn no_range_ends_the_program_and_each_that_is_written_is_read(text in ".{0,60}", from: u64, to: u64, length: Option<u64>) {
            let _ = range(&text);
            let written = format!("bytes {from}-{to}/{}", length.map_or_else(|| "*".to_owned(), |length| length.to_string()));
            prop_assert_eq!(range(&written), Some((from, length)));
        }
    }
}
