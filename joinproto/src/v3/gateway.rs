//! The gateway's side. Until a cookie comes back nothing is kept and no public-key operation is done; until a proof holds, every refusal
//! is the same.

use std::fmt;
use std::net::IpAddr;

use ml_kem::kem::Encapsulate as _;
use ml_kem::ml_kem_768::EncapsulationKey;
use rand_core::CryptoRng;
use toehold_core::Timestamp;
use zeroize::Zeroizing;

use super::VERSION;
use super::cookie::CookieKeys;
use super::frame::{Accept, Answer, Confirm, FrameError, Hello, Offer, Proof, Refuse, Retry};
use super::identity::{self, AgentId};
use super::keys::{Secrets, TokenKey};
use super::transcript::{Exporter, Transcript};
use crate::agreement::Ephemeral;
use crate::endpoint::Endpoint;
use crate::keyring::SharedKeys;
use crate::pin::Pin;
use crate::token::TokenId;

/// What the gateway knows of a connection from TLS and TCP.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    /// What this very connection exports.
    pub exporter: Exporter,
    /// SHA-256 over the `SubjectPublicKeyInfo` of the certificate that the gateway presented in it.
    pub gateway_key: [u8; 32],
    /// Who is at the other end.
    pub source: IpAddr,
}

/// Why a conversation ends. To the peer all of these are one [`Refuse`] without a reason; they are for the gateway's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The cookie is not ours, not for this connection, or too old.
    #[error("the cookie is not for this connection, or too old")]
    Cookie,
    /// The client's MAC does not fit.
    #[error("the client does not have the same keys")]
    Confirmation,
    /// The client means another gateway.
    #[error("the client means another endpoint than any of this gateway")]
    Endpoint,
    /// A frame that cannot be read, or out of turn.
    #[error("a frame that cannot be read")]
    Frame(#[from] FrameError),
    /// The client saw another certificate than the one of this connection: somebody is in the middle.
    #[error("the client saw another certificate than the one that was presented to it")]
    GatewayKey,
    /// The client's ephemeral key is of small order, or its KEM key is none.
    #[error("the client's ephemeral keys are not ones to agree on a secret with")]
    PeerKey,
    /// A proof does not hold, or there is no such token.
    #[error("the proof does not hold, or there is no such token")]
    Proof,
    /// No version in common.
    #[error("no version in common")]
    Version,
}

/// A gateway's settings, for all connections.
#[derive(Debug)]
pub struct Gateway {
    /// The keys of its cookies.
    pub cookies: CookieKeys,
    /// By which names it is reached; empty: by any.
    pub endpoints: Vec<Endpoint>,
}

impl Gateway {
    /// Answers a Hello. Costs one HMAC, whatever it says.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn hello(&self, channel: &Channel, frame: &[u8], now: Timestamp) -> Result<Vec<u8>, GatewayError> {
        let hello = Hello::decode(frame)?;
        if !hello.versions.contains(&VERSION) {
            return Err(GatewayError::Version);
        }
        let cookie = self.cookies.make(&channel.exporter, channel.source, frame, now);
        Ok(Retry { version: VERSION, cookie }.encode())
    }

    /// Answers an Offer, if its cookie is good. No store is asked: that the token exists is nobody's business yet.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn offer<R: CryptoRng + ?Sized>(
        &self,
        channel: &Channel,
        frame: &[u8],
        now: Timestamp,
        rng: &mut R,
    ) -> Result<(AwaitProof, Vec<u8>), GatewayError> {
        let offer = Offer::decode(frame)?;
        if !self.cookies.accept(&offer.cookie, &channel.exporter, channel.source, &offer.hello, now) {
            return Err(GatewayError::Cookie);
        }
        // The cookie says that we have seen this very Hello, and answered it.
        let retry = Retry { version: VERSION, cookie: offer.cookie }.encode();
        if offer.gateway_key != channel.gateway_key {
            return Err(GatewayError::GatewayKey);
        }
        if !self.endpoints.is_empty() && !self.endpoints.contains(&offer.endpoint) {
            return Err(GatewayError::Endpoint);
        }
        let ephemeral = Ephemeral::generate(rng);
        let answer = Answer { x25519: *ephemeral.public() }.encode();
        let mut transcript = Transcript::new(&channel.exporter);
        for part in [&offer.hello, &retry, frame, &answer] {
            transcript.absorb(part);
        }
        Ok((AwaitProof { offer, ephemeral, transcript, source: channel.source }, answer))
    }
}

/// The Answer is sent.
pub struct AwaitProof {
    offer: Offer,
    ephemeral: Ephemeral,
    transcript: Transcript,
    source: IpAddr,
}

impl AwaitProof {
    /// Which token the client means to prove; look it up, and pass what was found to [`AwaitProof::verify`].
    pub fn token(&self) -> TokenId {
        self.offer.token
    }

    /// Checks the proofs under the token's key; `None` (no such token) costs the same and ends the same.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn verify(mut self, frame: &[u8], key: Option<&TokenKey>) -> Result<Proven, GatewayError> {
        let proof = Proof::decode(frame)?;
        let digest = self.transcript.digest();
        let is_proven = key.unwrap_or(TokenKey::of_nobody()).is_proven(&digest, &proof.token);
        if !is_proven || key.is_none() {
            return Err(GatewayError::Proof);
        }
        if !identity::is_proven(&self.offer.identity, &digest, &proof.identity) {
            return Err(GatewayError::Proof);
        }
        // Keys that cannot be agreed with end it before anything is consumed.
        let agreed = self.ephemeral.agree(&self.offer.x25519).map_err(|_| GatewayError::PeerKey)?;
        let kem = EncapsulationKey::new(&(*self.offer.kem).into()).map_err(|_| GatewayError::PeerKey)?;
        self.transcript.absorb(frame);
        let AwaitProof { offer: Offer { token, identity, .. }, transcript, source, .. } = self;
        Ok(Proven { token, identity, agreed, kem: Box::new(kem), transcript, source })
    }
}

/// The client has proven that it has the token and its identity; from here on it is told reasons.
pub struct Proven {
    token: TokenId,
    identity: [u8; 32],
    agreed: Zeroizing<[u8; 32]>,
    kem: Box<EncapsulationKey>,
    transcript: Transcript,
    source: IpAddr,
}

impl Proven {
    /// Which token.
    pub fn token(&self) -> TokenId {
        self.token
    }

    /// The client's identity key.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The client's id, which follows from its key.
    pub fn agent(&self) -> AgentId {
        AgentId::of_key(&self.identity)
    }

    /// Who is at the other end of the connection.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The client is not admitted: the frame that says why.
    pub fn refuse(self, reason: &str) -> Vec<u8> {
        Refuse { reason: reason.to_owned() }.encode()
    }

    /// The client is admitted: the frame that says so. `pins` are those of the gateway's present and next keys.
    pub fn accept<R: CryptoRng + ?Sized>(mut self, role: &str, pins: &[Pin], rng: &mut R) -> (AwaitConfirm, Vec<u8>) {
        let mut rng = rng;
        let (ciphertext, secret) = self.kem.encapsulate_with_rng(&mut rng);
        let secret = Zeroizing::new(<[u8; 32]>::from(secret));
        let mut accept = Accept { kem: Box::new(ciphertext.into()), pins: pins.to_vec(), role: role.to_owned(), mac: [0; 64] };
        self.transcript.absorb(&accept.encode_unconfirmed());
        let digest = self.transcript.digest();
        let secrets = Secrets::derive(&*secret, &self.agreed, &digest);
        accept.mac = secrets.gateway_mac(&digest);
        self.transcript.absorb(&accept.mac);
        (AwaitConfirm { secrets, transcript: self.transcript }, accept.encode())
    }
}

/// The Accept is sent.
#[derive(Debug)]
pub struct AwaitConfirm {
    secrets: Secrets,
    transcript: Transcript,
}

impl AwaitConfirm {
    /// Checks the client's confirmation. Store the keys, then send [`Done`](super::frame::Done).
    ///
    /// # Errors
    /// [`GatewayError`].
    pub fn receive(self, frame: &[u8]) -> Result<Confirmed, GatewayError> {
        let confirm = Confirm::decode(frame)?;
        if !self.secrets.is_clients(&self.transcript.digest(), &confirm.mac) {
            return Err(GatewayError::Confirmation);
        }
        let mut attempt = [0; 16];
        attempt.iter_mut().zip(self.transcript.digest()).for_each(|(place, byte)| *place = byte);
        Ok(Confirmed { keys: self.secrets.shared, attempt })
    }
}

/// Both sides have the same keys.
#[derive(Debug)]
pub struct Confirmed {
    /// The keys.
    pub keys: SharedKeys,
    /// Names this attempt: no other has the same.
    pub attempt: [u8; 16],
}

impl fmt::Debug for AwaitProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitProof").field("token", &self.offer.token).finish_non_exhaustive()
    }
}

impl fmt::Debug for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proven").field("token", &self.token).field("agent", &self.agent()).finish_non_exhaustive()
    }
}
