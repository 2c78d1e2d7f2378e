//! Connections to servers of archives: straight or by way of the proxy that the environment names, in the clear or over TLS.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::uri::{Scheme, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceExt as _, service_fn};

use crate::adapters::system_roots;

/// How we name ourselves.
pub(super) const AGENT: HeaderValue = HeaderValue::from_static(concat!("toehold/", env!("CARGO_PKG_VERSION")));

/// How long a connection may be idle in the kernel's eyes until it asks whether the other end is there, and how often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector(Arc<Ways>);

struct Ways {
    tcp: HttpConnector,
    /// What TLS needs, made when it is needed for the first time.
    tls: OnceLock<Result<Arc<ClientConfig>, rustls::Error>>,
    proxies: Matcher,
    patience: Duration,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's URL can hold a password.
        f.debug_struct("Ways").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connection has to be there in time, with all that belongs to it: a name, a proxy, TLS.
    pub(super) fn new(patience: Duration) -> Self {
        Self::by_way_of(Matcher::from_env(), patience)
    }

    fn by_way_of(proxies: Matcher, patience: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared among the addresses of a name: one that answers nothing leaves time for the next.
        tcp.set_connect_timeout(Some(patience));
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        Self(Arc::new(Ways { tcp, tls: OnceLock::new(), proxies, patience }))
    }

    /// What is said to a proxy that a request itself goes to. One that only leads to a server over TLS is told when it is asked to.
    pub(super) fn proxy_authorization(&self, target: &Uri) -> Option<HeaderValue> {
        if is_tls(target) { None } else { self.0.proxies.intercept(target)?.basic_auth().cloned() }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let ways = Arc::clone(&self.0);
        Box::pin(async move {
            let patience = ways.patience;
            match timeout(patience, ways.connect(target)).await {
                Ok(connected) => connected,
                Err(_) => {
                    let reason = format!("there is no connection within {} s", patience.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, reason).into())
                }
            }
        })
    }
}

impl Ways {
    async fn connect(self: Arc<Self>, target: Uri) -> Result<Stream, BoxError> {
        let Some(proxy) = self.proxies.intercept(&target) else { return self.dial(&target).await };
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") {
            let reason =
                format!("the environment names a proxy by {scheme}://, which is none for HTTP: http:// and https:// are");
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason).into());
        }
        if !is_tls(&target) {
            return self.dial(proxy.uri()).await.map(|stream| Stream { is_proxy: true, ..stream });
        }
        let ways = Arc::clone(&self);
        let to_proxy = service_fn(move |proxy: Uri| {
            let ways = Arc::clone(&ways);
            async move { ways.dial(&proxy).await.map_err(io::Error::other) }
        });
        let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy).with_headers(HeaderMap::from_iter([(USER_AGENT, AGENT)]));
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let through = tunnel.oneshot(target.clone()).await?;
        self.secure(&target, through).await
    }

    /// To who is named, with TLS where that is wanted.
    async fn dial(&self, target: &Uri) -> Result<Stream, BoxError> {
        let tcp = self.tcp.clone().oneshot(target.clone()).await?;
        if is_tls(target) { self.secure(target, tcp).await } else { Ok(Stream::new(tcp)) }
    }

    async fn secure<S>(&self, target: &Uri, stream: S) -> Result<Stream, BoxError>
    where
        S: Read + Write + Send + Unpin + 'static,
    {
        let tls = self.tls.get_or_init(|| system_roots::client_config().map(Arc::new)).clone()?;
        let host = target.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(tls).connect(name, TokioIo::new(stream)).await?;
        Ok(Stream::new(TokioIo::new(stream)))
    }
}

fn is_tls(target: &Uri) -> bool {
    target.scheme() == Some(&Scheme::HTTPS)
}

trait ReadWrite: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> ReadWrite for T {}

/// A connection.
pub(super) struct Stream {
    inner: Box<dyn ReadWrite>,
    /// Whether requests go to a proxy, and have to name the whole target.
    is_proxy: bool,
}

impl Stream {
    fn new(inner: impl ReadWrite + 'static) -> Self {
        Self { inner: Box::new(inner), is_proxy: false }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_that_does_not_speak_http_is_named_and_not_spoken_to() {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("socks5://user:secret@{}", nobody.local_addr().unwrap());
        let connector = Connector::by_way_of(Matcher::builder().all(proxy).build(), Duration::from_secs(60));
        for target in ["http://archives.test/a.tgz", "https://archives.test/a.tgz"] {
            let error = connector.clone().oneshot(Uri::from_static(target)).await.err().unwrap().to_string();
            assert!(error.contains("a proxy by socks5://") && !error.contains("secret"), "{error}");
        }
        assert!(timeout(Duration::from_millis(50), nobody.accept()).await.is_err());
    }

    /// One that takes a connection and says nothing: neither to TLS, nor to the word with which a proxy is asked for a way.
    #[tokio::test]
    async fn whoever_takes_a_connection_and_says_nothing_is_not_waited_for_without_end() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let straight = Matcher::builder().build();
        let by_proxy = Matcher::builder().https(format!("http://{address}")).build();
        for (proxies, target) in [(straight, format!("https://{address}/")), (by_proxy, "https://archives.test/".to_owned())] {
            let connector = Connector::by_way_of(proxies, Duration::from_secs(1));
            let error = connector.oneshot(target.parse::<Uri>().unwrap()).await.err().unwrap().to_string();
            assert_eq!(error, "there is no connection within 1 s", "{target}");
        }
    }
}
