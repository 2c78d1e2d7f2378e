//! What is kept of a pod, before it is there and until it was seen gone: `pod/<connection>`.

use serde::{Deserialize, Serialize};
use toehold_core::{Key, KeyError, Record, Timestamp};

use crate::name::{ConnectionId, Nonce, OwnerName, PodName, Uid};

/// Who a connection belongs to. What an authenticator said; nothing is taken from the SSH user name but what it allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The name that authentication gave to the person or program, in full. Rights go by this (P4).
    pub principal: String,
    /// The user name of the SSH login.
    pub user: String,
    /// The client's address.
    pub address: String,
}

/// An owner of pods: a Job in the cluster that ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerReference {
    /// Its name.
    pub name: OwnerName,
    /// Its UID: another Job of that name is another owner.
    pub uid: Uid,
}

/// A pod that may be in the cluster. Written before it is created and never changed; removed when it was seen gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The connection that it is for.
    pub connection: ConnectionId,
    /// The session channel that it is for, where each has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u32>,
    /// Which cluster, as its backend names it ([`PodBackend::cluster`](crate::backend::PodBackend::cluster)); empty in records of before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: PodName,
    /// What the pod carries to be known again.
    pub nonce: Nonce,
    /// The owner of the gateway that made this record.
    pub owner: OwnerReference,
    /// Digest of the specification that it is created with, in hex.
    pub spec_digest: String,
    /// For whom.
    pub who: Who,
    /// When this was written, by the gateway's clock.
    pub recorded_at: Timestamp,
}

impl Record for PodRecord {}

impl PodRecord {
    /// Where all of them are.
    ///
    /// # Errors
    /// Never: the name is a valid one.
    pub fn prefix() -> Result<Key, KeyError> {
        Key::new(["pod"])
    }

    /// Where this one is: `pod/<connection>`, or `pod/<connection>.<channel>`.
    ///
    /// # Errors
    /// Never: hex digits and a number are a valid segment.
    pub fn key(&self) -> Result<Key, KeyError> {
        let name = match self.channel {
            Some(channel) => format!("{}.{channel}", self.connection),
            None => self.connection.to_string(),
        };
        Key::new(["pod", &name])
    }
}
