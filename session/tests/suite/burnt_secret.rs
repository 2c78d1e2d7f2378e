//! The one-time secret of the proof: used once, and gone before anything comes of it.

use crate::support::hands::{secret, tag};
use crate::support::{Hands, Home, Lab, Paste, master_key};
use toehold_core::testing::{Call, CallKind};
use toehold_core::{HostKeyTrust, SessionId};
use toehold_keygen::install::proof_file_name;
use toehold_session::{End, Evidence, HostKeyCheck, Request, Status};

fn sealing(lab: &Lab) -> Request {
    let mut request = lab.request();
    request.seal_temporary_key = true;
    request
}

/// The proof on the host is another secret's.
fn with_a_wrong_proof(lab: &Lab) -> Hands {
    let mut hands = lab.hands(Paste::AtOnce);
    hands.after = |fleet, account, record| {
        let tag = tag(&"0".repeat(62), &fleet.host_keys(account)[0]);
        fleet.write_file(account, &format!(".ssh/{}", proof_file_name(record.id)), format!("{tag}\n"), 0o600);
    };
    hands
}

fn reads_proof(call: &Call) -> bool {
    call.kind == CallKind::Read && call.subject.contains("toehold-proof")
}

/// The calls of a run with a sealed key.
fn calls(hands: impl Fn(&Lab) -> Hands) -> Vec<Call> {
    let lab = Lab::new(Home::Foreign);
    lab.onboard(sealing(&lab), &mut hands(&lab)).unwrap().unwrap();
    lab.world.faults().log()
}

/// Puts the right proof on the host, once more.
fn proves_again(lab: &Lab, id: SessionId, line: &str) {
    let tag = tag(secret(line), &lab.host_key());
    lab.world.fleet().write_file(&lab.account, &format!(".ssh/{}", proof_file_name(id)), format!("{tag}\n"), 0o600);
}

#[test]
fn o4_the_secret_is_gone_from_the_record_before_anything_else_is_done() {
    for good in [true, false] {
        let hands = |lab: &Lab| if good { lab.hands(Paste::AtOnce) } else { with_a_wrong_proof(lab) };
        let calls = calls(hands);
        let read = calls.iter().position(reads_proof).unwrap();
        let next = &calls[read + 1];
        assert!(next.kind == CallKind::StorePut && next.subject.starts_with("session/"), "proof good: {good}, then {next}");

        // Before that write the record has it, after it no more; what was judged is in the same write.
        for (call, burnt) in [(read, false), (read + 1, true)] {
            let lab = Lab::new(Home::Foreign);
            let record = lab.crash(sealing(&lab), &mut hands(&lab), call);
            assert_eq!(record.sealed_proof_secret.is_none(), burnt, "proof good: {good}");
            assert!(record.sealed_temporary_key.is_some());
            let trust = record.host_key.map(|trusted| (trusted.public_key, trusted.trust));
            assert_eq!(trust, (good && burnt).then(|| (lab.host_key(), Some(HostKeyTrust::Proof))));
        }
    }
}

#[test]
fn o4_a_recovery_goes_on_with_what_was_judged_and_asks_for_no_second_proof() {
    let calls = calls(|lab| lab.hands(Paste::AtOnce));
    let read = calls.iter().position(reads_proof).unwrap();
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(sealing(&lab), &mut lab.hands(Paste::AtOnce), read + 1);
    assert_eq!(record.status, Status::Active);
    // It would prove nothing any more.
    lab.world.fleet().write_file(&lab.account, &format!(".ssh/{}", proof_file_name(record.id)), "", 0o600);
    let outcome = lab.recover_to(record.id, End::Completed);
    assert_eq!(outcome.record.host_key.unwrap().trust, Some(HostKeyTrust::Proof));
    assert!(lab.lets_in(&master_key()) && !lab.holds(&record.temporary_key));
}

#[test]
fn o4_after_a_mismatch_no_proof_is_good_any_more() {
    let calls = calls(with_a_wrong_proof);
    let read = calls.iter().position(reads_proof).unwrap();
    for call in [read + 1, calls.len() - 1] {
        let lab = Lab::new(Home::Foreign);
        let hands = with_a_wrong_proof(&lab);
        let record = lab.crash(sealing(&lab), &mut hands.clone(), call);
        // Now the right one is there, and the command is run once more.
        let line = hands.seen().command.as_ref().unwrap().line.clone();
        hands.paste_late();
        proves_again(&lab, record.id, &line);
        let recovery = lab.restart();
        let outcome = recovery.recover(record.id).unwrap().unwrap();
        assert_eq!((outcome.end, outcome.record.host_key), (End::Orphaned, None));
        assert!(!lab.lets_in(&master_key()), "nothing was written on the strength of it");
        // Its key is taken away all the same, and the session closes once that has ended.
        assert!(!lab.holds(&record.temporary_key));
        lab.pass_the_end(&record);
        let closed = lab.recover_to(record.id, End::Failed).record.closed.unwrap();
        assert_eq!(closed.evidence, Evidence::RefusedAfterExpiry);
    }
}

#[test]
fn o4_a_recovery_that_undoes_uses_it_once_as_well() {
    // Dead before the first look at the proof: the recovery's is the first.
    let calls = calls(|lab| lab.hands(Paste::AtOnce));
    let read = calls.iter().position(reads_proof).unwrap();
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(sealing(&lab), &mut lab.hands(Paste::AtOnce), read - 1);
    assert!(record.sealed_proof_secret.is_some() && record.host_key.is_none());
    let recovery = lab.restart();
    let outcome = recovery.recover(record.id).unwrap().unwrap();
    assert_eq!(outcome.end, End::Failed, "{:?}", outcome.reason);
    let log = recovery.world.faults().log();
    let at = log.iter().position(reads_proof).unwrap();
    assert!(log[at + 1].kind == CallKind::StorePut && log[at + 1].subject.starts_with("session/"), "{}", log[at + 1]);
    assert_eq!(lab.tree(), lab.before);
}

#[test]
fn o4_where_no_proof_is_needed_the_secret_goes_with_the_first_write_after_the_judgement() {
    let lab = Lab::new(Home::Foreign);
    let adds = lab.call_that_adds();
    let mut request = sealing(&lab);
    request.host_key_check = HostKeyCheck::AcceptNew;
    let record = lab.crash(request, &mut lab.hands(Paste::AtOnce), adds - 1);
    assert_eq!((record.status, record.sealed_proof_secret), (Status::Committing, None));
}

#[test]
fn o4_the_proof_goes_from_the_host_with_the_session() {
    let lab = Lab::new(Home::Foreign);
    let hands = lab.hands(Paste::AtOnce);
    lab.onboard(lab.request(), &mut hands.clone()).unwrap().unwrap();
    assert!(lab.names().iter().all(|name| !name.contains("proof")));
    assert_eq!(secret(&hands.seen().command.as_ref().unwrap().line).len(), 62);
}
