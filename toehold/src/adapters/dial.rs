//! TCP connections to hosts with several addresses.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How much later than the one before it a connection to a host's next address is begun (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first of a host's addresses that answers; they are tried in the resolver's order, each a little after
/// the one before.
pub(crate) async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
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
