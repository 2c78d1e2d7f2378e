//! Admission of Opni's agents, who choose their id and make a new key for each try.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq as _;
use toehold_core::{Clock, Key, Store, StoreError, Stored};

use super::decide::{Check, Refusal, Request, check_agent};
use super::desk::{Admitted, Desk, agent_key, token_key};
use super::error::{DeskError, Vault};
use super::record::{AgentRecord, AgentState, Holder, Protocol, TokenRecord, UseRecord};
use crate::agreement::{Ephemeral, Side};
use crate::encoding;
use crate::keyring::Keyring;
use crate::token::{Token, TokenId};
use crate::v3::AgentId;
use crate::wire::{AuthRequestV1, AuthRequestV2, AuthResponse};

/// The label that Opni puts a friendly name under.
pub const LABEL_NAME: &str = "opni.io/name";
/// The label that says by which version of the protocol an agent joined.
pub const LABEL_VERSION: &str = "opni.io/agent-version";

/// The second request of v1 or v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpniRequest {
    /// Of v1.
    V1(AuthRequestV1),
    /// Of v2.
    V2(AuthRequestV2),
}

impl OpniRequest {
    fn client_id(&self) -> &str {
        match self {
            Self::V1(request) => &request.client_id,
            Self::V2(request) => &request.client_id,
        }
    }

    fn client_key(&self) -> &[u8; 32] {
        match self {
            Self::V1(request) => &request.client_key,
            Self::V2(request) => &request.client_key,
        }
    }

    fn capability(&self) -> Option<&String> {
        match self {
            Self::V1(request) => Some(&request.capability),
            Self::V2(_) => None,
        }
    }
}

/// A join of v1 or v2, after the signature was checked.
#[derive(Debug)]
pub struct OpniJoin<'a> {
    /// The token that the signature was over.
    pub token: &'a Token,
    /// The request.
    pub request: &'a OpniRequest,
    /// Where it comes from.
    pub source: IpAddr,
}

impl<S: Store, C: Clock, V: Vault> Desk<S, C, V> {
    /// Admits an agent of Opni's: keeps its id, takes a use, stores the keys, and answers. The agent is pending until it first authenticates
    /// ([`Desk::confirm`]); until then the same token and id do it anew, without another use.
    ///
    /// # Errors
    /// [`DeskError::Unknown`] for a token that is none of ours, or has another secret; [`DeskError::Refused`] with the reason.
    pub async fn join_opni<R: CryptoRng + ?Sized>(&self, join: OpniJoin<'_>, rng: &mut R) -> Result<AuthResponse, DeskError> {
        let token = self.token(join.token.id()).await?.ok_or(DeskError::Unknown)?;
        let Protocol::Opni { sealed_token } = &token.protocol else { return Err(DeskError::Unknown) };
        let is_same: bool = self.opni_token(token.id, sealed_token)?.expose_secret().ct_eq(join.token.expose_secret()).into();
        if !is_same {
            return Err(DeskError::Unknown);
        }
        let ephemeral = Ephemeral::generate(rng);
        let keys = ephemeral.derive(Side::Gateway, join.request.client_key()).map_err(|_| DeskError::PeerKey)?;
        let request = Request {
            holder: Holder::Id { id: join.request.client_id().to_owned(), capability: join.request.capability().cloned() },
            client_id: join.request.client_id().to_owned(),
            source: join.source,
            now: self.clock.now(),
        };
        let mut attempt = [0; 16];
        rng.fill_bytes(&mut attempt);
        let (mut admitted, is_kept) = self.reserve(token, request).await?;
        let mut record = described(&admitted, join.request);
        let former = admitted.agent.as_ref().map(|stored| &stored.body).filter(|agent| agent.state != AgentState::Reserved);
        let mut keyring = Keyring::of(keys);
        if let (Some(former), Some(capability)) = (former, join.request.capability()) {
            // Joining an agent that is there: the new keys come first, the others stay good, but for those of an earlier try.
            let mut others = self.keyring(admitted.client_id(), former)?;
            let mut made_for = former.key_capabilities.clone();
            match made_for.iter().position(|made| made == capability) {
                Some(place) if place < others.shared_keys.len() => {
                    made_for.remove(place);
                    others.shared_keys.remove(place);
                }
                // An earlier release did not say which: the only key of a pending agent.
                _ if former.capabilities.contains(capability) => others.shared_keys.clear(),
                _ => {}
            }
            keyring = keyring.merge(others);
            record.key_capabilities.extend(made_for);
            record.capabilities.extend(former.capabilities.iter().cloned());
            record.unconfirmed.extend(former.unconfirmed.iter().cloned());
            record.state = former.state;
        }
        let key = agent_key(admitted.client_id())?;
        record.attempt = Some(encoding::hex(&attempt));
        record.sealed_keyring = Some(self.seal(key.as_str(), &keyring.expose_json())?);
        // A revocation that was done meanwhile is seen before anything is answered; one that comes later, when the keys are first shown.
        if let Err(error) = self.could_take(admitted.token(), admitted.request()).await {
            if let (DeskError::Refused(_), false) = (&error, is_kept) {
                self.give_back(admitted.agent.take()).await;
            }
            return Err(error);
        }
        self.write_agent(key, admitted.agent, record).await?;
        Ok(AuthResponse { gateway_key: *ephemeral.public() })
    }

    /// Keeps the id for this client, and takes a use. Where there is none left, the id is given back; a crash in between leaves it
    /// kept until the token ends, for this client to come back. Says also whether the id was kept before.
    async fn reserve(&self, token: TokenRecord, request: Request) -> Result<(Admitted, bool), DeskError> {
        token.check(&request, Check::Opni)?;
        // The form of ids that follow from keys is for those alone.
        if request.client_id.parse::<AgentId>().is_ok() {
            return Err(Refusal::IdTaken.into());
        }
        let key = agent_key(&request.client_id)?;
        let agent: Option<Stored<AgentRecord>> = Stored::read(&self.store, &key).await?;
        check_agent(agent.as_ref().map(|stored| &stored.body), &token, &request)?;
        self.could_take(&token, &request).await?;
        let is_kept =
            agent.as_ref().is_some_and(|stored| stored.body.state != AgentState::Removed && stored.body.token == token.id);
        let mut admitted = Admitted::new(token, request, agent);
        if !is_kept {
            let reserved = admitted.record(AgentState::Reserved);
            let stored = self.write_agent(key, admitted.agent.take(), reserved).await?;
            admitted.agent = Some(stored);
        }
        match self.take(admitted.token(), admitted.request()).await {
            Ok(()) => Ok((admitted, is_kept)),
            Err(error) => {
                if let (DeskError::Refused(_), false) = (&error, is_kept) {
                    self.give_back(admitted.agent.take()).await;
                }
                Err(error)
            }
        }
    }

    /// Gives an id back that was kept for a client which is refused. If that fails, it stays kept until the token ends.
    async fn give_back(&self, kept: Option<Stored<AgentRecord>>) {
        let Some(mut stored) = kept else { return };
        let _ = match stored.body.removed_at {
            Some(removed) => {
                (stored.body.state, stored.body.since) = (AgentState::Removed, removed);
                stored.save(&self.store).await
            }
            None => self.store.delete(&stored.key, stored.revision).await,
        };
    }

    /// The token, with its secret, of a record for Opni's agents.
    fn opni_token(&self, id: TokenId, sealed: &str) -> Result<Token, DeskError> {
        let name = token_key(id)?;
        let text = self.open(name.as_str(), sealed)?;
        let token = std::str::from_utf8(text.expose()).ok().and_then(|text| Token::parse(text).ok());
        token
            .filter(|token| token.id() == id)
            .ok_or_else(|| DeskError::Vault { name: name.to_string(), reason: "not a token".to_owned() })
    }

    /// All tokens that an agent of Opni's could join with: not expired, and with a use that is free or held by an agent that is
    /// still pending. A record that cannot be read hides no other.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn opni_tokens(&self) -> Result<Vec<(TokenRecord, Token)>, DeskError> {
        let now = self.clock.now();
        let entries = self.store.list(&Key::new(["token"])?).await?;
        // Uses lie below their tokens.
        let mut uses: BTreeMap<&str, Vec<UseRecord>> = BTreeMap::new();
        for entry in &entries {
            if let (Some(id), Some(_)) = (entry.key.segments().nth(1), entry.key.segments().nth(2))
                && let Ok(stored) = Stored::decode(entry)
            {
                uses.entry(id).or_default().push(stored.body);
            }
        }
        let mut tokens = Vec::new();
        for entry in entries.iter().filter(|entry| entry.key.segments().count() == 2) {
            let Ok(Stored { body: record, .. }) = Stored::<TokenRecord>::decode(entry) else { continue };
            let Protocol::Opni { sealed_token } = &record.protocol else { continue };
            let uses = uses.get(entry.key.name()).map(Vec::as_slice).unwrap_or_default();
            if now < record.expires_at
                && let Ok(token) = self.opni_token(record.id, sealed_token)
                && self.is_active(&record, uses).await?
            {
                tokens.push((record, token));
            }
        }
        Ok(tokens)
    }

    async fn is_active(&self, token: &TokenRecord, uses: &[UseRecord]) -> Result<bool, DeskError> {
        if uses.iter().any(|taken| taken.revoked_at.is_some()) {
            return Ok(false);
        }
        if uses.len() < usize::try_from(token.uses).unwrap_or(usize::MAX) {
            return Ok(true);
        }
        for held in uses.iter().filter_map(|taken| taken.held.as_ref()) {
            if let Holder::Id { id, capability } = &held.holder {
                let Ok(key) = agent_key(id) else { continue };
                let is_open = match Stored::<AgentRecord>::read(&self.store, &key).await {
                    Ok(agent) => agent.is_some_and(|Stored { body: agent, .. }| {
                        matches!(agent.state, AgentState::Reserved | AgentState::Pending)
                            || capability.as_ref().is_some_and(|capability| agent.is_open(capability))
                    }),
                    // An error is not a no: it may be one that a newer release has written, and is pending.
                    Err(StoreError::Corrupt { .. } | StoreError::Newer { .. }) => true,
                    Err(error) => return Err(error.into()),
                };
                if is_open {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The agent as it is stored when it is answered.
fn described(admitted: &Admitted, request: &OpniRequest) -> AgentRecord {
    let mut record = admitted.record(AgentState::Pending);
    // A name is one agent's: that of a token for several is nobody's. The first version has no names.
    if admitted.token().uses > 1 || matches!(request, OpniRequest::V1(_)) {
        record.labels.remove(LABEL_NAME);
    }
    let version = match request {
        OpniRequest::V1(request) => {
            record.capabilities.insert(request.capability.clone());
            record.key_capabilities.push(request.capability.clone());
            record.unconfirmed.insert(request.capability.clone());
            "v1"
        }
        OpniRequest::V2(request) => {
            if let Some(name) = &request.friendly_name {
                record.labels.insert(LABEL_NAME.to_owned(), name.clone());
            }
            "v2"
        }
    };
    record.labels.insert(LABEL_VERSION.to_owned(), version.to_owned());
    record
}
