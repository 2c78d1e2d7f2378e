//! Metrics and health, told over plain HTTP on a loopback address.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How many may ask at once.
const MAX_READERS: usize = 16;
/// How long to wait where the system has no connection to hand over.
const PAUSE: Duration = Duration::from_secs(1);
/// How long somebody may take to ask.
const ASKING: Duration = Duration::from_secs(10);

/// Tells whoever asks what `told` has to say of a method and a path.
pub(crate) async fn tell<T>(listener: TcpListener, told: T) -> Infallible
where
    T: Fn(&Method, &str) -> (StatusCode, String) + Send + Sync + 'static,
{
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    let told = Arc::new(told);
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(reader) = Arc::clone(&readers).try_acquire_owned() else { continue };
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let (status, text) = told(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(plain(status, text)) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(ASKING).keep_alive(false);
            // A reader that goes away does not matter.
            let _ = builder.serve_connection(TokioIo::new(tcp), service).await;
            drop(reader);
        });
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<bytes::Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}
