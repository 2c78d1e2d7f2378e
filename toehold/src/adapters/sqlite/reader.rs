//! The reading thread, and watches.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, Row};
use toehold_core::{Entry, Key, Revision, StoreError, Timestamp, Watch};
use tokio::sync::{Notify, oneshot};

use super::SqliteStore;
use super::error::SqliteError;
use super::place::Place;

/// What the reading thread is asked.
pub(super) enum Read {
    Get {
        key: Key,
        answer: oneshot::Sender<Result<Option<Entry>, StoreError>>,
    },
    List {
        prefix: Key,
        answer: oneshot::Sender<Result<Vec<Entry>, StoreError>>,
    },
    Kinds {
        answer: oneshot::Sender<Result<Vec<Key>, StoreError>>,
    },
    Watch {
        prefix: Key,
        answer: oneshot::Sender<Result<Arc<Pending>, StoreError>>,
    },
    /// This process has written.
    Committed,
}

/// What a watch has yet to report.
pub(super) struct Pending {
    prefix: Key,
    news: Mutex<News>,
    arrived: Notify,
}

#[derive(Default)]
struct News {
    keys: BTreeSet<Key>,
    broken: bool,
}

impl Pending {
    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The changes below a prefix of an [`SqliteStore`], whichever process makes them.
///
/// It holds what it has not yet reported, each key once, so that a slow reader costs no more than the keys that changed.
pub struct SqliteWatch {
    // Keeps the threads alive.
    store: SqliteStore,
    prefix: Key,
    pending: Arc<Pending>,
}

impl std::fmt::Debug for SqliteWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteWatch").field("store", &self.store).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl SqliteWatch {
    pub(super) fn new(store: SqliteStore, prefix: Key, pending: Arc<Pending>) -> Self {
        Self { store, prefix, pending }
    }
}

impl Watch for SqliteWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        loop {
            {
                let mut news = self.pending.news();
                if let Some(key) = news.keys.pop_first() {
                    return Ok(key);
                }
                if news.broken {
                    let path = self.store.path().to_owned();
                    return Err(SqliteError::WatchBroken { path }.while_doing(format!("watching {}", self.prefix)));
                }
            }
            // A notification between the look and here is kept for us.
            self.pending.arrived.notified().await;
        }
    }
}

pub(super) struct Reader {
    connection: Connection,
    place: Place,
    busy_limit: Duration,
    interval: Duration,
    watches: Vec<Weak<Pending>>,
    /// `PRAGMA data_version` and the last revision when the watches were last told.
    seen_version: i64,
    seen_revision: i64,
}

impl Reader {
    pub(super) fn new(connection: Connection, place: Place, busy_limit: Duration, interval: Duration) -> Self {
        Self { connection, place, busy_limit, interval, watches: Vec::new(), seen_version: 0, seen_revision: 0 }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Read>) {
        let mut look_at = Instant::now();
        loop {
            let request = if self.watches.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(look_at.saturating_duration_since(Instant::now()))
            };
            match request {
                Ok(Read::Get { key, answer }) => {
                    let result = self.get(&key);
                    let result = self.answered(result, || format!("reading {key}"));
                    drop(answer.send(result));
                }
                Ok(Read::List { prefix, answer }) => {
                    let result = self.list(&prefix);
                    let result = self.answered(result, || format!("listing {prefix}"));
                    drop(answer.send(result));
                }
                Ok(Read::Kinds { answer }) => {
                    let result = self.kinds();
                    let result = self.answered(result, || "listing the kinds of records".to_owned());
                    drop(answer.send(result));
                }
                Ok(Read::Watch { prefix, answer }) => {
                    let result = self.watch(&prefix);
                    let result = self.answered(result, || format!("watching {prefix}"));
                    drop(answer.send(result));
                }
                Ok(Read::Committed) => look_at = Instant::now(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.watches.is_empty() && Instant::now() >= look_at {
                self.look();
                look_at = Instant::now() + self.interval;
            }
        }
    }

    /// What is answered: what was read counts if the file lay where it should when it had been read.
    fn answered<T>(&self, result: rusqlite::Result<T>, doing: impl Fn() -> String) -> Result<T, StoreError> {
        let read = result
            .map_err(|error| SqliteError::from_engine(self.place.path(), self.busy_limit, &error))
            .and_then(|read| self.place.check().map(|()| read));
        read.map_err(|error| error.while_doing(doing()))
    }

    fn get(&self, key: &Key) -> rusqlite::Result<Option<Entry>> {
        self.connection
            .prepare_cached("SELECT key, revision, written_at, value FROM entry WHERE key = ?1")?
            .query_row([key.as_str()], entry)
            .optional()
    }

    fn list(&self, prefix: &Key) -> rusqlite::Result<Vec<Entry>> {
        // Keys are compared byte by byte, and "0" is what follows "/".
        self.connection
            .prepare_cached("SELECT key, revision, written_at, value FROM entry WHERE key > ?1 AND key < ?2 ORDER BY key")?
            .query_map([format!("{prefix}/"), format!("{prefix}0")], entry)?
            .collect()
    }

    fn kinds(&self) -> rusqlite::Result<Vec<Key>> {
        self.connection
            .prepare_cached(
                "SELECT DISTINCT iif(instr(key, '/') = 0, key, substr(key, 1, instr(key, '/') - 1)) AS kind FROM entry ORDER BY kind",
            )?
            .query_map([], |row| key(row, 0))?
            .collect()
    }

    fn watch(&mut self, prefix: &Key) -> rusqlite::Result<Arc<Pending>> {
        // The new one may be told of what is written meanwhile, as the others have to be: only where nobody has watched is what has
        // happened so far taken as told. The version comes first, or what is written between the two would never be looked for.
        self.look();
        if self.watches.is_empty() {
            self.seen_version = self.data_version()?;
            self.seen_revision = self.last_revision()?;
        }
        let pending = Arc::new(Pending { prefix: prefix.clone(), news: Mutex::default(), arrived: Notify::new() });
        self.watches.push(Arc::downgrade(&pending));
        Ok(pending)
    }

    /// Tells the watches what was written since the last look.
    fn look(&mut self) {
        self.watches.retain(|watch| watch.strong_count() > 0);
        if self.watches.is_empty() {
            return;
        }
        let changes = match self.place.check() {
            Ok(()) => self.changes(),
            // Nobody else's changes come to be seen any more. Whoever watches anew is told.
            Err(_) => Ok(None),
        };
        let told = match changes {
            Ok(Some(keys)) => {
                for pending in self.watches.iter().filter_map(Weak::upgrade) {
                    let mut news = pending.news();
                    let before = news.keys.len();
                    news.keys.extend(keys.iter().filter(|key| key.is_below(&pending.prefix)).cloned());
                    if news.keys.len() > before {
                        pending.arrived.notify_one();
                    }
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(path = %self.place.path().display(), %error, "cannot look for changes");
                false
            }
        };
        if !told {
            for pending in self.watches.drain(..).filter_map(|watch| watch.upgrade()) {
                pending.news().broken = true;
                pending.arrived.notify_one();
            }
        }
    }

    /// The keys of all changes since the last look; `None` where the database does not name them all any more.
    fn changes(&mut self) -> rusqlite::Result<Option<Vec<Key>>> {
        let version = self.data_version()?;
        if version == self.seen_version {
            return Ok(Some(Vec::new()));
        }
        let mut statement =
            self.connection.prepare_cached("SELECT revision, key FROM change WHERE revision > ?1 ORDER BY revision")?;
        let mut rows = statement.query([self.seen_revision])?;
        let mut keys = Vec::new();
        let mut last = self.seen_revision;
        while let Some(row) = rows.next()? {
            let revision: i64 = row.get(0)?;
            // Revisions are dense: a gap is what was forgotten.
            if revision != last + 1 {
                return Ok(None);
            }
            last = revision;
            keys.push(key(row, 1)?);
        }
        self.seen_version = version;
        self.seen_revision = last;
        Ok(Some(keys))
    }

    /// Changes whenever another connection, of this process or not, has committed.
    fn data_version(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    fn last_revision(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("SELECT revision FROM counter")?.query_row([], |row| row.get(0))
    }
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text = row.get_ref(column)?.as_str()?;
    Key::parse(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error)))
}

/// A revision as it stands in a column. SQLite's integers are signed; ours begin at 1.
pub(super) fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map(Revision).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row, 0)?,
        revision: revision(row, 1)?,
        written_at: Timestamp::from_unix_seconds(row.get(2)?),
        value: row.get_ref(3)?.as_blob()?.to_vec(),
    })
}
