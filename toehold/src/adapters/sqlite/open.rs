//! Making and opening the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use toehold_core::StoreError;

use super::Options;
use super::error::SqliteError;
use super::place::Place;
use crate::private::{self, PrivateError};

/// The database's name in the state directory.
pub const FILE_NAME: &str = "state.db";

/// What `PRAGMA application_id` says of a Toehold state database: `Toeh` in ASCII.
pub const APPLICATION_ID: i32 = 0x546f_6568;

/// The schema that this release writes, as `PRAGMA user_version`.
pub const SCHEMA: u32 = 1;

/// `counter` is the last revision given out; `change` names the key of each of the last revisions, for watches.
const TABLES: &str = "
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL) STRICT;
    INSERT INTO counter (id, revision) VALUES (1, 0);
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        written_at INTEGER NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE change (revision INTEGER PRIMARY KEY, key TEXT NOT NULL) STRICT;
";

/// An open database: one connection for each thread.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    /// The file that both have open.
    pub(super) place: Place,
    /// Set when nobody waits for answers any more.
    pub(super) closing: Arc<AtomicBool>,
}

/// Makes an empty database at `path` unless there is a file.
pub(super) fn create(path: &Path, options: Options) -> Result<(), StoreError> {
    create_file(path, options.busy_limit).map_err(|error| error.while_doing(format!("creating {}", path.display())))
}

fn create_file(path: &Path, limit: Duration) -> Result<(), SqliteError> {
    private::check_directory(path.parent().unwrap_or(Path::new("/")))?;
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let log = beside(path, "-wal");
    if length(&log).is_some_and(|bytes| bytes > 0) && length(path).is_none() {
        return Err(SqliteError::LogWithoutDatabase { path: path.to_owned(), log });
    }
    let (file, staged) = private::create_beside(path)?;
    let made = fill(&staged).map_err(|error| SqliteError::from_engine(path, limit, &error));
    let published = made.and_then(|()| {
        file.sync_all().map_err(private::io_error("syncing", &staged))?;
        // Closed before anybody can open it as the database; see `length`.
        drop(file);
        Ok(private::publish(&staged, path)?)
    });
    if published.is_err() {
        // What is left under a name that nobody reads does no harm; the error to report is the first one.
        for leftover in [staged.clone(), beside(&staged, "-journal"), beside(&staged, "-wal"), beside(&staged, "-shm")] {
            drop(fs::remove_file(leftover));
        }
    }
    published.map(drop)
}

/// Gives a closed database another name, which nothing may have.
pub(super) fn publish(staged: &Path, path: &Path) -> Result<bool, StoreError> {
    let published = || {
        private::check_directory(path.parent().unwrap_or(Path::new("/")))?;
        // Whoever closed it has put all of its log into it, or could not, as where the disk is full: the rest would be lost.
        let log = beside(staged, "-wal");
        if length(&log).is_some_and(|bytes| bytes > 0) {
            let reason = "its last writes are still in the log beside it".to_owned();
            return Err(SqliteError::Engine { path: staged.to_owned(), reason });
        }
        let log = beside(path, "-wal");
        if length(&log).is_some_and(|bytes| bytes > 0) && length(path).is_none() {
            return Err(SqliteError::LogWithoutDatabase { path: path.to_owned(), log });
        }
        Ok(private::publish(staged, path)?)
    };
    published().map_err(|error: SqliteError| error.while_doing(format!("creating {}", path.display())))
}

/// Fills a new file with the schema and leaves it closed, without a log beside it.
fn fill(path: &Path) -> rusqlite::Result<()> {
    let mut connection = Connection::open_with_flags(path, flags())?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens the database at `path`.
pub(super) fn existing(path: &Path, options: Options) -> Result<Opened, StoreError> {
    let doing = || format!("opening {}", path.display());
    let private = |error: PrivateError| {
        if error.is_absent() { SqliteError::Absent { path: path.to_owned() } } else { error.into() }
    };
    private::check_directory(path.parent().unwrap_or(Path::new("/"))).map_err(|e| private(e).while_doing(doing()))?;
    private::check_file(path).map_err(|e| private(e).while_doing(doing()))?;
    if length(path) == Some(0) {
        // SQLite would take it for a new database. We never leave one like that.
        let reason = "it is empty".to_owned();
        return Err(SqliteError::Damaged { path: path.to_owned(), reason }.while_doing(doing()));
    }

    let closing = Arc::new(AtomicBool::new(false));
    let failed = |error: &rusqlite::Error| SqliteError::from_engine(path, options.busy_limit, error).while_doing(doing());
    let mut writer = Connection::open_with_flags(path, flags()).map_err(|e| failed(&e))?;
    wait_for_others(&mut writer, options.busy_limit, &closing).map_err(|e| failed(&e))?;
    // Until it is known to be ours, closing it must not move what its log holds into it.
    let log_in_use = length(&beside(path, "-wal")).is_some_and(|bytes| bytes > 0);
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, log_in_use).map_err(|e| failed(&e))?;
    check_format(&writer, path, options.busy_limit)?;
    writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map_err(|e| failed(&e))?;
    prepare(&writer).map_err(|e| failed(&e))?;
    let place = Place::of(path).map_err(|error| private(private::io_error("looking for", path)(error)).while_doing(doing()))?;

    let mut reader = Connection::open_with_flags(path, flags()).map_err(|e| failed(&e))?;
    wait_for_others(&mut reader, options.busy_limit, &closing).map_err(|e| failed(&e))?;
    prepare(&reader).map_err(|e| failed(&e))?;
    reader.pragma_update(None, "query_only", true).map_err(|e| failed(&e))?;
    place.check().map_err(|error| error.while_doing(doing()))?;
    Ok(Opened { writer, reader, place, closing })
}

/// Refuses a database of another program and one of a newer release.
fn check_format(connection: &Connection, path: &Path, limit: Duration) -> Result<(), StoreError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, schema) = pragma("application_id")
        .and_then(|application| Ok((application, pragma("user_version")?)))
        .map_err(|error| SqliteError::from_engine(path, limit, &error).while_doing(format!("opening {}", path.display())))?;
    let schema = u32::try_from(schema).unwrap_or(0);
    if application != APPLICATION_ID || schema == 0 {
        return Err(SqliteError::Foreign { path: path.to_owned() }.while_doing(format!("opening {}", path.display())));
    }
    if schema > SCHEMA {
        return Err(StoreError::Newer { what: path.display().to_string(), found: schema, supported: SCHEMA });
    }
    Ok(())
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What stands in the file is data: it brings no functions or triggers of its own into use.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(16);
    // Fails here, not at the first use, where the tables are not there or the file is cut short.
    connection.query_row(
        "SELECT (SELECT revision FROM counter), (SELECT revision FROM entry LIMIT 1), (SELECT max(revision) FROM change)",
        [],
        |_| Ok(()),
    )
}

/// Lets a connection wait for the transactions of other processes, up to `limit`, in short naps of uneven length. SQLite's
/// own waiting grows to 100 ms a nap, which is many commits.
fn wait_for_others(connection: &mut Connection, limit: Duration, closing: &Arc<AtomicBool>) -> rusqlite::Result<()> {
    let closing = Arc::clone(closing);
    let mut since = Instant::now();
    let mut nap = u64::from(std::process::id());
    connection.busy_handler(Some(move |earlier: i32| {
        if earlier == 0 {
            since = Instant::now();
        }
        if since.elapsed() >= limit || closing.load(Ordering::Relaxed) {
            return false;
        }
        nap = nap.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_micros(500 + (nap >> 33) % 4_500));
        true
    }))
}

fn flags() -> OpenFlags {
    // A connection stays on one thread. The file must be there: SQLite's own creation would take its mode from the umask.
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// The file's length; `None` where there is none. The file is not opened: closing a second descriptor of a database drops the
/// locks that this process holds on it (fcntl(2)).
fn length(path: &Path) -> Option<u64> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Some(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(0),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn both_connections_are_durable_and_the_reader_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = directory.path().join(FILE_NAME);
        create(&path, Options::default()).unwrap();
        let opened = existing(&path, Options::default()).unwrap();
        for connection in [&opened.writer, &opened.reader] {
            let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
            assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
            // FULL: <https://www.sqlite.org/pragma.html#pragma_synchronous>
            assert_eq!(pragma("synchronous"), 2.into());
        }
        assert!(opened.reader.execute("UPDATE counter SET revision = 7", []).is_err());
        assert_eq!(opened.writer.execute("UPDATE counter SET revision = 7", []).unwrap(), 1);
    }
}
