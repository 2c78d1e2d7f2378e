//! Why a machine does not join.

use crate::challenge::ChallengeError;
use crate::jws::JwsError;
use crate::wire::WireError;

/// Why a client does not join. Holds no secret, and nothing that an unproven peer wrote except where said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The gateway's leaf key is not Ed25519, which v1 and v2 sign with.
    #[error("the gateway's key is not an Ed25519 key, which this protocol needs")]
    GatewayKeyType,
    /// The endpoint is not `host:port`.
    #[error("the endpoint is not a host and a port, such as gw.example.net:9090")]
    InvalidEndpoint,
    /// A certificate's dates do not hold at this time.
    #[error("a certificate of the gateway has expired or is not valid yet (or this machine's clock is off)")]
    KeyExpired,
    /// A certificate is not signed by the next one.
    #[error("a certificate of the gateway is not signed by the next one of its chain, or the next one may not sign it")]
    LeafNotSigned,
    /// No certificate, or one that is not well-formed.
    #[error("certificate {number} of the gateway's chain (from 1) is missing or malformed, or there are too many")]
    MalformedChain {
        /// Which, from 1.
        number: usize,
    },
    /// Keys were derived, and the gateway does not have the same ones.
    #[error("the gateway does not prove that it has the same keys")]
    NotConfirmed,
    /// The strategy needs pins (or CA certificates), and there are none.
    #[error("no pin and no CA certificate to know the gateway by")]
    NoPins,
    /// The gateway presented no CA certificate to compare a pin with.
    #[error("no root CA found in the gateway's certificates, and its own key is not pinned")]
    NoRootCA,
    /// No token.
    #[error("no bootstrap token provided")]
    NoToken,
    /// The gateway has no signature for this token.
    #[error(
        "no valid signature found in the gateway's answer: it does not know this token (used up, expired, or another gateway's)"
    )]
    NoValidSignature,
    /// A message came that this state does not await.
    #[error("the gateway sent a message out of turn")]
    OutOfTurn,
    /// The gateway's ephemeral key is no point, of small order, or of a wrong length.
    #[error("the gateway's ephemeral key is not one to agree on a secret with")]
    PeerKey,
    /// A CA's key is pinned, and the certificate that was presented for it is signed by another: whatever it says of its dates and
    /// limits is nobody's word.
    #[error(
        "the certificate of the pinned CA is not signed by its own key, so that nobody vouches for its dates and limits: pin the root CA, \
         or the gateway's own key"
    )]
    PinnedNotRoot,
    /// The gateway said no, after the client's proof. `reason` is its text, held to printable characters.
    #[error("the gateway refused: {reason}")]
    Refused {
        /// Why, in the gateway's words.
        reason: String,
    },
    /// The gateway's key is not the pinned one.
    #[error("root CA hash mismatch: no certificate of the gateway has a pinned key")]
    RootCAHashMismatch,
    /// The signature is not the gateway's.
    #[error("the gateway's signature for this token is not that of its key")]
    Signature(#[source] JwsError),
    /// A message that cannot be read.
    #[error("the gateway sent a message that cannot be read")]
    Wire(#[from] WireError),
    /// The certificate is for another name.
    #[error("the gateway's certificate is not for the name \"{name}\"")]
    WrongName {
        /// The name that was asked for.
        name: String,
    },
    /// The challenge–response failed.
    #[error("the gateway does not prove that it has this machine's keys")]
    Challenge(#[from] ChallengeError),
}
