//! An archive on its way: taken up again where the connection broke, and never waited for without an end.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http_body_util::BodyExt as _;
use toehold_specsign::{Body, FetchError};
use tokio::time::{Instant, sleep, timeout};

use super::http::{Answer, Origin, Trouble, Web};
use super::{FetchLimits, Progress};

/// How often a transfer is taken up again altogether.
const MAX_RESUMES: u32 = 50;

/// Bytes of a file that are read at a time.
const PIECE: usize = 64 * 1024;

/// Where a transfer is to go on, and with what content.
#[derive(Debug, Default)]
pub(super) struct Position {
    pub(super) received: u64,
    pub(super) validator: Option<HeaderValue>,
}

/// What is fetched.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArchiveBody {
    /// From a server.
    Http(Box<HttpBody>),
    /// From a file.
    File(FileBody),
}

/// From a file.
#[derive(Debug)]
pub struct FileBody(pub(super) File);

/// From a server.
#[derive(Debug)]
pub struct HttpBody {
    web: Arc<Web>,
    origin: Origin,
    limits: FetchLimits,
    deadline: Instant,
    progress: Option<Arc<dyn Progress>>,
    /// `None` after a break, until it was taken up again.
    answer: Option<Answer>,
    position: Position,
    length: Option<u64>,
    /// Bytes that are sent again, from the beginning on, by a server that knows no ranges.
    skip: u64,
    /// How often it was taken up again: in all, and since the last byte.
    resumes: u32,
    in_vain: u32,
}

impl HttpBody {
    pub(super) fn new(
        web: Arc<Web>,
        origin: Origin,
        answer: Answer,
        limits: FetchLimits,
        deadline: Instant,
        progress: Option<Arc<dyn Progress>>,
    ) -> Self {
        let position = Position { received: 0, validator: answer.validator.clone() };
        let length = answer.length;
        Self { web, origin, limits, deadline, progress, answer: Some(answer), position, length, skip: 0, resumes: 0, in_vain: 0 }
    }

    /// A piece, or `None` where the server has sent all that it wants to.
    async fn piece(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let reason = format!("it is not there after {} s, the limit for an archive", self.limits.total.as_secs());
            return Err(Trouble { reason, passes: false });
        }
        let answer = match &mut self.answer {
            Some(answer) => answer,
            none => {
                let answer = self.web.ask(&self.origin, &self.position, self.deadline).await?;
                if let (Some(before), Some(now)) = (self.length, answer.length)
                    && before != now
                {
                    let reason = format!("it had {before} bytes before the connection broke, and has {now} now");
                    return Err(Trouble { reason, passes: false });
                }
                self.skip = self.position.received - answer.from;
                none.insert(answer)
            }
        };
        match timeout(self.limits.idle.min(left), answer.response.frame()).await {
            // What is no data, such as a trailer, says nothing of the archive.
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().map(Vec::from).unwrap_or_default())),
            Ok(Some(Err(error))) => Err(Trouble::of(&error)),
            Ok(None) => Ok(None),
            Err(_) => {
                let reason = format!("nothing came for {} s", self.limits.idle.as_secs());
                Err(Trouble { reason, passes: true })
            }
        }
    }

    /// What of a piece is new.
    fn take(&mut self, mut piece: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let again = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        piece.drain(..again);
        self.skip -= again as u64;
        self.position.received += piece.len() as u64;
        if self.position.received > self.limits.bytes {
            return Err(FetchError(format!("it is over the limit of {} bytes", self.limits.bytes)));
        }
        if !piece.is_empty() {
            self.in_vain = 0;
            if let Some(progress) = &self.progress {
                progress.has(self.position.received);
            }
        }
        Ok(piece)
    }

    /// Waits a little, unless it was in vain too often.
    async fn try_again(&mut self, trouble: Trouble) -> Result<(), FetchError> {
        if !trouble.passes || self.in_vain >= self.limits.resumes || self.resumes >= MAX_RESUMES {
            let received = self.position.received;
            return Err(FetchError(format!("{} (after {received} bytes)", trouble.reason)));
        }
        self.answer = None;
        let pause = Duration::from_millis(100).saturating_mul(1 << self.in_vain.min(6));
        self.resumes += 1;
        self.in_vain += 1;
        tracing::debug!("{}: taken up again at {} bytes in {pause:?}", trouble.reason, self.position.received);
        sleep(pause).await;
        Ok(())
    }
}

impl Body for HttpBody {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        loop {
            let trouble = match self.piece().await {
                Ok(Some(piece)) => {
                    let piece = self.take(piece)?;
                    if piece.is_empty() {
                        continue;
                    }
                    return Ok(Some(piece));
                }
                // Without a length in the answer, this is the only end that there is.
                Ok(None) if self.length.is_none_or(|length| self.position.received >= length) => return Ok(None),
                Ok(None) => Trouble { reason: "the connection ended early".to_owned(), passes: true },
                Err(trouble) => trouble,
            };
            self.try_again(trouble).await?;
        }
    }
}

impl Drop for HttpBody {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.ends();
        }
    }
}

impl Body for FileBody {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        let mut piece = vec![0; PIECE];
        loop {
            match self.0.read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(length) => {
                    piece.truncate(length);
                    return Ok(Some(piece));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FetchError(error.to_string())),
            }
        }
    }
}

impl Body for ArchiveBody {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchError> {
        match self {
            Self::Http(body) => body.next().await,
            Self::File(body) => body.next().await,
        }
    }
}
