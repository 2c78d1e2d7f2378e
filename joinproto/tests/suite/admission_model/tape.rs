//! A store of which every answer is given, so that whoever asks it is led to its next question.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};

use toehold_core::{Entry, Expect, Key, Revision, Store, StoreError, Watch};

use crate::support::lab::start;

/// A value of the store, by its number.
pub(super) type Value = u32;

/// What a gateway asks of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Get(Key),
    List(Key),
    Put(Key, Vec<u8>, Option<u64>),
    Delete(Key, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Found(Option<(u64, Value)>),
    Listed(Vec<(Key, u64, Value)>),
    Written(u64),
    Conflict,
}

/// Numbers for values, so that a state is small.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) numbers: HashMap<Vec<u8>, Value>,
    pub(super) bytes: Vec<Vec<u8>>,
}

impl Values {
    pub(super) fn number(&mut self, bytes: &[u8]) -> Value {
        if let Some(number) = self.numbers.get(bytes) {
            return *number;
        }
        let number = Value::try_from(self.bytes.len()).unwrap();
        self.numbers.insert(bytes.to_vec(), number);
        self.bytes.push(bytes.to_vec());
        number
    }
}

/// Gives the answers that it has, and then keeps the next question.
#[derive(Clone, Debug)]
pub(super) struct Tape {
    pub(super) values: Arc<Mutex<Values>>,
    pub(super) replies: Arc<Mutex<VecDeque<Reply>>>,
    pub(super) asked: Arc<Mutex<Option<Question>>>,
}

impl Tape {
    async fn ask(&self, question: Question) -> Reply {
        let reply = self.replies.lock().unwrap().pop_front();
        if let Some(reply) = reply {
            return reply;
        }
        *self.asked.lock().unwrap() = Some(question);
        pending().await
    }

    fn entry(&self, key: &Key, revision: u64, value: Value) -> Entry {
        let value = self.values.lock().unwrap().bytes[value as usize].clone();
        Entry { key: key.clone(), value, revision: Revision(revision), written_at: start() }
    }

    async fn write(&self, key: &Key, question: Question) -> Result<Revision, StoreError> {
        match self.ask(question).await {
            Reply::Written(revision) => Ok(Revision(revision)),
            Reply::Conflict => Err(StoreError::Conflict { key: key.clone() }),
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct NoWatch;

impl Watch for NoWatch {
    async fn changed(&mut self) -> Result<Key, StoreError> {
        pending().await
    }
}

impl Store for Tape {
    type Watch = NoWatch;

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self.ask(Question::Get(key.clone())).await {
            Reply::Found(found) => Ok(found.map(|(revision, value)| self.entry(key, revision, value))),
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, key: &Key, value: &[u8], expect: Expect) -> Result<Revision, StoreError> {
        let expect = match expect {
            Expect::Absent => None,
            Expect::Revision(revision) => Some(revision.0),
        };
        self.write(key, Question::Put(key.clone(), value.to_vec(), expect)).await
    }

    async fn delete(&self, key: &Key, revision: Revision) -> Result<(), StoreError> {
        self.write(key, Question::Delete(key.clone(), revision.0)).await.map(drop)
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        match self.ask(Question::List(prefix.clone())).await {
            Reply::Listed(listed) => {
                Ok(listed.into_iter().map(|(key, revision, value)| self.entry(&key, revision, value)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn kinds(&self) -> Result<Vec<Key>, StoreError> {
        panic!("admission works with tokens and agents alone")
    }

    async fn watch(&self, _: &Key) -> Result<NoWatch, StoreError> {
        Ok(NoWatch)
    }

    fn max_value(&self) -> usize {
        1024 * 1024
    }
}
