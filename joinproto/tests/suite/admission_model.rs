//! All interleavings of three clients, two gateways, a crash of one of them and an operator who revokes, on the code's own
//! decisions: [`admit`], [`first_slot`], [`check_agent`].
//!
//! The model does what `Desk` does: it reads the agent, walks the uses, writes one of them if nobody has in between, and writes the
//! agent over what it read. Between any two calls to the store anybody else may act, or the gateway may die.

use std::collections::BTreeMap;
use std::time::Duration;

use stateright::{Checker as _, Model, Property};
use toehold_core::Timestamp;
use toehold_joinproto::admission::{
    AgentRecord, AgentState, Check, Holder, Protocol, Refusal, Request, TokenRecord, UseRecord, Verdict, admit, check_agent,
    first_slot,
};
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::TokenSigner;

const CLIENTS: usize = 3;
const GATEWAYS: usize = 2;

/// A value with its revision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Versioned<T> {
    revision: u32,
    value: T,
}

/// The stored agent, as far as it matters: whose keys it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Agent {
    attempt: u8,
    removed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct World {
    uses: BTreeMap<u32, Versioned<UseRecord>>,
    agents: BTreeMap<usize, Versioned<Agent>>,
    /// In the order of their clients and attempts. One that its client has given up may still go on at its gateway.
    conversations: Vec<Conversation>,
    /// How often each client has begun.
    attempts: [u8; CLIENTS],
    /// What each client was told: the attempt whose keys it may use, or that it is refused.
    told: [Option<Result<u8, Refusal>>; CLIENTS],
    crashes: u8,
    revocations: u8,
    /// What the operator took away, as it was when that was done.
    revoked: Option<(u32, UseRecord)>,
    removed: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Conversation {
    client: usize,
    gateway: usize,
    attempt: u8,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    ReadAgent,
    ReadUse {
        agent: Option<u32>,
        passed: u32,
    },
    WriteUse {
        agent: Option<u32>,
        passed: u32,
        read: Option<u32>,
        record: UseRecord,
    },
    /// Accepted: the client's turn.
    AwaitConfirm {
        agent: Option<u32>,
    },
    /// The client's confirmation has come, or is on its way.
    WriteAgent {
        agent: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    Begin { client: usize, gateway: usize },
    Step { place: usize },
    Crash { gateway: usize },
    Revoke { slot: u32 },
    Remove { client: usize },
}

struct Gateways {
    token: TokenRecord,
    tries: [u8; CLIENTS],
    crashes: u8,
    revocations: u8,
}

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn request(client: usize) -> Request {
    Request {
        holder: Holder::Key(format!("key of {client}")),
        client_id: format!("client-{client}"),
        source: "192.0.2.1".parse().unwrap(),
        now: now(),
    }
}

impl Gateways {
    fn new(uses: u32, tries: [u8; CLIENTS], crashes: u8, revocations: u8) -> Self {
        let token = Token::from_bytes(&[1; 32]);
        let token = TokenRecord {
            id: token.id(),
            protocol: Protocol::V3 { key: TokenSigner::new(&token).key() },
            role: "agent".parse().unwrap(),
            uses,
            created_at: now(),
            expires_at: now().saturating_add(Duration::from_secs(3600)),
            labels: BTreeMap::new(),
            client_id: None,
            from: Vec::new(),
            may_extend: false,
        };
        Self { token, tries, crashes, revocations }
    }

    fn record(&self, client: usize, agent: &Agent) -> AgentRecord {
        let Holder::Key(key) = request(client).holder else { panic!() };
        AgentRecord {
            state: if agent.removed { AgentState::Removed } else { AgentState::Joined },
            since: now(),
            token: self.token.id,
            token_expires_at: self.token.expires_at,
            key: Some(key),
            attempt: None,
            role: self.token.role.clone(),
            labels: BTreeMap::new(),
            capabilities: std::collections::BTreeSet::new(),
            sealed_keyring: None,
            removed_at: None,
        }
    }

    /// One call to the store, and what follows from it.
    fn step(&self, world: &mut World, place: usize) {
        let Conversation { client, attempt, step, .. } = world.conversations[place].clone();
        let next = match step {
            Step::ReadAgent => {
                let found = world.agents.get(&client);
                let record = found.map(|agent| self.record(client, &agent.value));
                let checked = self.token.check(&request(client), Check::V3);
                match checked.and_then(|()| check_agent(record.as_ref(), &self.token, &request(client))) {
                    Ok(()) => Ok(Step::ReadUse { agent: found.map(|agent| agent.revision), passed: 0 }),
                    Err(refusal) => Err(Some(Err(refusal))),
                }
            }
            Step::ReadUse { passed, .. } if passed == self.token.uses => Err(Some(Err(Refusal::Exhausted))),
            Step::ReadUse { agent, passed } => {
                let found = world.uses.get(&self.slot(client, passed));
                match admit(found.map(|found| &found.value), &request(client)) {
                    Ok(Verdict::Next) => Ok(Step::ReadUse { agent, passed: passed + 1 }),
                    Ok(Verdict::Take(record) | Verdict::Again(record)) => {
                        Ok(Step::WriteUse { agent, passed, read: found.map(|found| found.revision), record })
                    }
                    Err(refusal) => Err(Some(Err(refusal))),
                }
            }
            Step::WriteUse { agent, passed, read, record } => {
                let slot = self.slot(client, passed);
                if world.uses.get(&slot).map(|found| found.revision) == read {
                    let revision = read.unwrap_or(0) + 1;
                    world.uses.insert(slot, Versioned { revision, value: record });
                    Ok(Step::AwaitConfirm { agent })
                } else {
                    Ok(Step::ReadUse { agent, passed })
                }
            }
            Step::WriteAgent { agent } if world.agents.get(&client).map(|found| found.revision) == agent => {
                let value = Agent { attempt, removed: false };
                world.agents.insert(client, Versioned { revision: agent.unwrap_or(0) + 1, value });
                Err(Some(Ok(attempt)))
            }
            Step::AwaitConfirm { agent } => Ok(Step::WriteAgent { agent }),
            // Superseded: the client begins anew.
            Step::WriteAgent { .. } => Err(None),
        };
        match next {
            Ok(step) => world.conversations[place].step = step,
            Err(told) => {
                world.conversations.remove(place);
                // A client listens to its latest attempt alone.
                if attempt == world.attempts[client] {
                    world.told[client] = told;
                }
            }
        }
    }

    fn slot(&self, client: usize, passed: u32) -> u32 {
        (first_slot(self.token.uses, &request(client).holder) + passed) % self.token.uses
    }

    /// How many uses a client holds.
    fn held(world: &World, client: usize) -> usize {
        let holder = request(client).holder;
        world.uses.values().filter(|found| found.value.held.as_ref().is_some_and(|held| held.holder == holder)).count()
    }

    /// Whether a client that holds a use can complete its join from here, undisturbed.
    fn can_complete(&self, world: &World, client: usize) -> bool {
        let mut world = world.clone();
        world.attempts[client] = u8::MAX;
        world.conversations = vec![Conversation { client, gateway: 0, attempt: u8::MAX, step: Step::ReadAgent }];
        while !world.conversations.is_empty() {
            self.step(&mut world, 0);
        }
        world.told[client] == Some(Ok(u8::MAX))
    }
}

impl Model for Gateways {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World { crashes: self.crashes, revocations: self.revocations, ..World::default() }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for client in 0..CLIENTS {
            // A client that was told that it has joined is content.
            if world.attempts[client] < self.tries[client] && !matches!(world.told[client], Some(Ok(_))) {
                // Without loss: the gateways differ in nothing but the crash.
                let gateways = if client == 0 && world.attempts[0] == 0 { 0..1 } else { 0..GATEWAYS };
                actions.extend(gateways.map(|gateway| Action::Begin { client, gateway }));
            }
            if world.revocations > 0 && world.agents.get(&client).is_some_and(|agent| !agent.value.removed) {
                actions.push(Action::Remove { client });
            }
        }
        for (place, conversation) in world.conversations.iter().enumerate() {
            // A client confirms the attempt that it is at, and none that it has given up.
            let is_given_up = conversation.attempt != world.attempts[conversation.client];
            if !(is_given_up && matches!(conversation.step, Step::AwaitConfirm { .. })) {
                actions.push(Action::Step { place });
            }
        }
        if world.crashes > 0 {
            actions.extend((0..GATEWAYS).map(|gateway| Action::Crash { gateway }));
        }
        if world.revocations > 0 {
            actions.extend((0..self.token.uses).map(|slot| Action::Revoke { slot }));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut world = world.clone();
        match action {
            Action::Begin { client, gateway } => {
                world.attempts[client] += 1;
                let begun = Conversation { client, gateway, attempt: world.attempts[client], step: Step::ReadAgent };
                world.conversations.push(begun);
                world.conversations.sort_by_key(|conversation| (conversation.client, conversation.attempt));
                world.told[client] = None;
            }
            Action::Step { place } => self.step(&mut world, place),
            Action::Crash { gateway } => {
                world.crashes -= 1;
                world.conversations.retain(|conversation| conversation.gateway != gateway);
            }
            Action::Revoke { slot } => {
                world.revocations -= 1;
                let found = world.uses.get(&slot);
                let held = found.and_then(|found| found.value.held.clone());
                let value = UseRecord { held, revoked_at: Some(now()) };
                let revision = found.map_or(0, |found| found.revision) + 1;
                world.uses.insert(slot, Versioned { revision, value: value.clone() });
                world.revoked = Some((slot, value));
            }
            Action::Remove { client } => {
                world.revocations -= 1;
                let agent = world.agents.get_mut(&client)?;
                agent.value.removed = true;
                world.removed = Some(client);
                agent.revision += 1;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no use is doubled: a client holds one, and there are no more than the token's",
                |model: &Gateways, world: &World| {
                    (0..CLIENTS).all(|client| Self::held(world, client) <= 1)
                        && (0..CLIENTS).map(|client| Self::held(world, client)).sum::<usize>() <= model.token.uses as usize
                },
            ),
            Property::always("an agent is there only for who holds a use", |_, world: &World| {
                world.agents.keys().all(|client| Self::held(world, *client) == 1)
            }),
            Property::always("who was told that it joined has the keys that are stored", |_, world: &World| {
                (0..CLIENTS).all(|client| match world.told[client] {
                    Some(Ok(attempt)) => {
                        world.agents.get(&client).is_some_and(|agent| agent.value.removed || agent.value.attempt == attempt)
                    }
                    _ => true,
                })
            }),
            Property::always(
                "no use is lost: its holder can complete the join, unless the operator took it away",
                |model: &Gateways, world: &World| {
                    let is_taken_away = world.revocations < model.revocations;
                    is_taken_away
                        || (0..CLIENTS).all(|client| Self::held(world, client) == 0 || model.can_complete(world, client))
                },
            ),
            Property::always("what the operator takes away stays away", |_, world: &World| {
                world.revoked.as_ref().is_none_or(|(slot, value)| world.uses[slot].value == *value)
                    && world.removed.is_none_or(|client| world.agents[&client].value.removed)
            }),
            Property::sometimes("everybody who may has joined", |model: &Gateways, world: &World| {
                (0..CLIENTS).filter(|client| matches!(world.told[*client], Some(Ok(_)))).count()
                    == (model.token.uses as usize).min(CLIENTS)
            }),
            Property::sometimes(
                "a client completes with its second try what a crash broke off",
                |model: &Gateways, world: &World| model.crashes == 0 || world.crashes == 0 && world.told[0] == Some(Ok(2)),
            ),
        ]
    }
}

fn check(model: Gateways) -> usize {
    let checker = model.checker().threads(1).spawn_dfs().join();
    checker.assert_properties();
    checker.unique_state_count()
}

#[test]
fn one_use_exactly_in_every_interleaving_of_three_clients_two_gateways_and_a_crash() {
    let states = check(Gateways::new(1, [2, 1, 1], 1, 0));
    println!("{states} states");
    assert!(states > 1_000, "{states}");
}

#[test]
fn one_use_exactly_in_every_interleaving_with_two_uses() {
    let states = check(Gateways::new(2, [2, 1, 1], 1, 0));
    println!("{states} states");
    assert!(states > 1_000, "{states}");
}

#[test]
fn j2_in_every_interleaving_what_the_operator_takes_away_stays_away() {
    let states = check(Gateways::new(1, [2, 1, 1], 0, 1));
    println!("{states} states");
    assert!(states > 100, "{states}");
}
