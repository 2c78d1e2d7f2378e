//! The lossless `authorized_keys` document.
//!
//! [`AuthorizedKeys`] holds a file's bytes and changes exactly what it is asked to change. Whatever it does not understand,
//! it leaves alone: options and algorithms that nobody knew when this was written, certificate authorities, comments, blank
//! lines, carriage returns, NULs, bytes that are no UTF-8, lines of any length.
//!
//! ```
//! use toehold_keygen::authorized_keys::{Added, AuthorizedKeys, Line, Options};
//!
//! let ours: toehold_core::PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV".parse()?;
//! let mut document = AuthorizedKeys::parse(b"# the owner's\r\nfrom=\"*.example.net\" ssh-rsa AAAAB3NzaC1yc2E= me\xff".to_vec());
//! let before = document.digest();
//!
//! let line = Line::new(Options::new().restrict().command("internal-sftp")?, ours.clone(), "toehold")?;
//! assert_eq!(document.add(&line), Added::Added);
//! assert_eq!(document.add(&line), Added::Unchanged);
//! assert_eq!(document.remove(&ours), 1);
//! assert_eq!(document.digest(), before);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which lines hold a key
//!
//! A key is looked for where sshd looks: behind the blanks at the beginning of a line, else behind the line's options, which
//! end at the first blank outside quotes. There it is recognised by its blob, the decoded base64, never by its text. Each
//! line that sshd would accept for a key is found. Some more are: the word before the base64 is not compared (OpenSSH itself
//! takes `rsa-sha2-256` for `ssh-rsa`), base64 is read without regard to padding and foreign characters, and the numbers of
//! an RSA key may have superfluous zeros in front, which make another blob but the same key. Such a line can hold no second
//! key, so acting on it takes nothing from anybody else. A key that stands in a comment, or behind another key, is not found.
//!
//! A line of `cert-authority` with the key counts as holding it: a login can be made with what that key signs.
//!
//! # The end of the file
//!
//! A file whose last line has no line feed keeps that property: [`AuthorizedKeys::add`] puts a line feed before the new line
//! and none behind it, and [`AuthorizedKeys::remove`] of a last line without line feed takes the one before it. So removing
//! what was added gives the exact bytes again, in whatever order lines come and go and whoever removes them, without any
//! memory of who added what. A line that came in by other means with a line feed of its own, though the file had none at its
//! end, leaves that behind when it is removed; the installation command notes so in its proof. New lines have no carriage
//! return, also in a file of CRLF lines: sshd reads both, and it would become part of our comment.

mod authorize;
mod base64;
mod document;
mod effect;
mod expiry;
mod from;
mod line;
mod lines;
mod options;

pub use authorize::{Authorized, Login};
pub use document::{Added, AuthorizedKeys, Digest, MAX_AUTHORIZED_KEYS};
pub use effect::Effect;
pub use expiry::{ExpiryTime, ExpiryTimeError};
pub use line::{Line, LineError};
pub use lines::{Entries, Entry, KeyLine, LineKind};
pub use options::{Options, OptionsError};
