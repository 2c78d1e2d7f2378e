//! Streams that can be cut.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// What SSH runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A stream that ends with an error as soon as its [`Lifeline`] is dropped.
///
/// russh reads and writes in a task of its own, which a peer that says nothing more would keep for ever.
pub(crate) struct Tethered {
    stream: Box<dyn Stream>,
    lifeline: Option<oneshot::Receiver<()>>,
    greeting: Greeting,
}

/// Held by the owner of the connection.
#[derive(Debug)]
pub(crate) struct Lifeline {
    _held: oneshot::Sender<()>,
}

/// The line by which a server says which software it is (RFC 4253 §4.2), overheard: russh's client does not tell it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    over: bool,
}

/// More than all the lines that russh passes over before that one.
const MAX_GREETING: usize = 16 * 1024;

impl Greeting {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overhear(&mut self, bytes: &[u8]) {
        let mut heard = self.heard();
        if heard.over {
            return;
        }
        let room = MAX_GREETING.saturating_sub(heard.bytes.len());
        heard.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        heard.over = room <= bytes.len() || identification(&heard.bytes).is_some();
    }

    /// What stands behind the protocol's version, where the server has said it.
    pub(crate) fn software(&self) -> Option<String> {
        identification(&self.heard().bytes).map(str::to_owned)
    }
}

/// Of the first whole line that russh takes for the identification, what stands behind the protocol's version.
fn identification(bytes: &[u8]) -> Option<&str> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let software = lines.find_map(|line| {
        let line = str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()?;
        line.strip_prefix("SSH-2.0-").or_else(|| line.strip_prefix("SSH-1.99-"))
    })?;
    (!software.is_empty() && !software.chars().any(char::is_control)).then_some(software)
}

impl Tethered {
    pub(crate) fn new(stream: Box<dyn Stream>) -> (Self, Lifeline) {
        let (held, lifeline) = oneshot::channel();
        (Self { stream, lifeline: Some(lifeline), greeting: Greeting::default() }, Lifeline { _held: held })
    }

    /// What the server says first, once it has passed through.
    pub(crate) fn greeting(&self) -> Greeting {
        self.greeting.clone()
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.greeting.overhear(buffer.filled().get(before..).unwrap_or_default());
        read
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_software_is_what_stands_behind_the_protocol() {
        for (bytes, software) in [
            (&b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n\0\0\x01"[..], Some("OpenSSH_9.2p1 Debian-2+deb12u3")),
            (b"SSH-2.0-dropbear_2022.83\n", Some("dropbear_2022.83")),
            (b"hello\r\n\xff\r\nSSH-1.99-Cisco-1.25\r\n", Some("Cisco-1.25")),
            (b"SSH-2.0-OpenSSH_9", None),
            (b"SSH-2.0-\r\n", None),
            (b"SSH-2.0-a\x1b[2J\r\n", None),
            (b"", None),
        ] {
            assert_eq!(identification(bytes), software);
        }
    }

    #[test]
    fn a_greeting_is_overheard_in_pieces_and_nothing_after_it_is_kept() {
        let mut greeting = Greeting::default();
        for byte in b"SSH-2.0-x\r\n" {
            assert_eq!(greeting.software(), None);
            greeting.overhear(&[*byte]);
        }
        greeting.overhear(&[7; 5000]);
        assert_eq!(greeting.software().as_deref(), Some("x"));
        assert!(greeting.heard().bytes.len() < 20);
    }

    #[test]
    fn a_server_that_talks_for_ever_is_not_listened_to_for_ever() {
        let mut greeting = Greeting::default();
        for _ in 0..10 {
            greeting.overhear(&[b'x'; 3000]);
        }
        assert_eq!(greeting.heard().bytes.len(), MAX_GREETING);
    }
}
