//! A client's TCP connection: slowed down where what it sends is not taken, given up where it takes nothing itself.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// What a channel's client may send before it is granted more, in bytes.
pub(super) const WINDOW: u32 = 2 * 1024 * 1024;

/// How much may wait for the processes of a connection until its client is slowed down, in bytes.
const MAX_WAITING: usize = 1024 * 1024;

/// How much may wait over all connections until those of them are cut that have more waiting than one channel ever has, in bytes. Each
/// channel begins with a window of its own, so that one key with many channels could otherwise fill the memory.
const MAX_WAITING_IN_ALL: usize = 512 * 1024 * 1024;

/// What is granted at a time while it is slowed down. Not nothing: russh grants only on receipt, and would never grant again.
const TRICKLE: u32 = 2;
/// How long to wait then before each read, unless it is over before.
const PAUSE: Duration = Duration::from_millis(5);

/// How much of what clients have sent waits for processes, over all channels of a connection.
///
/// russh grants a client more as soon as it has received something, whether or not anybody has taken it, and does not answer while a
/// handler waits. So nothing waits in a handler: what comes is queued, and where the queue is long, clients are granted next to
/// nothing until it is shorter.
#[derive(Debug)]
pub(super) struct Intake {
    waiting: AtomicUsize,
    /// What waits over all connections.
    in_all: Arc<AtomicUsize>,
    /// What cannot be waiting but for a client that sends more than it was granted.
    granted: usize,
    is_slow: AtomicBool,
    /// Woken when it no longer is.
    eased: AtomicWaker,
    /// Bytes of channels in both directions so far, and what was asked of them.
    passed: AtomicU64,
}

/// Bytes that wait; they no longer do when it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    intake: Arc<Intake>,
    bytes: usize,
}

/// Why a connection is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// The client has sent what it was never granted.
    Ungranted,
    /// Over all connections too much waits, and this one has a large part in it.
    InAll,
}

impl Intake {
    /// Of a connection that may have so many channels; `in_all` is what waits over all connections.
    pub(super) fn new(channels: usize, in_all: Arc<AtomicUsize>) -> Self {
        let window = usize::try_from(WINDOW).unwrap_or(usize::MAX);
        Self {
            waiting: AtomicUsize::new(0),
            in_all,
            granted: window.saturating_mul(channels).saturating_add(MAX_WAITING + window),
            is_slow: AtomicBool::new(false),
            eased: AtomicWaker::new(),
            passed: AtomicU64::new(0),
        }
    }

    /// Notes bytes that came.
    ///
    /// # Errors
    /// [`TooMuch`]: the connection is to be cut.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Waiting, TooMuch> {
        self.note(bytes);
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let in_all = self.in_all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let noted = Waiting { intake: Arc::clone(self), bytes };
        if waiting > MAX_WAITING {
            self.is_slow.store(true, Ordering::Release);
        }
        let of_one_channel = usize::try_from(WINDOW).unwrap_or(usize::MAX).saturating_add(MAX_WAITING);
        if waiting > self.granted {
            Err(TooMuch::Ungranted)
        } else if waiting > of_one_channel && in_all > MAX_WAITING_IN_ALL {
            Err(TooMuch::InAll)
        } else {
            Ok(noted)
        }
    }

    /// Up to how much a client is to be granted from now on.
    pub(super) fn grant(&self) -> u32 {
        if self.is_slow.load(Ordering::Acquire) { TRICKLE } else { WINDOW }
    }

    /// Notes that somebody, or a process, is at work. What only keeps a connection alive is nobody's work.
    pub(super) fn note(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// How much work there was so far.
    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.intake.in_all.fetch_sub(self.bytes, Ordering::Relaxed);
        let before = self.intake.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
        if before.saturating_sub(self.bytes) <= MAX_WAITING / 2 && self.intake.is_slow.swap(false, Ordering::AcqRel) {
            self.intake.eased.wake();
        }
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct ClientStream {
    tcp: TcpStream,
    intake: Arc<Intake>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when nothing could be written: set where the client takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl ClientStream {
    /// A client that takes nothing for `patience` is given up.
    pub(super) fn new(tcp: TcpStream, intake: Arc<Intake>, patience: Duration) -> Self {
        Self { tcp, intake, pause: None, stuck: None, patience }
    }

    /// While nothing can be written, is there still hope?
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = None;
            return result;
        }
        let patience = self.patience;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(pause) = &mut this.pause {
            // Whoever is to be fed is not left to wait for the rest of it.
            this.intake.eased.register(context.waker());
            if this.intake.is_slow.load(Ordering::Acquire) {
                ready!(pause.as_mut().poll(context));
            }
            this.pause = None;
        }
        ready!(Pin::new(&mut this.tcp).poll_read(context, buffer))?;
        if this.intake.is_slow.load(Ordering::Acquire) {
            this.pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + PAUSE)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.tcp).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_more_than_is_taken_is_slowed_down_and_then_cut() {
        let intake = Arc::new(Intake::new(10, Arc::default()));
        let first = intake.take(MAX_WAITING).unwrap();
        assert_eq!(intake.grant(), WINDOW);
        let second = intake.take(1).unwrap();
        assert_eq!(intake.grant(), TRICKLE);
        drop(second);
        assert_eq!(intake.grant(), TRICKLE, "not for a single byte");
        drop(first);
        assert_eq!(intake.grant(), WINDOW);
        assert_eq!(intake.take(24 * 1024 * 1024).unwrap_err(), TooMuch::Ungranted);
        assert_eq!(intake.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn where_all_together_fill_the_memory_those_are_cut_that_have_the_most() {
        let in_all = Arc::new(AtomicUsize::new(0));
        let greedy = |bytes: usize| Arc::new(Intake::new(10, Arc::clone(&in_all))).take(bytes);
        let mut held = Vec::new();
        let refused = loop {
            match greedy(20 * 1024 * 1024) {
                Ok(waiting) => held.push(waiting),
                Err(refused) => break refused,
            }
        };
        assert_eq!((refused, held.len()), (TooMuch::InAll, 25));
        assert!(in_all.load(Ordering::Relaxed) <= MAX_WAITING_IN_ALL);
        // Whoever has no more than any client may have goes on.
        let _modest = greedy(3 * 1024 * 1024).unwrap();
        held.clear();
        assert!(greedy(20 * 1024 * 1024).is_ok());
    }
}
