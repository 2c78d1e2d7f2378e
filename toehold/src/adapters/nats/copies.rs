//! What each server of a cluster has, against what the others have.
//!
//! All of them should have the same. A server that was cut off while it led, and comes back, may keep what it had not agreed on with the
//! others: nats-server 2.9.10 does so. From then on it answers otherwise than they do, under the same revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use toehold_core::StoreError;

use super::{NatsError, NatsStore, list, subject};

/// How often a copy is asked for: whose it is is the servers' choice.
const TRIES: usize = 64;
/// Before a difference is looked at again, which may have been a write on its way.
const PAUSE: Duration = Duration::from_secs(2);

/// A record that servers have different copies of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its key, or what stands in its place where that is none of ours.
    pub key: String,
    /// The revision that each server has; `None` where it has no such record.
    pub revisions: BTreeMap<String, Option<u64>>,
}

/// What came of comparing the servers' copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The servers whose copies were read; none where there is but one server.
    pub read: BTreeSet<String>,
    /// Those whose copies could not be had.
    pub unread: BTreeSet<String>,
    /// The records of which there are different copies.
    pub differences: Vec<Difference>,
}

/// The last message of each subject, as one server has it: its sequence and the hash of what it holds.
#[derive(Debug, Default)]
struct OneCopy {
    last: u64,
    messages: BTreeMap<String, (u64, [u8; 32])>,
}

impl NatsStore {
    /// How many servers are to keep a copy of it, as it was when it was opened.
    pub fn replicas(&self) -> usize {
        self.inner.stream.cached_info().config.num_replicas
    }

    /// Reads what every server of the cluster has, and compares.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn compare_copies(&self) -> Result<Comparison, StoreError> {
        let compared = async {
            let first = self.compare_once().await?;
            if first.differences.is_empty() {
                return Ok(first);
            }
            tokio::time::sleep(PAUSE).await;
            let mut second = self.compare_once().await?;
            second.differences.retain(|difference| first.differences.contains(difference));
            Ok(second)
        };
        compared.await.map_err(|error: NatsError| error.while_doing("comparing the servers' copies"))
    }

    async fn compare_once(&self) -> Result<Comparison, NatsError> {
        let inner = &self.inner;
        let info = inner.ask(|| inner.stream.get_info()).await?.map_err(|error| NatsError::engine(&error))?;
        let Some(cluster) = info.cluster else { return Ok(Comparison::default()) };
        let servers: BTreeSet<String> = cluster.replicas.into_iter().map(|replica| replica.name).chain(cluster.leader).collect();
        if servers.len() < 2 {
            return Ok(Comparison::default());
        }
        let mut copies: BTreeMap<String, OneCopy> = BTreeMap::new();
        for _ in 0..TRIES {
            if copies.len() == servers.len() {
                break;
            }
            let consumer = list::consumer(inner, &format!("{}>", inner.prefix), false).await?;
            let server = consumer.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            let Some(server) = server.filter(|server| !copies.contains_key(server)) else { continue };
            let mut copy = OneCopy::default();
            list::messages(inner, consumer, |message, sequence, _| {
                copy.last = copy.last.max(sequence);
                copy.messages.insert(message.subject.to_string(), (sequence, Sha256::digest(&message.payload).into()));
            })
            .await?;
            copies.insert(server, copy);
        }
        let unread = servers.into_iter().filter(|server| !copies.contains_key(server)).collect();
        let name = |subject: &str| {
            let name = subject.strip_prefix(inner.prefix.as_str()).unwrap_or(subject);
            subject::decode(name).map_or_else(|| name.to_owned(), |key| key.to_string())
        };
        let differences =
            differences(&copies).into_iter().map(|(subject, revisions)| Difference { key: name(&subject), revisions }).collect();
        Ok(Comparison { read: copies.into_keys().collect(), unread, differences })
    }
}

/// The subjects of which there are different copies. One server may be ahead of another; where both have passed a message and one of them
/// does not have it, they have gone different ways.
fn differences(copies: &BTreeMap<String, OneCopy>) -> Vec<(String, BTreeMap<String, Option<u64>>)> {
    let subjects: BTreeSet<&String> = copies.values().flat_map(|copy| copy.messages.keys()).collect();
    let differs = |subject: &String| {
        let there: Vec<_> = copies.values().map(|copy| (copy.last, copy.messages.get(subject))).collect();
        there.iter().enumerate().any(|(place, (last, message))| {
            there.iter().skip(place + 1).any(|(other_last, other)| match (message, other) {
                (Some((sequence, hash)), Some((other_sequence, other_hash))) if sequence == other_sequence => hash != other_hash,
                (message, other) => {
                    let sequence = |message: Option<&(u64, [u8; 32])>| message.map_or(0, |(sequence, _)| *sequence);
                    let (sequence, other_sequence) = (sequence(*message), sequence(*other));
                    sequence != other_sequence && sequence.max(other_sequence) <= *last.min(other_last)
                }
            })
        })
    };
    let revisions = |subject: &String| {
        let revision = |copy: &OneCopy| copy.messages.get(subject).map(|(sequence, _)| *sequence);
        copies.iter().map(|(server, copy)| (server.clone(), revision(copy))).collect()
    };
    subjects.into_iter().filter(|subject| differs(subject)).map(|subject| (subject.clone(), revisions(subject))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(of: [&[(&str, u64, u8)]; 2]) -> BTreeMap<String, OneCopy> {
        let copy = |messages: &[(&str, u64, u8)]| OneCopy {
            last: messages.iter().map(|(_, sequence, _)| *sequence).max().unwrap_or_default(),
            messages: messages
                .iter()
                .map(|(subject, sequence, byte)| ((*subject).to_owned(), (*sequence, [*byte; 32])))
                .collect(),
        };
        of.iter().zip(["n0", "n1"]).map(|(messages, name)| (name.to_owned(), copy(messages))).collect()
    }

    fn found(one: &[(&str, u64, u8)], two: &[(&str, u64, u8)]) -> Vec<String> {
        differences(&copies([one, two])).into_iter().map(|(subject, _)| subject).collect()
    }

    #[test]
    fn a_server_may_be_behind_and_not_on_another_way() {
        let none: [String; 0] = [];
        assert_eq!(found(&[("a", 1, 0), ("b", 2, 0)], &[("a", 1, 0), ("b", 2, 0)]), none);
        assert_eq!(found(&[("a", 1, 0)], &[("a", 1, 0), ("b", 2, 0)]), none, "it is behind");
        assert_eq!(found(&[("a", 1, 0), ("b", 2, 0)], &[("b", 2, 0), ("a", 3, 1)]), none, "it is behind");
        assert_eq!(found(&[], &[("a", 1, 0)]), none, "it has nothing yet");
        assert_eq!(found(&[("a", 1, 0)], &[("a", 1, 1)]), ["a"], "one revision, two values");
        assert_eq!(found(&[("a", 1, 0), ("b", 2, 0)], &[("a", 2, 0), ("b", 3, 0)]), ["a"], "one revision, two keys");
        assert_eq!(found(&[("a", 1, 0), ("b", 3, 0)], &[("b", 3, 0)]), ["a"], "one has lost it");
    }
}
