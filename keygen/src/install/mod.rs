//! The line that an operator pastes on a host, the proof that it leaves there, and the line that takes both away again.
//!
//! [`InstallCommand`] writes one line for any POSIX shell. It puts a temporary key into the account's `authorized_keys`
//! under an end that the host's own sshd enforces, and beside it a proof of the host's keys: one message authentication
//! code a host key, under a one-time [`ProofSecret`] that only the pasted line and the operator's side know. Whoever logs
//! in then with the temporary key reads the proof as a [`ProofFile`] and [verifies](ProofFile::verify) the host key of that
//! very connection before anything of value is sent; a man in the middle has no code for his own key.
//!
//! [`RemovalCommand`] is the way back for a person who stands before the host.
//!
//! ```
//! use toehold_core::{Account, PublicKey, SessionId, Timestamp};
//! use toehold_keygen::install::{InstallCommand, ProofFile, ProofSecret, RemovalCommand, proof_file_name};
//! # let mut rng = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([7; 32]);
//! # let key: PublicKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV".parse()?;
//! let account: Account = "deploy@web1.example.net".parse()?;
//! let session = SessionId::generate(&mut rng);
//! let secret = ProofSecret::generate(&mut rng);
//! let end = Timestamp::from_unix_seconds(1_795_395_600);
//! let line = InstallCommand::new(&account, session, &key, end, &secret).command_line()?;
//! assert!(line.expose().starts_with(" echo ") && !line.expose().contains('\n'));
//!
//! // What was read from ~/.ssh/toehold-proof-<session> on the host says nothing of a key that is not the host's.
//! let proof = ProofFile::parse(b"new:.ssh\nnew:authorized_keys\n")?;
//! assert!(proof.verify(&secret, &key).is_err());
//! assert!(RemovalCommand::new(&account, session, &key).command_line()?.starts_with(" u="));
//! assert_eq!(proof_file_name(session), format!("toehold-proof-{session}"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cloud_init;
mod command;
#[cfg(test)]
mod condense;
mod proof;
mod quote;
mod removal;
mod script;

pub use command::{CommandLine, ExpiryForm, InstallCommand, InstallError, MAX_COMMAND_LINE};
pub use proof::{MAX_PROOF_FILE, ProofError, ProofFile, ProofSecret, ProofSecretError, proof_file_name};
pub use removal::RemovalCommand;
