//! Reads and writes with several requests on their way at once.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;
use toehold_core::FileError;
use tokio::time::Instant;

use super::{RusshFiles, SLOWEST, Work, lost, refused, timed_out};

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

    /// The answer to the oldest request; `None` where none is on its way.
    async fn next(&mut self) -> Option<(N, Result<T, SftpError>)> {
        std::future::poll_fn(|context| {
            for (_, state) in &mut self.requests {
                if let State::OnItsWay(request) = state
                    && let Poll::Ready(answer) = request.as_mut().poll(context)
                {
                    *state = State::Answered(answer);
                }
            }
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

/// Reads to the end of the file. `told` is the size that the server says it has.
pub(super) async fn read(files: &RusshFiles, work: Work<'_>, handle: &str, told: u64, limit: u64) -> Result<Vec<u8>, FileError> {
    let begun = Instant::now();
    let chunk = u64::from(files.chunk);
    let too_large = || FileError::TooLarge { path: work.path.to_owned(), limit };
    // One byte more than is wanted tells a file that is too large from one that just fits.
    let last = limit.saturating_add(1);
    let mut content = Vec::with_capacity(usize::try_from(told.min(limit)).unwrap_or(0).min(1 << 20));
    let mut short_reads = 0;
    let mut asked = 0;
    let mut pipeline = Pipeline::new();
    loop {
        let useful = usize::try_from(told.saturating_sub(asked) / chunk).unwrap_or(IN_FLIGHT).saturating_add(1);
        while asked < last && pipeline.has_room(useful) {
            let length = u32::try_from(chunk.min(last - asked)).unwrap_or(files.chunk);
            pipeline.push(length, files.sftp.read(handle, asked, length));
            asked += u64::from(length);
        }
        let until = deadline(files, begun, content.len() as u64);
        let next = tokio::time::timeout_at(until, pipeline.next()).await.map_err(|_| lost(work, timed_out()))?;
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

/// Writes all of `content` from the file's beginning.
pub(super) async fn write(files: &RusshFiles, work: Work<'_>, handle: &str, content: &[u8]) -> Result<(), FileError> {
    let begun = Instant::now();
    let mut offset = 0;
    let mut written = 0;
    let mut chunks = content.chunks(usize::try_from(files.chunk).unwrap_or(1024).max(1));
    let mut pipeline = Pipeline::new();
    loop {
        while pipeline.has_room(IN_FLIGHT)
            && let Some(chunk) = chunks.next()
        {
            pipeline.push(chunk.len() as u64, files.sftp.write(handle, offset, chunk.to_vec()));
            offset += chunk.len() as u64;
        }
        let until = deadline(files, begun, written);
        match tokio::time::timeout_at(until, pipeline.next()).await.map_err(|_| lost(work, timed_out()))? {
            None => return Ok(()),
            Some((length, Ok(_))) => written += length,
            Some((_, Err(error))) => return Err(refused(work, error)),
        }
    }
}
