//! The gateway's keys: the present one and the next (J4), and what is known of them at other places.

use serde::{Deserialize, Serialize};
use toehold_core::{Clock as _, Key, Record, SecretBytes, Store, StoreError, Stored, Timestamp};
use toehold_joinproto::admission::{AgentRecord, AgentState, Vault};
use toehold_joinproto::pin::Pin;
use toehold_joinproto::{Endpoint, GatewayIdentity};
use zeroize::Zeroizing;

use super::GatewayError;
use crate::adapters::system_clock::SystemClock;

/// How often a write that somebody else's came before is tried again.
const TRIES: u32 = 16;
/// `SubjectPublicKeyInfo` of an Ed25519 key (RFC 8410), up to its 32 bytes.
pub(super) const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The name under which its keys are sealed.
const SEALED_AS: &str = "gateway/current";

/// The gateways of this store: `gateway/current`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    /// Where machines reach them, as `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Keys of our own making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<Generated>,
    /// Pins of keys that the operator brings, while those are served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplied: Vec<Pin>,
}

impl Record for GatewayRecord {}

/// Two keys: one that is presented, and one that is announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// The present one.
    pub current: StoredKey,
    /// The next.
    pub next: StoredKey,
}

/// An Ed25519 key at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    /// Its pin.
    pub pin: Pin,
    /// Its seed, sealed.
    pub sealed_seed: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl StoredKey {
    fn generate(vault: &impl Vault) -> Result<Self, GatewayError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| GatewayError::Sealed(error.to_string()))?;
        let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
        let spki = [&ED25519_SPKI[..], public.as_bytes()].concat();
        let sealed_seed = vault.seal(SEALED_AS, &SecretBytes::new(seed.to_vec())).map_err(GatewayError::Sealed)?;
        Ok(Self { pin: GatewayIdentity::from_key(&spki).pin(), sealed_seed, created_at: SystemClock.now() })
    }

    /// Its seed.
    ///
    /// # Errors
    /// [`GatewayError::Sealed`].
    pub fn open(&self, vault: &impl Vault) -> Result<Zeroizing<[u8; 32]>, GatewayError> {
        let seed = vault.open(SEALED_AS, &self.sealed_seed).map_err(GatewayError::Sealed)?;
        let seed = <[u8; 32]>::try_from(seed.expose()).map_err(|_| GatewayError::Sealed("it is not 32 bytes".to_owned()))?;
        Ok(Zeroizing::new(seed))
    }
}

fn place() -> Result<Key, StoreError> {
    Ok(Key::new(["gateway", "current"])?)
}

impl GatewayRecord {
    /// What is stored.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub async fn read<S: Store>(store: &S) -> Result<Option<Stored<Self>>, StoreError> {
        Stored::read(store, &place()?).await
    }

    /// The pins of the present key and of the next, in this order.
    pub fn pins(&self) -> Vec<Pin> {
        match &self.generated {
            _ if !self.supplied.is_empty() => self.supplied.clone(),
            Some(generated) => vec![generated.current.pin, generated.next.pin],
            None => Vec::new(),
        }
    }

    /// Writes down where the gateway is reached, where that is said, and makes keys where there are none; `supplied` are the pins of keys
    /// that the operator brings instead.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn ensure<S: Store>(
        store: &S,
        vault: &impl Vault,
        endpoint: Option<&Endpoint>,
        supplied: &[Pin],
    ) -> Result<Stored<Self>, GatewayError> {
        for _ in 0..TRIES {
            let found = Self::read(store).await?;
            let mut record = found
                .as_ref()
                .map_or(Self { endpoint: None, generated: None, supplied: Vec::new() }, |stored| stored.body.clone());
            if let Some(endpoint) = endpoint {
                record.endpoint = Some(endpoint.to_string());
            }
            record.supplied = supplied.to_vec();
            if supplied.is_empty() && record.generated.is_none() {
                record.generated = Some(Generated { current: StoredKey::generate(vault)?, next: StoredKey::generate(vault)? });
            }
            match write(store, found, record).await {
                Err(StoreError::Conflict { .. }) => {}
                result => return Ok(result?),
            }
        }
        Err(GatewayError::Busy)
    }

    /// Switches to the next key, and makes another next one. Running gateways follow.
    ///
    /// # Errors
    /// [`GatewayError::Supplied`], [`GatewayError::NoKey`]; [`GatewayError::Busy`] where another was faster.
    pub async fn renew<S: Store>(store: &S, vault: &impl Vault, read: Stored<Self>) -> Result<Stored<Self>, GatewayError> {
        if !read.body.supplied.is_empty() {
            return Err(GatewayError::Supplied);
        }
        let mut record = read.body.clone();
        let generated = record.generated.take().ok_or(GatewayError::NoKey)?;
        record.generated = Some(Generated { current: generated.next, next: StoredKey::generate(vault)? });
        match write(store, Some(read), record).await {
            Err(StoreError::Conflict { .. }) => Err(GatewayError::Busy),
            result => Ok(result?),
        }
    }
}

async fn write<S: Store>(
    store: &S,
    found: Option<Stored<GatewayRecord>>,
    record: GatewayRecord,
) -> Result<Stored<GatewayRecord>, StoreError> {
    match found {
        Some(stored) if stored.body == record => Ok(stored),
        Some(mut stored) => {
            stored.body = record;
            stored.save(store).await?;
            Ok(stored)
        }
        None => Stored::create(store, place()?, record).await,
    }
}

/// The pins that an agent has said that it keeps: `agentpins/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPins {
    /// The pins.
    pub pins: Vec<Pin>,
    /// When it said so last.
    pub since: Timestamp,
    /// By which attempt it had joined that said so: whoever has the id after it has said nothing, nor has it itself where it joined anew. An
    /// earlier release did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
}

impl Record for AgentPins {}

impl AgentPins {
    fn place(id: &str) -> Result<Key, StoreError> {
        Ok(Key::new(["agentpins", id])?)
    }

    /// Writes down what an agent keeps now; `agent` is the one that has said so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note<S: Store>(store: &S, id: &str, agent: &AgentRecord, pins: &[Pin]) -> Result<(), StoreError> {
        let place = Self::place(id)?;
        let mut last = None;
        for _ in 0..TRIES {
            let record = Self { pins: pins.to_vec(), since: SystemClock.now(), attempt: agent.attempt.clone() };
            let written = match Stored::<Self>::read(store, &place).await? {
                Some(stored) if stored.body.pins == pins && stored.body.attempt == agent.attempt => return Ok(()),
                Some(mut stored) => {
                    stored.body = record;
                    stored.save(store).await
                }
                None => Stored::create(store, place.clone(), record).await.map(drop),
            };
            match written {
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                result => return result,
            }
        }
        last.map_or(Ok(()), Err)
    }

    /// The agents that have not said that they keep `pin`; of a key that is yet to be made none has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn missing<S: Store>(store: &S, pin: Option<&Pin>) -> Result<Vec<String>, StoreError> {
        let mut missing = Vec::new();
        for entry in store.list(&Key::new(["agent"])?).await? {
            let id = entry.key.name();
            let is_known = match Stored::<AgentRecord>::decode(&entry) {
                Ok(agent) if !matches!(agent.body.state, AgentState::Joined | AgentState::Pending) => continue,
                Ok(agent) => {
                    let known = Stored::<Self>::read(store, &Self::place(id)?).await?;
                    known.is_some_and(|Stored { body: known, .. }| {
                        known.attempt == agent.body.attempt && pin.is_some_and(|pin| known.pins.contains(pin))
                    })
                }
                // A record that cannot be read is an agent that cannot be asked.
                Err(_) => false,
            };
            if !is_known {
                missing.push(id.to_owned());
            }
        }
        Ok(missing)
    }

    /// Clears away what was noted of agents that are there no more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep<S: Store>(store: &S) -> Result<(), StoreError> {
        for entry in store.list(&Key::new(["agentpins"])?).await? {
            // Read after it: of an agent that has come since, there is either the agent or another revision.
            let agent = store.get(&Key::new(["agent", entry.key.name()])?).await?;
            let is_over = agent.is_none_or(|agent| {
                Stored::<AgentRecord>::decode(&agent).is_ok_and(|agent| agent.body.state == AgentState::Removed)
            });
            if is_over {
                match store.delete(&entry.key, entry.revision).await {
                    Ok(()) | Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
