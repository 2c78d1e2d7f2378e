//! How a joined agent authenticates later: it answers a challenge under the client key, and the gateway proves itself under its own.
//!
//! ```text
//! agent                                   gateway
//!   id, random                   ──►
//!                                ◄──        challenge
//!   response (client key)        ──►
//!                                ◄──        id, MAC over all of it (gateway key)
//! ```

use std::fmt;

use rand_core::CryptoRng;

use crate::encoding;
use crate::keyring::{SHARED_KEY_LENGTH, SharedKeys};
use crate::mac::{self, MAC_LENGTH, MacError, MacHeader, NONCE_LENGTH};
use crate::names;
use crate::wire::{Once, WireError, fields, put_bytes};

/// The domain of an agent's response.
const AGENT_DOMAIN: &[u8] = b"agent auth v2";
/// Bytes of a challenge and of a client's random part.
pub const CHALLENGE_LENGTH: usize = 32;
/// The most attributes that a session asks for.
pub const MAX_ATTRIBUTES: usize = 10;

/// The metadata names of the first request.
pub const METADATA_CLIENT_ID: &str = "x-client-id-assertion";
/// See [`METADATA_CLIENT_ID`].
pub const METADATA_CLIENT_RANDOM: &str = "x-client-random";
/// See [`METADATA_CLIENT_ID`]; its value is `v2`.
pub const METADATA_VERSION: &str = "x-challenge-version";

/// Why an authentication fails. The same for an unknown agent and for a wrong response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// The peer does not have the keys, or is not who it says.
    #[error("not authenticated")]
    Mismatch,
    /// Id or random part of the first request are missing or malformed.
    #[error("the request for a challenge has no well-formed id and 32 random bytes")]
    Metadata,
    /// More, fewer or unknown attributes.
    #[error("the attributes are not those that were asked for, or over 10")]
    Attributes,
    /// A message that cannot be read, or with another number of items than was asked for.
    #[error("a message of the challenge cannot be read")]
    Message(#[from] WireError),
}

impl From<MacError> for ChallengeError {
    fn from(_: MacError) -> Self {
        Self::Mismatch
    }
}

/// The first request: whom the agent says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    client_id: String,
    random: [u8; CHALLENGE_LENGTH],
}

impl Assertion {
    /// For an agent's id, with a fresh random part.
    ///
    /// # Errors
    /// [`ChallengeError::Metadata`] where the id is not well-formed.
    pub fn new<R: CryptoRng + ?Sized>(client_id: &str, rng: &mut R) -> Result<Self, ChallengeError> {
        let mut random = [0; CHALLENGE_LENGTH];
        rng.fill_bytes(&mut random);
        Self::from_parts(client_id, random)
    }

    /// From its parts.
    ///
    /// # Errors
    /// [`ChallengeError::Metadata`].
    pub fn from_parts(client_id: &str, random: [u8; CHALLENGE_LENGTH]) -> Result<Self, ChallengeError> {
        if !names::is_client_id(client_id) {
            return Err(ChallengeError::Metadata);
        }
        Ok(Self { client_id: client_id.to_owned(), random })
    }

    /// Reads the metadata of a request: the values of [`METADATA_CLIENT_ID`] and [`METADATA_CLIENT_RANDOM`].
    ///
    /// # Errors
    /// [`ChallengeError::Metadata`].
    pub fn from_metadata(client_id: &str, random: &str) -> Result<Self, ChallengeError> {
        Self::from_parts(client_id, encoding::unbase64url(random.as_bytes()).ok_or(ChallengeError::Metadata)?)
    }

    /// The metadata to send, as names and values.
    pub fn metadata(&self) -> [(&'static str, String); 3] {
        [
            (METADATA_VERSION, "v2".to_owned()),
            (METADATA_CLIENT_ID, self.client_id.clone()),
            (METADATA_CLIENT_RANDOM, encoding::base64url(&self.random)),
        ]
    }

    /// Whom it names.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The response to a challenge in an Opni domain; `""` was that of the first version.
    ///
    /// # Errors
    /// [`ChallengeError::Mismatch`] where the key is not 32 bytes.
    pub fn solve(&self, domain: &[u8], challenge: &[u8], client_key: &[u8]) -> Result<[u8; MAC_LENGTH], ChallengeError> {
        Ok(mac::keyed(client_key, &[domain, self.client_id.as_bytes(), &self.random, challenge])?)
    }

    /// The agent's answer to a challenge, and what it then waits for.
    ///
    /// # Errors
    /// [`ChallengeError::Message`] for anything but one challenge.
    pub fn respond(self, challenge_message: &[u8], keys: &SharedKeys) -> Result<(AwaitGatewayProof, Vec<u8>), ChallengeError> {
        let [challenge] = items(challenge_message, LIST_OF_CHALLENGES, CHALLENGE)?;
        let response = self.solve(AGENT_DOMAIN, challenge, keys.expose_client())?;
        let message = list(LIST_OF_RESPONSES, RESPONSE, &[&response]);
        Ok((AwaitGatewayProof { assertion: self, challenge: challenge.to_vec(), response }, message))
    }
}

/// The agent has answered; the gateway has yet to prove itself.
#[derive(Debug)]
pub struct AwaitGatewayProof {
    assertion: Assertion,
    challenge: Vec<u8>,
    response: [u8; MAC_LENGTH],
}

impl AwaitGatewayProof {
    /// Reads the gateway's proof. It has to be for this very agent.
    ///
    /// # Errors
    /// [`ChallengeError`].
    pub fn finish(self, proof_message: &[u8], keys: &SharedKeys) -> Result<(), ChallengeError> {
        let (mut id, mut mac) = (Once::default(), Once::default());
        fields(proof_message, |number, value| match number {
            AUTH_INFO_ID => id.set(value.text()?),
            AUTH_INFO_MAC => mac.set(value.bytes()?),
            _ => Ok(()),
        })?;
        let (id, mac) = id.0.zip(mac.0).ok_or(ChallengeError::Mismatch)?;
        if id != self.assertion.client_id {
            return Err(ChallengeError::Mismatch);
        }
        let parts = [id.as_bytes(), &self.assertion.random, &self.challenge, &self.response, id.as_bytes()];
        Ok(mac::verify(keys.expose_gateway(), &parts, mac)?)
    }
}

/// The gateway has sent its challenge and waits for the answer. An unknown agent is challenged as well.
#[derive(Debug)]
pub struct AwaitResponse {
    assertion: Assertion,
    challenge: [u8; CHALLENGE_LENGTH],
}

/// An agent that has proven that it has its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// Who it is.
    pub client_id: String,
    /// Which of the keys it used, by its place.
    pub key: usize,
    /// The gateway's proof, to be sent.
    pub proof_message: Vec<u8>,
}

impl AwaitResponse {
    /// Challenges whoever sent `assertion`; returns the message to send.
    pub fn challenge<R: CryptoRng + ?Sized>(assertion: Assertion, rng: &mut R) -> (Self, Vec<u8>) {
        let mut challenge = [0; CHALLENGE_LENGTH];
        rng.fill_bytes(&mut challenge);
        Self::with_challenge(assertion, challenge)
    }

    /// With a challenge that is known beforehand, as known answers have it.
    pub fn with_challenge(assertion: Assertion, challenge: [u8; CHALLENGE_LENGTH]) -> (Self, Vec<u8>) {
        (Self { assertion, challenge }, list(LIST_OF_CHALLENGES, CHALLENGE, &[&challenge]))
    }

    /// Checks the answer under the agent's keys (none, where there is no such agent; that costs the same).
    ///
    /// # Errors
    /// [`ChallengeError::Mismatch`] where it is none of them, [`ChallengeError::Message`].
    pub fn verify(self, response_message: &[u8], keys: &[SharedKeys]) -> Result<Authenticated, ChallengeError> {
        let [response] = items(response_message, LIST_OF_RESPONSES, RESPONSE)?;
        let Assertion { client_id, random } = &self.assertion;
        let id = client_id.as_bytes();
        if keys.is_empty() {
            // A fixed key, of nobody: whatever comes of it is a mismatch.
            let checked = mac::verify(&[0; SHARED_KEY_LENGTH], &[AGENT_DOMAIN, id, random, &self.challenge], response);
            let _ = std::hint::black_box(checked);
        }
        for (place, keys) in keys.iter().enumerate() {
            if mac::verify(keys.expose_client(), &[AGENT_DOMAIN, id, random, &self.challenge], response).is_ok() {
                let mac = mac::keyed(keys.expose_gateway(), &[id, random, &self.challenge, response, id])?;
                let mut proof_message = Vec::new();
                put_bytes(field(AUTH_INFO_ID), id, &mut proof_message);
                put_bytes(field(AUTH_INFO_MAC), &mac, &mut proof_message);
                return Ok(Authenticated { client_id: client_id.clone(), key: place, proof_message });
            }
        }
        Err(ChallengeError::Mismatch)
    }
}

/// An agent's proof that it holds the key of one attribute of its session.
///
/// # Errors
/// [`ChallengeError::Mismatch`] where the key is not 32 bytes.
pub fn solve_attribute(name: &str, client_id: &str, challenge: &[u8], key: &[u8]) -> Result<[u8; MAC_LENGTH], ChallengeError> {
    Ok(mac::keyed(key, &[name.as_bytes(), client_id.as_bytes(), challenge])?)
}

/// The gateway has challenged an authenticated agent for attributes of its session.
#[derive(Debug)]
pub struct AwaitAttributes {
    client_id: String,
    challenges: Vec<(String, [u8; CHALLENGE_LENGTH])>,
}

impl AwaitAttributes {
    /// Challenges for each attribute that the agent asked for, in its order; returns the message to send.
    ///
    /// # Errors
    /// [`ChallengeError::Attributes`] for none, more than [`MAX_ATTRIBUTES`], or one twice.
    pub fn challenge<R: CryptoRng + ?Sized>(
        client_id: &str,
        names: &[&str],
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), ChallengeError> {
        let doubled = names.iter().enumerate().any(|(place, name)| names.iter().skip(place + 1).any(|other| other == name));
        if names.is_empty() || names.len() > MAX_ATTRIBUTES || doubled {
            return Err(ChallengeError::Attributes);
        }
        let mut challenges = Vec::with_capacity(names.len());
        for name in names {
            let mut challenge = [0; CHALLENGE_LENGTH];
            rng.fill_bytes(&mut challenge);
            challenges.push(((*name).to_owned(), challenge));
        }
        Ok(Self::with_challenges(client_id, challenges))
    }

    /// With challenges that are known beforehand, as known answers have them.
    pub fn with_challenges(client_id: &str, challenges: Vec<(String, [u8; CHALLENGE_LENGTH])>) -> (Self, Vec<u8>) {
        let parts: Vec<&[u8]> = challenges.iter().map(|(_, challenge)| challenge.as_slice()).collect();
        let message = list(LIST_OF_CHALLENGES, CHALLENGE, &parts);
        (Self { client_id: client_id.to_owned(), challenges }, message)
    }

    /// Checks the answers; `key` gives an attribute's key. Returns the message that confirms the attributes.
    ///
    /// # Errors
    /// [`ChallengeError`].
    pub fn verify<'k>(
        self,
        response_message: &[u8],
        key: impl Fn(&str) -> Option<&'k [u8]>,
        keys: &SharedKeys,
    ) -> Result<Vec<u8>, ChallengeError> {
        let responses = all_items(response_message, LIST_OF_RESPONSES, RESPONSE)?;
        if responses.len() != self.challenges.len() {
            return Err(ChallengeError::Attributes);
        }
        for ((name, challenge), response) in self.challenges.iter().zip(&responses) {
            let key = key(name).ok_or(ChallengeError::Attributes)?;
            mac::verify(key, &[name.as_bytes(), self.client_id.as_bytes(), challenge], response)?;
        }
        let mut parts: Vec<&[u8]> = vec![self.client_id.as_bytes()];
        parts.extend(self.challenges.iter().map(|(_, challenge)| challenge.as_slice()));
        parts.extend(&responses);
        parts.extend(self.challenges.iter().map(|(name, _)| name.as_bytes()));
        let mac = mac::keyed(keys.expose_gateway(), &parts)?;
        let mut message = Vec::new();
        for (name, _) in &self.challenges {
            put_bytes(field(SESSION_ATTRIBUTE), name.as_bytes(), &mut message);
        }
        put_bytes(field(SESSION_MAC), &mac, &mut message);
        Ok(message)
    }
}

/// The first version's challenge: a nonce in the metadata, answered by a [`MacHeader`] over the method's path.
pub struct AwaitMac {
    nonce: [u8; NONCE_LENGTH],
}

impl AwaitMac {
    /// Challenges with a nonce, whose text is the metadata value to send.
    pub fn challenge<R: CryptoRng + ?Sized>(rng: &mut R) -> (Self, String) {
        let mut nonce = [0; NONCE_LENGTH];
        rng.fill_bytes(&mut nonce);
        Self::with_nonce(mac::uuid_v4(nonce))
    }

    /// With a nonce that is known beforehand, as known answers have it.
    pub fn with_nonce(nonce: [u8; NONCE_LENGTH]) -> (Self, String) {
        (Self { nonce }, mac::uuid(&nonce))
    }

    /// Reads the answer. Whose it is has yet to be proven: look up that agent's keys and call [`MacResponse::verify`].
    ///
    /// # Errors
    /// [`ChallengeError`].
    pub fn read(self, response_message: &[u8]) -> Result<MacResponse, ChallengeError> {
        let mut response = Once::default();
        fields(response_message, |number, value| if number == RESPONSE { response.set(value.bytes()?) } else { Ok(()) })?;
        let header = MacHeader::parse(response.0.ok_or(ChallengeError::Mismatch)?)?;
        let client_id = String::from_utf8(header.id.clone()).map_err(|_| ChallengeError::Mismatch)?;
        if header.nonce != self.nonce || !names::is_client_id(&client_id) {
            return Err(ChallengeError::Mismatch);
        }
        Ok(MacResponse { client_id, header })
    }
}

impl fmt::Debug for AwaitMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitMac").finish_non_exhaustive()
    }
}

/// An answer to the first version's challenge, not yet proven.
#[derive(Debug)]
pub struct MacResponse {
    client_id: String,
    header: MacHeader,
}

impl MacResponse {
    /// Whom it names.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Checks it under the agent's keys, and returns the place of the one that fits.
    ///
    /// # Errors
    /// [`ChallengeError::Mismatch`].
    pub fn verify(&self, method: &str, keys: &[SharedKeys]) -> Result<usize, ChallengeError> {
        keys.iter()
            .position(|keys| self.header.verify(method.as_bytes(), keys.expose_client()).is_ok())
            .ok_or(ChallengeError::Mismatch)
    }
}

/// The agent's side of the first version's challenge: the message that answers the nonce in the metadata.
///
/// # Errors
/// [`ChallengeError::Mismatch`] where the nonce is none.
pub fn respond_with_mac(client_id: &str, nonce: &str, method: &str, keys: &SharedKeys) -> Result<Vec<u8>, ChallengeError> {
    let nonce = mac::parse_uuid(nonce).ok_or(ChallengeError::Mismatch)?;
    let header = MacHeader::sign(client_id.as_bytes(), nonce, method.as_bytes(), keys.expose_client())?;
    let mut message = Vec::new();
    put_bytes(field(RESPONSE), header.to_string().as_bytes(), &mut message);
    Ok(message)
}

const LIST_OF_CHALLENGES: u64 = 2040;
const CHALLENGE: u64 = 2042;
const LIST_OF_RESPONSES: u64 = 2045;
const RESPONSE: u64 = 2047;
const SESSION_ATTRIBUTE: u64 = 2051;
const SESSION_MAC: u64 = 2056;
const AUTH_INFO_ID: u64 = 2057;
const AUTH_INFO_MAC: u64 = 2061;

fn field(number: u64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn list(list: u64, item: u64, parts: &[&[u8]]) -> Vec<u8> {
    let mut message = Vec::new();
    for part in parts {
        let mut inner = Vec::with_capacity(part.len() + 4);
        put_bytes(field(item), part, &mut inner);
        put_bytes(field(list), &inner, &mut message);
    }
    message
}

fn all_items(message: &[u8], list: u64, item: u64) -> Result<Vec<&[u8]>, WireError> {
    let mut items = Vec::new();
    fields(message, |number, value| {
        if number != list || items.len() > MAX_ATTRIBUTES {
            return Err(WireError::Malformed);
        }
        let mut inner = Once::default();
        fields(value.bytes()?, |number, value| if number == item { inner.set(value.bytes()?) } else { Ok(()) })?;
        items.push(inner.0.ok_or(WireError::Malformed)?);
        Ok(())
    })?;
    Ok(items)
}

fn items<const N: usize>(message: &[u8], list: u64, item: u64) -> Result<[&[u8]; N], WireError> {
    all_items(message, list, item)?.try_into().map_err(|_| WireError::Malformed)
}
