//! A host's files over SFTP: russh-sftp's protocol behind [`toehold_core::HostFiles`].

mod pipeline;
#[cfg(test)]
mod round_trips;
#[cfg(test)]
mod tests;
mod together;

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config, RawSftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use toehold_core::{Capabilities, Change, FileError, FileKind, FileStat, HostFiles, Look, Seen, Source};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use self::together::{Gate, is_lost, sending, without_answer};
use crate::adapters::russh_connector::words;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const FSYNC: &str = "fsync@openssh.com";

/// Bytes in one read or write: what every server takes (draft-ietf-secsh-filexfer-02 §3), so that nobody has to be asked for
/// `limits@openssh.com` first.
const CHUNK: u32 = 32 * 1024;

/// The most names that a directory may have before [`RusshFiles::list`] gives up.
const MAX_NAMES: usize = 100_000;

/// A host that sends a file's bytes more slowly than this counts as silent; in bytes a second.
const SLOWEST: u64 = 16 * 1024;

/// The files of a host over one SFTP session.
///
/// Once an operation was [lost](FileError::Lost) every later one is too: what the host makes of a request that it did not
/// answer is unknown.
pub struct RusshFiles {
    sftp: RawSftpSession,
    capabilities: Capabilities,
    request_limit: Duration,
    lost: bool,
}

impl fmt::Debug for RusshFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RusshFiles").field("capabilities", &self.capabilities).field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// What is being done to which file; every error names both.
#[derive(Clone, Copy)]
struct Work<'a> {
    doing: &'static str,
    path: &'a str,
}

impl Work<'_> {
    fn failed(self, message: impl Into<String>) -> FileError {
        FileError::Failed { doing: self.doing, path: self.path.to_owned(), message: message.into() }
    }
}

impl RusshFiles {
    /// Begins SFTP on a stream; the error is what was wrong with the server, as `it …`. May take for ever.
    pub(crate) async fn open<S>(stream: S, request_limit: Duration) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Every limit in time is ours: the caller's for this function, that for a request later.
        let request_timeout_secs = request_limit.as_secs().saturating_add(3600);
        let sftp = RawSftpSession::new_with_config(stream, Config { request_timeout_secs, ..Config::default() });
        let version = sftp.init().await.map_err(|_| "what answers is no SFTP server".to_owned())?;
        if version.version != russh_sftp::protocol::VERSION {
            return Err(format!("it speaks version {} of SFTP instead of 3", version.version));
        }
        let offered = |name: &str| version.extensions.get(name).is_some_and(|version| version == "1");
        let capabilities = Capabilities { atomic_rename: offered(POSIX_RENAME), sync: offered(FSYNC) };
        // A little more, to clear requests from the session's table that we gave up.
        sftp.set_timeout(request_limit.as_secs().saturating_add(5));
        Ok(Self { sftp, capabilities, request_limit, lost: false })
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.request_limit
    }

    /// Marks the session as lost where `result` says so.
    fn note<T>(&mut self, result: Result<T, FileError>) -> Result<T, FileError> {
        if let Err(error) = &result {
            self.lost |= error.is_lost();
        }
        result
    }

    fn begin(&self, work: Work<'_>) -> Result<(), FileError> {
        if self.lost {
            return Err(lost(work, "an earlier request on this connection was not answered".into()));
        }
        // OpenSSH's server ends the session over such a path.
        if work.path.contains('\0') {
            return Err(work.failed("a path cannot have a NUL in it"));
        }
        Ok(())
    }

    async fn open_file(&self, work: Work<'_>, flags: OpenFlags, mode: Option<u32>) -> Result<String, FileError> {
        let attributes = FileAttributes { permissions: mode, ..FileAttributes::empty() };
        let handle = within(work, self.deadline(), self.sftp.open(work.path, flags, attributes)).await?;
        Ok(handle.handle)
    }

    /// Closes a file or directory that was only read; what the host says to that matters to nobody.
    fn close_behind(&self, handle: String) {
        without_answer(self.sftp.close(handle));
    }

    async fn extended(&self, work: Work<'_>, name: &'static str, strings: &[&str]) -> Result<(), FileError> {
        let mut data = Vec::with_capacity(strings.iter().map(|text| text.len() + 4).sum());
        for text in strings {
            let length = u32::try_from(text.len()).map_err(|_| work.failed("the path is too long"))?;
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(text.as_bytes());
        }
        match within(work, self.deadline(), self.sftp.extended(name, data)).await? {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(refused(work, SftpError::Status(status))),
            _ => Err(lost(work, "the host answered with something else".into())),
        }
    }
}

/// The server's answer; a status other than `SSH_FX_OK` is an error.
async fn within<T>(
    work: Work<'_>,
    deadline: Instant,
    request: impl Future<Output = Result<T, SftpError>>,
) -> Result<T, FileError> {
    match tokio::time::timeout_at(deadline, request).await {
        Ok(answer) => answer.map_err(|error| refused(work, error)),
        Err(_) => Err(lost(work, timed_out())),
    }
}

fn timed_out() -> Source {
    io::Error::new(io::ErrorKind::TimedOut, "the host did not answer in time").into()
}

fn lost(work: Work<'_>, source: Source) -> FileError {
    FileError::Lost { doing: work.doing, path: work.path.to_owned(), source }
}

/// The error for a status (draft-ietf-secsh-filexfer-02 §7); anything that is no status means that the session is gone.
fn refused(work: Work<'_>, error: SftpError) -> FileError {
    let SftpError::Status(status) = error else {
        return lost(work, error.into());
    };
    let path = work.path.to_owned();
    match status.status_code {
        StatusCode::NoSuchFile => FileError::NotFound { path },
        StatusCode::PermissionDenied => FileError::Denied { doing: work.doing, path },
        StatusCode::OpUnsupported => FileError::Unsupported { what: work.doing },
        code => {
            let told = words(&status.error_message);
            work.failed(if told.is_empty() { code.to_string() } else { told })
        }
    }
}

fn kind(attributes: &FileAttributes) -> FileKind {
    // The types of `st_mode` (POSIX `<sys/stat.h>`).
    match attributes.permissions.unwrap_or(0) & 0o170_000 {
        0o100_000 => FileKind::Regular,
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Link,
        _ => FileKind::Other,
    }
}

/// The operations, several of which can be under way at once. An operation that has no more to be asked for the next to be
/// asked opens its gate.
impl RusshFiles {
    async fn resolve(&self, path: &str) -> Result<String, FileError> {
        let work = Work { doing: "resolving", path };
        self.begin(work)?;
        let name = within(work, self.deadline(), self.sftp.realpath(path)).await?;
        let mut files = name.files.into_iter();
        match (files.next(), files.next()) {
            (Some(file), None) if file.filename.starts_with('/') => Ok(file.filename),
            _ => Err(work.failed("the host's answer is not one absolute path")),
        }
    }

    async fn look_at(&self, path: &str) -> Result<Option<FileStat>, FileError> {
        let work = Work { doing: "looking at", path };
        self.begin(work)?;
        match within(work, self.deadline(), self.sftp.lstat(path)).await {
            Ok(answer) => Ok(Some(FileStat {
                kind: kind(&answer.attrs),
                size: answer.attrs.size.unwrap_or(0),
                uid: answer.attrs.uid,
                mode: answer.attrs.permissions.unwrap_or(0) & 0o7777,
                modified: answer.attrs.mtime.map_or(0, i64::from),
            })),
            Err(FileError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let work = Work { doing: "reading", path };
        self.begin(work)?;
        let handle = self.open_file(work, OpenFlags::READ, None).await?;
        let read = pipeline::read(self, work, &handle, limit).await;
        self.close_behind(handle);
        read
    }

    async fn stage_file(&self, path: &str, content: &[u8], mode: u32, gate: &Gate) -> Result<(), FileError> {
        let work = Work { doing: "creating", path };
        self.begin(work)?;
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let handle = match self.open_file(work, flags, Some(mode & 0o777)).await {
            // Version 3 of SFTP has no word for it; the server says SSH_FX_FAILURE.
            Err(failed @ FileError::Failed { .. }) => {
                return match self.look_at(path).await {
                    Ok(Some(_)) => Err(FileError::AlreadyExists { path: path.to_owned() }),
                    Err(error) if error.is_lost() => Err(error),
                    Ok(None) | Err(_) => Err(failed),
                };
            }
            opened => opened?,
        };
        pipeline::write(self, work, &handle, content, mode, || gate.open()).await
    }

    async fn sync_file(&self, path: &str) -> Result<(), FileError> {
        let work = Work { doing: "syncing", path };
        self.begin(work)?;
        if !self.capabilities.sync {
            return Err(FileError::Unsupported { what: FSYNC });
        }
        let handle = self.open_file(work, OpenFlags::READ, None).await?;
        let synced = self.extended(work, FSYNC, &[&handle]).await;
        self.close_behind(handle);
        synced
    }

    async fn rename_file(&self, from: &str, to: &str, gate: &Gate) -> Result<(), FileError> {
        let work = Work { doing: "renaming", path: from };
        self.begin(work)?;
        self.begin(Work { doing: "renaming to", path: to })?;
        if !self.capabilities.atomic_rename {
            return Err(FileError::Unsupported { what: POSIX_RENAME });
        }
        sending(gate, self.extended(work, POSIX_RENAME, &[from, to])).await
    }

    /// The names, and whether there were so many that the gate was opened before all of them were asked for.
    async fn list_directory(&self, path: &str, gate: &Gate) -> Result<(Vec<String>, bool), FileError> {
        let work = Work { doing: "listing", path };
        self.begin(work)?;
        let handle = within(work, self.deadline(), self.sftp.opendir(path)).await?.handle;
        let listed = pipeline::list(self, work, &handle, || gate.open()).await;
        self.close_behind(handle);
        listed
    }
}

impl HostFiles for RusshFiles {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn real_path(&mut self, path: &str) -> Result<String, FileError> {
        let result = self.resolve(path).await;
        self.note(result)
    }

    async fn stat(&mut self, path: &str) -> Result<Option<FileStat>, FileError> {
        let result = self.look_at(path).await;
        self.note(result)
    }

    async fn read(&mut self, path: &str, limit: u64) -> Result<Vec<u8>, FileError> {
        let result = self.read_file(path, limit).await;
        self.note(result)
    }

    async fn stage(&mut self, path: &str, content: &[u8], mode: u32) -> Result<(), FileError> {
        let result = self.stage_file(path, content, mode, &Gate::default()).await;
        self.note(result)
    }

    async fn sync(&mut self, path: &str) -> Result<(), FileError> {
        let result = self.sync_file(path).await;
        self.note(result)
    }

    async fn rename(&mut self, from: &str, to: &str) -> Result<(), FileError> {
        let result = self.rename_file(from, to, &Gate::default()).await;
        self.note(result)
    }

    async fn remove(&mut self, path: &str) -> Result<(), FileError> {
        let work = Work { doing: "removing", path };
        self.begin(work)?;
        let result = within(work, self.deadline(), self.sftp.remove(path)).await.map(drop);
        self.note(result)
    }

    async fn remove_directory(&mut self, path: &str) -> Result<(), FileError> {
        let work = Work { doing: "removing the directory", path };
        self.begin(work)?;
        let result = within(work, self.deadline(), self.sftp.rmdir(path)).await.map(drop);
        self.note(result)
    }

    async fn list(&mut self, path: &str) -> Result<Vec<String>, FileError> {
        let result = self.list_directory(path, &Gate::default()).await;
        self.note(result.map(|(names, _)| names))
    }

    async fn look(&mut self, looks: &[Look]) -> Vec<Seen> {
        let seen = self.look_together(looks).await;
        self.lost |= seen.iter().any(is_lost);
        seen
    }

    async fn change_and_look(&mut self, change: Change<'_>, looks: &[Look]) -> (Result<(), FileError>, Vec<Seen>) {
        let (changed, seen) = self.change_together(change, looks).await;
        self.lost |= seen.iter().any(is_lost);
        (self.note(changed), seen)
    }
}
