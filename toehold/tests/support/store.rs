//! The store as nobody else may touch it: for what only time, another release or a fault would bring.

use rusqlite::Connection;
use serde_json::Value;

use super::cli::Toehold;

/// The database of this state directory.
pub fn open(toehold: &Toehold) -> Connection {
    Connection::open(toehold.state().join("state.db")).unwrap()
}

/// The key of every record, as it stands in the database.
pub fn keys(toehold: &Toehold) -> Vec<String> {
    keys_in(&toehold.state())
}

/// The same of any state directory.
pub fn keys_in(directory: &std::path::Path) -> Vec<String> {
    let database = Connection::open(directory.join("state.db")).unwrap();
    let mut statement = database.prepare("SELECT key FROM entry ORDER BY key").unwrap();
    let keys = statement.query_map([], |row| row.get(0)).unwrap();
    keys.map(Result::unwrap).collect()
}

/// Changes the record under `key` as nobody but a test may.
pub fn change(toehold: &Toehold, key: &str, how: impl FnOnce(&mut Value)) {
    let database = open(toehold);
    let value: Vec<u8> = database
        .query_row("SELECT value FROM entry WHERE key = ?1", [key], |row| row.get(0))
        .unwrap_or_else(|error| panic!("{key}: {error}; there are {:?}", keys(toehold)));
    let mut value: Value = serde_json::from_slice(&value).unwrap();
    how(&mut value);
    let changed = database.execute("UPDATE entry SET value = ?1 WHERE key = ?2", (value.to_string().into_bytes(), key)).unwrap();
    assert_eq!(changed, 1);
}

/// Puts a record in, of many at once.
pub fn insert(transaction: &rusqlite::Transaction<'_>, key: &str, value: &Value) {
    transaction
        .prepare_cached("INSERT INTO entry (key, revision, written_at, value) VALUES (?1, 1, 0, ?2)")
        .unwrap()
        .execute((key, value.to_string().into_bytes()))
        .unwrap_or_else(|error| panic!("{key}: {error}"));
}
