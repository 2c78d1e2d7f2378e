#![doc = include_str!("../README.md")]

pub mod authorized_keys;
mod grant_line;
mod host_expiry;
pub mod install;
mod key_pair;
mod managed_line;
mod private_key;
pub mod replacement;
mod temporary;

pub use authorized_keys::{Added, AuthorizedKeys, Digest, ExpiryTime, Line, MAX_AUTHORIZED_KEYS, Options};
pub use grant_line::{GRANT_COMMENT_PREFIX, is_grant};
pub use host_expiry::HostExpiry;
pub use key_pair::{KeyAlgorithm, KeyAlgorithmError, KeyGenerationError, KeyPair, MAX_RSA_BITS, MIN_RSA_BITS};
pub use managed_line::{GENERATION_COMMENT_PREFIX, generation};
pub use private_key::{MAX_PRIVATE_KEY_FILE, PrivateKeyError, read_private_key_file};
pub use temporary::{
    DEFAULT_LIFETIME, FromPatterns, FromPatternsError, MAX_LIFETIME, MIN_LIFETIME, TEMPORARY_COMMENT_PREFIX, TemporaryKeyError,
    TemporaryKeyPair,
};
