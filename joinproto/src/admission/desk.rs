//! Admission over a store.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use rand_core::CryptoRng;
use toehold_core::{Clock, Key, KeyError, SecretBytes, Store, StoreError, Stored};

use super::decide::{Check, Refusal, Request, Verdict, admit, check_agent};
use super::decoy::Decoy;
use super::error::{DeskError, Vault};
use super::new_token::NewToken;
use super::record::{AgentRecord, AgentState, Holder, Protocol, Role, TokenRecord, UseRecord};
use super::walk::Walk;
use crate::encoding;
use crate::keyring::{Keyring, SharedKeys};
use crate::token::{Token, TokenId};
use crate::v3::{Confirmed, Proven, TokenKey, TokenSigner};

/// The most tokens for Opni's agents at once. Their signatures go out in one answer, of which real agents read 4 MiB; a token's is
/// 126 bytes. What is left holds those that several commands make at the same moment.
pub const MAX_OPNI_TOKENS: usize = 33_000;
/// How often a write that somebody else's came before is tried again.
const TRIES: u32 = 64;

/// How often a token was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Uses that are taken.
    pub taken: u32,
    /// Uses that were revoked, taken or not.
    pub revoked: u32,
}

/// An agent's keys as they were read.
#[derive(Debug)]
pub struct AgentKeys {
    id: String,
    agent: Option<AgentRecord>,
    keys: Vec<SharedKeys>,
}

impl AgentKeys {
    /// The keys.
    pub fn keys(&self) -> &[SharedKeys] {
        &self.keys
    }

    /// The agent, if there is one.
    pub fn agent(&self) -> Option<&AgentRecord> {
        self.agent.as_ref()
    }
}

/// A client that has a use of a token, and has yet to show that it has the keys.
#[derive(Debug)]
pub struct Admitted {
    token: TokenRecord,
    request: Request,
    /// What is stored of the agent, to be replaced by what comes.
    pub(super) agent: Option<Stored<AgentRecord>>,
}

impl Admitted {
    /// What it joins as.
    pub fn role(&self) -> &Role {
        &self.token.role
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.token.labels
    }

    /// Its id.
    pub fn client_id(&self) -> &str {
        &self.request.client_id
    }

    pub(super) fn record(&self, state: AgentState) -> AgentRecord {
        AgentRecord {
            state,
            since: self.request.now,
            token: self.token.id,
            token_expires_at: self.token.expires_at,
            key: match &self.request.holder {
                Holder::Key(key) => Some(key.clone()),
                Holder::Id { .. } => None,
            },
            attempt: None,
            role: self.token.role.clone(),
            labels: self.token.labels.clone(),
            capabilities: BTreeSet::new(),
            key_capabilities: Vec::new(),
            unconfirmed: BTreeSet::new(),
            sealed_keyring: None,
            removed_at: self.agent.as_ref().and_then(|stored| stored.body.last_removed()),
        }
    }

    pub(super) fn new(token: TokenRecord, request: Request, agent: Option<Stored<AgentRecord>>) -> Self {
        Self { token, request, agent }
    }

    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    pub(super) fn token(&self) -> &TokenRecord {
        &self.token
    }
}

/// Admission over a store: the same for any number of gateways at one store.
#[derive(Debug)]
pub struct Desk<S, C, V> {
    /// Where tokens and agents are.
    pub store: S,
    /// Tells the time.
    pub clock: C,
    /// Seals what a gateway has to have in clear.
    pub vault: V,
    decoy: OnceLock<Option<Decoy>>,
}

impl<S, C, V> Desk<S, C, V> {
    /// Over a store.
    pub fn new(store: S, clock: C, vault: V) -> Self {
        Self { store, clock, vault, decoy: OnceLock::new() }
    }
}

impl<S: Store, C: Clock, V: Vault> Desk<S, C, V> {
    /// Makes a token. What the store gets of a v3 token cannot be joined with; the returned secret is nowhere else.
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn create<R: CryptoRng + ?Sized>(&self, new: NewToken, rng: &mut R) -> Result<Token, DeskError> {
        new.check()?;
        if new.for_opni && self.opni_tokens().await?.len() >= MAX_OPNI_TOKENS {
            return Err(DeskError::BadToken(
                "there are 33,000 for Opni's agents, and one more would make their first answer larger than they read",
            ));
        }
        let token = Token::generate(rng);
        let protocol = if new.for_opni {
            let secret = SecretBytes::new(token.expose_text().as_bytes().to_vec());
            Protocol::Opni { sealed_token: self.seal(token_key(token.id())?.as_str(), &secret)? }
        } else {
            Protocol::V3 { key: TokenSigner::new(&token).key() }
        };
        let now = self.clock.now();
        let record = TokenRecord {
            id: token.id(),
            protocol,
            role: new.role,
            uses: new.uses,
            created_at: now,
            expires_at: now.saturating_add(new.lifetime),
            labels: new.labels,
            client_id: new.client_id,
            from: new.from,
            may_extend: new.may_extend,
        };
        Stored::create(&self.store, token_key(token.id())?, record).await?;
        Ok(token)
    }

    /// A token as it is stored.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub async fn token(&self, id: TokenId) -> Result<Option<TokenRecord>, DeskError> {
        Ok(Stored::read(&self.store, &token_key(id)?).await?.map(|stored| stored.body))
    }

    /// A token as it is stored, for whoever has proven nothing yet. It costs the same whether there is one, so that the time that it
    /// takes tells nothing (J5).
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub async fn token_for_stranger(&self, id: TokenId) -> Result<Option<TokenRecord>, DeskError> {
        let Some(entry) = self.store.get(&token_key(id)?).await? else {
            if let Some(decoy) = self.decoy() {
                drop(black_box(Stored::<TokenRecord>::decode(&decoy.token)));
            }
            return Ok(None);
        };
        let token = Stored::<TokenRecord>::decode(&entry)?.body;
        if matches!(token.protocol, Protocol::Opni { .. }) {
            // Reading it took no point of a curve out of its encoding, as reading one of the third version does.
            let _ = black_box(TokenKey::of_nobody().to_string().parse::<TokenKey>());
        }
        Ok(Some(token))
    }

    /// What is read in place of what is not there; none where the vault seals nothing.
    fn decoy(&self) -> Option<&Decoy> {
        self.decoy.get_or_init(|| Decoy::new(&self.vault)).as_ref()
    }

    /// An agent as it is stored; `None` also for the mark that one was removed.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub async fn agent(&self, id: &str) -> Result<Option<AgentRecord>, DeskError> {
        let stored: Option<Stored<AgentRecord>> = Stored::read(&self.store, &agent_key(id)?).await?;
        Ok(stored.map(|stored| stored.body).filter(|agent| matches!(agent.state, AgentState::Pending | AgentState::Joined)))
    }

    /// Admits a v3 client that has proven itself under `token`: takes a use of it, or finds the one that the client has.
    ///
    /// # Errors
    /// [`DeskError::Refused`] with the reason to tell it.
    pub async fn admit(&self, proven: &Proven, token: TokenRecord) -> Result<Admitted, DeskError> {
        let request = Request {
            holder: Holder::Key(encoding::hex(proven.identity())),
            client_id: proven.agent().to_string(),
            source: proven.source(),
            now: self.clock.now(),
        };
        if token.id != proven.token() {
            return Err(DeskError::Unknown);
        }
        token.check(&request, Check::V3)?;
        let agent = Stored::read(&self.store, &agent_key(&request.client_id)?).await?;
        check_agent(agent.as_ref().map(|stored| &stored.body), &token, &request)?;
        self.take(&token, &request).await?;
        Ok(Admitted::new(token, request, agent))
    }

    /// Stores the agent, once its client has confirmed the keys; then it has joined.
    ///
    /// # Errors
    /// [`DeskError::Superseded`] where the agent was written since it was admitted (another attempt, or it was removed);
    /// [`DeskError::Refused`] where the token was revoked or has ended since: who holds its last message back gains no time by that.
    pub async fn complete(&self, admitted: Admitted, confirmed: Confirmed) -> Result<AgentRecord, DeskError> {
        let now = Request { now: self.clock.now(), ..admitted.request().clone() };
        admitted.token().check(&now, Check::V3)?;
        self.could_take(admitted.token(), &now).await?;
        let key = agent_key(admitted.client_id())?;
        let mut record = admitted.record(AgentState::Joined);
        record.attempt = Some(encoding::hex(&confirmed.attempt));
        record.sealed_keyring = Some(self.seal(key.as_str(), &Keyring::of(confirmed.keys).expose_json())?);
        self.write_agent(key, admitted.agent, record).await.map(|stored| stored.body)
    }

    /// Writes an agent over what was read of it; where the store does not know whether it did, asks it.
    pub(super) async fn write_agent(
        &self,
        key: Key,
        read: Option<Stored<AgentRecord>>,
        record: AgentRecord,
    ) -> Result<Stored<AgentRecord>, DeskError> {
        let written = match read {
            Some(mut stored) => {
                stored.body = record.clone();
                stored.save(&self.store).await.map(|()| stored)
            }
            None => Stored::create(&self.store, key.clone(), record.clone()).await,
        };
        match written {
            Ok(stored) => Ok(stored),
            Err(StoreError::Conflict { .. }) => self.find(&key, &record).await?.ok_or(DeskError::Superseded),
            Err(error @ StoreError::Unavailable { .. }) => match self.find(&key, &record).await {
                Ok(Some(stored)) => Ok(stored),
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// What is stored, if it is this very record.
    async fn find(&self, key: &Key, record: &AgentRecord) -> Result<Option<Stored<AgentRecord>>, DeskError> {
        let stored: Option<Stored<AgentRecord>> = Stored::read(&self.store, key).await?;
        Ok(stored.filter(|stored| record.attempt.is_some() && stored.body == *record))
    }

    /// Takes a use of a token for a client, or finds the one that it has.
    pub(super) async fn take(&self, token: &TokenRecord, request: &Request) -> Result<(), DeskError> {
        let mut walk = Walk::new(token, request);
        let mut tries = 0;
        while let Some(slot) = walk.at(&self.store).await? {
            let key = use_key(token.id, slot)?;
            let found: Option<Stored<UseRecord>> = Stored::read(&self.store, &key).await?;
            let written = match admit(found.as_ref().map(|stored| &stored.body), request)? {
                Verdict::Next => {
                    walk.pass();
                    continue;
                }
                Verdict::Take(record) => Stored::create(&self.store, key, record).await.map(|_| ()),
                Verdict::Again(record) => match found {
                    Some(mut stored) => {
                        stored.body = record;
                        stored.save(&self.store).await
                    }
                    None => continue,
                },
            };
            match written {
                Ok(()) => return Ok(()),
                // Somebody was faster, perhaps this same client at another gateway: look at this very use again, and pass it
                // only when it is seen to be another's.
                Err(StoreError::Conflict { .. }) if tries < TRIES => tries += 1,
                Err(StoreError::Conflict { .. }) => return Err(DeskError::Busy),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::Exhausted.into())
    }

    /// Whether a client could take a use, without taking it.
    pub(super) async fn could_take(&self, token: &TokenRecord, request: &Request) -> Result<(), DeskError> {
        let mut walk = Walk::new(token, request);
        while let Some(slot) = walk.at(&self.store).await? {
            let found: Option<Stored<UseRecord>> = Stored::read(&self.store, &use_key(token.id, slot)?).await?;
            if admit(found.as_ref().map(|stored| &stored.body), request)? != Verdict::Next {
                return Ok(());
            }
            walk.pass();
        }
        Err(Refusal::Exhausted.into())
    }

    /// The keys of an agent, to check a challenge's answer with; none where there is no such agent, which costs the same (J5).
    ///
    /// # Errors
    /// [`DeskError`].
    pub async fn keys(&self, id: &str) -> Result<AgentKeys, DeskError> {
        let entry = self.store.get(&agent_key(id)?).await?;
        let stored = entry.as_ref().map(Stored::<AgentRecord>::decode).transpose()?.map(|stored| stored.body);
        if stored.is_none()
            && let Some(decoy) = self.decoy()
        {
            drop(black_box(Stored::<AgentRecord>::decode(&decoy.agent)));
        }
        let agent = stored.filter(|agent| matches!(agent.state, AgentState::Pending | AgentState::Joined));
        let keys = match &agent {
            Some(agent) if agent.sealed_keyring.is_some() => self.keyring(id, agent)?.shared_keys,
            _ => {
                if let Some(decoy) = self.decoy() {
                    drop(black_box(self.keyring(Decoy::AGENT, &decoy.record)));
                }
                Vec::new()
            }
        };
        Ok(AgentKeys { id: id.to_owned(), agent, keys })
    }

    pub(super) fn keyring(&self, id: &str, agent: &AgentRecord) -> Result<Keyring, DeskError> {
        let Some(sealed) = &agent.sealed_keyring else { return Ok(Keyring::default()) };
        let json = self.open(agent_key(id)?.as_str(), sealed)?;
        Keyring::parse(json.expose()).map_err(|source| DeskError::Keyring { agent: id.to_owned(), source })
    }

    /// The agent has authenticated with those of its keys that stand at this place: a pending one has now joined, and nobody has the keys
    /// made anew that it has shown. Safe to call each time.
    ///
    /// # Errors
    /// [`DeskError::Superseded`] where it was made anew or removed in the meantime, [`DeskError::Refused`] where the token was revoked
    /// before these keys were first shown: then it is not authenticated.
    pub async fn confirm(&self, seen: &AgentKeys, place: usize) -> Result<(), DeskError> {
        let sealed = seen.agent.as_ref().and_then(|agent| agent.sealed_keyring.as_ref()).ok_or(DeskError::Unknown)?;
        let stored: Option<Stored<AgentRecord>> = Stored::read(&self.store, &agent_key(&seen.id)?).await?;
        let Some(mut stored) = stored.filter(|stored| stored.body.sealed_keyring.as_ref() == Some(sealed)) else {
            return Err(DeskError::Superseded);
        };
        // Those for another capability are as good as they were.
        let shown = stored.body.key_capabilities.get(place).cloned();
        let is_new = shown.as_ref().is_some_and(|capability| stored.body.unconfirmed.remove(capability));
        if stored.body.state == AgentState::Pending || is_new {
            self.check_not_revoked(&seen.id, &stored.body, shown).await?;
        }
        match stored.body.state {
            AgentState::Joined if !is_new => return Ok(()),
            AgentState::Joined => {}
            AgentState::Pending => (stored.body.state, stored.body.since) = (AgentState::Joined, self.clock.now()),
            AgentState::Reserved | AgentState::Removed => return Err(DeskError::Superseded),
        }
        stored.save(&self.store).await.map_err(|error| match error {
            StoreError::Conflict { .. } => DeskError::Superseded,
            error => error.into(),
        })
    }

    /// Whether the use that an agent of Opni's holds, for this capability in v1, is good still: it has begun to join, and shows its keys for
    /// the first time. That the token has ended meanwhile is no matter, nor that it is not there any more.
    async fn check_not_revoked(&self, id: &str, agent: &AgentRecord, capability: Option<String>) -> Result<(), DeskError> {
        let Some(token) = self.token(agent.token).await? else { return Ok(()) };
        // An earlier release did not say for which one a key was made.
        let capability = capability.or_else(|| agent.capabilities.first().cloned());
        let request = Request {
            holder: Holder::Id { id: id.to_owned(), capability },
            client_id: id.to_owned(),
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            now: self.clock.now(),
        };
        self.could_take(&token, &request).await
    }

    /// Removes an agent. A mark stays, so that no token that is there now brings it back.
    ///
    /// # Errors
    /// [`DeskError::Unknown`] where there is none.
    pub async fn remove_agent(&self, id: &str) -> Result<(), DeskError> {
        let key = agent_key(id)?;
        for _ in 0..TRIES {
            let stored: Option<Stored<AgentRecord>> = Stored::read(&self.store, &key).await?;
            let Some(mut stored) = stored else { return Err(DeskError::Unknown) };
            if stored.body.state == AgentState::Removed {
                return Ok(());
            }
            stored.body.state = AgentState::Removed;
            stored.body.since = self.clock.now();
            stored.body.removed_at = Some(stored.body.since);
            stored.body.sealed_keyring = None;
            match stored.save(&self.store).await {
                Err(StoreError::Conflict { .. }) => {}
                result => return Ok(result?),
            }
        }
        Err(DeskError::Busy)
    }

    /// Revokes a token by taking all of its uses, so that no write that is on its way can still take one. Agents that have joined stay.
    /// Run again after a failure, it finishes; a use that cannot be read keeps it from none of the others.
    ///
    /// # Errors
    /// [`DeskError::Unknown`] where there is none; [`DeskError::PartlyRevoked`] where some of its uses are revoked, or may be.
    pub async fn revoke(&self, id: TokenId) -> Result<Uses, DeskError> {
        let token = self.token(id).await?.ok_or(DeskError::Unknown)?;
        let (mut revoked, mut in_doubt) = (0, false);
        let mut failed = None;
        for slot in 0..token.uses {
            let Err(error) = self.revoke_use(use_key(id, slot)?, &mut in_doubt).await else {
                revoked += 1;
                continue;
            };
            let is_of_this_one = matches!(error, DeskError::Store(StoreError::Corrupt { .. } | StoreError::Newer { .. }));
            failed.get_or_insert(error);
            if !is_of_this_one {
                break;
            }
        }
        let failed = match failed {
            None => match self.uses(&token).await {
                Ok(uses) => return Ok(uses),
                Err(error) => error,
            },
            Some(error) if revoked == 0 && !in_doubt => return Err(error),
            Some(error) => error,
        };
        Err(DeskError::PartlyRevoked { revoked, uses: token.uses, source: Box::new(failed) })
    }

    /// Says in `in_doubt` where a write may have taken place or not.
    async fn revoke_use(&self, key: Key, in_doubt: &mut bool) -> Result<(), DeskError> {
        let revoked_at = Some(self.clock.now());
        for _ in 0..TRIES {
            let found: Option<Stored<UseRecord>> = Stored::read(&self.store, &key).await?;
            let written = match found {
                Some(stored) if stored.body.revoked_at.is_some() => return Ok(()),
                Some(mut stored) => {
                    stored.body.revoked_at = revoked_at;
                    stored.save(&self.store).await
                }
                None => {
                    let record = UseRecord { held: None, revoked_at };
                    Stored::create(&self.store, key.clone(), record).await.map(|_| ())
                }
            };
            match written {
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    *in_doubt |= matches!(error, StoreError::Unavailable { .. });
                    return Err(error.into());
                }
                Ok(()) => return Ok(()),
            }
        }
        Err(DeskError::Busy)
    }

    /// How often a token was used.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn uses(&self, token: &TokenRecord) -> Result<Uses, DeskError> {
        let mut uses = Uses::default();
        for stored in Stored::<UseRecord>::list(&self.store, &token_key(token.id)?).await? {
            let UseRecord { held, revoked_at } = stored?.body;
            uses.taken += u32::from(held.is_some());
            uses.revoked += u32::from(revoked_at.is_some());
        }
        Ok(uses)
    }

    pub(super) fn seal(&self, name: &str, secret: &SecretBytes) -> Result<String, DeskError> {
        self.vault.seal(name, secret).map_err(|reason| DeskError::Vault { name: name.to_owned(), reason })
    }

    pub(super) fn open(&self, name: &str, sealed: &str) -> Result<SecretBytes, DeskError> {
        self.vault.open(name, sealed).map_err(|reason| DeskError::Vault { name: name.to_owned(), reason })
    }
}

pub(super) fn token_key(id: TokenId) -> Result<Key, KeyError> {
    Key::new(["token", &id.to_string()])
}

pub(super) fn use_key(id: TokenId, slot: u32) -> Result<Key, KeyError> {
    Key::new(["token", &id.to_string(), &format!("{slot:05}")])
}

pub(super) fn agent_key(id: &str) -> Result<Key, KeyError> {
    Key::new(["agent", id])
}
