//! An operator: what the driver does, step by step, by the crate's own machine, rules and guard.

use std::time::Duration;

use toehold_core::{OnUnreachable, RotationPhase, RotationPolicy};
use toehold_keygen::HostExpiry;
use toehold_keygen::authorized_keys::Digest;
use toehold_keygen::replacement::KeyFile;
use toehold_masterkey::change::{Change, Making};
use toehold_masterkey::fleet::{FleetStep, View};
use toehold_masterkey::guard::Write;
use toehold_masterkey::host::{Goal, HostEnd, HostMachine, Next, Step};
use toehold_masterkey::observe::Observation;

use super::world::{HOSTS, NEW, Rotation, World, files, keys, now, permanent_lines, rename};

/// How long the old key still logs in; by the second time that a clock here shows it is over.
const GRACE: Duration = Duration::from_secs(3600);

/// Where an operator stands with the host that it works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    Idle,
    /// Staged under this name, with what was read and what the change is; next is the fence.
    Staged {
        host: usize,
        name: u64,
        before: Vec<u8>,
        after: Vec<u8>,
        change: Change,
    },
    /// The fence is passed; next is the rename.
    Passed {
        host: usize,
        name: u64,
        before: Vec<u8>,
        after: Vec<u8>,
        change: Change,
    },
    /// The current key was read at this revision; next the lead is confirmed, then it is changed.
    Switching {
        revision: u64,
        confirmed: bool,
        to_new: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operator {
    pub(crate) fence: u64,
    /// The rotation's record as this operator knows it.
    pub(crate) known: Rotation,
    pub(crate) fresh: bool,
    pub(crate) machines: Vec<Option<HostMachine>>,
    pub(crate) reached: Vec<Option<Goal>>,
    pub(crate) failed: Vec<bool>,
    pub(crate) listed: Vec<bool>,
    pub(crate) current_is_new: bool,
    pub(crate) current_is_held: bool,
    pub(crate) at: At,
    pub(crate) claims: Vec<(u64, u64)>,
    pub(crate) tries: u8,
    /// The host that it heals, where it leads no rotation.
    pub(crate) heals: Option<usize>,
}

impl Operator {
    pub(crate) fn new(fence: u64, known: Rotation, fresh: bool, world: &World) -> Self {
        Self {
            fence,
            known,
            fresh,
            machines: vec![None; HOSTS],
            reached: vec![None; HOSTS],
            failed: vec![false; HOSTS],
            listed: world.hosts.iter().map(|host| host.managed).collect(),
            current_is_new: world.current.0,
            current_is_held: false,
            at: At::Idle,
            claims: vec![(0, 0); HOSTS],
            tries: 0,
            heals: None,
        }
    }

    /// Somebody who leads a host that was left behind to the key that is current.
    pub(crate) fn healing(world: &World, host: usize) -> Self {
        let fence = world.hosts[host].journal.0 + 1;
        let phase = if world.current.0 { RotationPhase::Retiring } else { RotationPhase::RollingBack };
        let known = Rotation { phase, fence, revision: 0, retire_at: false };
        Self { heals: Some(host), ..Self::new(fence, known, false, world) }
    }

    pub(crate) fn back(&self) -> bool {
        self.known.phase == RotationPhase::RollingBack
    }

    pub(crate) fn view(&self, world: &World) -> View {
        let policy = RotationPolicy {
            on_unreachable: if world.policy.defer { OnUnreachable::Defer } else { OnUnreachable::Abort },
            grace: if world.policy.grace { GRACE.as_secs() } else { 0 },
            canary: None,
            wave: None,
            max_failures: None,
            provisional_for: 600,
        };
        let mut view = View::of(self.known.phase, &policy);
        view.current_is_new = self.current_is_new;
        view.current_is_held = self.current_is_held;
        view.grace_over = self.known.retire_at.then_some(world.time_passed);
        for host in (0..HOSTS).filter(|host| self.listed[*host]) {
            let lacks = |goal| !self.failed[host] && self.reached[host].is_none_or(|reached| reached < goal);
            view.hosts += 1;
            view.failed += u32::from(self.failed[host]);
            view.proven += u32::from(!self.failed[host] && self.reached[host].is_some());
            view.to_prepare += u32::from(lacks(Goal::Prepare));
            view.to_soften += u32::from(lacks(Goal::Soften));
            view.to_remove += u32::from(lacks(Goal::Remove));
        }
        view
    }

    /// Writes the rotation's record if it is as known. Somebody who has joined makes the lead list the hosts again.
    pub(crate) fn save(&mut self, world: &mut World, change: impl FnOnce(&mut Rotation)) -> Saved {
        let stored = world.rotation.as_mut().unwrap();
        if stored.fence != self.fence {
            return Saved::LetGo;
        }
        if stored.revision != self.known.revision {
            self.known = stored.clone();
            self.listed = world.hosts.iter().map(|host| host.managed).collect();
            return Saved::Joined;
        }
        change(stored);
        stored.revision += 1;
        self.known = stored.clone();
        Saved::Yes
    }

    /// Makes the journal of a host this operator's, if nobody with a higher fence has it.
    pub(crate) fn claim(&mut self, world: &mut World, host: usize) -> bool {
        let journal = &mut world.hosts[host].journal;
        if journal.0 > self.fence {
            return false;
        }
        if self.claims[host].0 != self.fence {
            *journal = (self.fence, journal.1 + 1);
            self.claims[host] = *journal;
        }
        true
    }
}

#[derive(PartialEq, Eq)]
pub(crate) enum Saved {
    Yes,
    Joined,
    LetGo,
}

/// One step of an operator; `None` where it has come to an end.
pub(crate) fn step(mut operator: Operator, world: &mut World) -> Option<Operator> {
    match operator.at.clone() {
        At::Idle => match operator.heals {
            Some(host) => heal(operator, world, host),
            None => fleet_step(operator, world),
        },
        At::Staged { host, name, before, after, change } => {
            let journal = &mut world.hosts[host].journal;
            if *journal != operator.claims[host] {
                // The fence: somebody else has written it.
                return None;
            }
            journal.1 += 1;
            operator.claims[host] = *journal;
            operator.at = At::Passed { host, name, before, after, change };
            Some(operator)
        }
        At::Passed { host, name, before, after, change } => {
            operator.at = At::Idle;
            if rename(&mut world.hosts[host], name) {
                let keys = keys(operator.back());
                let (before, after) = (files(&before), files(&after));
                let (before, after) = (Observation::of(&before, &keys, now(world)), Observation::of(&after, &keys, now(world)));
                operator.machines[host].as_mut().unwrap().did(&before, Some(change), &after);
            }
            Some(operator)
        }
        At::Switching { revision, confirmed: false, to_new } => {
            let at = At::Switching { revision, confirmed: true, to_new };
            match operator.save(world, |_| {}) {
                Saved::LetGo => return None,
                Saved::Joined => operator.at = At::Idle,
                Saved::Yes => operator.at = at,
            }
            Some(operator)
        }
        At::Switching { revision, confirmed: true, to_new } => {
            if world.current.1 == revision {
                world.current = (to_new, revision + 1);
            }
            operator.current_is_new = world.current.0;
            operator.current_is_held = true;
            operator.at = At::Idle;
            Some(operator)
        }
    }
}

fn fleet_step(mut operator: Operator, world: &mut World) -> Option<Operator> {
    let turn_back = |rotation: &mut Rotation| rotation.phase = RotationPhase::RollingBack;
    match operator.view(world).next() {
        FleetStep::Enter(phase) => {
            if phase == RotationPhase::Switching || phase.is_closed() {
                operator.listed = world.hosts.iter().map(|host| host.managed).collect();
                if operator.view(world).next() != FleetStep::Enter(phase) {
                    return Some(operator);
                }
            }
            match operator.save(world, |rotation| rotation.phase = phase) {
                Saved::LetGo => return None,
                Saved::Yes if phase.is_closed() => world.owed.clone_from(&operator.failed),
                Saved::Yes | Saved::Joined => {}
            }
            (!operator.known.phase.is_closed()).then_some(operator)
        }
        FleetStep::Lead(goal) => {
            let lacks = |host: &usize| {
                operator.listed[*host] && !operator.failed[*host] && operator.reached[*host].is_none_or(|reached| reached < goal)
            };
            let host = (0..HOSTS).find(lacks).unwrap();
            host_step(operator, world, host, goal)
        }
        FleetStep::Switch => {
            let to_new = !operator.back();
            operator.at = At::Switching { revision: world.current.1, confirmed: false, to_new };
            Some(operator)
        }
        FleetStep::Hold => {
            world.current.1 += 1;
            operator.current_is_held = true;
            operator.current_is_new = world.current.0;
            Some(operator)
        }
        FleetStep::TurnBack(_) => {
            loop {
                match operator.save(world, turn_back) {
                    Saved::LetGo => return None,
                    Saved::Yes => break,
                    Saved::Joined => {}
                }
            }
            for machine in &mut operator.machines {
                *machine = machine.take().map(|machine| machine.turned_back(Goal::Prepare));
            }
            operator.reached = vec![None; HOSTS];
            operator.failed = vec![false; HOSTS];
            Some(operator)
        }
        FleetStep::BeginGrace => match operator.save(world, |rotation| rotation.retire_at = true) {
            Saved::LetGo => None,
            Saved::Yes | Saved::Joined => Some(operator),
        },
        FleetStep::AwaitGrace => Some(operator),
        FleetStep::Stop(_) | FleetStep::End => None,
    }
}

/// One step with a host that was left behind; `None` where it has come to an end.
fn heal(operator: Operator, world: &mut World, host: usize) -> Option<Operator> {
    let operator = host_step(operator, world, host, Goal::Remove)?;
    if operator.reached[host].is_some() {
        (world.owed[host], world.healed) = (false, true);
    }
    (operator.reached[host].is_none() && !operator.failed[host]).then_some(operator)
}

/// One connection, up to what is staged; what needs no write ends with it.
fn host_step(mut operator: Operator, world: &mut World, host: usize, goal: Goal) -> Option<Operator> {
    if !operator.claim(world, host) {
        return None;
    }
    if world.hosts[host].away {
        (operator.failed[host], operator.tries) = (true, 0);
        return Some(operator);
    }
    let back = operator.back();
    let keys = keys(back);
    let machine = match operator.machines[host].take() {
        Some(machine) if machine.goal() == goal && operator.tries > 0 => machine,
        Some(machine) => machine.toward(goal),
        None => HostMachine::new(goal, 2, true, operator.fresh),
    };
    operator.tries = 1;
    let (mut machine, with, query) = match machine.next() {
        Next::LogIn { with, query } => (machine, with, query),
        Next::End(end) => {
            operator.machines[host] = Some(machine);
            operator.tries = 0;
            if end == HostEnd::Reached {
                operator.reached[host] = Some(goal);
            } else {
                operator.failed[host] = true;
            }
            return Some(operator);
        }
    };
    if !world.lets_in(host, &keys[with]) {
        machine.refused(with);
        operator.machines[host] = Some(machine);
        return Some(operator);
    }
    let asked = query.map(|key| (key, world.lets_in(host, &keys[key])));
    let there = &mut world.hosts[host];
    let proven: Vec<Vec<u8>> = permanent_lines(&there.file, &keys[with]).map(<[u8]>::to_vec).collect();
    for line in proven {
        if !there.proven.contains(&line) {
            there.proven.push(line);
            there.proven.sort();
        }
    }
    world.new_has_logged_in |= keys[with] == *NEW;
    machine.logged_in(with, asked);
    if asked.is_none() {
        // The lock is taken, and what is staged is swept, before anything is read.
        there.staged.clear();
        let bytes = there.file.clone();
        let read = files(&bytes);
        let host_now = now(world);
        let seen = Observation::of(&read, &keys, host_now);
        match machine.step(&seen) {
            Step::Leave => machine.did(&seen, None, &seen),
            Step::Write(change) => {
                let making = Making {
                    keys: keys.clone(),
                    generation: Some(1),
                    account: "a@b".parse().unwrap(),
                    expiry: HostExpiry::utc(),
                    provisional: Duration::from_secs(600),
                    grace: GRACE,
                };
                let mut document = read.first.clone();
                making.apply(change, with, host_now, &read, KeyFile::AuthorizedKeys, &mut document);
                let after = files(document.as_bytes());
                let proven: Vec<Digest> = machine.proven(&seen);
                let write =
                    Write { keys: &keys, over: &keys[with], proven: &proven, generation: Some(1), before: &read, after: &after };
                write.check().unwrap_or_else(|error| panic!("the rules want what the guard refuses: {change:?}: {error}"));
                let name = world.free_name(host);
                let after = document.into_bytes();
                world.hosts[host].staged.push((name, after.clone()));
                operator.at = At::Staged { host, name, before: bytes, after, change };
            }
        }
    }
    if let Next::End(end) = machine.next()
        && operator.at == At::Idle
    {
        operator.tries = 0;
        if end == HostEnd::Reached {
            operator.reached[host] = Some(goal);
        } else {
            operator.failed[host] = true;
        }
    }
    operator.machines[host] = Some(machine);
    Some(operator)
}
