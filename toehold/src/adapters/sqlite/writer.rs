//! The writing thread: many writes, one commit.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use toehold_core::{Expect, Key, Revision, StoreError};
use tokio::sync::oneshot;

use super::error::SqliteError;
use super::place::Place;
use super::reader::{self, Read};

/// The most writes in one commit, and the most bytes that they may have together before no further one joins.
const BATCH_WRITES: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How many of the last changes the database names for watches. A watch that has fallen further behind is broken.
const CHANGES_KEPT: i64 = 16_384;

/// A put, or a delete where there is no value.
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) value: Option<Vec<u8>>,
    pub(super) expect: Expect,
    pub(super) answer: oneshot::Sender<Result<Revision, StoreError>>,
}

impl Write {
    fn size(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len)
    }

    fn doing(&self) -> String {
        format!("{} {}", if self.value.is_some() { "writing" } else { "deleting" }, self.key)
    }
}

/// What became of one write, if the transaction is committed.
enum Outcome {
    Done(Revision),
    Conflict,
}

/// At which point a transaction failed.
enum Failure {
    /// Nothing took place.
    Before(rusqlite::Error),
    /// SQLite says that nothing took place, but a disk that fails may have kept it.
    AtCommit(rusqlite::Error),
    /// The file lies where it was no longer: whatever took place there, nobody else sees it.
    Moved(PathBuf),
}

pub(super) struct Writer {
    connection: Connection,
    place: Place,
    busy_limit: Duration,
    reader: Sender<Read>,
}

impl Writer {
    pub(super) fn new(connection: Connection, place: Place, busy_limit: Duration, reader: Sender<Read>) -> Self {
        Self { connection, place, busy_limit, reader }
    }

    /// Works until nobody can ask any more.
    pub(super) fn run(mut self, queue: &Receiver<Write>) {
        while let Ok(first) = queue.recv() {
            let mut bytes = first.size();
            let mut batch = vec![first];
            while batch.len() < BATCH_WRITES && bytes < BATCH_BYTES {
                let Ok(next) = queue.try_recv() else { break };
                bytes += next.size();
                batch.push(next);
            }
            // Whoever stopped waiting wants it no more.
            batch.retain(|write| !write.answer.is_closed());
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Write>) {
        match self.transact(&batch) {
            Ok(outcomes) => {
                if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Done(_))) {
                    // A reader that has ended has nobody to tell.
                    drop(self.reader.send(Read::Committed));
                }
                for (write, outcome) in batch.into_iter().zip(outcomes) {
                    let result = match outcome {
                        Outcome::Done(revision) => Ok(revision),
                        Outcome::Conflict => Err(StoreError::Conflict { key: write.key }),
                    };
                    drop(write.answer.send(result));
                }
            }
            // One write that finds no room must not take the others with it.
            Err(Failure::Before(error)) if batch.len() > 1 && !is_busy(&error) => {
                for write in batch {
                    self.commit(vec![write]);
                }
            }
            Err(Failure::Before(error) | Failure::AtCommit(error)) => {
                for write in batch {
                    let error = SqliteError::from_engine(self.place.path(), self.busy_limit, &error).while_doing(write.doing());
                    drop(write.answer.send(Err(error)));
                }
            }
            Err(Failure::Moved(path)) => {
                for write in batch {
                    let error = SqliteError::Moved { path: path.clone() }.while_doing(write.doing());
                    drop(write.answer.send(Err(error)));
                }
            }
        }
    }

    fn transact(&mut self, batch: &[Write]) -> Result<Vec<Outcome>, Failure> {
        let in_place = || self.place.check().map_err(|_| Failure::Moved(self.place.path().to_owned()));
        in_place()?;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(Failure::Before)?;
        let mut outcomes = Vec::with_capacity(batch.len());
        for write in batch {
            outcomes.push(apply(&transaction, write).map_err(Failure::Before)?);
        }
        // Without room for all of it the log did not get the frame that ends a commit.
        transaction.commit().map_err(|error| if is_full(&error) { Failure::Before(error) } else { Failure::AtCommit(error) })?;
        // It may have been moved while that was written.
        in_place()?;
        Ok(outcomes)
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

fn apply(transaction: &Transaction<'_>, write: &Write) -> rusqlite::Result<Outcome> {
    let key = write.key.as_str();
    let present = transaction
        .prepare_cached("SELECT revision FROM entry WHERE key = ?1")?
        .query_row([key], |row| reader::revision(row, 0))
        .optional()?;
    let expected = match write.expect {
        Expect::Absent => None,
        Expect::Revision(revision) => Some(revision),
    };
    if present != expected {
        return Ok(Outcome::Conflict);
    }
    let (number, revision): (i64, Revision) = transaction
        .prepare_cached("UPDATE counter SET revision = revision + 1 RETURNING revision")?
        .query_row([], |row| Ok((row.get(0)?, reader::revision(row, 0)?)))?;
    match &write.value {
        Some(value) => transaction
            .prepare_cached(
                "INSERT INTO entry (key, revision, written_at, value) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, written_at = excluded.written_at, value = excluded.value",
            )?
            .execute((key, number, unix_seconds(), value))?,
        None => transaction.prepare_cached("DELETE FROM entry WHERE key = ?1")?.execute([key])?,
    };
    transaction.prepare_cached("INSERT INTO change (revision, key) VALUES (?1, ?2)")?.execute((number, key))?;
    transaction.prepare_cached("DELETE FROM change WHERE revision <= ?1")?.execute([number - CHANGES_KEPT])?;
    Ok(Outcome::Done(revision))
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now();
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}
