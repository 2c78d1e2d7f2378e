//! The embedded store: one SQLite file, used by several processes at once.
//!
//! The file is `state.db` in a directory that only its owner may enter. It is in WAL mode with `synchronous=FULL`: a write that
//! was answered survives a crash of the machine, readers and the writer do not wait for each other, and no command keeps
//! the database locked for longer than one commit.
//!
//! A store runs two threads. The writer takes what has queued up since its last commit into one transaction, judges each
//! write by itself, and answers after the commit is on disk. The reader answers everything else, and while somebody
//! watches it looks every [`Options::watch_interval`] whether another process has written.
//!
//! Whether the file still lies where it was opened is looked at with every commit and every answer: one that was moved away, removed or
//! replaced is an error from then on ([`SqliteError::Moved`]), not a store that only this process sees.

mod error;
mod open;
mod place;
mod reader;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use toehold_core::{Entry, Expect, Key, Revision, Store, StoreError};
use tokio::sync::oneshot;

pub use error::SqliteError;
pub use open::{APPLICATION_ID, FILE_NAME, SCHEMA};
use place::Place;
use reader::Read;
pub use reader::SqliteWatch;
use writer::Write;

/// The largest value in bytes: what a NATS server takes as it comes, whose limit of 1 MiB is for a message with its headers, so that
/// what works here works there.
pub const MAX_VALUE: usize = 1024 * 1024 - 4096;

/// How patient a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a write waits for another process's transaction before it fails (default: 10 s).
    pub busy_limit: Duration,
    /// How often a watched store looks for what other processes wrote (default: 100 ms). Writes of this process are
    /// reported at once.
    pub watch_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { busy_limit: Duration::from_secs(10), watch_interval: Duration::from_millis(100) }
    }
}

/// A store in an SQLite file. Clones share its threads; they end with the last clone and the last watch.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens `state.db` in `directory`. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`StoreError::Newer`] for a store that a newer release made; it is left alone. [`StoreError::Unavailable`] with an
    /// [`SqliteError`] that names the path for everything else: no such file, permissions that let others in, a file that is not
    /// a Toehold state database, or is damaged.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_with(directory, Options::default())
    }

    /// As [`SqliteStore::open`], and makes an empty store where there is none. The directory has to exist.
    ///
    /// The new file appears whole or not at all, whatever is interrupted; of several processes that do this at once, one makes
    /// it and all use it.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn create(directory: &Path) -> Result<Self, StoreError> {
        Self::create_with(directory, Options::default())
    }

    /// [`SqliteStore::open`] with other [`Options`].
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(directory: &Path, options: Options) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        Self::start(open::existing(&path, options)?, path, options)
    }

    /// [`SqliteStore::create`] with other [`Options`].
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn create_with(directory: &Path, options: Options) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        open::create(&path, options)?;
        Self::start(open::existing(&path, options)?, path, options)
    }

    /// Moves the store of one directory, which nobody has open, to another one on the same file system that has none. It is there whole or
    /// not at all, whatever is interrupted. `false`: another process has made one there meanwhile.
    ///
    /// # Errors
    /// As [`SqliteStore::create`].
    pub fn move_between(from: &Path, to: &Path) -> Result<bool, StoreError> {
        open::publish(&from.join(FILE_NAME), &to.join(FILE_NAME))
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether the file still lies where it was opened. Blocks for as long as the file system takes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with [`SqliteError::Moved`] where another one is there, or none.
    pub fn check_place(&self) -> Result<(), StoreError> {
        self.inner.place.check().map_err(|error| error.while_doing("keeping records"))
    }

    fn start(opened: open::Opened, path: PathBuf, options: Options) -> Result<Self, StoreError> {
        let place = opened.place;
        let (reads, to_read) = channel();
        let (writes, to_write) = channel();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|source| StoreError::Unavailable {
                doing: format!("opening {}", path.display()),
                source: Box::new(source),
            })
        };
        let reader = reader::Reader::new(opened.reader, place.clone(), options.busy_limit, options.watch_interval);
        let writing = writer::Writer::new(opened.writer, place.clone(), options.busy_limit, reads.clone());
        let threads = vec![
            spawn("sqlite-writer", Box::new(move || writing.run(&to_write)))?,
            spawn("sqlite-reader", Box::new(move || reader.run(&to_read)))?,
        ];
        let inner = Inner { path, place, reads: Some(reads), writes: Some(writes), threads, closing: opened.closing };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn write(&self, key: &Key, value: Option<Vec<u8>>, expect: Expect) -> Result<Revision, StoreError> {
        let doing = if value.is_some() { "writing" } else { "deleting" };
        let (answer, answered) = oneshot::channel();
        let write = Write { key: key.clone(), value, expect, answer };
        let sent = self.inner.writes.as_ref().is_some_and(|writes| writes.send(write).is_ok());
        if !sent {
            return Err(self.inner.stopped(doing, key));
        }
        answered.await.unwrap_or_else(|_| Err(self.inner.stopped(doing, key)))
    }
}

/// The threads and the ways to them.
struct Inner {
    path: PathBuf,
    place: Place,
    reads: Option<Sender<Read>>,
    writes: Option<Sender<Write>>,
    threads: Vec<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

impl Inner {
    async fn read<T>(
        &self,
        doing: &'static str,
        key: &Key,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Read,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.reads.as_ref().is_some_and(|reads| reads.send(request(answer)).is_ok());
        if !sent {
            return Err(self.stopped(doing, key));
        }
        answered.await.unwrap_or_else(|_| Err(self.stopped(doing, key)))
    }

    fn stopped(&self, doing: &str, key: &Key) -> StoreError {
        let source = SqliteError::Stopped { path: self.path.clone() };
        StoreError::Unavailable { doing: format!("{doing} {key}"), source: Box::new(source) }
    }
}

impl Drop for Inner {
    /// Waits for the threads, so that the files are closed when the last handle is gone. Nobody is left to be answered, so
    /// a writer that waits for another process gives up at once.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.writes = None;
        self.reads = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has closed its connection while unwinding.
            drop(thread.join());
        }
    }
}

impl Store for SqliteStore {
    type Watch = SqliteWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.inner.read("reading", key, |answer| Read::Get { key: key.clone(), answer }).await
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLarge { key: key.clone(), got: value.len(), limit: MAX_VALUE });
        }
        self.write(key, Some(value.to_vec()), expect).await
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.write(key, None, Expect::Revision(revision)).await.map(drop)
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        self.inner.read("listing", prefix, |answer| Read::List { prefix: prefix.clone(), answer }).await
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || {
            let source = SqliteError::Stopped { path: self.inner.path.clone() };
            StoreError::Unavailable { doing: "listing the kinds of records".to_owned(), source: Box::new(source) }
        };
        let sent = self.inner.reads.as_ref().is_some_and(|reads| reads.send(Read::Kinds { answer }).is_ok());
        if sent { answered.await.unwrap_or_else(|_| Err(stopped())) } else { Err(stopped()) }
    }

    async fn watch(&self, prefix: &Key) -> Result<SqliteWatch, StoreError> {
        let pending = self.inner.read("watching", prefix, |answer| Read::Watch { prefix: prefix.clone(), answer }).await?;
        Ok(SqliteWatch::new(self.clone(), prefix.clone(), pending))
    }

    fn max_value(&self) -> usize {
        MAX_VALUE
    }
}
