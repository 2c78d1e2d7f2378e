//! What recovery makes of sessions that were left behind.

use crate::support;
use crate::support::{Home, Lab, Paste, colleague, master_key};
use toehold_core::testing::{CallKind, Fault, block_on};
use toehold_session::{End, Evidence, Status};

#[test]
fn seen_gone_with_a_master_key_that_works_it_is_led_to_its_end() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_adds());
    assert_eq!(record.status, Status::Committing);
    let outcome = lab.recover_to(record.id, End::Completed);
    assert_eq!(outcome.record.attempt, 1);
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone);
    assert!(lab.lets_in(&master_key()) && lab.holds(&colleague()) && !lab.holds(&record.temporary_key));
    assert_eq!(lab.names(), ["authorized_keys"]);
    assert_eq!(lab.host().unwrap().session, record.id);
}

#[test]
fn seen_gone_without_any_key_it_stays_on_the_list_until_the_temporary_one_has_ended() {
    let lab = Lab::new(Home::Foreign);
    let adds = lab.call_that_adds();
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), adds - 1);
    assert_eq!(record.status, Status::Committing);
    for _ in 0..3 {
        lab.recover_to(record.id, End::Orphaned);
        let open = block_on(lab.onboarder().open_sessions()).unwrap();
        assert_eq!(open.iter().map(|open| (open.id, open.status)).collect::<Vec<_>>(), [(record.id, Status::Orphaned)]);
    }
    lab.pass_the_end(&record);
    let outcome = lab.recover_to(record.id, End::Failed);
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::Refused);
    assert!(block_on(lab.onboarder().open_sessions()).unwrap().is_empty());
}

#[test]
fn a_sealed_key_leads_it_to_its_end_while_it_lives() {
    let lab = Lab::new(Home::Bare);
    let adds = lab.call_that_adds();
    let mut request = lab.request();
    request.seal_temporary_key = true;
    let record = lab.crash(request, &mut lab.hands(Paste::AtOnce), adds - 1);
    assert!(record.sealed_temporary_key.is_some());
    let outcome = lab.recover_to(record.id, End::Completed);
    assert_eq!(outcome.record.sealed_temporary_key, None, "it goes with the session");
    assert!(lab.lets_in(&master_key()) && !lab.holds(&record.temporary_key));
}

#[test]
fn as_it_was_a_sealed_key_undoes_what_had_not_begun_to_write() {
    for home in Home::ALL {
        let lab = Lab::new(home);
        let proof = lab.call(Paste::AtOnce, |call| call.subject.contains("toehold-proof"));
        let mut request = lab.request();
        request.seal_temporary_key = true;
        let record = lab.crash(request, &mut lab.hands(Paste::AtOnce), proof);
        assert_eq!(record.status, Status::Active);
        let outcome = lab.recover_to(record.id, End::Failed);
        assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone, "{home:?}");
        assert_eq!(lab.tree(), lab.before, "{home:?}");
    }
}

#[test]
fn a_seal_that_does_not_open_is_said_and_recovery_goes_on_without() {
    let lab = Lab::new(Home::Foreign);
    let mut request = lab.request();
    request.seal_temporary_key = true;
    let adds = lab.call_of(request.clone(), Paste::AtOnce, |call| call.kind == CallKind::Rename);
    let record = lab.crash(request, &mut lab.hands(Paste::AtOnce), adds);
    // Somebody swapped it for another session's.
    let key = toehold_session::SessionRecord::key(record.id).unwrap();
    let mut stored =
        block_on(toehold_core::Stored::<toehold_session::SessionRecord>::read(lab.world.memory(), &key)).unwrap().unwrap();
    let sealed = stored.body.sealed_temporary_key.as_mut().unwrap();
    *sealed = sealed.replacen(&record.id.to_string(), &support::turns::id('c').to_string(), 1);
    block_on(stored.save(lab.world.memory())).unwrap();

    let lab = lab.restart();
    let hands = lab.hands(Paste::Never);
    let onboarder = lab.onboarder();
    let recovery = onboarder.recover(record.id, &support::master(), &mut support::rng(2), &mut hands.clone()).await_in(&lab);
    assert_eq!(recovery.end, End::Completed);
    assert!(hands.warnings().iter().any(|text| text.contains("cannot be opened")), "{:?}", hands.warnings());
}

#[test]
fn anchored_one_refusal_of_the_master_key_is_not_the_end() {
    let lab = Lab::new(Home::Foreign);
    for crash in [lab.call_that_adds(), lab.call_that_settles()] {
        let lab = Lab::new(Home::Foreign);
        let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), crash);
        let second = lab.restart();
        let login = {
            let probe = Lab::new(Home::Foreign);
            let record = probe.crash(probe.request(), &mut probe.hands(Paste::AtOnce), crash);
            let probe = probe.restart();
            probe.recover(record.id).unwrap().unwrap();
            probe.world.faults().log().iter().find(|call| call.kind == CallKind::LogIn).unwrap().number
        };
        second.world.faults().fail_at(login, Fault::KeyRefused);
        let outcome = second.recover(record.id).unwrap().unwrap();
        assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
        assert!(lab.lets_in(&master_key()));
    }
}

#[test]
fn what_a_later_session_has_brought_in_is_only_tidied_up() {
    let lab = Lab::new(Home::Foreign);
    let proves = lab.call_that_proves();
    let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), proves);
    lab.world.fleet().switch_off(&lab.account);
    lab.recover_to(first.id, End::Orphaned);
    lab.world.fleet().switch_on(&lab.account);
    lab.advance(5);

    let second = lab.restart();
    let onboarder = second.onboarder();
    let mut request = second.request();
    request.label = Some("the shop".to_owned());
    let next =
        onboarder.onboard(request, &support::master(), &mut support::rng(7), &mut second.hands(Paste::AtOnce)).await_in(&second);
    assert_eq!(next.end, End::Completed, "{:?}", next.reason);
    assert!(lab.holds(&first.temporary_key), "the first is still on the list");

    let outcome = lab.recover_to(first.id, End::Failed);
    assert_eq!(outcome.record.closed.unwrap().evidence, Evidence::SeenGone);
    assert!(!lab.holds(&first.temporary_key) && lab.lets_in(&master_key()) && lab.holds(&colleague()));
    let host = lab.host().unwrap();
    assert_eq!((host.session, host.label.as_deref()), (next.record.id, Some("the shop")));
    assert_eq!(lab.names(), ["authorized_keys"]);
}

#[test]
fn a_host_that_is_off_stays_owed() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_adds());
    lab.world.fleet().switch_off(&lab.account);
    lab.pass_the_end(&record);
    let outcome = lab.recover_to(record.id, End::Orphaned);
    assert!(outcome.reason.unwrap().contains("cannot be reached"));
    lab.world.fleet().switch_on(&lab.account);
    lab.recover_to(record.id, End::Completed);
}

/// Runs a future in its world to its end.
trait AwaitIn {
    fn await_in(self, lab: &Lab) -> toehold_session::Outcome;
}

impl<F: Future<Output = Result<toehold_session::Outcome, toehold_session::SessionError>>> AwaitIn for F {
    fn await_in(self, lab: &Lab) -> toehold_session::Outcome {
        lab.world.run(self).unwrap().unwrap()
    }
}
