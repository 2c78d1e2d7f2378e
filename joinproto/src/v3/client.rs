//! The joining machine's side. Every state is taken by value: a failed join begins anew, with fresh ephemeral keys.

use std::fmt;

use ml_kem::kem::{Decapsulate as _, KeyExport as _};
use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::VERSION;
use super::frame::{Accept, Answer, Confirm, Done, FrameError, Hello, Offer, Proof, Refuse, Retry};
use super::identity::{AgentId, AgentIdentity};
use super::keys::{Secrets, TokenSigner};
use super::transcript::{Exporter, Transcript};
use crate::agreement::Ephemeral;
use crate::endpoint::Endpoint;
use crate::error::JoinError;
use crate::keyring::{Keyring, SharedKeys};
use crate::pin::{Pin, PinAlgorithm};
use crate::token::Token;
use crate::trust::GatewayIdentity;

/// What a machine joins with.
#[derive(Debug)]
pub struct ClientConfig<'a> {
    /// Whom it means to reach.
    pub endpoint: &'a Endpoint,
    /// Who it is; already saved.
    pub identity: &'a AgentIdentity,
    /// Its token.
    pub token: &'a Token,
    /// The gateway as [`Trust::check`](crate::Trust::check) knew it in this very connection.
    pub gateway: &'a GatewayIdentity,
    /// What this very connection exports.
    pub exporter: Exporter,
}

impl<'a> ClientConfig<'a> {
    /// Begins; returns the first frame to send.
    pub fn start<R: CryptoRng + ?Sized>(self, rng: &mut R) -> (AwaitRetry<'a>, Vec<u8>) {
        let mut nonce = [0; 32];
        rng.fill_bytes(&mut nonce);
        let hello = Hello::new(nonce).encode();
        (AwaitRetry { config: self, hello: hello.clone() }, hello)
    }
}

/// The Hello is sent.
#[derive(Debug)]
pub struct AwaitRetry<'a> {
    config: ClientConfig<'a>,
    hello: Vec<u8>,
}

impl<'a> AwaitRetry<'a> {
    /// Reads the Retry; returns the Offer to send.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn receive<R: CryptoRng + ?Sized>(self, frame: &[u8], rng: &mut R) -> Result<(AwaitAnswer<'a>, Vec<u8>), JoinError> {
        let retry = Retry::decode(frame).map_err(|error| refused(frame, error))?;
        if retry.version != VERSION {
            return Err(JoinError::OutOfTurn);
        }
        let ephemeral = Ephemeral::generate(rng);
        let kem = generate_kem(rng);
        let offer = Offer {
            cookie: retry.cookie,
            hello: self.hello,
            token: self.config.token.id(),
            gateway_key: gateway_key(self.config.gateway.pin()),
            endpoint: self.config.endpoint.clone(),
            identity: self.config.identity.public_key(),
            x25519: *ephemeral.public(),
            kem: Box::new(kem.encapsulation_key().to_bytes().into()),
        };
        let sent = offer.encode();
        let mut transcript = Transcript::new(&self.config.exporter);
        transcript.absorb(&offer.hello);
        transcript.absorb(frame);
        transcript.absorb(&sent);
        Ok((AwaitAnswer { config: self.config, ephemeral, kem, transcript }, sent))
    }
}

/// The Offer is sent.
pub struct AwaitAnswer<'a> {
    config: ClientConfig<'a>,
    ephemeral: Ephemeral,
    kem: DecapsulationKey,
    transcript: Transcript,
}

impl AwaitAnswer<'_> {
    /// Reads the Answer; returns the Proof to send.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn receive(mut self, frame: &[u8]) -> Result<(AwaitAccept, Vec<u8>), JoinError> {
        let answer = Answer::decode(frame).map_err(|error| refused(frame, error))?;
        let agreed = self.ephemeral.agree(&answer.x25519).map_err(|_| JoinError::PeerKey)?;
        self.transcript.absorb(frame);
        let digest = self.transcript.digest();
        let token = TokenSigner::new(self.config.token).prove(&digest);
        let sent = Proof { token, identity: self.config.identity.prove(&digest) }.encode();
        self.transcript.absorb(&sent);
        let id = self.config.identity.id();
        Ok((AwaitAccept { id, agreed, kem: self.kem, transcript: self.transcript }, sent))
    }
}

/// The Proof is sent.
pub struct AwaitAccept {
    id: AgentId,
    agreed: Zeroizing<[u8; 32]>,
    kem: DecapsulationKey,
    transcript: Transcript,
}

impl AwaitAccept {
    /// Reads the Accept, and checks that the gateway has the same keys. The keyring has to be saved, durably and beside an earlier one, before
    /// the frame in [`Accepted`] is sent: whether it arrives is not known until Done.
    ///
    /// # Errors
    /// [`JoinError`]; [`JoinError::Refused`] with the gateway's reason.
    pub fn receive(mut self, frame: &[u8]) -> Result<Accepted, JoinError> {
        let accept = Accept::decode(frame).map_err(|error| refused(frame, error))?;
        let ciphertext = Ciphertext::from(*accept.kem);
        let kem = Zeroizing::new(<[u8; 32]>::from(self.kem.decapsulate(&ciphertext)));
        self.transcript.absorb(&accept.encode_unconfirmed());
        let secrets = Secrets::derive(&*kem, &self.agreed, &self.transcript.digest());
        if !secrets.is_gateways(&self.transcript.digest(), &accept.mac) {
            return Err(JoinError::NotConfirmed);
        }
        self.transcript.absorb(&accept.mac);
        let confirm = Confirm { mac: secrets.client_mac(&self.transcript.digest()) }.encode();
        Ok(Accepted { id: self.id, keys: secrets.shared, pins: accept.pins, role: accept.role, confirm })
    }
}

/// The gateway has accepted; the keyring is to be saved, then [`Accepted::confirm`] to be sent.
#[derive(Debug)]
pub struct Accepted {
    id: AgentId,
    keys: SharedKeys,
    pins: Vec<Pin>,
    role: String,
    confirm: Vec<u8>,
}

impl Accepted {
    /// The keyring to save: the shared keys, and the pins by which the gateway will be known.
    pub fn keyring(&self) -> Keyring {
        Keyring { pinned_keys: vec![self.pins.clone()], ..Keyring::of(self.keys.duplicate()) }
    }

    /// What the client joins as, by the gateway's word.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The frame to send once the keyring is saved.
    pub fn confirm(&self) -> &[u8] {
        &self.confirm
    }

    /// Reads the Done. Where it does not come, the saved keyring may be good or not: authenticate with it, or join again within the token's
    /// life.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn receive(self, frame: &[u8]) -> Result<Joined, JoinError> {
        Done::decode(frame).map_err(|error| refused(frame, error))?;
        let keyring = self.keyring();
        Ok(Joined { id: self.id, role: self.role, keyring })
    }
}

/// The machine has joined.
#[derive(Debug)]
pub struct Joined {
    /// Its id.
    pub id: AgentId,
    /// What it joined as.
    pub role: String,
    /// Its keys.
    pub keyring: Keyring,
}

/// What a frame means that is not the awaited one.
fn refused(frame: &[u8], error: FrameError) -> JoinError {
    match Refuse::decode(frame) {
        Ok(refuse) if refuse.reason.is_empty() => {
            JoinError::Refused { reason: "without a reason, as it does with all that is not proven".to_owned() }
        }
        Ok(refuse) => {
            JoinError::Refused { reason: refuse.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() }
        }
        Err(_) => match error {
            FrameError::Kind => JoinError::OutOfTurn,
            FrameError::Malformed => JoinError::Wire(crate::wire::WireError::Malformed),
        },
    }
}

fn generate_kem<R: CryptoRng + ?Sized>(rng: &mut R) -> DecapsulationKey {
    let mut seed = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut *seed);
    DecapsulationKey::from_seed((*seed).into())
}

/// The digest in a gateway's sha256 pin.
fn gateway_key(pin: Pin) -> [u8; 32] {
    debug_assert_eq!(pin.algorithm(), PinAlgorithm::Sha256);
    *pin.digest()
}

impl fmt::Debug for AwaitAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitAnswer").finish_non_exhaustive()
    }
}

impl fmt::Debug for AwaitAccept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitAccept").finish_non_exhaustive()
    }
}
