//! Archives over HTTP, and from files where those are allowed.
//!
//! Nothing that a server says is believed: what counts is the archive's checksum, which whoever takes the bytes verifies.
//! Here it is seen to that the password goes to the source alone (S5), and that no server keeps us longer than we allow.

mod body;
mod connect;
mod http;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use toehold_specsign::{FetchError, Fetcher, ManagedMachine, SourcePolicy};
use tokio::time::Instant;

pub use body::ArchiveBody;
use body::{FileBody, HttpBody, Position};
use http::{Origin, Web};

use crate::cli::chain;

/// How long a server may take, and how much it may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Until a connection is there (default 10 s).
    pub connect: Duration,
    /// Without a byte (default 20 s).
    pub idle: Duration,
    /// For a whole archive, with all that is tried again (default 15 minutes).
    pub total: Duration,
    /// Bytes of an archive (default 512 MiB).
    pub bytes: u64,
    /// How often a broken transfer is taken up again without a byte having come (default 3).
    pub resumes: u32,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(20),
            total: Duration::from_secs(15 * 60),
            bytes: toehold_specsign::Limits::default().archive_bytes,
            resumes: 3,
        }
    }
}

/// Is told how far a transfer has come.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// One begins; how many bytes it will be, where the server says so.
    fn begins(&self, name: &str, bytes: Option<u64>);

    /// So many bytes have come.
    fn has(&self, bytes: u64);

    /// It has ended, one way or the other.
    fn ends(&self);
}

/// Fetches archives.
#[derive(Debug)]
pub struct ArchiveFetcher {
    web: Arc<Web>,
    limits: FetchLimits,
    progress: Option<Arc<dyn Progress>>,
}

impl ArchiveFetcher {
    /// Redirects lead to what `policy` allows of the web, never to files.
    pub fn new(policy: SourcePolicy, limits: FetchLimits, progress: Option<Arc<dyn Progress>>) -> Self {
        Self { web: Arc::new(Web::new(policy, limits)), limits, progress }
    }
}

impl Fetcher for ArchiveFetcher {
    type Body = ArchiveBody;

    async fn fetch(&self, machine: &ManagedMachine) -> Result<ArchiveBody, FetchError> {
        if let Some(path) = machine.source.file_path() {
            return open(path).map(ArchiveBody::File).map_err(|error| FetchError(chain(&error)));
        }
        let deadline = Instant::now() + self.limits.total;
        let origin = Origin::new(machine);
        let answer = self.web.ask(&origin, &Position::default(), deadline).await.map_err(|trouble| FetchError(trouble.reason))?;
        if answer.length.is_some_and(|length| length > self.limits.bytes) {
            return Err(FetchError(format!("the server announces more than the limit of {} bytes", self.limits.bytes)));
        }
        let progress = self.progress.clone();
        if let Some(progress) = &progress {
            progress.begins(machine.name.as_str(), answer.length);
        }
        let web = Arc::clone(&self.web);
        Ok(ArchiveBody::Http(Box::new(HttpBody::new(web, origin, answer, self.limits, deadline, progress))))
    }
}

fn open(path: &str) -> io::Result<FileBody> {
    // A pipe in its place is not waited for.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(FileBody(file))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use toehold_specsign::{Body as _, MachineList};

    use super::*;

    /// A server that sends faster than is read fills what is there to be read into: that does not grow with it.
    #[tokio::test]
    async fn a_fast_server_is_read_in_small_pieces() {
        const LENGTH: usize = 8 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = format!("http://{}/a.tgz", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while !lines.next().unwrap().unwrap().is_empty() {}
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
            stream.write_all(&vec![0; LENGTH]).unwrap();
        });
        let policy = SourcePolicy { allow_http: true, allow_file: false };
        let sum = "0".repeat(64);
        let list = serde_json::json!([
            { "name": "app", "source": source, "verify": "SHA256SUMS", "verify_checksum": sum, "checksum": sum }
        ]);
        let list = MachineList::parse(&serde_json::to_vec(&list).unwrap(), policy).unwrap();
        let fetcher = ArchiveFetcher::new(policy, FetchLimits::default(), None);
        let mut body = fetcher.fetch(&list.machines()[0]).await.unwrap();
        let (mut length, mut longest) = (0, 0);
        while let Some(piece) = body.next().await.unwrap() {
            // Time for the next one to be there as a whole.
            tokio::time::sleep(Duration::from_millis(1)).await;
            length += piece.len();
            longest = longest.max(piece.len());
        }
        server.join().unwrap();
        assert_eq!(length, LENGTH);
        assert!(longest <= 2 * http::MAX_PIECE, "{longest} bytes at once");
    }
}
