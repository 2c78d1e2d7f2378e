//! Key pairs that live for minutes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use rand_core::CryptoRng;
use toehold_core::{Identity, PublicKey, SecretBytes, SessionId, Timestamp};

use crate::key_pair::{KeyAlgorithm, KeyGenerationError, KeyPair};
use crate::private_key::{PrivateKeyError, read_private_key_file};

/// The shortest life of a temporary key: a minute.
pub const MIN_LIFETIME: Duration = Duration::from_mins(1);
/// The longest life of a temporary key: a day.
pub const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// The life of a temporary key where nobody says otherwise: half an hour, several times a slow installer's run.
pub const DEFAULT_LIFETIME: Duration = Duration::from_mins(30);

/// What the comment on a temporary key's line begins with; the session's id follows.
pub const TEMPORARY_COMMENT_PREFIX: &str = "toehold-temporary:";

/// Why there is no temporary key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemporaryKeyError {
    /// A life outside [`MIN_LIFETIME`] to [`MAX_LIFETIME`].
    #[error("a temporary key cannot live for {} s: from {} to {} s", asked.as_secs(), MIN_LIFETIME.as_secs(), MAX_LIFETIME.as_secs())]
    Lifetime {
        /// What was asked for.
        asked: Duration,
    },
    /// The private half has been wiped.
    #[error("the private half of the temporary key {session} has been wiped")]
    Wiped {
        /// Whose key it was.
        session: SessionId,
    },
    /// A stored key of another kind.
    #[error("the temporary key {session} should be Ed25519, not {algorithm}")]
    NotEd25519 {
        /// Whose key it is.
        session: SessionId,
        /// What it is.
        algorithm: KeyAlgorithm,
    },
    /// The pair could not be made.
    #[error("the temporary key {session} could not be made")]
    Generation {
        /// Whose key it was to be.
        session: SessionId,
        /// Why.
        #[source]
        source: KeyGenerationError,
    },
    /// The private half could not be read or written.
    #[error("the private half of the temporary key {session} cannot be used")]
    PrivateKey {
        /// Whose key it is.
        session: SessionId,
        /// Why.
        #[source]
        source: PrivateKeyError,
    },
}

/// An Ed25519 key pair for one onboarding session. It carries its own end, which sshd enforces (`expiry-time`), and may do
/// nothing but SFTP.
///
/// The private half is in memory only, wiped by [`TemporaryKeyPair::wipe`] and on drop; it is encoded when somebody asks
/// for it and not before. Where the operator wants it sealed at rest, [`TemporaryKeyPair::expose_openssh`] gives what to
/// seal and [`TemporaryKeyPair::from_parts`] brings it back.
///
/// ```
/// # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng as _};
/// use toehold_core::{SessionId, Timestamp};
/// use toehold_keygen::{DEFAULT_LIFETIME, TemporaryKeyPair};
///
/// # let mut rng = ChaCha20Rng::from_seed([7; 32]); // Use a generator that the operating system seeds.
/// let now: Timestamp = "2026-11-23T01:00:00Z".parse()?;
/// let mut key = TemporaryKeyPair::generate(&mut rng, "000102030405060708090a0b0c0d0e0f".parse()?, now, DEFAULT_LIFETIME)?;
/// let line = key.authorized_keys_line(Some(&"192.0.2.0/24".parse()?));
/// assert!(line.starts_with(r#"restrict,command="internal-sftp",expiry-time="20261123013000Z",from="192.0.2.0/24" ssh-ed25519 AAAA"#));
/// assert!(line.ends_with(" toehold-temporary:000102030405060708090a0b0c0d0e0f"));
/// key.wipe();
/// assert!(key.identity().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TemporaryKeyPair {
    session: SessionId,
    created_at: Timestamp,
    expires_at: Timestamp,
    public_key: PublicKey,
    pair: Option<KeyPair>,
}

impl TemporaryKeyPair {
    /// Makes a key that ends `lifetime` (whole seconds; a fraction is dropped) after `created_at`.
    ///
    /// # Errors
    /// [`TemporaryKeyError::Lifetime`].
    pub fn generate<R: CryptoRng + ?Sized>(
        rng: &mut R,
        session: SessionId,
        created_at: Timestamp,
        lifetime: Duration,
    ) -> Result<Self, TemporaryKeyError> {
        check_lifetime(lifetime)?;
        let pair =
            KeyPair::generate(rng, KeyAlgorithm::Ed25519).map_err(|source| TemporaryKeyError::Generation { session, source })?;
        let expires_at = created_at.saturating_add(lifetime);
        Ok(Self { session, created_at, expires_at, public_key: pair.public_key().clone(), pair: Some(pair) })
    }

    /// Brings back a key whose private half [`TemporaryKeyPair::expose_openssh`] gave out to be sealed.
    ///
    /// # Errors
    /// [`TemporaryKeyError::Lifetime`] where the two times are no life of a temporary key,
    /// [`TemporaryKeyError::PrivateKey`] or [`TemporaryKeyError::NotEd25519`] where `openssh` is not its private half.
    pub fn from_parts(
        session: SessionId,
        created_at: Timestamp,
        expires_at: Timestamp,
        openssh: &SecretBytes,
    ) -> Result<Self, TemporaryKeyError> {
        check_lifetime(expires_at.saturating_since(created_at))?;
        let pair =
            read_private_key_file(openssh.expose(), None).map_err(|source| TemporaryKeyError::PrivateKey { session, source })?;
        if pair.algorithm() != KeyAlgorithm::Ed25519 {
            return Err(TemporaryKeyError::NotEd25519 { session, algorithm: pair.algorithm() });
        }
        Ok(Self { session, created_at, expires_at, public_key: pair.public_key().clone(), pair: Some(pair) })
    }

    /// The session that it was made for.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When it ends, by the host's clock and by ours.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whether it has ended at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires_at
    }

    /// The public half; still there after a wipe.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The comment on its line: [`TEMPORARY_COMMENT_PREFIX`] and the session's id.
    pub fn comment(&self) -> String {
        format!("{TEMPORARY_COMMENT_PREFIX}{}", self.session)
    }

    /// The public half as a line of `authorized_keys`, without line end: it may use `internal-sftp` and nothing else, and
    /// sshd refuses it from [`TemporaryKeyPair::expires_at`] on. With `from`, sshd takes it only from there.
    ///
    /// The time is in UTC with a `Z`, which OpenSSH reads since 9.1; for older servers the install command works the time
    /// out on the host (a line with an expiry that sshd cannot read is refused altogether, never accepted for ever).
    pub fn authorized_keys_line(&self, from: Option<&FromPatterns>) -> String {
        render_line(self, from)
    }

    /// What a [`Connector`](toehold_core::Connector) logs in with. Holds a copy of the private half, wiped when it goes.
    ///
    /// # Errors
    /// [`TemporaryKeyError::Wiped`].
    pub fn identity(&self) -> Result<Identity, TemporaryKeyError> {
        Ok(Identity::PrivateKey { public_key: self.public_key.clone(), openssh: self.expose_openssh()? })
    }

    /// The private half as an OpenSSH private key file without passphrase, to be sealed before it is stored.
    ///
    /// # Errors
    /// [`TemporaryKeyError::Wiped`].
    pub fn expose_openssh(&self) -> Result<SecretBytes, TemporaryKeyError> {
        let session = self.session;
        let pair = self.pair.as_ref().ok_or(TemporaryKeyError::Wiped { session })?;
        pair.to_openssh(&self.comment()).map_err(|source| TemporaryKeyError::PrivateKey { session, source })
    }

    /// Wipes the private half now. The public half and the times stay, so that the line can still be found and removed.
    pub fn wipe(&mut self) {
        self.pair = None;
    }

    /// Whether the private half has been wiped.
    pub fn is_wiped(&self) -> bool {
        self.pair.is_none()
    }
}

impl fmt::Debug for TemporaryKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemporaryKeyPair")
            .field("session", &self.session)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .field("public_key", &self.public_key)
            .field("wiped", &self.is_wiped())
            .finish_non_exhaustive()
    }
}

fn check_lifetime(asked: Duration) -> Result<(), TemporaryKeyError> {
    if (MIN_LIFETIME..=MAX_LIFETIME).contains(&Duration::from_secs(asked.as_secs())) {
        Ok(())
    } else {
        Err(TemporaryKeyError::Lifetime { asked })
    }
}

fn render_line(key: &TemporaryKeyPair, from: Option<&FromPatterns>) -> String {
    let mut line = String::with_capacity(256);
    line.push_str(r#"restrict,command="internal-sftp",expiry-time=""#);
    line.push_str(&key.expires_at.strftime("%Y%m%d%H%M%SZ"));
    line.push('"');
    if let Some(from) = from {
        line.push_str(r#",from=""#);
        line.push_str(from.as_str());
        line.push('"');
    }
    line.push(' ');
    line.push_str(key.public_key.algorithm());
    line.push(' ');
    line.push_str(&key.public_key.base64());
    line.push(' ');
    line.push_str(&key.comment());
    line
}

/// Where a key may be used from: the value of the `from` option of sshd(8), a comma-separated list of addresses, CIDR
/// blocks and host patterns (PATTERNS in `ssh_config(5)`), each negated by a leading `!`.
///
/// Only what sshd would match is taken: one address block that it cannot read makes it refuse the whole list, and a list
/// of negations alone matches nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FromPatterns(String);

/// The most bytes of a [`FromPatterns`].
const MAX_FROM: usize = 1024;

/// Why a text is no [`FromPatterns`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FromPatternsError {
    /// More than 1024 bytes.
    #[error("a list of source addresses of {got} bytes is over the limit of {MAX_FROM}")]
    TooLong {
        /// Bytes given.
        got: usize,
    },
    /// An empty pattern, or a character that no address or host pattern has.
    #[error("{0:?} is not an address, a block such as 192.0.2.0/24, or a host pattern such as *.example.net")]
    Pattern(String),
    /// A block that sshd cannot read.
    #[error("{0:?} is not a CIDR block such as 192.0.2.0/24 or 2001:db8::/32 (no bits set beyond its length)")]
    Block(String),
    /// Only negated patterns.
    #[error("a list of negated patterns alone matches nobody: add one without !, such as *")]
    OnlyNegated,
}

impl FromPatterns {
    /// The list as sshd reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Those patterns that are neither an address nor a block, without their `!`. sshd compares them with the client's name too,
    /// which its `UseDNS` and the reverse DNS decide.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let patterns = self.0.split(',').map(|item| item.strip_prefix('!').unwrap_or(item));
        patterns.filter(|pattern| !pattern.contains('/') && pattern.parse::<IpAddr>().is_err())
    }
}

impl FromStr for FromPatterns {
    type Err = FromPatternsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_FROM {
            return Err(FromPatternsError::TooLong { got: text.len() });
        }
        let mut positive = false;
        for item in text.split(',') {
            let pattern = item.strip_prefix('!').unwrap_or(item);
            positive |= pattern.len() == item.len();
            let plain = |b: u8| b.is_ascii_alphanumeric() || b".:*?/_-%".contains(&b);
            if pattern.is_empty() || !pattern.bytes().all(plain) {
                return Err(FromPatternsError::Pattern(item.to_owned()));
            }
            if pattern.split_once('/').is_some_and(|(address, length)| !is_block(address, length)) {
                return Err(FromPatternsError::Block(item.to_owned()));
            }
        }
        if positive { Ok(Self(text.to_owned())) } else { Err(FromPatternsError::OnlyNegated) }
    }
}

impl fmt::Display for FromPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether sshd reads `address/length` as a block: no host bits are set.
fn is_block(address: &str, length: &str) -> bool {
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let Ok(length) = length.parse::<u32>() else { return false };
    match address.parse() {
        Ok(IpAddr::V4(address)) => length <= 32 && address.to_bits().checked_shl(length).unwrap_or(0) == 0,
        Ok(IpAddr::V6(address)) => length <= 128 && address.to_bits().checked_shl(length).unwrap_or(0) == 0,
        Err(_) => false,
    }
}
