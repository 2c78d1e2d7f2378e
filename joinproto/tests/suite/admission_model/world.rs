//! What a state is made of: the store, and who is at work with which gateway.

use std::collections::BTreeMap;
use std::sync::Mutex;

use toehold_core::Key;

use super::tape::{Question, Reply, Value, Values};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Join,
    /// An agent of Opni's shows that it has its keys.
    Authenticate,
    Remove,
    Revoke,
}

/// Somebody is at work with a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Talk {
    pub(super) kind: Kind,
    pub(super) client: usize,
    pub(super) gateway: usize,
    pub(super) attempt: u8,
    /// v3: the client has been accepted, and its confirmation has been sent.
    pub(super) confirmed: bool,
    pub(super) replies: Vec<Reply>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Asks(Question),
    /// v3: accepted, and the client's turn.
    AwaitsConfirm,
    Ends(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// Told to come again.
    Again,
    /// An agent of Opni's has its answer, and has yet to show its keys.
    Answered,
    Joined,
    Refused(String),
    /// The operator's work is done.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cell {
    /// Grows also over a deletion.
    pub(super) revision: u64,
    pub(super) value: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) store: BTreeMap<Key, Cell>,
    /// In the order of their clients, attempts and kinds. One that its client has given up may still go on at its gateway.
    pub(super) talks: Vec<Talk>,
    /// How often each client has begun.
    pub(super) attempts: Vec<u8>,
    /// What each client was told of its latest attempt.
    pub(super) told: Vec<Option<Outcome>>,
    pub(super) crashes: u8,
    pub(super) acts: u8,
    pub(super) revoked: bool,
    pub(super) removed: Option<usize>,
    /// By client: whether its latest attempt was confirmed when the token had been revoked.
    pub(super) late: Vec<bool>,
}

impl World {
    /// The store as it is for everybody.
    pub(super) fn answer(&mut self, question: &Question, values: &Mutex<Values>) -> Reply {
        let found = |cell: Option<&Cell>| cell.and_then(|cell| cell.value.map(|value| (cell.revision, value)));
        match question {
            Question::Get(key) => Reply::Found(found(self.store.get(key))),
            Question::List(prefix) => {
                let below = self.store.iter().filter(|(key, _)| key.is_below(prefix));
                Reply::Listed(
                    below.filter_map(|(key, cell)| found(Some(cell)).map(|(r, value)| (key.clone(), r, value))).collect(),
                )
            }
            Question::Put(key, bytes, expect) => {
                let number = values.lock().unwrap().number(bytes);
                self.write(key, *expect, Some(number))
            }
            Question::Delete(key, revision) => self.write(key, Some(*revision), None),
        }
    }

    fn write(&mut self, key: &Key, expect: Option<u64>, value: Option<Value>) -> Reply {
        let cell = self.store.entry(key.clone()).or_insert(Cell { revision: 0, value: None });
        if cell.value.map(|_| cell.revision) != expect {
            return Reply::Conflict;
        }
        *cell = Cell { revision: cell.revision + 1, value };
        Reply::Written(cell.revision)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Authenticate { client: usize },
    Begin { client: usize, gateway: usize },
    Crash { gateway: usize },
    Remove { client: usize },
    Revoke,
    Step { place: usize },
}
