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

mod operator;
mod world;

use operator::{At, Operator};
use stateright::{Checker as _, Expectation, Model, Property};
use toehold_core::{PublicKey, RotationPhase};
use world::{
    Event, HOSTS, Host, NEW, NEW_TEXT, OLD, OLD_TEXT, OPERATORS, Policy, Rotation, World, line, permanent_lines, rename,
};

/// The fleet and how it is rotated, with at most so many disturbances.
struct Fleet {
    most: u8,
    policy: Policy,
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
            policy: self.policy,
            owed: vec![false; HOSTS],
            healed: false,
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
                None => {
                    // One that refuses the key is healed in vain, as often as one likes.
                    let owed = |host: &usize| world.owed[*host] && !world.hosts[*host].away && !world.refuses(*host);
                    actions.extend((0..HOSTS).filter(owed).map(|host| Event::Heal(index, host)));
                }
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
        let waits = world.rotation.as_ref().is_some_and(|rotation| rotation.retire_at);
        if open && !world.time_passed && (disturb || waits) {
            actions.push(Event::TimePasses);
        }
        for (host, there) in world.hosts.iter().enumerate() {
            if there.away {
                actions.push(Event::Back(host));
            } else if disturb && open && self.policy.hosts_go && host == 0 {
                // One of them will do: the hosts are alike.
                actions.push(Event::Away(host));
            }
        }
        if disturb && open && !world.hosts[HOSTS - 1].managed {
            actions.push(Event::Onboard);
        }
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        let mut world = last.clone();
        match event {
            Event::Begin(index) => {
                let rotation = Rotation { phase: RotationPhase::Planned, fence: 1, revision: 1, retire_at: false };
                world.rotation = Some(rotation.clone());
                world.operators[index] = Some(Operator::new(1, rotation, true, &world));
            }
            Event::Step(index) => {
                let operator = world.operators[index].take()?;
                world.operators[index] = operator::step(operator, &mut world);
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
                // That the grace ends is no disturbance.
                world.disturbances += u8::from(!world.rotation.as_ref()?.retire_at);
            }
            Event::Away(host) => {
                world.hosts[host].away = true;
                world.disturbances += 1;
            }
            Event::Back(host) => world.hosts[host].away = false,
            Event::Heal(index, host) => world.operators[index] = Some(Operator::healing(&world, host)),
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
        let mut properties = vec![
            Property::always("never locked out", |_: &Self, world: &World| {
                (0..HOSTS).filter(|host| world.hosts[*host].managed).all(|host| world.is_anchored(host))
            }),
            Property::always("proven current", |_: &Self, world: &World| !world.current.0 || world.new_has_logged_in),
            Property::always("exactly one key", |_: &Self, world: &World| {
                let Some(rotation) = world.rotation.as_ref().filter(|rotation| rotation.phase.is_closed()) else { return true };
                let done = rotation.phase == RotationPhase::Done;
                let (there, gone): (&PublicKey, &str) = if done { (&NEW, &OLD_TEXT) } else { (&OLD, &NEW_TEXT) };
                let left_behind = |host: &Host| {
                    // Of those that were there when it ended; the others are owed.
                    let file = str::from_utf8(&host.file).unwrap();
                    permanent_lines(&host.file, there).next().is_none() || file.contains(gone)
                };
                let counts = |(index, host): (usize, &Host)| host.managed && !world.owed[index] && left_behind(host);
                !world.hosts.iter().enumerate().any(counts) && world.current.0 == done
            }),
            Property::sometimes("rolled back", |_: &Self, world: &World| {
                world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::RolledBack)
            }),
        ];
        if self.policy.refuses {
            // R4, R7: it has the old key for good, and is owed where the others have the new one.
            properties.push(Property::always(
                "the host that refuses the new key keeps the old one",
                |_: &Self, world: &World| {
                    let keeps = permanent_lines(&world.hosts[0].file, &OLD).next().is_some();
                    let done = world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::Done);
                    keeps && (!done || world.owed[0])
                },
            ));
        }
        if self.policy.refuses && !self.policy.defer {
            properties.push(Property::always("never done without it", |_: &Self, world: &World| !world.current.0));
        } else {
            properties.push(Property::sometimes("done", |_: &Self, world: &World| {
                world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::Done)
            }));
            properties.push(Property::sometimes("done with the host that came midway", |_: &Self, world: &World| {
                let done = world.rotation.as_ref().is_some_and(|rotation| rotation.phase == RotationPhase::Done);
                done && world.hosts[HOSTS - 1].managed
            }));
        }
        if self.policy.hosts_go {
            properties.push(Property::sometimes("healed", |_: &Self, world: &World| world.healed));
        }
        if self.policy.grace {
            properties.push(Property::sometimes("in the grace", |_: &Self, world: &World| {
                let ends = |host: &Host| str::from_utf8(&host.file).unwrap().contains("expiry-time") && host.managed;
                world.current.0 && world.hosts.iter().any(ends) && world.rotation.as_ref().is_some_and(|r| r.retire_at)
            }));
        }
        properties
    }
}

/// Goes through all that can come about, or through so many states of it, the nearest first.
fn check(policy: Policy, most: u8, states: Option<usize>) {
    let states = states.filter(|_| std::env::var_os("TOEHOLD_EVERY_CALL").is_none());
    let most = std::env::var("TOEHOLD_MODEL_DISTURBANCES").ok().and_then(|text| text.parse().ok()).unwrap_or(most);
    let begun = std::time::Instant::now();
    let mut checker = Fleet { most, policy }.checker().threads(2);
    if let Some(states) = states {
        checker = checker.target_state_count(states);
    }
    let checker = checker.spawn_bfs().join();
    println!("{policy:?}: {} states, {} deep, {:?}", checker.unique_state_count(), checker.max_depth(), begun.elapsed());
    if states.is_none() {
        return checker.assert_properties();
    }
    // What has to come about some time may be farther away.
    for property in checker.model().properties() {
        if property.expectation != Expectation::Sometimes {
            checker.assert_no_discovery(property.name);
        }
    }
}

const PLAIN: Policy = Policy { grace: false, defer: false, hosts_go: false, refuses: false };

#[test]
fn holds_never_locked_out_proven_current_exactly_one_key_in_every_order_of_events() {
    check(PLAIN, 2, None);
}

#[test]
fn holds_never_locked_out_proven_current_exactly_one_key_in_every_order_of_events_with_a_grace() {
    check(Policy { grace: true, ..PLAIN }, 1, None);
}

#[test]
fn holds_never_locked_out_proven_current_exactly_one_key_where_a_host_goes_and_comes_and_is_healed() {
    // All of it takes many minutes: `TOEHOLD_EVERY_CALL` goes there.
    check(Policy { defer: true, hosts_go: true, ..PLAIN }, 1, Some(600_000));
    check(Policy { hosts_go: true, ..PLAIN }, 1, Some(600_000));
    check(Policy { grace: true, defer: true, hosts_go: true, ..PLAIN }, 1, Some(600_000));
}

#[test]
fn holds_never_locked_out_proven_current_exactly_one_key_where_a_host_refuses_the_new_key() {
    check(Policy { refuses: true, ..PLAIN }, 1, Some(300_000));
    check(Policy { refuses: true, defer: true, ..PLAIN }, 1, Some(300_000));
    check(Policy { refuses: true, defer: true, grace: true, ..PLAIN }, 1, Some(300_000));
}
