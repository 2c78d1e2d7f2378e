//! The operator's identity, and the secrets that are sealed to it.
//!
//! Every private key that Toehold stores is sealed with age (<https://age-encryption.org/v1>) to the identities that may use
//! it. An identity is an age X25519 key in a file of the state directory, in the format of `age-keygen`; with a passphrase the
//! whole file is an age file under scrypt. So `age` itself reads both, and what they hold can be had without Toehold. Or it is an SSH key
//! that somebody has already, `ssh-ed25519` or `ssh-rsa`: that stays where it is, and the state directory says where. `age` takes these, too.
//!
//! A sealed value names its purpose, inside: what was sealed as one key is refused in the place of another, though
//! whoever can write to the store could have moved it there. Sealing is not signing: anybody who knows a recipient can
//! seal something new to it, so that what comes out is still checked against what it should be.

mod file;
mod other;
mod ssh_key;
mod vault;

pub use file::{FILE_NAME, IdentityError, IdentityFile, NewIdentity};
pub use other::{OtherIdentity, OtherIdentityError, seal_to};
pub use ssh_key::{SshIdentity, SshKeyFile};
pub(crate) use vault::read_wiped;
pub use vault::{Audience, Purpose, Recipient, RecipientError, Vault, VaultError};
