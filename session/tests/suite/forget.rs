//! Closing a session on the operator's word.

use crate::support;
use crate::support::{Home, Lab, Paste};
use toehold_core::testing::{Process, block_on};
use toehold_session::{End, Evidence, SessionError, Status};

#[test]
fn not_before_the_key_has_ended() {
    let lab = Lab::new(Home::Foreign);
    let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_adds());
    lab.world.fleet().switch_off(&lab.account);
    let error = block_on(lab.onboarder().forget(record.id)).unwrap_err();
    assert!(matches!(error, SessionError::TooEarly { expires_at, .. } if expires_at == record.expires_at), "{error}");
    assert_eq!(lab.session(), record);

    lab.pass_the_end(&record);
    let closed = block_on(lab.onboarder().forget(record.id)).unwrap();
    assert_eq!((closed.status, closed.closed.unwrap().evidence), (Status::Failed, Evidence::OperatorsWord));
    assert_eq!(lab.session(), closed);
    // Nothing was seen: should the host come back, the next session there sweeps the line.
    assert_eq!(lab.claim().unwrap().dead[0].public_key, record.temporary_key);
    assert!(matches!(block_on(lab.onboarder().forget(record.id)), Err(SessionError::Closed { .. })));
}

#[test]
fn the_process_that_still_works_on_it_lets_go() {
    let lab = Lab::new(Home::Foreign);
    lab.world.clock().set_auto_advance(false);
    let onboarder = lab.onboarder();
    let (master, mut rng, mut hands) = (support::master(), support::rng(1), lab.hands(Paste::Never));
    let mut process = Process::new(onboarder.onboard(lab.request(), &master, &mut rng, &mut hands));
    assert!(process.run().is_none());
    let record = lab.session();
    // Its clock stood still, as that of a machine that slept.
    let now = record.expires_at.saturating_add(lab.pace.clock_error);
    let later = support::Lab::new(Home::Foreign);
    later.world.clock().set(now);
    let mut forgetful = lab.onboarder();
    forgetful.timer = later.world.timer();
    block_on(forgetful.forget(record.id)).unwrap();
    lab.advance(2);
    let outcome = process.run().unwrap().unwrap();
    assert_eq!((outcome.end, outcome.reason.as_deref()), (End::LetGo, Some("somebody else has taken this session up")));
    assert_eq!(lab.session().closed.unwrap().evidence, Evidence::OperatorsWord);
}
