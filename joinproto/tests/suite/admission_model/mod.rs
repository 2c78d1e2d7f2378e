//! All interleavings of three clients, two gateways, a crash of one of them and an operator, on the gateway's own `Desk`: every call that
//! it makes to the store is a step, and between any two of them anybody else may act, or the gateway may die.
//!
//! What a gateway is at is known from what the store has answered it so far: for each step it is led there again, by the same answers, and
//! then asked what it wants next.

mod gateways;
mod tape;
mod world;

use stateright::{Checker as _, Model, Property};
use toehold_joinproto::admission::{AgentState, NewToken, Refusal};

use crate::support::lab::{new_token, opni_token};
use gateways::Gateways;
use world::{Action, Kind, Outcome, Progress, World};

const GATEWAYS: usize = 2;
/// A try that is made to see whether one would succeed.
const PROBE: u8 = 9;

impl Model for Gateways {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.first.clone()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for client in 0..self.clients.len() {
            // A client that was told that it has joined is content; one whose answer is lost begins anew.
            if world.attempts[client] < self.clients[client].1 && !Self::has_joined(world, client) {
                // Without loss: clients that differ in nothing but their names come in their order, and so do gateways.
                if self.clients[client].1 == 1 && (1..client).any(|before| world.attempts[before] == 0) && !self.has_rivals() {
                    continue;
                }
                let gateways = if client == 0 && world.attempts[0] == 0 { 0..1 } else { 0..GATEWAYS };
                actions.extend(gateways.map(|gateway| Action::Begin { client, gateway }));
            }
            let is_at_it = || world.talks.iter().any(|talk| (talk.kind, talk.client) == (Kind::Authenticate, client));
            if world.told[client] == Some(Outcome::Answered) && !is_at_it() {
                actions.push(Action::Authenticate { client });
            }
            if world.acts > 0 && self.agent(world, client).is_some_and(|agent| agent.state != AgentState::Removed) {
                actions.push(Action::Remove { client });
            }
        }
        for (place, talk) in world.talks.iter().enumerate() {
            // A client confirms the attempt that it is at, and none that it has given up.
            let is_given_up = talk.kind == Kind::Join && talk.attempt != world.attempts[talk.client];
            if !(is_given_up && self.progress(talk) == Progress::AwaitsConfirm) {
                actions.push(Action::Step { place });
            }
        }
        if world.crashes > 0 {
            actions.extend((0..GATEWAYS).map(|gateway| Action::Crash { gateway }));
        }
        if world.acts > 0 {
            actions.push(Action::Revoke);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Authenticate { client } => {
                let attempt = world.attempts[client];
                self.begin(&mut world, Kind::Authenticate, client, 0, attempt);
            }
            Action::Begin { client, gateway } => {
                world.attempts[client] += 1;
                world.told[client] = None;
                world.late[client] = false;
                let attempt = world.attempts[client];
                self.begin(&mut world, Kind::Join, client, gateway, attempt);
            }
            Action::Crash { gateway } => {
                world.crashes -= 1;
                world.talks.retain(|talk| talk.gateway != gateway);
            }
            Action::Remove { client } => {
                world.acts -= 1;
                self.begin(&mut world, Kind::Remove, client, GATEWAYS, 0);
            }
            Action::Revoke => {
                world.acts -= 1;
                self.begin(&mut world, Kind::Revoke, 0, GATEWAYS, 0);
            }
            Action::Step { place } => self.step(&mut world, place),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no use is doubled: a client holds one, and there are no more than the token's",
                |model: &Gateways, world: &World| {
                    let held: Vec<usize> = model.ids().into_iter().map(|client| model.held(world, client)).collect();
                    held.iter().all(|held| *held <= 1) && held.iter().sum::<usize>() <= model.uses as usize
                },
            ),
            Property::always("an agent is there only for who holds a use", |model: &Gateways, world: &World| {
                model.ids().into_iter().all(|client| {
                    let agent = model.agent(world, client);
                    let is_there = agent.is_some_and(|agent| matches!(agent.state, AgentState::Joined | AgentState::Pending));
                    !is_there || model.held(world, client) == 1
                })
            }),
            Property::always("who was told that it joined has the keys that are stored", |model: &Gateways, world: &World| {
                (0..model.clients.len()).filter(|client| Self::has_joined(world, *client)).all(|client| {
                    let attempt = &model.attempts[&(client, world.attempts[client])];
                    model.agent(world, client).is_some_and(|agent| {
                        let is_own = agent.state == AgentState::Joined && agent.attempt.as_ref() == Some(&attempt.name);
                        is_own || agent.state == AgentState::Removed && world.acts < model.acts
                    })
                })
            }),
            Property::always(
                "no use is lost: its holder can complete the join, unless it has joined or the operator took it away",
                |model: &Gateways, world: &World| {
                    let is_over = |client| {
                        let has_joined = model.agent(world, client).is_some_and(|agent| agent.state == AgentState::Joined);
                        // v3's own machine may come again with its key; an id of Opni's is somebody's once its keys were shown.
                        model.for_opni && has_joined
                    };
                    world.acts < model.acts
                        || model
                            .ids()
                            .into_iter()
                            .all(|client| model.held(world, client) == 0 || is_over(client) || model.can_complete(world, client))
                },
            ),
            Property::always("who is refused leaves no trace", |model: &Gateways, world: &World| {
                // A gateway that dies may leave an id that is only kept.
                !world.talks.is_empty()
                    || world.crashes < model.crashes
                    || model
                        .ids()
                        .into_iter()
                        .all(|client| model.agent(world, client).is_none_or(|agent| agent.state != AgentState::Reserved))
            }),
            Property::always("what the operator takes away stays away", |model: &Gateways, world: &World| {
                let is_removed = |client| model.agent(world, client).is_some_and(|agent| agent.state == AgentState::Removed);
                (!world.revoked
                    || model.uses(world).iter().filter(|found| found.revoked_at.is_some()).count() == model.uses as usize)
                    && world.removed.is_none_or(is_removed)
            }),
            Property::always("who confirms after the revocation does not join", |model: &Gateways, world: &World| {
                (0..model.clients.len()).all(|client| !(world.late[client] && Self::has_joined(world, client)))
            }),
            Property::sometimes("everybody who may has joined", |model: &Gateways, world: &World| {
                (0..model.clients.len()).filter(|client| Self::has_joined(world, *client)).count()
                    == (model.uses as usize).min(model.ids().len())
            }),
            Property::sometimes(
                "a client completes with its second try what a crash broke off",
                |model: &Gateways, world: &World| {
                    let tries = model.clients[0].1;
                    model.crashes == 0
                        || tries < 2
                        || world.crashes == 0 && world.attempts[0] == tries && Self::has_joined(world, 0)
                },
            ),
            Property::sometimes("somebody comes too late", |model: &Gateways, world: &World| {
                let late = [Refusal::Exhausted, Refusal::IdTaken, Refusal::Revoked, Refusal::Removed];
                let late = late.map(|refusal| Some(Outcome::Refused(refusal.to_string())));
                model.uses as usize >= model.clients.len() || world.told.iter().any(|told| late.contains(told))
            }),
        ]
    }
}

fn check(model: Gateways) -> usize {
    let begun = std::time::Instant::now();
    let checker = model.checker().threads(1).spawn_dfs().join();
    checker.assert_properties();
    println!("{} states in {:?}", checker.unique_state_count(), begun.elapsed());
    checker.unique_state_count()
}

fn of_uses(new: NewToken, uses: u32) -> NewToken {
    NewToken { uses, ..new }
}

const THREE: [(&str, u8); 3] = [("a", 2), ("b", 1), ("c", 1)];

#[test]
fn one_use_exactly_in_every_interleaving_of_three_clients_two_gateways_and_a_crash() {
    assert!(check(Gateways::new(new_token(), &THREE, 1, 0)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_with_two_uses() {
    assert!(check(Gateways::new(of_uses(new_token(), 2), &THREE, 1, 0)) > 1_000);
}

#[test]
fn j2_in_every_interleaving_what_the_operator_takes_away_stays_away() {
    assert!(check(Gateways::new(new_token(), &[("a", 2), ("b", 1)], 0, 1)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_of_opni_agents_that_are_pending() {
    assert!(check(Gateways::new(opni_token(), &THREE, 1, 0)) > 1_000);
}

#[test]
fn one_use_exactly_in_every_interleaving_of_opni_agents_that_say_that_they_are_the_same() {
    assert!(check(Gateways::new(opni_token(), &[("a", 2), ("a", 1)], 0, 0)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 1), ("a", 1)], 1, 0)) > 1_000);
}

#[test]
fn j2_in_every_interleaving_a_removed_opni_agent_stays_away() {
    assert!(check(Gateways::new(opni_token(), &[("a", 2)], 0, 1)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 1), ("b", 1)], 0, 1)) > 1_000);
}

#[test]
fn j2_in_every_interleaving_with_a_crash_what_the_operator_takes_away_stays_away() {
    assert!(check(Gateways::new(new_token(), &[("a", 2), ("b", 1)], 1, 1)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 2)], 1, 1)) > 1_000);
    assert!(check(Gateways::new(opni_token(), &[("a", 1), ("b", 1)], 1, 1)) > 1_000);
}
