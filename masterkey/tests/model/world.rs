//! The world: hosts with their files and what is staged beside them, the store's records, what may happen.

use std::sync::LazyLock;

use toehold_core::testing::sample_public_key;
use toehold_core::{PublicKey, RotationPhase, Timestamp};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::authorized_keys::Login;
use toehold_masterkey::observe::Files;

use super::operator::{At, Operator};

pub(crate) const HOSTS: usize = 3;
pub(crate) const OPERATORS: usize = 2;

pub(crate) static OLD: LazyLock<PublicKey> = LazyLock::new(|| sample_public_key("ssh-ed25519", "old"));
pub(crate) static NEW: LazyLock<PublicKey> = LazyLock::new(|| sample_public_key("ssh-ed25519", "new"));

pub(crate) static OLD_TEXT: LazyLock<String> = LazyLock::new(|| OLD.base64());
pub(crate) static NEW_TEXT: LazyLock<String> = LazyLock::new(|| NEW.base64());

/// A host: its file, what is staged beside it (by whom), and every line that has logged in there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) managed: bool,
    pub(crate) file: Vec<u8>,
    pub(crate) staged: Vec<(u64, Vec<u8>)>,
    pub(crate) proven: Vec<Vec<u8>>,
    /// The fence of whoever wrote its journal last, and that writer's count.
    pub(crate) journal: (u64, u64),
    /// Renames that were sent and have not arrived.
    pub(crate) late: Vec<u64>,
    /// Nobody can log in just now.
    pub(crate) away: bool,
}

/// How the rotation goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Policy {
    /// The old key logs in for a while after the barrier.
    pub(crate) grace: bool,
    /// Hosts that are away are left behind.
    pub(crate) defer: bool,
    /// Hosts go and come.
    pub(crate) hosts_go: bool,
    /// The first host refuses the new key.
    pub(crate) refuses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rotation {
    pub(crate) phase: RotationPhase,
    pub(crate) fence: u64,
    pub(crate) revision: u64,
    /// Whether the grace has begun.
    pub(crate) retire_at: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    pub(crate) current: (bool, u64),
    pub(crate) rotation: Option<Rotation>,
    pub(crate) operators: Vec<Option<Operator>>,
    pub(crate) time_passed: bool,
    pub(crate) disturbances: u8,
    pub(crate) new_has_logged_in: bool,
    pub(crate) policy: Policy,
    /// The hosts that the rotation could not take along to its end, and that were not healed since.
    pub(crate) owed: Vec<bool>,
    pub(crate) healed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Begin(usize),
    Step(usize),
    TakeUp(usize, bool),
    Crash(usize),
    /// The connection breaks; with `late`, what was sent last is on its way.
    Lose(usize, bool),
    Arrive(usize, usize),
    TimePasses,
    Onboard,
    Away(usize),
    Back(usize),
    /// Somebody heals a host that is owed.
    Heal(usize, usize),
}

pub(crate) fn line(key: &PublicKey) -> Vec<u8> {
    format!("{key}\n").into_bytes()
}

pub(crate) fn now(world: &World) -> Timestamp {
    Timestamp::from_unix_seconds(if world.time_passed { 1_900_000_000 } else { 1_800_000_000 })
}

pub(crate) fn keys(back: bool) -> Vec<PublicKey> {
    if back { vec![OLD.clone(), NEW.clone()] } else { vec![NEW.clone(), OLD.clone()] }
}

pub(crate) fn files(bytes: &[u8]) -> Files {
    Files { first: AuthorizedKeys::parse(bytes.to_vec()), second: None }
}

pub(crate) fn permanent_lines<'a>(bytes: &'a [u8], key: &PublicKey) -> impl Iterator<Item = &'a [u8]> {
    let wanted: &str = if *key == *OLD { &OLD_TEXT } else { &NEW_TEXT };
    let lines = str::from_utf8(bytes).unwrap().split('\n');
    lines.filter(move |line| line.contains(wanted) && !line.contains("expiry-time")).map(str::as_bytes)
}

impl World {
    /// Whether a login with the key succeeds, of a host that is not away.
    pub(crate) fn lets_in(&self, host: usize, key: &PublicKey) -> bool {
        if self.refuses(host) && *key == *NEW {
            return false;
        }
        let login = Login { now: now(self), utc_offset: 0, peer: None };
        AuthorizedKeys::parse(self.hosts[host].file.clone()).authorizes_login(key, &login).is_some()
    }

    /// Whether the host refuses the new key, whatever is in its file.
    pub(crate) fn refuses(&self, host: usize) -> bool {
        self.policy.refuses && host == 0
    }

    /// A name that nobody has for a staged file of this host, the smallest: names only have to differ.
    pub(crate) fn free_name(&self, host: usize) -> u64 {
        let there = &self.hosts[host];
        let held = self.operators.iter().flatten().filter_map(|operator| match operator.at {
            At::Staged { host: at, name, .. } | At::Passed { host: at, name, .. } if at == host => Some(name),
            _ => None,
        });
        let taken: Vec<u64> = held.chain(there.late.iter().copied()).chain(there.staged.iter().map(|(name, _)| *name)).collect();
        (1..=u64::try_from(taken.len()).unwrap() + 1).find(|name| !taken.contains(name)).unwrap()
    }

    pub(crate) fn is_anchored(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        [&*OLD, &*NEW].into_iter().any(|key| permanent_lines(&host.file, key).any(|line| host.proven.iter().any(|p| p == line)))
    }
}

/// A rename of what is still staged.
pub(crate) fn rename(host: &mut Host, name: u64) -> bool {
    let Some(at) = host.staged.iter().position(|(staged, _)| *staged == name) else { return false };
    host.file = host.staged.remove(at).1;
    let kept = host.proven.iter().filter(|line| host.file.split(|byte| *byte == b'\n').any(|there| there == line.as_slice()));
    host.proven = kept.cloned().collect();
    true
}
