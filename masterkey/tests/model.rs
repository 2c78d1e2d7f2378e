//! Three hosts, one of which comes under management midway, and two operators of whom each may die, lose a connection, be late
//! or take over from the other: every order of these events, up to a bound, by the crate's own machine, rules and guard.
//!
//! What is modelled here is the world: conditional writes to the store, files with what is staged beside them, sshd, and
//! requests that arrive late. `TOEHOLD_MODEL_DISTURBANCES` raises the bound.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

use std::sync::LazyLock;
use std::time::Duration;

use stateright::{Checker as _, Model, Property};
use toehold_core::testing::sample_public_key;
use toehold_core::{OnUnreachable, PublicKey, RotationPhase, RotationPolicy, Timestamp};
use toehold_keygen::authorized_keys::{Digest, Login};
use toehold_keygen::replacement::KeyFile;
use toehold_keygen::{AuthorizedKeys, HostExpiry};
use toehold_masterkey::change::{Change, Making};
use toehold_masterkey::fleet::{FleetStep, View};
use toehold_masterkey::guard::Write;
use toehold_masterkey::host::{Goal, HostEnd, HostMachine, Next, Step};
use toehold_masterkey::observe::{Files, Observation};

const HOSTS: usize = 3;
const OPERATORS: usize = 2;

static OLD: LazyLock<PublicKey> = LazyLock::new(|| sample_public_key("ssh-ed25519", "old"));
static NEW: LazyLock<PublicKey> = LazyLock::new(|| sample_public_key("ssh-ed25519", "new"));

static OLD_TEXT: LazyLock<String> = LazyLock::new(|| OLD.base64());
static NEW_TEXT: LazyLock<String> = LazyLock::new(|| NEW.base64());

/// A host: its file, what is staged beside it (by whom), and every line that has logged in there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Host {
    managed: bool,
    file: Vec<u8>,
    staged: Vec<(u64, Vec<u8>)>,
    proven: Vec<Vec<u8>>,
    /// The fence of whoever wrote its journal last, and that writer's count.
    journal: (u64, u64),
    /// Renames that were sent and have not arrived.
    late: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rotation {
    phase: RotationPhase,
    fence: u64,
    revision: u64,
}

/// Where an operator stands with the host that it works on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
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
struct Operator {
    fence: u64,
    /// The rotation's record as this operator knows it.
    known: Rotation,
    fresh: bool,
    machines: Vec<Option<HostMachine>>,
    reached: Vec<Option<Goal>>,
    failed: Vec<bool>,
    listed: Vec<bool>,
    current_is_new: bool,
    current_is_held: bool,
    at: At,
    claims: Vec<(u64, u64)>,
    tries: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    hosts: Vec<Host>,
    current: (bool, u64),
    rotation: Option<Rotation>,
    operators: Vec<Option<Operator>>,
    time_passed: bool,
    disturbances: u8,
    new_has_logged_in: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Event {
    Begin(usize),
    Step(usize),
    TakeUp(usize, bool),
    Crash(usize),
    /// The connection breaks; with `late`, what was sent last is on its way.
    Lose(usize, bool),
    Arrive(usize, usize),
    TimePasses,
    Onboard,
}

struct Fleet {
    most: u8,
}

fn line(key: &PublicKey) -> Vec<u8> {
    format!("{key}\n").into_bytes()
}

fn now(world: &World) -> Timestamp {
    Timestamp::from_unix_seconds(if world.time_passed { 1_900_000_000 } else { 1_800_000_000 })
}

fn keys(back: bool) -> Vec<PublicKey> {
    if back { vec![OLD.clone(), NEW.clone()] } else { vec![NEW.clone(), OLD.clone()] }
}

fn files(bytes: &[u8]) -> Files {
    Files { first: AuthorizedKeys::parse(bytes.to_vec()), second: None }
}

fn permanent_lines<'a>(bytes: &'a [u8], key: &PublicKey) -> impl Iterator<Item = &'a [u8]> {
    let wanted: &str = if *key == *OLD { &OLD_TEXT } else { &NEW_TEXT };
    let lines = str::from_utf8(bytes).unwrap().split('\n');
    lines.filter(move |line| line.contains(wanted) && !line.contains("expiry-time")).map(str::as_bytes)
}

impl World {
    fn lets_in(&self, host: usize, key: &PublicKey) -> bool {
        let login = Login { now: now(self), utc_offset: 0, peer: None };
        AuthorizedKeys::parse(self.hosts[host].file.clone()).authorizes_login(key, &login).is_some()
    }

    /// A name that nobody has for a staged file of this host, the smallest: names only have to differ.
    fn free_name(&self, host: usize) -> u64 {
        let there = &self.hosts[host];
        let held = self.operators.iter().flatten().filter_map(|operator| match operator.at {
            At::Staged { host: at, name, .. } | At::Passed { host: at, name, .. } if at == host => Some(name),
            _ => None,
        });
        let taken: Vec<u64> = held.chain(there.late.iter().copied()).chain(there.staged.iter().map(|(name, _)| *name)).collect();
        (1..=u64::try_from(taken.len()).unwrap() + 1).find(|name| !taken.contains(name)).unwrap()
    }

    fn is_anchored(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        [&*OLD, &*NEW].into_iter().any(|key| permanent_lines(&host.file, key).any(|line| host.proven.iter().any(|p| p == line)))
    }
}

impl Operator {
    fn new(fence: u64, known: Rotation, fresh: bool, world: &World) -> Self {
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
        }
    }

    fn back(&self) -> bool {
        self.known.phase == RotationPhase::RollingBack
    }

    fn view(&self) -> View {
        let policy = RotationPolicy {
            on_unreachable: OnUnreachable::Abort,
            grace: 0,
            canary: None,
            wave: None,
            max_failures: None,
            provisional_for: 600,
        };
        let mut view = View::of(self.known.phase, &policy);
        view.current_is_new = self.current_is_new;
        view.current_is_held = self.current_is_held;
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
    fn save(&mut self, world: &mut World, change: impl FnOnce(&mut Rotation)) -> Saved {
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
    fn claim(&mut self, world: &mut World, host: usize) -> bool {
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
enum Saved {
    Yes,
    Joined,
    LetGo,
}

impl Fleet {
    /// One step of an operator; `None` where it has come to an end.
    fn step(mut operator: Operator, world: &mut World) -> Option<Operator> {
        match operator.at.clone() {
            At::Idle => Self::fleet_step(operator, world),
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
                    let (before, after) =
                        (Observation::of(&before, &keys, now(world)), Observation::of(&after, &keys, now(world)));
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
        match operator.view().next() {
            FleetStep::Enter(phase) => {
                if phase == RotationPhase::Switching || phase.is_closed() {
                    operator.listed = world.hosts.iter().map(|host| host.managed).collect();
                    if operator.view().next() != FleetStep::Enter(phase) {
                        return Some(operator);
                    }
                }
                match operator.save(world, |rotation| rotation.phase = phase) {
                    Saved::LetGo => None,
                    _ => (!operator.known.phase.is_closed()).then_some(operator),
                }
            }
            FleetStep::Lead(goal) => {
                let lacks = |host: &usize| {
                    operator.listed[*host]
                        && !operator.failed[*host]
                        && operator.reached[*host].is_none_or(|reached| reached < goal)
                };
                let host = (0..HOSTS).find(lacks).unwrap();
                Self::host_step(operator, world, host, goal)
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
            FleetStep::Stop(_) | FleetStep::BeginGrace | FleetStep::AwaitGrace | FleetStep::End => None,
        }
    }

    /// One connection, up to what is staged; what needs no write ends with it.
    fn host_step(mut operator: Operator, world: &mut World, host: usize, goal: Goal) -> Option<Operator> {
        if !operator.claim(world, host) {
            return None;
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
                        grace: Duration::ZERO,
                    };
                    let mut document = read.first.clone();
                    making.apply(change, with, host_now, &read, KeyFile::AuthorizedKeys, &mut document);
                    let after = files(document.as_bytes());
                    let proven: Vec<Digest> = machine.proven(&seen);
                    let write = Write {
                        keys: &keys,
                        over: &keys[with],
                        proven: &proven,
                        generation: Some(1),
                        before: &read,
                        after: &after,
                    };
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
}

/// A rename of what is still staged.
fn rename(host: &mut Host, name: u64) -> bool {
    let Some(at) = host.staged.iter().position(|(staged, _)| *staged == name) else { return false };
    host.file = host.staged.remove(at).1;
    let kept = host.proven.iter().filter(|line| host.file.split(|byte| *byte == b'\n').any(|there| there == line.as_slice()));
    host.proven = kept.cloned().collect();
    true
}

impl Model for Fleet {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let host = |managed| Host {
            managed,
            file: line(&OLD),
            proven: vec![line(&OLD)[..line(&OLD).len() - 1].to_vec()],
            ..Host::default()
        };
        vec![World {
            hosts: vec![host(true), host(true), host(false)],
            current: (false, 1),
            rotation: None,
            operators: vec![None; OPERATORS],
            time_passed: false,
            disturbances: 0,
            new_has_logged_in: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Event>) {
        let open = world.rotation.as_ref().is_some_and(|rotation| !rotation.phase.is_closed());
        let disturb = world.disturbances < self.most;
        for (index, operator) in world.operators.iter().enumerate() {
            match operator {
                None if world.rotation.is_none() && index == 0 => actions.push(Event::Begin(index)),
                None if open => {
                    // Where nobody leads any more, taking up is no disturbance but the way on.
                    let led = world
                        .operators
                        .iter()
                        .flatten()
                        .any(|other| Some(other.fence) == world.rotation.as_ref().map(|r| r.fence));
                    if disturb || !led {
                        actions.push(Event::TakeUp(index, false));
                        actions.push(Event::TakeUp(index, true));
                    }
                }
                None => {}
                Some(operator) => {
                    actions.push(Event::Step(index));
                    if disturb {
                        actions.push(Event::Crash(index));
                        if matches!(operator.at, At::Staged { .. }) {
                            actions.push(Event::Lose(index, false));
                        }
                        if matches!(operator.at, At::Passed { .. }) {
                            actions.push(Event::Lose(index, true));
                        }
                    }
                }
            }
        }
        for (host, there) in world.hosts.iter().enumerate() {
            for at in 0..there.late.len() {
                actions.push(Event::Arrive(host, at));
            }
        }
        if disturb && open {
            if !world.time_passed {
                actions.push(Event::TimePasses);
            }
            if !world.hosts[HOSTS - 1].managed {
                actions.push(Event::Onboard);
            }
        }
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        let mut world = last.clone();
        match event {
            Event::Begin(index) => {
                let rotation = Rotation { phase: RotationPhase::Planned, fence: 1, revision: 1 };
                world.rotation = Some(rotation.clone());
                world.operators[index] = Some(Operator::new(1, rotation, true, &world));
            }
            Event::Step(index) => {
                let operator = world.operators[index].take()?;
                world.operators[index] = Self::step(operator, &mut world);
            }
            Event::TakeUp(index, back) => {
                let led = world.operators.iter().flatten().count() > 0;
                let rotation = world.rotation.as_mut()?;
                rotation.fence += 1;
                rotation.revision += 1;
                if back {
                    rotation.phase = RotationPhase::RollingBack;
                }
                let rotation = rotation.clone();
                world.operators[index] = Some(Operator::new(rotation.fence, rotation, false, &world));
                world.disturbances += u8::from(led);
            }
            Event::Crash(index) => {
                let operator = world.operators[index].take()?;
                if let At::Passed { host, name, .. } = operator.at {
                    // The request may have been sent.
                    world.hosts[host].late.push(name);
                }
                world.disturbances += 1;
            }
            Event::Lose(index, late) => {
                let mut operator = world.operators[index].take()?;
                if let (At::Passed { host, name, .. }, true) = (&operator.at, late) {
                    world.hosts[*host].late.push(*name);
                }
                operator.at = At::Idle;
                world.operators[index] = Some(operator);
                world.disturbances += 1;
            }
            Event::Arrive(host, at) => {
                let name = world.hosts[host].late.remove(at);
                rename(&mut world.hosts[host], name);
            }
            Event::TimePasses => {
                world.time_passed = true;
                world.disturbances += 1;
            }
            Event::Onboard => {
                // With the key that is current, which the session has proven; its last write joins the rotation.
                let key = if world.current.0 { &*NEW } else { &*OLD };
                let host = &mut world.hosts[HOSTS - 1];
                host.managed = true;
                host.file = line(key);
                host.proven = vec![line(key)[..line(key).len() - 1].to_vec()];
                world.rotation.as_mut()?.revision += 1;
                world.disturbances += 1;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never locked out", |_: &Self, world: &World| {
                (0..HOSTS).filter(|host| world.hosts[*host].managed).all(|host| world.is_anchored(host))
            }),
            Property::always("proven current", |_: &Self, world: &World| !world.current.0 || world.new_has_logged_in),
            Property::always("exactly one key", |_: &Self, world: &World| {
                let Some(rotation) = world.rotation.as_ref().filter(|rotation| rotation.phase.is_closed()) else { return true };
                let done = rotation.phase == RotationPhase::Done;
                let (there, gone): (&PublicKey, &str) = if done { (&NEW, &OLD_TEXT) } else { (&OLD, &NEW_TEXT) };
                let left_behind = |host: &Host| {
                    // Going back leaves behind a host that refuses; here none does.
                    let file = str::from_utf8(&host.file).unwrap();
                    permanent_lines(&host.file, there).next().is_none() || file.contains(gone)
                };
                !world.hosts.iter().any(|host| host.managed && left_behind(host)) && world.current.0 == done
            }),
            Property::sometimes("done", |_: &Self, world: &World| {
                world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::Done)
            }),
            Property::sometimes("rolled back", |_: &Self, world: &World| {
                world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::RolledBack)
            }),
            Property::sometimes("done with the host that came midway", |_: &Self, world: &World| {
                let done = world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::Done);
                done && world.hosts[HOSTS - 1].managed
            }),
        ]
    }
}

#[test]
fn holds_never_locked_out_proven_current_exactly_one_key_in_every_order_of_events() {
    let most = std::env::var("TOEHOLD_MODEL_DISTURBANCES").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let checker = Fleet { most }.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} deep", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}
