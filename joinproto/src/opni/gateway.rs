//! A gateway of ours for agents of Opni's: everything before admission, and how its outcome is said.

use std::collections::BTreeSet;
use std::fmt;

use ed25519_dalek::{SigningKey, VerifyingKey};

use crate::admission::{DeskError, OpniRequest, Refusal};
use crate::jws::{self, JwsError};
use crate::token::Token;
use crate::wire::{self, AuthRequestV1, AuthRequestV2, WireError};

/// The gRPC statuses that are answered, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is gRPC's")]
pub enum Status {
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    Aborted = 10,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpniError {
    /// v1: there is no such capability.
    #[error("capability backend not found")]
    Capability,
    /// No `authorization` header, an empty one, or several.
    #[error("authorization header required, once")]
    NoAuthorization,
    /// No token is active.
    #[error("server is not accepting bootstrap requests")]
    NotAccepting,
    /// The authorization is not a signature of this gateway over a token.
    #[error("permission denied")]
    Signature(#[source] JwsError),
    /// The request cannot be read.
    #[error("{0}")]
    Wire(#[from] WireError),
}

impl OpniError {
    /// The status to answer with; the message is the error's text.
    pub fn status(&self) -> Status {
        match self {
            Self::Capability => Status::NotFound,
            Self::NoAuthorization => Status::Unauthenticated,
            Self::NotAccepting => Status::Unavailable,
            Self::Signature(_) => Status::PermissionDenied,
            Self::Wire(_) => Status::InvalidArgument,
        }
    }
}

impl DeskError {
    /// The status to answer an agent of Opni's with, and the message. A reason is told after proof; what went wrong in the store is not.
    pub fn opni_status(&self) -> (Status, String) {
        match self {
            Self::Refused(refusal @ (Refusal::IdTaken | Refusal::Capability)) => (Status::AlreadyExists, refusal.to_string()),
            Self::Refused(refusal) => (Status::PermissionDenied, refusal.to_string()),
            Self::Unknown => (Status::PermissionDenied, "permission denied".to_owned()),
            Self::PeerKey => (Status::InvalidArgument, "invalid client public key".to_owned()),
            Self::Busy | Self::Superseded => (Status::Aborted, "another attempt came first; try again".to_owned()),
            Self::Store(_) => (Status::Unavailable, "the gateway's store does not answer; try again".to_owned()),
            _ => (Status::Internal, "internal error".to_owned()),
        }
    }
}

/// A gateway's side of v1 and v2 without its store.
pub struct OpniGateway {
    key: SigningKey,
    verifying: VerifyingKey,
    capabilities: Option<BTreeSet<String>>,
}

impl OpniGateway {
    /// `key` is the private half of the key in the gateway's certificate. `capabilities` are those that v1 knows; `None`: any.
    pub fn new(key: SigningKey, capabilities: Option<BTreeSet<String>>) -> Self {
        Self { verifying: key.verifying_key(), key, capabilities }
    }

    /// The key to sign with ([`Signatures::refresh`](super::Signatures::refresh)).
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Reads a Join request. Answer with [`Signatures::answer`](super::Signatures::answer), or [`OpniError::NotAccepting`].
    ///
    /// # Errors
    /// [`OpniError`].
    pub fn join(&self, message: &[u8]) -> Result<(), OpniError> {
        Ok(wire::decode_join_request(message)?)
    }

    /// Reads an Auth request of v1: who has proven which token, and what it asks for. `authorization` are all values of that header.
    ///
    /// # Errors
    /// [`OpniError`].
    pub fn auth_v1(&self, authorization: &[&[u8]], message: &[u8]) -> Result<(Token, OpniRequest), OpniError> {
        let token = self.token(authorization)?;
        let request = AuthRequestV1::decode(message)?;
        let knows = |capabilities: &BTreeSet<String>| capabilities.contains(&request.capability);
        if !self.capabilities.as_ref().is_none_or(knows) {
            return Err(OpniError::Capability);
        }
        Ok((token, OpniRequest::V1(request)))
    }

    /// Reads an Auth request of v2; see [`OpniGateway::auth_v1`].
    ///
    /// # Errors
    /// [`OpniError`].
    pub fn auth_v2(&self, authorization: &[&[u8]], message: &[u8]) -> Result<(Token, OpniRequest), OpniError> {
        let token = self.token(authorization)?;
        Ok((token, OpniRequest::V2(AuthRequestV2::decode(message)?)))
    }

    fn token(&self, authorization: &[&[u8]]) -> Result<Token, OpniError> {
        match authorization {
            [value] if !value.trim_ascii().is_empty() => {
                jws::verify_authorization(value, &self.verifying).map_err(OpniError::Signature)
            }
            _ => Err(OpniError::NoAuthorization),
        }
    }
}

impl fmt::Debug for OpniGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpniGateway").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}
