//! Replacing `authorized_keys` on a host, so that at every moment the host has either the old file or the new one.
//!
//! [`Replacement`] is the machine, [`replace`] drives it over [`HostFiles`](toehold_core::HostFiles), and [`replace_fenced`]
//! does so for those who have to be asked before each rename; [`inspect`] only looks, and [`sweep`] takes away what a dead
//! process has left. What a replacement does, in order:
//!
//! 1. **Look**: no atomic rename, no replacement. The home directory (by its real path), `.ssh` and the file must be what
//!    sshd's `StrictModes` accepts, the account's own, and no links.
//! 2. **Lock**: `.ssh/authorized_keys.toehold-lock` is created exclusively and names the holder. A lock of the same holder,
//!    or one that is older than ten minutes by the host's own clock (half a minute where it names nobody), is taken over.
//! 3. **Sweep**: every file that any replacement has staged is removed. Only then is anything read. A writer that lost its
//!    lock, however late it wakes up, finds its staged file gone, and a rename of nothing changes nothing.
//! 4. **Edit** what was read; an edit that changes nothing ends here, without a write.
//! 5. **Stage** the new file beside the old one, with its permission bits (0600 for a new one), make it durable where the
//!    server can, and read it back.
//! 6. **Compare**: the lock is still ours and the file on the host is still the one that was read; else start over, a few times.
//! 7. **Rename**, and read the result back.
//! 8. **Unlock.** After any failure, too, the staged file and the lock are taken away as far as the connection allows.
//!
//! A lock alone would not be enough: it can be taken from a writer that is alive but slow. What holds is the order: whoever
//! gets the lock sweeps before it reads, and whoever renames has looked, after staging, that the lock was still its own. If
//! the lock changed hands after that look, the sweep came after the staging: either the rename came before it, and the new
//! holder has read its result, or it comes after it and fails.
//!
//! The changes are the lock, the removals, the staged file and the rename: one at a time, each decided by what was seen after
//! the one before it. What is looked at between two of them is asked for at once, and sent right behind the change that it
//! follows ([`HostFiles::change_and_look`](toehold_core::HostFiles::change_and_look)): the answers are those that one
//! question after the other would have had. So a replacement takes eleven round trips over SFTP, where its steps one by one
//! would take fifty.
//!
//! Over SFTP nobody can see access control lists, security labels or the group of a file. A host's default ones apply to the
//! new file, as they do when `ssh-copy-id` or an editor writes it.
//!
//! ```
//! use toehold_core::testing::{World, block_on};
//! # use toehold_core::{Account, Connector as _, HostKeyPolicy, HostSession as _, Identity, Login, Route};
//! use toehold_keygen::authorized_keys::{AuthorizedKeys, Line, Options};
//! use toehold_keygen::replacement::{Plan, replace};
//!
//! # let world = World::new();
//! # let account: Account = "ops@192.0.2.7".parse()?;
//! # world.fleet().add_host(&account);
//! # let first = toehold_core::testing::sample_public_key("ssh-ed25519", "first");
//! # world.fleet().set_authorized_keys(&account, format!("{first}\n").as_bytes());
//! # let route = Route::direct(account);
//! # let identity = Identity::PrivateKey { public_key: first, openssh: vec![].into() };
//! # let login = Login { route: &route, identity: &identity, host_key: &HostKeyPolicy::CallerDecides, query: None };
//! # let mut session = block_on(world.fleet().log_in(&login))?;
//! # let files = session.files();
//! # let mut rng = <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::seed_from_u64(1);
//! # let ours = toehold_core::testing::sample_public_key("ssh-ed25519", "ours");
//! let line = Line::new(Options::new().restrict(), ours, "toehold")?;
//! let plan = Plan::new(&mut rng, ".", "session-1")?;
//! let replaced = block_on(replace(files, &plan, |_, document: &mut AuthorizedKeys| {
//!     let _ = document.add(&line);
//!     Ok(())
//! }))?;
//! assert!(replaced.changed());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ahead;
mod driver;
mod error;
mod examine;
mod inspect;
mod lock;
mod machine;
mod plan;
mod write;

pub use driver::{FencedEdit, FencedError, Reading, replace, replace_fenced};
pub use error::ReplaceError;
pub use inspect::{InspectedFile, Inspection, LockSeen, inspect, sweep};
pub use machine::{Action, Event, Replacement};
pub use plan::{FileChange, HolderError, IfEmpty, KeyFile, Plan, Replaced, STALE_LOCK, STALE_NAMELESS_LOCK};
