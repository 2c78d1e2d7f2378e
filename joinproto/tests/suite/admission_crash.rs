//! A gateway that dies at any of its calls to the store, or has any of them fail in any way that it can.

use std::time::Duration;

use crate::support::lab;
use crate::support::lab::{Lab, below, identity, join_opni, new_token, opni_token};
use toehold_core::testing::{Crashing, Fault, Faults, MemoryStore, Moment, block_on, run_until_stalled};
use toehold_core::{Expect, Key, Store as _, Stored};
use toehold_joinproto::JoinError;
use toehold_joinproto::admission::{
    AgentRecord, AgentState, DeskError, Held, Holder, NewToken, OpniJoin, OpniRequest, Refusal, UseRecord, first_slot,
};
use toehold_joinproto::agreement::{Ephemeral, Side};
use toehold_joinproto::keyring::SharedKeys;
use toehold_joinproto::token::Token;
use toehold_joinproto::v3::Ended;
use toehold_joinproto::wire::AuthRequestV1;

/// A gateway's process in which something goes wrong.
fn faulty(lab: &Lab<MemoryStore>, plan: impl FnOnce(&Faults)) -> (Lab<Crashing<MemoryStore>>, Faults) {
    let faults = Faults::new();
    plan(&faults);
    (Lab::at(Crashing::new(lab.desk.store.clone(), faults.clone()), lab.desk.clock.clone()), faults)
}

fn uses(lab: &Lab<MemoryStore>, token: &Token) -> usize {
    below(&lab.desk.store, &format!("token/{}/", token.id())).len()
}

fn stored(lab: &Lab<MemoryStore>, id: &str) -> Vec<SharedKeys> {
    block_on(lab.desk.keys(id)).unwrap().keys().iter().map(SharedKeys::duplicate).collect()
}

const FAULTS: [Fault; 4] = [Fault::Conflict, Fault::Hang, Fault::UnavailableAfter, Fault::UnavailableBefore];

type Plan = Box<dyn Fn(&Faults)>;

/// Every way in which one call can go wrong.
fn plans(calls: usize) -> impl Iterator<Item = (String, Plan)> {
    (0..calls).flat_map(|call| {
        let crashes = [Moment::Before, Moment::After].map(|moment| {
            (format!("dies {moment:?} call {call}"), Box::new(move |faults: &Faults| faults.crash_at(call, moment)) as Plan)
        });
        let failures = FAULTS.map(|fault| {
            (format!("{fault:?} at call {call}"), Box::new(move |faults: &Faults| faults.fail_at(call, fault)) as Plan)
        });
        crashes.into_iter().chain(failures)
    })
}

#[test]
fn never_bricked_a_join_is_no_trace_or_the_same_clients_to_complete() {
    let undisturbed = Lab::new();
    let token = undisturbed.token(new_token(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(gateway.join(&token, &identity(1), 10)).unwrap();
    let calls = faults.calls();
    assert!(calls >= 5, "{calls}");
    for (what, plan) in plans(calls) {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (gateway, _) = faulty(&lab, plan);
        let first = run_until_stalled(gateway.join(&token, &identity(1), 10));
        let id = identity(1).id().to_string();
        if let Some(Ok(joined)) = &first {
            assert_eq!(stored(&lab, &id), joined.keyring.shared_keys, "{what}");
        }
        // Anybody else is let in if there is no trace, and only then.
        if uses(&lab, &token) == 1 {
            let other = block_on(lab.join(&token, &identity(2), 11));
            assert!(other.is_err(), "{what}");
        } else {
            assert!(stored(&lab, &id).is_empty(), "{what}");
        }
        let joined = block_on(lab.second().join(&token, &identity(1), 12)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(uses(&lab, &token), 1, "{what}");
        assert_eq!(stored(&lab, &id), joined.keyring.shared_keys, "{what}");
        assert!(block_on(lab.join(&token, &identity(2), 13)).is_err(), "{what}");
    }
}

#[test]
fn never_bricked_nor_is_an_opni_agent_that_tries_again() {
    let undisturbed = Lab::new();
    let token = undisturbed.token(opni_token(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(join_opni(&gateway.desk, &token, "agent-1", 10)).unwrap();
    let calls = faults.calls();
    assert!(calls >= 5, "{calls}");
    for (what, plan) in plans(calls) {
        let lab = Lab::new();
        let token = lab.token(opni_token(), 1);
        let (gateway, _) = faulty(&lab, plan);
        let first = run_until_stalled(join_opni(&gateway.desk, &token, "agent-1", 10));
        if let Some(Ok(keys)) = &first {
            assert_eq!(stored(&lab, "agent-1"), [keys.duplicate()], "{what}");
        }
        // Its token is still in the answer to Join, whatever happened.
        assert_eq!(block_on(lab.desk.opni_tokens()).unwrap().len(), 1, "{what}");
        let keys =
            block_on(join_opni(&lab.second().desk, &token, "agent-1", 12)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(uses(&lab, &token), 1, "{what}");
        assert_eq!(stored(&lab, "agent-1"), [keys], "{what}");
        let other = block_on(join_opni(&lab.desk, &token, "agent-2", 13));
        assert!(matches!(other, Err(DeskError::Refused(Refusal::Exhausted))), "{what}: {other:?}");
        assert_eq!(below(&lab.desk.store, "agent/"), ["agent/agent-1"], "{what}");
    }
}

#[test]
fn never_bricked_nor_is_an_id_that_was_kept_for_who_died_before_its_use_was_taken() {
    let mut kept = 0;
    for crash in 0..12 {
        let lab = Lab::new();
        let token = lab.token(opni_token(), 1);
        let (gateway, _) = faulty(&lab, |faults| faults.crash_at(crash, Moment::After));
        let _ = run_until_stalled(join_opni(&gateway.desk, &token, "agent-1", 10));
        if uses(&lab, &token) == 1 {
            continue;
        }
        kept += below(&lab.desk.store, "agent/").len();
        // The use goes to another, and the id is nobody's.
        let winner = block_on(join_opni(&lab.desk, &token, "winner", 11)).unwrap();
        assert_eq!(stored(&lab, "winner"), [winner]);
        assert!(block_on(lab.desk.agent("agent-1")).unwrap().is_none());
        // Another token brings it in, at the latest when the first one has ended.
        lab.desk.clock.advance(Duration::from_secs(3601));
        let another = lab.token(opni_token(), 2);
        let keys = block_on(join_opni(&lab.desk, &another, "agent-1", 12)).unwrap();
        assert_eq!(stored(&lab, "agent-1"), [keys]);
    }
    assert!(kept > 0, "no crash met a kept id");
}

#[test]
fn revoking_that_breaks_off_finishes_when_it_is_run_again() {
    let new = || {
        let mut new = new_token();
        new.uses = 3;
        new
    };
    let undisturbed = Lab::new();
    let token = undisturbed.token(new(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(gateway.desk.revoke(token.id())).unwrap();
    for (what, plan) in plans(faults.calls()) {
        let lab = Lab::new();
        let token = lab.token(new(), 1);
        block_on(lab.join(&token, &identity(1), 10)).unwrap();
        let (gateway, _) = faulty(&lab, plan);
        let first = run_until_stalled(gateway.desk.revoke(token.id()));
        let record = block_on(lab.desk.token(token.id())).unwrap().unwrap();
        let revoked = block_on(lab.desk.uses(&record)).unwrap().revoked;
        // Whoever is told that nothing was done can believe it, and how much was done at least.
        match first {
            Some(Err(DeskError::PartlyRevoked { revoked: certain, uses: 3, .. })) => assert!(certain <= revoked, "{what}"),
            Some(Err(error)) => assert_eq!(revoked, 0, "{what}: {error:?}"),
            Some(Ok(_)) => assert_eq!(revoked, 3, "{what}"),
            None => {}
        }
        let uses = block_on(lab.desk.revoke(token.id())).unwrap();
        assert_eq!((uses.taken, uses.revoked), (1, 3), "{what}");
        assert!(block_on(lab.join(&token, &identity(2), 11)).is_err(), "{what}");
        assert!(block_on(lab.join(&token, &identity(1), 12)).is_err(), "{what}");
    }
}

#[test]
fn revoking_passes_a_use_that_cannot_be_read_and_says_that_it_is_not_done() {
    let lab = Lab::new();
    let token = lab.token(NewToken { uses: 3, ..new_token() }, 1);
    let damaged = Key::parse(&format!("token/{}/00001", token.id())).unwrap();
    let revision = block_on(lab.desk.store.put(&damaged, b"{}", Expect::Absent)).unwrap();
    let partly = block_on(lab.desk.revoke(token.id()));
    assert!(matches!(partly, Err(DeskError::PartlyRevoked { revoked: 2, uses: 3, .. })), "{partly:?}");
    block_on(lab.desk.store.delete(&damaged, revision)).unwrap();
    assert_eq!(block_on(lab.desk.revoke(token.id())).unwrap().revoked, 3);
}

fn taken_by(holder: Holder) -> UseRecord {
    UseRecord { held: Some(Held { holder, since: lab::start(), tries: 1 }), revoked_at: None }
}

#[test]
fn a_token_that_is_used_up_costs_a_few_questions_however_many_uses_it_had() {
    const USES: u32 = 400;
    let lab = Lab::new();
    let token = lab.token(NewToken { uses: USES, ..new_token() }, 1);
    let place = |slot: u32| Key::parse(&format!("token/{}/{slot:05}", token.id())).unwrap();
    for slot in 0..USES {
        let record = taken_by(Holder::Key(format!("{slot:064}")));
        block_on(Stored::create(&lab.desk.store, place(slot), record)).unwrap();
    }
    let join = |who: u8, seed| {
        let (gateway, faults) = faulty(&lab, |_| ());
        let joined = block_on(gateway.join(&token, &identity(who), seed));
        assert!(faults.calls() < 40, "{} calls", faults.calls());
        joined
    };
    let exhausted = JoinError::Refused { reason: Refusal::Exhausted.to_string() };
    assert_eq!(join(1, 10).unwrap_err(), exhausted);
    let last_of = |who: u8| {
        let holder = Holder::Key(identity(who).public_key().iter().map(|byte| format!("{byte:02x}")).collect());
        let slot = (first_slot(USES, &holder) + USES - 1) % USES;
        (block_on(Stored::<UseRecord>::read(&lab.desk.store, &place(slot))).unwrap().unwrap(), holder)
    };
    // Who has one finds it, as far from where it looked first as can be.
    let (mut stored, holder) = last_of(2);
    stored.body = taken_by(holder);
    block_on(stored.save(&lab.desk.store)).unwrap();
    join(2, 11).unwrap();
    // A free one is found there as well, and taken once.
    let (stored, _) = last_of(3);
    block_on(lab.desk.store.delete(&stored.key, stored.revision)).unwrap();
    join(3, 12).unwrap();
    assert_eq!(uses(&lab, &token), USES as usize);
    assert_eq!(join(4, 13).unwrap_err(), exhausted);
    // That it was revoked is seen there too.
    let (mut stored, _) = last_of(5);
    stored.body.revoked_at = Some(lab::start());
    block_on(stored.save(&lab.desk.store)).unwrap();
    assert_eq!(join(5, 14).unwrap_err(), JoinError::Refused { reason: Refusal::Revoked.to_string() });
}

/// A join of v1, for a capability.
fn join_v1(lab: &Lab<MemoryStore>, token: &Token, id: &str, capability: &str, seed: u64) -> Result<SharedKeys, DeskError> {
    let ephemeral = Ephemeral::generate(&mut lab::rng(seed));
    let (client_id, capability) = (id.to_owned(), capability.to_owned());
    let request = OpniRequest::V1(AuthRequestV1 { client_id, client_key: *ephemeral.public(), capability });
    let join = OpniJoin { token, request: &request, source: lab::source() };
    let response = block_on(lab.desk.join_opni(join, &mut lab::rng(seed + 1_000_000)))?;
    Ok(ephemeral.derive(Side::Client, &response.gateway_key).unwrap())
}

/// The agent authenticates with these keys, if the gateway knows them.
fn authenticate(lab: &Lab<MemoryStore>, id: &str, keys: &SharedKeys) -> Result<(), DeskError> {
    let known = block_on(lab.desk.keys(id)).unwrap();
    let place = known.keys().iter().position(|known| known == keys).ok_or(DeskError::Unknown)?;
    block_on(lab.desk.confirm(&known, place))
}

#[test]
fn never_bricked_nor_is_a_capability_whose_answer_was_lost() {
    let lab = Lab::new();
    let token = lab.token(NewToken { uses: 3, may_extend: true, ..opni_token() }, 1);
    let metrics = join_v1(&lab, &token, "agent-1", "metrics", 10).unwrap();
    authenticate(&lab, "agent-1", &metrics).unwrap();
    // Two are added, and both answers are lost; the agent goes on with the keys that it has.
    let [lost_logs, lost_alerts] =
        [("logs", 11), ("alerts", 12)].map(|(name, seed)| join_v1(&lab, &token, "agent-1", name, seed).unwrap());
    authenticate(&lab, "agent-1", &metrics).unwrap();
    // All uses are taken, and yet the signature that it takes to come back is offered still.
    assert_eq!(uses(&lab, &token), 3);
    assert_eq!(block_on(lab.desk.opni_tokens()).unwrap().len(), 1);
    for (name, lost, seed) in [("logs", &lost_logs, 13), ("alerts", &lost_alerts, 15)] {
        let keys = join_v1(&lab, &token, "agent-1", name, seed).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(authenticate(&lab, "agent-1", lost).is_err(), "{name}");
        authenticate(&lab, "agent-1", &keys).unwrap();
        // What was shown is nobody's to have made anew.
        let again = join_v1(&lab, &token, "agent-1", name, seed + 1);
        assert!(matches!(again, Err(DeskError::Refused(Refusal::Capability))), "{name}: {again:?}");
        for good in [&metrics, &keys] {
            authenticate(&lab, "agent-1", good).unwrap();
        }
    }
    let first = join_v1(&lab, &token, "agent-1", "metrics", 20);
    assert!(matches!(first, Err(DeskError::Refused(Refusal::Capability))), "{first:?}");
    assert_eq!(uses(&lab, &token), 3);
    assert!(block_on(lab.desk.opni_tokens()).unwrap().is_empty());
    assert_eq!(block_on(lab.desk.keys("agent-1")).unwrap().keys().len(), 3);
}

#[test]
fn never_bricked_nor_is_the_first_capability_by_one_that_came_while_its_answer_was_lost() {
    let lab = Lab::new();
    let token = lab.token(NewToken { uses: 2, may_extend: true, ..opni_token() }, 1);
    join_v1(&lab, &token, "agent-1", "metrics", 10).unwrap();
    let logs = join_v1(&lab, &token, "agent-1", "logs", 11).unwrap();
    authenticate(&lab, "agent-1", &logs).unwrap();
    let metrics = join_v1(&lab, &token, "agent-1", "metrics", 12).unwrap();
    for keys in [&metrics, &logs] {
        authenticate(&lab, "agent-1", keys).unwrap();
    }
    let again = join_v1(&lab, &token, "agent-1", "metrics", 13);
    assert!(matches!(again, Err(DeskError::Refused(Refusal::Capability))), "{again:?}");
}

#[test]
fn an_opni_agent_that_never_showed_its_keys_does_not_keep_its_id_for_ever() {
    let lab = Lab::new();
    let (token, other) = (lab.token(opni_token(), 1), lab.token(opni_token(), 2));
    join_opni_blocking(&lab, &token, "silent", 10).unwrap();
    let joined = join_opni_blocking(&lab, &other, "joined", 11).unwrap();
    authenticate(&lab, "joined", &joined).unwrap();
    // As long as its token could be used, and an hour more, it is its own.
    lab.desk.clock.advance(Duration::from_secs(3600 + 3600));
    block_on(lab.desk.sweep()).unwrap();
    let later = lab.token(opni_token(), 3);
    let again = join_opni_blocking(&lab, &later, "silent", 12);
    assert!(matches!(again, Err(DeskError::Refused(Refusal::IdTaken))), "{again:?}");
    lab.desk.clock.advance(Duration::from_secs(1));
    block_on(lab.desk.sweep()).unwrap();
    assert_eq!(below(&lab.desk.store, "agent/"), ["agent/joined"]);
    join_opni_blocking(&lab, &later, "silent", 13).unwrap();
    authenticate(&lab, "joined", &joined).unwrap();
}

fn join_opni_blocking(lab: &Lab<MemoryStore>, token: &Token, id: &str, seed: u64) -> Result<SharedKeys, DeskError> {
    block_on(join_opni(&lab.desk, token, id, seed))
}

#[test]
fn a_write_of_which_the_store_does_not_know_is_looked_up() {
    let undisturbed = Lab::new();
    let token = undisturbed.token(new_token(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(gateway.join(&token, &identity(1), 10)).unwrap();
    // The agent is written last.
    let last = faults.calls() - 1;
    for (fault, joins) in [(Fault::UnavailableAfter, true), (Fault::UnavailableBefore, false)] {
        let lab = Lab::new();
        let token = lab.token(new_token(), 1);
        let (gateway, faults) = faulty(&lab, |faults| faults.fail_at(last, fault));
        let joined = block_on(gateway.join(&token, &identity(1), 10));
        assert!(faults.failed());
        assert_eq!(joined.is_ok(), joins, "{fault:?}: {joined:?}");
    }
}

#[test]
fn an_opni_agent_is_pending_until_it_authenticates_and_then_nobody_makes_it_anew() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    let first = block_on(join_opni(&lab.desk, &token, "agent-1", 10)).unwrap();
    assert_eq!(block_on(lab.desk.agent("agent-1")).unwrap().unwrap().state, AgentState::Pending);
    // The answer was lost: it does it anew, with other keys.
    let second = block_on(join_opni(&lab.desk, &token, "agent-1", 11)).unwrap();
    assert_ne!(first, second);
    let known = block_on(lab.desk.keys("agent-1")).unwrap();
    assert_eq!(known.keys(), [second.duplicate()]);
    block_on(lab.desk.confirm(&known, 0)).unwrap();
    block_on(lab.desk.confirm(&known, 0)).unwrap();
    assert_eq!(block_on(lab.desk.agent("agent-1")).unwrap().unwrap().state, AgentState::Joined);
    let again = block_on(join_opni(&lab.desk, &token, "agent-1", 12));
    assert!(matches!(again, Err(DeskError::Refused(Refusal::IdTaken))), "{again:?}");
    assert_eq!(stored(&lab, "agent-1"), [second]);
    // Now the token is used up for good.
    assert!(block_on(lab.desk.opni_tokens()).unwrap().is_empty());
    assert_eq!(uses(&lab, &token), 1);
}

#[test]
fn a_confirmation_of_keys_that_were_made_anew_is_none() {
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    block_on(join_opni(&lab.desk, &token, "agent-1", 10)).unwrap();
    let stale = block_on(lab.desk.keys("agent-1")).unwrap();
    block_on(join_opni(&lab.desk, &token, "agent-1", 11)).unwrap();
    assert!(matches!(block_on(lab.desk.confirm(&stale, 0)), Err(DeskError::Superseded)));
    let known = block_on(lab.desk.keys("agent-1")).unwrap();
    block_on(lab.desk.remove_agent("agent-1")).unwrap();
    assert!(matches!(block_on(lab.desk.confirm(&known, 0)), Err(DeskError::Superseded)));
}

#[test]
fn j3_an_opni_id_is_taken_only_if_absent_and_that_is_seen_before_the_use_is_counted() {
    let lab = Lab::new();
    let (one, two) = (lab.token(opni_token(), 1), lab.token(opni_token(), 2));
    block_on(join_opni(&lab.desk, &one, "agent-1", 10)).unwrap();
    let taken = block_on(join_opni(&lab.desk, &two, "agent-1", 11));
    assert!(matches!(taken, Err(DeskError::Refused(Refusal::IdTaken))), "{taken:?}");
    assert_eq!(uses(&lab, &two), 0);
    // The form of ids that follow from keys is for those alone.
    let id = identity(1).id().to_string();
    let taken = block_on(join_opni(&lab.desk, &two, &id, 12));
    assert!(matches!(taken, Err(DeskError::Refused(Refusal::IdTaken))), "{taken:?}");
    assert_eq!(uses(&lab, &two), 0);
    block_on(join_opni(&lab.desk, &two, "agent-2", 13)).unwrap();
}

#[test]
fn j2_a_removed_opni_agent_comes_back_only_with_a_token_made_later() {
    let lab = Lab::new();
    let mut new = opni_token();
    new.uses = 4;
    let token = lab.token(new.clone(), 1);
    block_on(join_opni(&lab.desk, &token, "agent-1", 10)).unwrap();
    lab.desk.clock.advance(Duration::from_secs(1));
    block_on(lab.desk.remove_agent("agent-1")).unwrap();
    let back = block_on(join_opni(&lab.desk, &token, "agent-1", 11));
    assert!(matches!(back, Err(DeskError::Refused(Refusal::Removed))), "{back:?}");
    lab.desk.clock.advance(Duration::from_secs(1));
    let later = lab.token(new, 2);
    block_on(join_opni(&lab.desk, &later, "agent-1", 12)).unwrap();
}

#[test]
fn j2_an_id_that_is_only_kept_still_knows_that_its_agent_was_removed() {
    let removed = || {
        let lab = Lab::new();
        let old = lab.token(NewToken { uses: 4, lifetime: Duration::from_secs(86_400), ..opni_token() }, 1);
        block_on(join_opni(&lab.desk, &old, "agent-1", 10)).unwrap();
        lab.desk.clock.advance(Duration::from_secs(1));
        block_on(lab.desk.remove_agent("agent-1")).unwrap();
        lab.desk.clock.advance(Duration::from_secs(1));
        let later = lab.token(opni_token(), 2);
        (lab, old, later)
    };
    let (undisturbed, _, later) = removed();
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(join_opni(&gateway.desk, &later, "agent-1", 11)).unwrap();
    let mut only_kept = 0;
    for (what, plan) in plans(faults.calls()) {
        let (lab, old, later) = removed();
        let (gateway, _) = faulty(&lab, plan);
        let _ = run_until_stalled(join_opni(&gateway.desk, &later, "agent-1", 11));
        let entry = block_on(lab.desk.store.get(&Key::new(["agent", "agent-1"]).unwrap())).unwrap().expect("the mark is gone");
        let state = Stored::<AgentRecord>::decode(&entry).unwrap().body.state;
        only_kept += usize::from(state == AgentState::Reserved);
        // The later token ends, the mark has to hold off the old one still, also after the tidying up.
        lab.desk.clock.advance(Duration::from_secs(3 * 3600));
        block_on(lab.desk.sweep()).unwrap();
        let back = block_on(join_opni(&lab.desk, &old, "agent-1", 12));
        let is_refused = match &back {
            Err(DeskError::Refused(Refusal::Removed)) => true,
            // With the later token it has come in, and its keys are its own.
            Err(DeskError::Refused(Refusal::IdTaken)) => state == AgentState::Pending,
            _ => false,
        };
        assert!(is_refused, "{what}, {state:?}: {back:?}");
    }
    assert!(only_kept > 0, "the id was never only kept");
}

#[test]
fn j2_a_revocation_reaches_an_opni_agent_that_has_begun_to_join() {
    let new = || NewToken { uses: 2, may_extend: true, ..opni_token() };
    // While its answer is being made, at any of the calls to the store.
    let undisturbed = Lab::new();
    let token = undisturbed.token(new(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(join_opni(&gateway.desk, &token, "agent-1", 10)).unwrap();
    for call in 0..faults.calls() {
        let lab = Lab::new();
        let token = lab.token(new(), 1);
        let (gateway, faults) = faulty(&lab, |_| ());
        faults.take_turns(true);
        let mut joining = std::pin::pin!(join_opni(&gateway.desk, &token, "agent-1", 10));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut joined = std::task::Poll::Pending;
        while faults.calls() <= call && joined.is_pending() {
            joined = joining.as_mut().poll(&mut context);
        }
        block_on(lab.desk.revoke(token.id())).unwrap();
        let outcome = match joined {
            std::task::Poll::Ready(outcome) => outcome,
            std::task::Poll::Pending => block_on(joining),
        };
        // Answered or not, it does not get in.
        if outcome.is_ok() {
            let known = block_on(lab.desk.keys("agent-1")).unwrap();
            let shown = block_on(lab.desk.confirm(&known, 0));
            assert!(matches!(shown, Err(DeskError::Refused(Refusal::Revoked))), "call {call}: {shown:?}");
        }
        let state = block_on(lab.desk.agent("agent-1")).unwrap().map(|agent| agent.state);
        assert_ne!(state, Some(AgentState::Joined), "call {call}");
    }

    // v1: the same for a capability that is added; those that are there stay.
    let lab = Lab::new();
    let token = lab.token(new(), 1);
    let metrics = join_v1(&lab, &token, "agent-1", "metrics", 10).unwrap();
    authenticate(&lab, "agent-1", &metrics).unwrap();
    let logs = join_v1(&lab, &token, "agent-1", "logs", 11).unwrap();
    block_on(lab.desk.revoke(token.id())).unwrap();
    let shown = authenticate(&lab, "agent-1", &logs);
    assert!(matches!(shown, Err(DeskError::Refused(Refusal::Revoked))), "{shown:?}");
    authenticate(&lab, "agent-1", &metrics).unwrap();
}

#[test]
fn j2_no_opni_agent_is_answered_once_the_revocation_is_done() {
    let undisturbed = Lab::new();
    let token = undisturbed.token(opni_token(), 1);
    let (gateway, faults) = faulty(&undisturbed, |_| ());
    block_on(join_opni(&gateway.desk, &token, "agent-1", 10)).unwrap();
    let calls = faults.calls();
    let lab = Lab::new();
    let token = lab.token(opni_token(), 1);
    let (gateway, faults) = faulty(&lab, |_| ());
    faults.take_turns(true);
    let mut joining = std::pin::pin!(join_opni(&gateway.desk, &token, "agent-1", 10));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // Its use is taken, and the last look at it and the writing of the agent are to come.
    while uses(&lab, &token) == 0 {
        assert!(joining.as_mut().poll(&mut context).is_pending());
    }
    assert!(faults.calls() < calls);
    block_on(lab.desk.revoke(token.id())).unwrap();
    let answered = block_on(joining);
    assert!(matches!(answered, Err(DeskError::Refused(Refusal::Revoked))), "{answered:?}");
    assert!(block_on(lab.desk.agent("agent-1")).unwrap().is_none());
}

#[test]
fn an_agent_that_cannot_be_read_hides_no_token() {
    let lab = Lab::new();
    let (held, other) = (lab.token(opni_token(), 1), lab.token(opni_token(), 2));
    block_on(join_opni(&lab.desk, &held, "agent-1", 10)).unwrap();
    let key = Key::new(["agent", "agent-1"]).unwrap();
    for damaged in [&b"no json"[..], b"{\"v\":99,\"readable_from\":99}"] {
        let entry = block_on(lab.desk.store.get(&key)).unwrap().unwrap();
        block_on(lab.desk.store.put(&key, damaged, Expect::Revision(entry.revision))).unwrap();
        let mut offered: Vec<_> = block_on(lab.desk.opni_tokens()).unwrap().into_iter().map(|(token, _)| token.id).collect();
        let mut expected = [held.id(), other.id()];
        offered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(offered, expected);
    }
    lab.token(opni_token(), 3);
}

#[test]
fn a_gateway_that_others_keep_from_deciding_has_not_said_no() {
    let lab = Lab::new();
    let token = lab.token(new_token(), 1);
    let (gateway, _) = faulty(&lab, |faults| (0..1_000).for_each(|call| faults.fail_at(call, Fault::Conflict)));
    let (joined, ended) = block_on(gateway.converse(&token, &identity(1), 10, |_, _| ()));
    assert_eq!(joined.unwrap_err(), JoinError::Refused { reason: DeskError::Busy.to_string() });
    let Some(Ended::Refused(error)) = ended else { panic!("{ended:?}") };
    assert!(matches!(error, DeskError::Busy) && error.is_own_trouble(), "{error:?}");
    assert_eq!(uses(&lab, &token), 0);
}
