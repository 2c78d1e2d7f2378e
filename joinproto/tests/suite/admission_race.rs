//! Many clients at one token, through two gateways, call by call in turns.

use std::pin::Pin;

use crate::support::lab::{Lab, below, fresh, join_opni, new_token, opni_token, rng};
use rand_chacha::rand_core::Rng as _;
use toehold_core::testing::{Crashing, Faults, MemoryStore, block_on, join_all};
use toehold_joinproto::admission::{DeskError, Refusal};
use toehold_joinproto::v3::AgentIdentity;
use toehold_joinproto::{JoinError, token::Token};

const CLIENTS: u64 = 64;
const ROUNDS: u64 = 10;

/// Two gateways' processes whose calls take turns.
fn gateways(lab: &Lab<MemoryStore>) -> [Lab<Crashing<MemoryStore>>; 2] {
    [(); 2].map(|()| {
        let faults = Faults::new();
        faults.take_turns(true);
        Lab::at(Crashing::new(lab.desk.store.clone(), faults), lab.desk.clock.clone())
    })
}

/// In an order that differs from round to round.
fn shuffled(round: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..CLIENTS).collect();
    let mut rng = rng(round);
    for place in (1..order.len()).rev() {
        let other = usize::try_from(rng.next_u64() % (place as u64 + 1)).unwrap();
        order.swap(place, other);
    }
    order
}

fn uses(lab: &Lab<MemoryStore>, token: &Token) -> usize {
    below(&lab.desk.store, &format!("token/{}/", token.id())).len()
}

#[test]
fn one_use_exactly_of_64_clients_one_joins() {
    for round in 0..ROUNDS {
        for allowed in [1, 3] {
            let lab = Lab::new();
            let mut new = new_token();
            new.uses = allowed;
            let token = lab.token(new, round);
            let gateways = gateways(&lab);
            let identities: Vec<AgentIdentity> = (0..CLIENTS).map(fresh).collect();
            let joins = shuffled(round).into_iter().map(|n| {
                let place = usize::try_from(n).unwrap();
                gateways[place % 2].join(&token, &identities[place], n)
            });
            let outcomes = block_on(join_all(joins));
            let joined = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(joined, allowed as usize, "round {round}");
            for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_eq!(*refused, JoinError::Refused { reason: Refusal::Exhausted.to_string() });
            }
            assert_eq!(uses(&lab, &token), allowed as usize);
            assert_eq!(below(&lab.desk.store, "agent/").len(), allowed as usize);
        }
    }
}

#[test]
fn one_use_exactly_of_64_opni_agents_one_joins_and_the_losers_leave_nothing() {
    for round in 0..ROUNDS {
        for allowed in [1, 3] {
            let lab = Lab::new();
            let mut new = opni_token();
            new.uses = allowed;
            let token = lab.token(new, round);
            let gateways = gateways(&lab);
            let joins = shuffled(round).into_iter().map(|n| {
                let (gateway, token) = (&gateways[usize::try_from(n % 2).unwrap()], &token);
                async move { join_opni(&gateway.desk, token, &format!("agent-{n}"), n).await }
            });
            let outcomes = block_on(join_all(joins));
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), allowed as usize, "round {round}");
            for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert!(matches!(refused, DeskError::Refused(Refusal::Exhausted)), "{refused:?}");
            }
            assert_eq!(uses(&lab, &token), allowed as usize);
            assert_eq!(below(&lab.desk.store, "agent/").len(), allowed as usize, "round {round}");
        }
    }
}

#[test]
fn one_use_exactly_though_one_client_comes_many_times_at_once() {
    for round in 0..ROUNDS {
        let lab = Lab::new();
        let mut new = new_token();
        new.uses = 8;
        let token = lab.token(new.clone(), round);
        let gateways = gateways(&lab);
        let identity = fresh(round);
        let joins = (0..16_u64).map(|n| gateways[usize::try_from(n % 2).unwrap()].join(&token, &identity, n));
        let outcomes = block_on(join_all(joins));
        assert!(outcomes.iter().any(Result::is_ok), "round {round}: {outcomes:?}");
        assert_eq!(uses(&lab, &token), 1, "round {round}");

        new.for_opni = true;
        let token = lab.token(new, round + 100);
        let joins: Vec<Pin<Box<dyn Future<Output = _>>>> = (0..16_u64)
            .map(|n| {
                let (gateway, token) = (&gateways[usize::try_from(n % 2).unwrap()], &token);
                Box::pin(async move { join_opni(&gateway.desk, token, "the-same", n).await }) as _
            })
            .collect();
        let outcomes = block_on(join_all(joins));
        assert!(outcomes.iter().any(Result::is_ok), "round {round}: {outcomes:?}");
        assert_eq!(uses(&lab, &token), 1, "round {round}");
    }
}

#[test]
fn one_use_exactly_and_an_id_goes_to_one_of_two_tokens() {
    for round in 0..ROUNDS {
        let lab = Lab::new();
        let tokens = [lab.token(opni_token(), round), lab.token(opni_token(), round + 100)];
        let gateways = gateways(&lab);
        let joins = [0, 1].map(|n| {
            let (gateway, token) = (&gateways[n], &tokens[n]);
            async move { join_opni(&gateway.desk, token, "the-same", n as u64).await }
        });
        let outcomes = block_on(join_all(joins));
        let joined: Vec<_> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(joined.iter().filter(|joined| **joined).count(), 1, "round {round}: {outcomes:?}");
        // The loser's use is not lost.
        assert_eq!([uses(&lab, &tokens[0]), uses(&lab, &tokens[1])], [usize::from(joined[0]), usize::from(joined[1])]);
    }
}
