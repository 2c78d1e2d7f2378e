//! The envelope: what a signature has to say beyond "these bytes", beside the payload that older readers take alone.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};
use toehold_core::Timestamp;

use crate::digest::Sha256Digest;
use crate::document::{self, DocumentError, Format};
use crate::keys::{Signature, SigningKey, TrustedKeys, VerifyingKey};
use crate::machine::{MachineName, MachineNameError};
use crate::sshsig;

/// What stands before the statement where it is signed, so that no other signature is one of an envelope.
pub(crate) const DOMAIN: &[u8] = b"toehold specification envelope v1\0";

/// The most signatures of one statement.
const MAX_SIGNATURES: usize = 64;
/// The most key changes that an envelope carries.
pub const MAX_KEY_CHANGES: usize = 256;
/// The most bytes of a statement.
const MAX_STATEMENT: usize = 16 * 1024;
/// The format number of statements.
const VERSION: u32 = 1;

/// The name of a specification: which fleet, which purpose. Spelt as a machine's.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecName(MachineName);

impl SpecName {
    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for SpecName {
    type Err = MachineNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for SpecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SpecName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What the signatures of an envelope vouch for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The format number. A member that a reader does not know could take back what it knows, so there is none.
    v: u32,
    /// What the payload is a list of.
    pub format: Format,
    /// Of which specification this is a version.
    pub name: SpecName,
    /// Which version: grows with every one.
    pub serial: u64,
    /// From when on it holds.
    pub not_before: Timestamp,
    /// From when on it does not: nodes then hold what they have.
    pub expires: Timestamp,
    /// SHA-256 of the payload.
    pub payload: Sha256Digest,
    /// Who may sign the next version.
    pub next: TrustedKeys,
    /// Removing more than the guard allows is meant, with this version alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removals_meant: bool,
}

impl Statement {
    /// A statement over a payload. `serial` is from 1.
    pub fn new(
        format: Format,
        name: SpecName,
        serial: u64,
        not_before: Timestamp,
        expires: Timestamp,
        payload: &[u8],
        next: TrustedKeys,
    ) -> Self {
        let payload = Sha256Digest::of(payload);
        Self { v: VERSION, format, name, serial, not_before, expires, payload, next, removals_meant: false }
    }
}

/// How a signature of an envelope was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scheme {
    /// Over the domain and the statement.
    #[default]
    Plain,
    /// As an SSH signature over the statement in the namespace [`sshsig::NAMESPACE`](crate::sshsig::NAMESPACE).
    SshSig,
}

impl Scheme {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// One key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySignature {
    key: VerifyingKey,
    signature: Signature,
    #[serde(default, skip_serializing_if = "Scheme::is_plain")]
    scheme: Scheme,
}

/// A statement as it was signed, with its signatures.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Members", into = "Members")]
pub struct SignedStatement {
    statement: Statement,
    /// As received: signatures are checked over these, never over a re-encoding.
    bytes: Vec<u8>,
    signatures: Vec<KeySignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    signed: String,
    signatures: Vec<KeySignature>,
}

impl TryFrom<Members> for SignedStatement {
    type Error = &'static str;

    fn try_from(members: Members) -> Result<Self, Self::Error> {
        if members.signatures.len() > MAX_SIGNATURES {
            return Err("an envelope with too many signatures");
        }
        if members.signed.len() > MAX_STATEMENT {
            return Err("an envelope whose statement is too long");
        }
        let bytes = Base64::decode_vec(&members.signed).map_err(|_| "an envelope whose statement is not base64")?;
        let statement: Statement = serde_json::from_slice(&bytes)
            .map_err(|_| "an envelope whose statement cannot be read; perhaps a newer release wrote it")?;
        if statement.v != VERSION {
            return Err("an envelope of a newer release");
        }
        if statement.serial == 0 || statement.expires <= statement.not_before {
            return Err("an envelope without a serial, or that expires before it holds");
        }
        Ok(Self { statement, bytes, signatures: members.signatures })
    }
}

impl From<SignedStatement> for Members {
    fn from(signed: SignedStatement) -> Self {
        Self { signed: Base64::encode_string(&signed.bytes), signatures: signed.signatures }
    }
}

impl fmt::Debug for SignedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&VerifyingKey> = self.signatures.iter().map(|signature| &signature.key).collect();
        f.debug_struct("SignedStatement")
            .field("statement", &self.statement)
            .field("signatures_named_for", &keys)
            .finish_non_exhaustive()
    }
}

impl SignedStatement {
    /// A statement that nobody has signed yet.
    ///
    /// # Errors
    /// Never for a statement; the encoding is checked all the same.
    pub fn unsigned(statement: Statement) -> Result<Self, serde_json::Error> {
        let bytes = serde_json::to_vec(&statement)?;
        Ok(Self { statement, bytes, signatures: Vec::new() })
    }

    /// What it says; nothing is known of who says it.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The statement's bytes: the message for `ssh-keygen -Y verify`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes that a signature of this scheme covers, for a key that lives elsewhere.
    pub fn signing_bytes(&self, scheme: Scheme) -> Vec<u8> {
        match scheme {
            Scheme::Plain => [DOMAIN, &self.bytes].concat(),
            Scheme::SshSig => sshsig::signing_bytes(sshsig::NAMESPACE, &self.bytes),
        }
    }

    /// Signs with a key at hand.
    #[must_use]
    pub fn sign(self, key: &SigningKey) -> Self {
        let signature = key.sign(&self.signing_bytes(Scheme::Plain));
        self.with_signature(key.verifying_key(), signature, Scheme::Plain)
    }

    /// Adds a signature that was made elsewhere; whether it is good, who verifies will see.
    #[must_use]
    pub fn with_signature(mut self, key: VerifyingKey, signature: Signature, scheme: Scheme) -> Self {
        self.signatures.push(KeySignature { key, signature, scheme });
        self
    }

    /// The SSH signatures in their armor, for `ssh-keygen -Y verify -n spec@toehold` over [`SignedStatement::bytes`].
    pub fn ssh_signatures(&self) -> impl Iterator<Item = String> {
        let made = self.signatures.iter().filter(|signature| signature.scheme == Scheme::SshSig);
        made.map(|signature| sshsig::armor(&signature.key, sshsig::NAMESPACE, &signature.signature))
    }

    /// Which of `trusted` have signed, each once.
    pub fn signers(&self, trusted: &TrustedKeys) -> std::collections::BTreeSet<VerifyingKey> {
        let of = |scheme| {
            let message = self.signing_bytes(scheme);
            let made = self.signatures.iter().filter(|signature| signature.scheme == scheme);
            trusted.signers(&message, made.map(|signature| (&signature.key, &signature.signature)))
        };
        let mut signers = of(Scheme::Plain);
        signers.extend(of(Scheme::SshSig));
        signers
    }

    /// Whether enough of `trusted` have signed.
    pub fn is_signed_by(&self, trusted: &TrustedKeys) -> bool {
        self.signers(trusted).len() >= trusted.threshold()
    }

    /// Whether there is a signature that is named for this key; nothing is known of whether it is good.
    pub fn names_signer(&self, key: &VerifyingKey) -> bool {
        self.signatures.iter().any(|signature| signature.key == *key)
    }

    /// SHA-256 of the statement's bytes: two statements of one serial that differ are a fork.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.bytes)
    }
}

/// A statement about the payload beside it, and the statements of earlier versions that changed the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The statement about this payload.
    pub current: SignedStatement,
    /// Earlier statements whose `next` differed from that of the one before, by serial: nodes that were away walk them.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    pub key_changes: Vec<SignedStatement>,
}

impl Envelope {
    /// The key changes that the envelope of the next version carries: these, and this version where its keys are not those of
    /// the last change. The first version with a successor counts as one.
    #[must_use]
    pub fn key_changes_of_next(&self) -> Vec<SignedStatement> {
        let mut changes = self.key_changes.clone();
        let before = changes.last().map(|change| &change.statement().next);
        if before != Some(&self.current.statement().next) {
            changes.push(self.current.clone());
        }
        let surplus = changes.len().saturating_sub(MAX_KEY_CHANGES);
        changes.drain(..surplus);
        changes
    }
}

fn few<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<SignedStatement>, D::Error> {
    let changes = Vec::deserialize(deserializer)?;
    if changes.len() > MAX_KEY_CHANGES {
        return Err(serde::de::Error::custom(format_args!("more than {MAX_KEY_CHANGES} key changes")));
    }
    Ok(changes)
}

/// Writes a document with an envelope. `plain` is the signature for Choria's own readers, if it is to have one.
///
/// # Errors
/// [`DocumentError::OtherDomain`] for a payload that is another format's signed text, [`DocumentError::Envelope`] where the
/// statement is not about this payload.
pub fn seal(payload: &[u8], envelope: &Envelope, plain: Option<&Signature>) -> Result<String, DocumentError> {
    let statement = envelope.current.statement();
    document::plain_signing_bytes(statement.format, payload)?;
    if statement.payload != Sha256Digest::of(payload) {
        return Err(DocumentError::Envelope("is not about this payload"));
    }
    let json = serde_json::to_string(envelope).map_err(|_| DocumentError::Envelope("cannot be written"))?;
    Ok(document::write(statement.format, &Base64::encode_string(payload), plain, Some(&json)))
}
