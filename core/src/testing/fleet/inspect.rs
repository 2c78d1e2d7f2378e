//! What a test sees of a simulated host, and what it does there with its own hands.

use std::fmt;

use super::tree::Node;
use super::{Machine, SimulatedFleet, User};
use crate::account::Account;
use crate::connect::FileKind;
use crate::public_key::PublicKey;
use crate::time::{Clock as _, Timestamp};

/// One path of a host's tree. Compares by all that an undone change puts back: times are left out.
#[derive(Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// The absolute path.
    pub path: String,
    /// What is there.
    pub kind: FileKind,
    /// A file's bytes or a link's target.
    pub content: Vec<u8>,
    /// The permission bits (`0o7777`).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
}

impl fmt::Debug for TreeEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, kind, content, mode, uid } = self;
        write!(f, "{path} {kind:?} {mode:o} uid {uid} {:?}", String::from_utf8_lossy(content))
    }
}

/// A file, directory or link of a host.
#[derive(Clone, PartialEq, Eq)]
pub struct SimulatedFile {
    /// What it is.
    pub kind: FileKind,
    /// A file's bytes or a link's target.
    pub content: Vec<u8>,
    /// The permission bits (`0o7777`).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// Last change, seconds since 1970 by the host's clock.
    pub modified: i64,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, content, mode, uid, modified } = self;
        write!(f, "{kind:?} {mode:o} uid {uid} at {modified} {:?}", String::from_utf8_lossy(content))
    }
}

impl User {
    /// The host's path for one that may be relative to the home directory.
    fn path(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.home) }
    }
}

impl SimulatedFleet {
    fn as_user<T>(&self, account: &Account, act: impl FnOnce(&mut Machine, &User, i64) -> T) -> T {
        let now = self.clock.now();
        self.with_machine(account, |machine| {
            let host_now = machine.time(now);
            let user = machine.user(account.user(), host_now);
            act(machine, &user, host_now.unix_seconds())
        })
    }

    /// The bytes of the account's `~/.ssh/authorized_keys`, links followed; empty where there is no such file.
    pub fn authorized_keys(&self, account: &Account) -> Vec<u8> {
        self.as_user(account, |machine, user, _| {
            machine.tree.open(&user.path(".ssh/authorized_keys")).map(|(_, bytes)| bytes.to_vec()).unwrap_or_default()
        })
    }

    /// Replaces the content of the account's `~/.ssh/authorized_keys`; made with the usual modes where it is missing.
    pub fn set_authorized_keys(&self, account: &Account, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.as_user(account, |machine, user, now| {
            machine.tree.make_directories(&user.path(".ssh"), user.uid, 0o700, now);
            let path = machine.tree.open(&user.path(".ssh/authorized_keys")).map(|(path, _)| path);
            if let Some(node) = path.and_then(|path| machine.tree.node_mut(&path)) {
                node.content = bytes;
                node.modified = now;
                return;
            }
            let node = Node { kind: FileKind::Regular, content: bytes, mode: 0o600, uid: user.uid, modified: now };
            machine.tree.put(&user.path(".ssh/authorized_keys"), node);
        });
    }

    /// Appends a line to the account's `~/.ssh/authorized_keys` as somebody does who pastes the install command: on a line
    /// of its own, with a line end.
    pub fn append_line(&self, account: &Account, line: impl AsRef<[u8]>) {
        let mut bytes = self.authorized_keys(account);
        if bytes.last().is_some_and(|last| *last != b'\n') {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_ref());
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.set_authorized_keys(account, bytes);
    }

    /// Puts a regular file, owned by the account, at a path that is absolute or relative to its home directory, in place of
    /// what was there; missing directories are made.
    pub fn write_file(&self, account: &Account, path: &str, content: impl Into<Vec<u8>>, mode: u32) {
        let content = content.into();
        self.as_user(account, |machine, user, now| {
            let node = Node { kind: FileKind::Regular, content, mode, uid: user.uid, modified: now };
            machine.tree.put(&user.path(path), node);
        });
    }

    /// Makes a directory, owned by the account, with those above it; nothing where it is there.
    pub fn make_directory(&self, account: &Account, path: &str, mode: u32) {
        self.as_user(account, |machine, user, now| machine.tree.make_directories(&user.path(path), user.uid, mode, now));
    }

    /// Puts a symbolic link at `path`, owned by the account.
    pub fn make_link(&self, account: &Account, path: &str, target: &str) {
        self.as_user(account, |machine, user, now| {
            let content = target.as_bytes().to_vec();
            machine.tree.put(&user.path(path), Node { kind: FileKind::Link, content, mode: 0o777, uid: user.uid, modified: now });
        });
    }

    /// Changes permission bits, if the path is there.
    pub fn set_mode(&self, account: &Account, path: &str, mode: u32) {
        self.as_user(account, |machine, user, _| {
            if let Some(node) = machine.tree.node_mut(&user.path(path)) {
                node.mode = mode;
            }
        });
    }

    /// Changes the owner, if the path is there.
    pub fn set_owner(&self, account: &Account, path: &str, uid: u32) {
        self.as_user(account, |machine, user, _| {
            if let Some(node) = machine.tree.node_mut(&user.path(path)) {
                node.uid = uid;
            }
        });
    }

    /// Removes a path and all that is below it.
    pub fn remove_path(&self, account: &Account, path: &str) {
        self.as_user(account, |machine, user, _| machine.tree.purge(&user.path(path)));
    }

    /// What is at a path that is absolute or relative to the account's home directory, links not followed.
    pub fn file(&self, account: &Account, path: &str) -> Option<SimulatedFile> {
        self.as_user(account, |machine, user, _| {
            machine.tree.node(&user.path(path)).map(|node| SimulatedFile {
                kind: node.kind,
                content: node.content.clone(),
                mode: node.mode,
                uid: node.uid,
                modified: node.modified,
            })
        })
    }

    /// Everything on the account's host, in the order of the paths.
    pub fn tree(&self, account: &Account) -> Vec<TreeEntry> {
        self.with_machine(account, |machine| {
            let entry = |(path, node): (&String, &Node)| TreeEntry {
                path: path.clone(),
                kind: node.kind,
                content: node.content.clone(),
                mode: node.mode,
                uid: node.uid,
            };
            machine.tree.iter().map(entry).collect()
        })
    }

    /// Whether the host would let the key into the account at `now` by the world's clock (the host adds its own error),
    /// whether it is on or off.
    pub fn would_log_in(&self, account: &Account, key: &PublicKey, now: Timestamp) -> bool {
        self.with_machine(account, |machine| machine.grant(account.user(), key, now).is_some())
    }

    /// The keys that have logged in to the account, and when by the world's clock, in that order. A login counts from the
    /// moment at which the host accepted it, whatever became of the connection.
    pub fn logins(&self, account: &Account) -> Vec<(PublicKey, Timestamp)> {
        self.with_machine(account, |machine| {
            let of_account = machine.logins.iter().filter(|(user, ..)| user == account.user());
            of_account.map(|(_, key, at)| (key.clone(), *at)).collect()
        })
    }
}
