//! TCP connections, and streams that can be cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How much later than the one before it a connection to a host's next address is begun (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first of a host's addresses that answers; they are tried in the resolver's order, each a little after
/// the one before.
pub(super) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut waiting = tokio::net::lookup_host((host, port)).await?;
    let mut attempts = JoinSet::new();
    let mut failure: Option<io::Error> = None;
    loop {
        let last = match waiting.next() {
            Some(address) => {
                attempts.spawn(TcpStream::connect(address));
                false
            }
            None if attempts.is_empty() => {
                return Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
            }
            None => true,
        };
        let ended = if last {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(HEAD_START, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            // The first error is that of the address that the resolver put first.
            Some(Ok(Err(error))) => failure = failure.or(Some(error)),
            Some(Err(_)) | None => {}
        }
    }
}

/// What SSH runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A stream that ends with an error as soon as its [`Lifeline`] is dropped.
///
/// russh reads and writes in a task of its own, which a peer that says nothing more would keep for ever.
pub(crate) struct Tethered {
    stream: Box<dyn Stream>,
    lifeline: Option<oneshot::Receiver<()>>,
}

/// Held by the owner of the connection.
#[derive(Debug)]
pub(crate) struct Lifeline {
    _held: oneshot::Sender<()>,
}

impl Tethered {
    pub(crate) fn new(stream: Box<dyn Stream>) -> (Self, Lifeline) {
        let (held, lifeline) = oneshot::channel();
        (Self { stream, lifeline: Some(lifeline) }, Lifeline { _held: held })
    }

    fn alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let cut = match &mut self.lifeline {
            None => true,
            Some(lifeline) => Pin::new(lifeline).poll(context).is_ready(),
        };
        if cut {
            self.lifeline = None;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up"));
        }
        Ok(())
    }
}

impl AsyncRead for Tethered {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Tethered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
