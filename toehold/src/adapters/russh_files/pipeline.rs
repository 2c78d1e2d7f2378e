//! Reads and writes with several requests on their way at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, StatusCode};
use toehold_core::{FileError, FileKind};
use tokio::time::Instant;

use super::{CHUNK, MAX_NAMES, RusshFiles, SLOWEST, Work, kind, lost, refused, timed_out};

/// Requests on their way at once; with 32 KiB each half a megabyte, so that a link of 100 ms carries 5 MB a second.
const IN_FLIGHT: usize = 16;

/// How often a server may give less than was asked for before the end of a file.
const SHORT_READS: u32 = 64;

type Request<'a, T> = Pin<Box<dyn Future<Output = Result<T, SftpError>> + Send + 'a>>;

enum State<'a, T> {
    OnItsWay(Request<'a, T>),
    Answered(Result<T, SftpError>),
}

/// Requests in the order in which they were made, each with a note. All of them move while the first is waited for.
struct Pipeline<'a, T, N> {
    requests: VecDeque<(N, State<'a, T>)>,
}

impl<'a, T: Send, N> Pipeline<'a, T, N> {
    fn new() -> Self {
        Self { requests: VecDeque::with_capacity(IN_FLIGHT) }
    }

    fn has_room(&self, most: usize) -> bool {
        self.requests.len() < most.clamp(1, IN_FLIGHT)
    }

    fn push(&mut self, note: N, request: impl Future<Output = Result<T, SftpError>> + Send + 'a) {
        self.requests.push_back((note, State::OnItsWay(Box::pin(request))));
    }

    /// Sends what was pushed; waits for no answer.
    async fn send(&mut self) {
        std::future::poll_fn(|context| {
            self.advance(context);
            Poll::Ready(())
        })
        .await;
    }

    fn advance(&mut self, context: &mut Context<'_>) {
        for (_, state) in &mut self.requests {
            if let State::OnItsWay(request) = state
                && let Poll::Ready(answer) = request.as_mut().poll(context)
            {
                *state = State::Answered(answer);
            }
        }
    }

    /// The answer to the oldest request; `None` where none is on its way.
    async fn next(&mut self) -> Option<(N, Result<T, SftpError>)> {
        std::future::poll_fn(|context| {
            self.advance(context);
            match self.requests.pop_front() {
                None => Poll::Ready(None),
                Some((note, State::Answered(answer))) => Poll::Ready(Some((note, answer))),
                Some(waiting) => {
                    self.requests.push_front(waiting);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// When an answer has to be there: within the limit for a request, and not later than the slowest useful link needs for
/// everything so far.
fn deadline(files: &RusshFiles, begun: Instant, bytes: u64) -> Instant {
    let overall = begun + files.request_limit + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST);
    overall.min(files.deadline())
}

/// Reads to the end of the file; its size is asked for along with its beginning. The answers of a file that is not larger
/// than one of them take one round trip.
pub(super) async fn read(files: &RusshFiles, work: Work<'_>, handle: &str, limit: u64) -> Result<Vec<u8>, FileError> {
    let begun = Instant::now();
    let chunk = u64::from(CHUNK);
    let too_large = || FileError::TooLarge { path: work.path.to_owned(), limit };
    // One byte more than is wanted tells a file that is too large from one that just fits.
    let last = limit.saturating_add(1);
    let first = u32::try_from(chunk.min(last)).unwrap_or(CHUNK);
    let (attributes, beginning) =
        within_both(work, files.deadline(), files.sftp.fstat(handle), files.sftp.read(handle, 0, first)).await?;
    let attributes = attributes.map_err(|error| refused(work, error))?.attrs;
    if kind(&attributes) == FileKind::Directory {
        return Err(work.failed("it is a directory"));
    }
    // The size is a hint only: a file may grow, and a host may say anything.
    let told = attributes.size.unwrap_or(0);
    if told > limit {
        return Err(too_large());
    }
    let mut content = Vec::with_capacity(usize::try_from(told).unwrap_or(0).min(1 << 20));
    let mut short_reads = 0;
    let mut asked = u64::from(first);
    let mut answered = Some((first, beginning));
    let mut pipeline = Pipeline::new();
    loop {
        let next = match answered.take() {
            Some(answer) => Some(answer),
            None => {
                let useful = usize::try_from(told.saturating_sub(asked) / chunk).unwrap_or(IN_FLIGHT).saturating_add(1);
                while asked < last && pipeline.has_room(useful) {
                    let length = u32::try_from(chunk.min(last - asked)).unwrap_or(CHUNK);
                    pipeline.push(length, files.sftp.read(handle, asked, length));
                    asked += u64::from(length);
                }
                let until = deadline(files, begun, content.len() as u64);
                tokio::time::timeout_at(until, pipeline.next()).await.map_err(|_| lost(work, timed_out()))?
            }
        };
        let (length, data) = match next {
            Some((length, Ok(answer))) => (length, answer.data),
            Some((_, Err(SftpError::Status(status)))) if status.status_code == StatusCode::Eof => return Ok(content),
            Some((_, Err(error))) => return Err(refused(work, error)),
            None => return Err(too_large()),
        };
        let (got, wanted) = (data.len() as u64, u64::from(length));
        if got == 0 || got > wanted {
            return Err(work.failed(format!("the host answered {got} bytes to a request for {wanted}")));
        }
        content.extend_from_slice(&data);
        if content.len() as u64 > limit {
            return Err(too_large());
        }
        if got < wanted {
            // The end of the file by the server's own word; else the answers on their way leave a gap.
            if content.len() as u64 == told {
                return Ok(content);
            }
            short_reads += 1;
            if short_reads > SHORT_READS {
                return Err(work.failed("the host gives the file in crumbs"));
            }
            pipeline = Pipeline::new();
            asked = content.len() as u64;
        }
    }
}

/// Gives the new file its mode and its content and closes it. All of it is on its way at once, as long as it is not too much,
/// and then `sent` is called; the first of the errors counts.
pub(super) async fn write(
    files: &RusshFiles,
    work: Work<'_>,
    handle: &str,
    content: &[u8],
    mode: u32,
    sent: impl FnOnce() + Send,
) -> Result<(), FileError> {
    let begun = Instant::now();
    let (mut offset, mut written) = (0, 0);
    let (mut failure, mut sent) = (None, Some(sent));
    let mut closing = false;
    let mut chunks = content.chunks(usize::try_from(CHUNK).unwrap_or(1024));
    let mut pipeline = Pipeline::new();
    // The mode given at the creation has passed through the host's umask.
    let attributes = FileAttributes { permissions: Some(mode & 0o7777), ..FileAttributes::empty() };
    pipeline.push(0, files.sftp.fsetstat(handle, attributes));
    loop {
        while failure.is_none()
            && pipeline.has_room(IN_FLIGHT)
            && let Some(chunk) = chunks.next()
        {
            pipeline.push(chunk.len() as u64, files.sftp.write(handle, offset, chunk.to_vec()));
            offset += chunk.len() as u64;
        }
        if !closing && (failure.is_some() || offset == content.len() as u64) {
            closing = true;
            pipeline.push(0, files.sftp.close(handle));
        }
        pipeline.send().await;
        if closing && let Some(sent) = sent.take() {
            sent();
        }
        let until = deadline(files, begun, written);
        match tokio::time::timeout_at(until, pipeline.next()).await.map_err(|_| lost(work, timed_out()))? {
            None => return failure.map_or(Ok(()), Err),
            Some((length, Ok(_))) => written += length,
            Some((_, Err(error))) => {
                let error = refused(work, error);
                if error.is_lost() {
                    return Err(error);
                }
                failure = failure.or(Some(error));
            }
        }
    }
}

/// How many requests for a directory's names are made at once: with OpenSSH the first gets a hundred of them, the second their
/// end.
const LISTINGS: usize = 2;

/// The names in a directory, and whether there were more than the first requests, after which `sent` is called, could get.
pub(super) async fn list(
    files: &RusshFiles,
    work: Work<'_>,
    handle: &str,
    sent: impl FnOnce() + Send,
) -> Result<(Vec<String>, bool), FileError> {
    let mut names = Vec::new();
    let mut pipeline = Pipeline::new();
    for _ in 0..LISTINGS {
        pipeline.push((), files.sftp.readdir(handle));
    }
    pipeline.send().await;
    sent();
    let mut answers = 0;
    loop {
        let next = tokio::time::timeout_at(files.deadline(), pipeline.next()).await.map_err(|_| lost(work, timed_out()))?;
        let found = match next {
            Some(((), Ok(name))) => name.files,
            Some(((), Err(SftpError::Status(status)))) if status.status_code == StatusCode::Eof => {
                return Ok((names, answers >= LISTINGS));
            }
            Some(((), Err(error))) => return Err(refused(work, error)),
            None => {
                pipeline.push((), files.sftp.readdir(handle));
                continue;
            }
        };
        answers += 1;
        if found.is_empty() || names.len() + found.len() > MAX_NAMES {
            return Err(work.failed(format!("the directory has no end within {MAX_NAMES} names")));
        }
        names.extend(found.into_iter().map(|file| file.filename).filter(|name| name != "." && name != ".."));
    }
}

/// Both answers, or what was lost.
async fn within_both<A, B>(
    work: Work<'_>,
    deadline: Instant,
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
) -> Result<(A, B), FileError> {
    let both = async { tokio::join!(first, second) };
    tokio::time::timeout_at(deadline, both).await.map_err(|_| lost(work, timed_out()))
}
