//! An agent of ours at a gateway of Opni's.

use std::fmt;

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::agreement::{Ephemeral, Side};
use crate::error::JoinError;
use crate::jws::Detached;
use crate::keyring::Keyring;
use crate::names;
use crate::token::Token;
use crate::trust::{GatewayIdentity, Trust};
use crate::wire::{AuthRequestV1, AuthRequestV2, AuthResponse, JoinResponse, WireError};

/// Which version, and what is particular to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The first.
    V1 {
        /// What the agent joins for.
        capability: String,
    },
    /// The second.
    V2 {
        /// A name for people.
        friendly_name: Option<String>,
    },
}

impl Version {
    /// The full path of the first method.
    pub fn join_method(&self) -> &'static str {
        match self {
            Self::V1 { .. } => "/bootstrap.Bootstrap/Join",
            Self::V2 { .. } => "/bootstrap.v2.Bootstrap/Join",
        }
    }

    /// The full path of the second method.
    pub fn auth_method(&self) -> &'static str {
        match self {
            Self::V1 { .. } => "/bootstrap.Bootstrap/Auth",
            Self::V2 { .. } => "/bootstrap.v2.Bootstrap/Auth",
        }
    }
}

/// What an agent joins with.
#[derive(Debug)]
pub struct OpniClient<'a> {
    /// Which version.
    pub version: Version,
    /// The id that it has chosen.
    pub client_id: String,
    /// Its token.
    pub token: Option<&'a Token>,
}

impl<'a> OpniClient<'a> {
    /// Begins. The first request is empty.
    ///
    /// # Errors
    /// [`JoinError::NoToken`]; [`JoinError::Wire`] where id, name or capability are not well-formed.
    pub fn start(self) -> Result<AwaitJoin<'a>, JoinError> {
        let token = self.token.ok_or(JoinError::NoToken)?;
        if !names::is_client_id(&self.client_id) {
            return Err(WireError::ClientId.into());
        }
        match &self.version {
            Version::V1 { capability } if capability.is_empty() => return Err(WireError::Capability.into()),
            Version::V2 { friendly_name: Some(name) } if !names::is_friendly_name(name) => {
                return Err(WireError::FriendlyName.into());
            }
            _ => {}
        }
        Ok(AwaitJoin { version: self.version, client_id: self.client_id, token })
    }
}

/// Join is called.
#[derive(Debug)]
pub struct AwaitJoin<'a> {
    version: Version,
    client_id: String,
    token: &'a Token,
}

/// The second call: its `authorization` header and its message.
pub struct AuthCall {
    /// The value of the `authorization` header, which holds the token's secret.
    pub authorization: Zeroizing<String>,
    /// The request.
    pub message: Vec<u8>,
}

impl fmt::Debug for AuthCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthCall").finish_non_exhaustive()
    }
}

impl AwaitJoin<'_> {
    /// Reads the answer: finds the signature for the token, and checks that the gateway's key made it. Only then the token is sent.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn receive<R: CryptoRng + ?Sized>(
        self,
        message: &[u8],
        gateway: &GatewayIdentity,
        rng: &mut R,
    ) -> Result<(AwaitAuth, AuthCall), JoinError> {
        self.receive_with(message, gateway, Ephemeral::generate(rng))
    }

    /// The same with an ephemeral key that is known beforehand, as known answers have it.
    ///
    /// # Errors
    /// As [`AwaitJoin::receive`].
    pub fn receive_with(
        self,
        message: &[u8],
        gateway: &GatewayIdentity,
        ephemeral: Ephemeral,
    ) -> Result<(AwaitAuth, AuthCall), JoinError> {
        let response = JoinResponse::decode(message)?;
        let signature = response.signatures.get(&self.token.id().to_string()).ok_or(JoinError::NoValidSignature)?;
        let detached = Detached::parse(signature).map_err(JoinError::Signature)?;
        let complete = detached.attach(self.token, gateway.ed25519()?).map_err(JoinError::Signature)?;
        let (client_id, client_key) = (self.client_id, *ephemeral.public());
        let message = match self.version {
            Version::V1 { capability } => AuthRequestV1 { client_id, client_key, capability }.encode(),
            Version::V2 { friendly_name } => AuthRequestV2 { client_id, client_key, friendly_name }.encode(),
        };
        Ok((AwaitAuth { ephemeral }, AuthCall { authorization: complete.expose_authorization(), message }))
    }
}

/// Auth is called.
#[derive(Debug)]
pub struct AwaitAuth {
    ephemeral: Ephemeral,
}

impl AwaitAuth {
    /// Reads the answer; returns the keyring, with what `trust` leaves in it. It counts as joined for the gateway when the agent first
    /// authenticates with it: save it, then do so.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn receive(self, message: &[u8], trust: &Trust) -> Result<Keyring, JoinError> {
        let response = AuthResponse::decode(message).map_err(|error| match error {
            WireError::PublicKey => JoinError::PeerKey,
            error => error.into(),
        })?;
        let keys = self.ephemeral.derive(Side::Client, &response.gateway_key).map_err(|_| JoinError::PeerKey)?;
        Ok(Keyring::of(keys).merge(trust.keyring()))
    }
}
