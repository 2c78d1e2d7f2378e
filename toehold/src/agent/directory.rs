//! The files of an agent: one directory of its own (0700), every file in it 0600, replaced whole and durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toehold_core::Timestamp;
use toehold_joinproto::keyring::Keyring;
use toehold_joinproto::line::{JoinLine, Protocol};
use toehold_joinproto::pin::Pin;
use toehold_joinproto::token::TokenId;
use toehold_joinproto::v3::{AgentIdentity, FreshIdentity};
use toehold_joinproto::{Endpoint, Trust};
use toehold_specsign::SpecName;
use zeroize::Zeroizing;

use super::error::AgentError;
use super::session::SpecTrust;
use crate::adapters::file_lock::FileLock;
use crate::private::{self, PrivateError};

/// The machine's own key: a line of text.
const IDENTITY: &str = "identity";
/// What it has joined.
const MEMBERSHIP: &str = "agent.json";
/// The keys that it authenticates with, in Opni's JSON form; there only once the machine has joined.
const KEYRING: &str = "keyring.json";
/// A join that has begun and not ended.
const ATTEMPT: &str = "join.json";
/// The keys of tries of that join, the newest first, that may be good or not.
const UNCONFIRMED: &str = "keyring.unconfirmed.json";
/// What the gateway's operator says it begins with of specifications.
const SPECS: &str = "specs.json";
/// Who is at work on these files.
const LOCK: &str = "lock";

/// What stands before the identity's seed.
const IDENTITY_HEAD: &str = "toehold-agent-identity-v1/";
/// The most bytes that are read of any of the files: that of a keyring.
const MAX_FILE: usize = 1024 * 1024;
/// Tries whose keys are kept; of older ones the gateway has nothing any more.
const MAX_TRIES: usize = 8;
/// The format that this release writes and reads.
const VERSION: u32 = 1;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct AgentDirectory {
    path: PathBuf,
}

/// By what a gateway is known, as it was told when the machine joined; what goes with it is in the keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustKind {
    /// Pins, strictly.
    Pinned,
    /// Pins as Opni looks at them.
    OpniPinned,
    /// CA certificates.
    CaCertificates,
    /// Nothing.
    DangerousInsecure,
}

impl TrustKind {
    /// Which one this is.
    pub fn of(trust: &Trust) -> Self {
        match trust {
            Trust::Pinned(_) => Self::Pinned,
            Trust::OpniPinned(_) => Self::OpniPinned,
            Trust::CaCertificates(_) => Self::CaCertificates,
            Trust::DangerousInsecure => Self::DangerousInsecure,
        }
    }

    /// Whether pins are what keeps a machine from its gateway: one that goes by CA certificates never looks at any.
    pub fn goes_by_pins(self) -> bool {
        self != Self::CaCertificates
    }

    /// With what a keyring holds for it.
    pub fn with(self, keyring: &Keyring) -> Trust {
        let pins = || keyring.pinned_keys.iter().flatten().copied().collect();
        match self {
            Self::Pinned => Trust::Pinned(pins()),
            Self::OpniPinned => Trust::OpniPinned(pins()),
            Self::CaCertificates => Trust::CaCertificates(keyring.ca_certificates.iter().flatten().cloned().collect()),
            Self::DangerousInsecure => Trust::DangerousInsecure,
        }
    }
}

/// Under which version of the protocol, and where, with which token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedAs {
    /// The machine's id there.
    pub id: String,
    /// The protocol's version: 1, 2 or 3.
    pub protocol: u8,
    /// Where the gateway listens.
    endpoint: String,
    /// By what it is known.
    pub trust: TrustKind,
    /// The token's public half.
    pub token: TokenId,
}

impl JoinedAs {
    /// As a line says.
    pub fn new(id: String, line: &JoinLine, trust: TrustKind) -> Self {
        let (protocol, endpoint) = (line.protocol.number(), line.endpoint.to_string());
        Self { id, protocol, endpoint, trust, token: line.token.id() }
    }

    /// Where the gateway listens.
    ///
    /// # Errors
    /// [`AgentError::Damaged`] where somebody has changed the file.
    pub fn endpoint(&self) -> Result<Endpoint, AgentError> {
        self.endpoint
            .parse()
            .map_err(|_| AgentError::Damaged { file: MEMBERSHIP.to_owned(), reason: "its endpoint is none".into() })
    }

    /// Whether that is what this line leads to: the same protocol, gateway and token.
    pub fn is_of(&self, line: &JoinLine) -> bool {
        self.protocol == line.protocol.number() && self.token == line.token.id() && self.endpoint == line.endpoint.to_string()
    }

    /// Whether the version is the third.
    pub fn is_v3(&self) -> bool {
        self.protocol == Protocol::V3.number()
    }
}

/// What the machine has joined. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// As what.
    #[serde(flatten)]
    pub joined: JoinedAs,
    /// What it joined as; v1 and v2 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// When.
    pub joined_at: Timestamp,
}

/// A join that has begun. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// As what.
    #[serde(flatten)]
    pub joined: JoinedAs,
    /// The line's pins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// What the gateway says that it joins as, where it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// When it began.
    pub begun_at: Timestamp,
}

/// Held by whoever alone may write the files. Let go when it is dropped, or when its holder dies.
#[derive(Clone, Debug)]
pub struct AgentLock {
    _lock: Arc<FileLock>,
}

#[derive(Serialize, Deserialize)]
struct Specs {
    specs: BTreeMap<SpecName, SpecTrust>,
}

#[derive(Serialize, Deserialize)]
struct Document<T> {
    v: u32,
    readable_from: u32,
    #[serde(flatten)]
    body: T,
}

impl AgentDirectory {
    /// Makes the directory (0700) where there is none.
    ///
    /// # Errors
    /// [`AgentError::Private`] for one that others may enter, or that is somebody else's.
    pub fn create(path: &Path) -> Result<Self, AgentError> {
        private::create_directory(path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// One that is there.
    ///
    /// # Errors
    /// [`AgentError::NotJoined`] where there is none; further as [`AgentDirectory::create`].
    pub fn open(path: &Path) -> Result<Self, AgentError> {
        match private::check_directory(path) {
            Ok(()) => Ok(Self { path: path.to_owned() }),
            Err(error) if error.is_absent() => Err(AgentError::NotJoined { directory: path.to_owned() }),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the keyring is, once there is one.
    pub fn keyring_path(&self) -> PathBuf {
        self.path.join(KEYRING)
    }

    /// Takes the files for this process alone, and clears away what a writer that died has left of unfinished ones.
    ///
    /// # Errors
    /// [`AgentError::Busy`] where another process has them.
    pub fn lock(&self) -> Result<AgentLock, AgentError> {
        let path = self.path.join(LOCK);
        let taken = FileLock::take(path.clone()).map_err(private::io_error("locking", &path))?;
        let lock = taken.ok_or_else(|| AgentError::Busy { directory: self.path.clone() })?;
        for name in [IDENTITY, MEMBERSHIP, KEYRING, ATTEMPT, UNCONFIRMED, SPECS] {
            let path = self.path.join(name);
            private::sweep_beside(&path)?;
            // What could not be replaced later is said before anything is sent.
            match private::check_file(&path) {
                Err(error) if !error.is_absent() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(AgentLock { _lock: Arc::new(lock) })
    }

    /// The machine's identity: the one that is there, or a new one that is durable now (J1).
    ///
    /// # Errors
    /// [`AgentError::Private`], [`AgentError::Damaged`].
    pub fn identity<R: rand_core::CryptoRng>(&self, _: &AgentLock, rng: &mut R) -> Result<AgentIdentity, AgentError> {
        let path = self.path.join(IDENTITY);
        if let Some(text) = private::read(&path, 1024)? {
            let seed = parse_identity(&text).ok_or_else(|| damaged(IDENTITY, "it is not an agent's identity"))?;
            return Ok(AgentIdentity::from_saved(&seed));
        }
        let fresh = FreshIdentity::generate(rng);
        let mut seed = Zeroizing::new([0_u8; 43]);
        let encoded = Base64UrlUnpadded::encode(fresh.expose_seed(), &mut *seed);
        let encoded = encoded.map_err(|_| damaged(IDENTITY, "it cannot be written"))?;
        let mut text = Zeroizing::new(Vec::with_capacity(IDENTITY_HEAD.len() + encoded.len() + 1));
        text.extend_from_slice(IDENTITY_HEAD.as_bytes());
        text.extend_from_slice(encoded.as_bytes());
        text.push(b'\n');
        private::replace(&path, &text)?;
        Ok(fresh.saved())
    }

    /// What the machine has joined, if it has.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`]; [`AgentError::Newer`].
    pub fn membership(&self) -> Result<Option<Membership>, AgentError> {
        self.read(MEMBERSHIP)
    }

    /// The join that is half done, if one is.
    ///
    /// # Errors
    /// As [`AgentDirectory::membership`].
    pub fn attempt(&self) -> Result<Option<Attempt>, AgentError> {
        self.read(ATTEMPT)
    }

    /// The keys to authenticate with, if there are any.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn keyring(&self) -> Result<Option<Keyring>, AgentError> {
        // One without any is as good as lost: the same line brings new ones.
        Ok(self.read_keyring(KEYRING)?.filter(|keyring| !keyring.shared_keys.is_empty()))
    }

    /// The keys of unfinished tries, the newest first.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn unconfirmed(&self) -> Result<Option<Keyring>, AgentError> {
        self.read_keyring(UNCONFIRMED)
    }

    /// A join begins, or goes on; keys of tries to join something else are dropped.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn begin(&self, _: &AgentLock, attempt: &Attempt) -> Result<(), AgentError> {
        if let Some(before) = self.attempt()?
            && before.joined != attempt.joined
        {
            private::remove(&self.path.join(UNCONFIRMED))?;
        }
        self.write(ATTEMPT, attempt)
    }

    /// Keeps the keys of a try beside those of earlier ones, durably, before the gateway is told that they are here.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn add_unconfirmed(&self, lock: &AgentLock, attempt: &Attempt, keyring: Keyring) -> Result<(), AgentError> {
        self.begin(lock, attempt)?;
        let mut keyring = keyring.merge(self.unconfirmed()?.unwrap_or_default());
        keyring.shared_keys.truncate(MAX_TRIES);
        keyring.pinned_keys.truncate(MAX_TRIES);
        keyring.ca_certificates.truncate(MAX_TRIES);
        Ok(private::replace(&self.path.join(UNCONFIRMED), keyring.expose_json().expose())?)
    }

    /// The machine has joined: the keyring first, then what it is for, then the join is over. Safe to be called again.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn finish(&self, lock: &AgentLock, membership: &Membership, keyring: &Keyring) -> Result<(), AgentError> {
        let before = self.membership()?.map(|before| before.joined.endpoint);
        if before.is_some_and(|before| before != membership.joined.endpoint) {
            self.forget_specs(lock)?;
        }
        self.save_keyring(lock, keyring)?;
        self.write(MEMBERSHIP, membership)?;
        private::remove(&self.path.join(UNCONFIRMED))?;
        Ok(private::remove(&self.path.join(ATTEMPT))?)
    }

    /// Replaces the keyring, durably.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn save_keyring(&self, _: &AgentLock, keyring: &Keyring) -> Result<(), AgentError> {
        Ok(private::replace(&self.path.join(KEYRING), keyring.expose_json().expose())?)
    }

    /// What this machine begins with of specifications, as its gateway's operator has said.
    ///
    /// # Errors
    /// As [`AgentDirectory::membership`].
    pub fn specs(&self) -> Result<BTreeMap<SpecName, SpecTrust>, AgentError> {
        Ok(self.read::<Specs>(SPECS)?.map(|specs| specs.specs).unwrap_or_default())
    }

    /// Keeps what the gateway says of specifications that nothing is known of yet; what was said first stays.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn add_specs(&self, _: &AgentLock, said: BTreeMap<SpecName, SpecTrust>) -> Result<(), AgentError> {
        let known = self.specs()?;
        let mut specs = said;
        specs.extend(known.clone());
        if specs == known { Ok(()) } else { self.write(SPECS, &Specs { specs }) }
    }

    /// Another gateway was joined: what the one before said does not count there.
    ///
    /// # Errors
    /// As [`AgentDirectory::identity`].
    pub fn forget_specs(&self, _: &AgentLock) -> Result<(), AgentError> {
        Ok(private::remove(&self.path.join(SPECS))?)
    }

    fn read_keyring(&self, name: &str) -> Result<Option<Keyring>, AgentError> {
        let Some(json) = private::read(&self.path.join(name), MAX_FILE)? else { return Ok(None) };
        Keyring::parse(&json).map(Some).map_err(|source| AgentError::Keyring { path: self.path.join(name), source })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, AgentError> {
        #[derive(Deserialize)]
        struct Header {
            readable_from: u32,
        }
        let Some(json) = private::read(&self.path.join(name), MAX_FILE)? else { return Ok(None) };
        let reason = |error: serde_json::Error| damaged(name, &format!("line {}, column {}", error.line(), error.column()));
        let header: Header = serde_json::from_slice(&json).map_err(reason)?;
        if header.readable_from > VERSION {
            return Err(AgentError::Newer { path: self.path.join(name) });
        }
        let document: Document<T> = serde_json::from_slice(&json).map_err(reason)?;
        Ok(Some(document.body))
    }

    fn write<T: Serialize>(&self, name: &str, body: &T) -> Result<(), AgentError> {
        let document = Document { v: VERSION, readable_from: VERSION, body };
        let json = serde_json::to_vec(&document).map_err(|error| damaged(name, &error.to_string()))?;
        Ok(private::replace(&self.path.join(name), &json)?)
    }
}

/// One of several tries' keyrings, by its place: each has added one of each kind that it has.
pub(super) fn one_of(tries: &Keyring, place: usize) -> Option<Keyring> {
    let keys = tries.shared_keys.get(place)?.duplicate();
    let pinned_keys = tries.pinned_keys.get(place).cloned().into_iter().collect();
    let ca_certificates = tries.ca_certificates.get(place).cloned().into_iter().collect();
    Some(Keyring { pinned_keys, ca_certificates, ..Keyring::of(keys) })
}

fn damaged(file: &str, reason: &str) -> AgentError {
    AgentError::Damaged { file: file.to_owned(), reason: reason.to_owned() }
}

fn parse_identity(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let encoded = text.strip_prefix(IDENTITY_HEAD.as_bytes())?.strip_suffix(b"\n")?;
    let mut seed = Zeroizing::new([0; 32]);
    let read = Base64UrlUnpadded::decode(encoded, &mut *seed).ok()?.len();
    (read == seed.len()).then_some(seed)
}

impl From<PrivateError> for AgentError {
    fn from(error: PrivateError) -> Self {
        Self::Private(error)
    }
}
