//! A process's stdin, stdout and stderr: pipes, or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use toehold_podrun::backend::{BackendError, Output, ProcessInput, ProcessOutput};
use toehold_podrun::exec::{Outcome, TerminalSize};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The most that is read at once, in bytes: as much as a packet of SSH holds.
const PIECE: usize = 32 * 1024;

/// How long a terminal may be silent after the process has ended, until whoever still holds it open is not waited for any more: nobody but
/// its session is meant to use it. Pipes are read to their end, however long a process in the background has them, as by sshd(8).
const TERMINAL_SILENCE: Duration = Duration::from_millis(100);

/// How long the output of a process that lives on may be at its end until that is told: most end at the same moment.
const CLOSED: Duration = Duration::from_millis(250);

/// What the terminal driver takes for the end of the input (`VEOF`).
const END_OF_INPUT: u8 = 4;

/// Where a process ends up: its code, or why there is none.
pub(super) type Ending = Result<u8, String>;

/// The way into a process of a local pod.
#[derive(Debug)]
pub struct LocalInput(In);

#[derive(Debug)]
enum In {
    Closed,
    Pipe(pipe::Sender),
    Terminal(pipe::Sender),
}

/// The way out of a process of a local pod.
#[derive(Debug)]
pub struct LocalOutput {
    stdout: Option<Source>,
    stderr: Option<Source>,
    ending: oneshot::Receiver<Ending>,
    outcome: Option<Outcome>,
    /// Until when more is waited for from a terminal, once the process has ended.
    patience: Option<Instant>,
    closed: Closed,
}

/// Whether the output of a process that lives on is at its end.
#[derive(Debug)]
enum Closed {
    No,
    /// It is to be told then.
    At(Instant),
    /// It was told, or is not to be: who has a terminal can open it again.
    Told,
}

/// tokio reads and writes any descriptor that can be waited for as it does a pipe.
#[derive(Debug)]
struct Source {
    stream: pipe::Receiver,
    is_terminal: bool,
}

/// Both ways, and the descriptors for the process.
pub(super) struct Streams {
    pub(super) input: LocalInput,
    pub(super) output: LocalOutput,
    pub(super) for_process: Vec<OwnedFd>,
}

impl Streams {
    pub(super) fn open(terminal: Option<TerminalSize>, ending: oneshot::Receiver<Ending>) -> io::Result<Self> {
        let (input, stdout, stderr, for_process) = match terminal {
            None => {
                let (their_input, input) = io::pipe()?;
                let (stdout, their_stdout) = io::pipe()?;
                let (stderr, their_stderr) = io::pipe()?;
                let receiver = |reader: io::PipeReader| {
                    pipe::Receiver::from_owned_fd(reader.into()).map(|stream| Source { stream, is_terminal: false })
                };
                let input = In::Pipe(pipe::Sender::from_owned_fd(input.into())?);
                let theirs = vec![their_input.into(), their_stdout.into(), their_stderr.into()];
                (input, receiver(stdout)?, Some(receiver(stderr)?), theirs)
            }
            Some(size) => {
                let (ours, theirs) = open_terminal(size)?;
                let source = Source { stream: pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?, is_terminal: true };
                (In::Terminal(pipe::Sender::from_owned_fd_unchecked(ours)?), source, None, vec![theirs])
            }
        };
        let closed = if terminal.is_some() { Closed::Told } else { Closed::No };
        let output = LocalOutput { stdout: Some(stdout), stderr, ending, outcome: None, patience: None, closed };
        Ok(Self { input: LocalInput(input), output, for_process })
    }
}

fn open_terminal(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    resize(&ours, size)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let status = rustix::fs::fcntl_getfl(&ours)?;
    rustix::fs::fcntl_setfl(&ours, status | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

fn ended(source: io::Error) -> BackendError {
    BackendError::Unanswered { doing: "writing to a process".to_owned(), source: Box::new(source) }
}

impl ProcessInput for LocalInput {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        match &mut self.0 {
            In::Closed => Err(ended(io::ErrorKind::BrokenPipe.into())),
            In::Pipe(stream) | In::Terminal(stream) => stream.write_all(bytes).await.map_err(ended),
        }
    }

    async fn close(&mut self) -> Result<bool, BackendError> {
        match &mut self.0 {
            In::Closed => {}
            In::Pipe(_) => self.0 = In::Closed,
            // It stays open for its size; who reads it line by line sees the end.
            In::Terminal(stream) => stream.write_all(&[END_OF_INPUT]).await.map_err(ended)?,
        }
        Ok(true)
    }

    async fn resize(&mut self, size: TerminalSize) -> Result<(), BackendError> {
        match &self.0 {
            In::Terminal(stream) => resize(stream, size).map_err(ended),
            In::Closed | In::Pipe(_) => Ok(()),
        }
    }
}

impl Source {
    /// The next piece; `None` at the end. Loses nothing when it is dropped: what was read is returned at once.
    async fn read(&mut self) -> Option<Bytes> {
        loop {
            // Nothing is set aside for a process that says nothing.
            self.stream.readable().await.ok()?;
            let mut piece = BytesMut::with_capacity(PIECE);
            match self.stream.try_read_buf(&mut piece) {
                Ok(0) => return None,
                Ok(_) => return Some(piece.freeze()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // EIO: nobody has the other end of a terminal any more.
                Err(_) => return None,
            }
        }
    }
}

async fn read(source: &mut Option<Source>) -> Option<Bytes> {
    match source {
        Some(source) => source.read().await,
        None => std::future::pending().await,
    }
}

impl LocalOutput {
    fn wait_on(&mut self) {
        if self.outcome.is_some() && self.stdout.as_ref().is_some_and(|source| source.is_terminal) {
            self.patience = Some(Instant::now() + TERMINAL_SILENCE);
        }
    }
}

impl ProcessOutput for LocalOutput {
    type Chunk = Bytes;

    async fn next(&mut self) -> Output<Bytes> {
        loop {
            let is_silent = self.stdout.is_none() && self.stderr.is_none();
            if is_silent && let Some(outcome) = &self.outcome {
                return Output::Ended(outcome.clone());
            }
            if is_silent && matches!(self.closed, Closed::No) {
                self.closed = Closed::At(Instant::now() + CLOSED);
            }
            let patience = self.patience;
            let closed = if let Closed::At(at) = self.closed { Some(at) } else { None };
            tokio::select! {
                biased;
                piece = read(&mut self.stdout), if self.stdout.is_some() => match piece {
                    Some(piece) => {
                        self.wait_on();
                        return Output::Stdout(piece);
                    }
                    None => self.stdout = None,
                },
                piece = read(&mut self.stderr), if self.stderr.is_some() => match piece {
                    Some(piece) => {
                        self.wait_on();
                        return Output::Stderr(piece);
                    }
                    None => self.stderr = None,
                },
                ending = &mut self.ending, if self.outcome.is_none() => {
                    self.outcome = Some(match ending {
                        Ok(Ok(code)) => Outcome::Exited(code),
                        Ok(Err(reason)) => Outcome::Failed(reason),
                        Err(_) => Outcome::Failed("the pod has ended".to_owned()),
                    });
                    self.wait_on();
                }
                () = tokio::time::sleep_until(closed.unwrap_or_else(Instant::now)), if closed.is_some() => {
                    self.closed = Closed::Told;
                    return Output::Closed;
                }
                () = tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => {
                    self.stdout = None;
                    self.stderr = None;
                }
            }
        }
    }
}
