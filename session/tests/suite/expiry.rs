//! The end of the temporary key, the reaper, and what is swept later.

use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

use crate::support;
use crate::support::{Home, Lab, Paste, master, master_key, rng};
use toehold_core::Clock as _;
use toehold_core::testing::CallKind;
use toehold_session::{End, Evidence, HostKeyCheck, SessionRecord, Status};

/// A session whose process died while it waited for the paste, which came.
fn abandoned(lab: &Lab) -> SessionRecord {
    let knocks = lab.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
    lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), knocks)
}

/// Ends once `done` says so.
async fn until(done: impl Fn() -> bool) {
    poll_fn(|_| if done() { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[test]
fn seen_gone_the_reaper_closes_what_nobody_works_on_once_the_key_has_ended() {
    let lab = Lab::new(Home::Foreign);
    let record = abandoned(&lab);
    let lab = lab.restart();
    let rounds = Mutex::new(Vec::new());
    let begun = lab.world.clock().now();
    let stop = until(|| !lab.sessions().iter().any(|session| session.status.is_open()));
    let report = |round: Result<Vec<_>, _>| rounds.lock().unwrap().push((lab.world.clock().now(), round.unwrap()));
    let onboarder = lab.onboarder();
    let (interval, mut hands) = (Duration::from_mins(5), lab.hands(Paste::Never));
    lab.world.run(onboarder.reap(&master(), &mut rng(2), &mut hands, interval, |_| true, stop, report)).unwrap();
    drop(onboarder);

    let rounds = rounds.into_inner().unwrap();
    // Taken up when the key has ended, and again while nothing can be seen yet because of the clock error.
    assert_eq!(rounds.first().map(|(at, _)| *at), Some(begun));
    for (at, round) in &rounds {
        assert_eq!(round.len(), usize::from(*at >= record.expires_at), "{at}: {round:?}");
    }
    let closed = lab.session().closed.unwrap();
    assert_eq!((lab.session().status, closed.evidence), (Status::Failed, Evidence::RefusedAfterExpiry));
    assert!(closed.at >= record.expires_at.saturating_add(lab.pace.clock_error), "{:?}", closed.at);
    assert!(rounds.len() >= 7, "{}", rounds.len());
    assert!(!lab.lets_in(&record.temporary_key));
}

#[test]
fn the_reaper_stops_when_it_is_told_to_while_it_sleeps() {
    let lab = Lab::new(Home::Foreign);
    lab.world.clock().set_auto_advance(false);
    let stopped = Mutex::new(false);
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::Never);
    let mut rng = rng(2);
    let master = master();
    let stop = until(|| *stopped.lock().unwrap());
    let reap = onboarder.reap(
        &master,
        &mut rng,
        &mut hands,
        Duration::from_mins(5),
        |_| true,
        stop,
        |round| {
            assert!(round.unwrap().is_empty());
        },
    );
    let mut process = toehold_core::testing::Process::new(reap);
    assert!(process.run().is_none());
    *stopped.lock().unwrap() = true;
    assert!(process.run().is_some());
}

#[test]
fn the_reaper_leaves_alone_what_somebody_works_on_and_survives_a_store_that_is_away() {
    let lab = Lab::new(Home::Foreign);
    let record = abandoned(&lab);
    let lab = lab.restart();
    lab.world.faults().fail_at(0, toehold_core::testing::Fault::UnavailableBefore);
    let rounds = Mutex::new(Vec::new());
    let stop = until(|| rounds.lock().unwrap().len() == 3);
    let onboarder = lab.onboarder();
    let (interval, mut hands) = (Duration::from_hours(1), lab.hands(Paste::Never));
    let report = |round: Result<Vec<_>, _>| rounds.lock().unwrap().push(round.map(|round| round.len()));
    lab.world.run(onboarder.reap(&master(), &mut rng(2), &mut hands, interval, |_| false, stop, report)).unwrap();
    assert!(rounds.lock().unwrap()[0].is_err());
    assert!(rounds.lock().unwrap()[1..].iter().all(|round| matches!(round, Ok(0))));
    assert_eq!(lab.session(), record);
}

#[test]
fn clean_up_takes_the_expired_sessions_and_no_others() {
    let first = Lab::new(Home::Foreign);
    let old = abandoned(&first);
    first.advance(1000);
    let second = Lab { account: support::account("deploy@web2.example.net"), ..first.clone() };
    second.world.fleet().add_host(&second.account);
    let knocks = first.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
    let lab = second.restart();
    lab.world.faults().crash_at(knocks, toehold_core::testing::Moment::After);
    let onboarder = lab.onboarder();
    assert!(lab.world.run(onboarder.onboard(lab.request(), &master(), &mut rng(9), &mut lab.hands(Paste::AtOnce))).is_none());
    first.pass_the_end(&old);

    let lab = first.restart();
    let onboarder = lab.onboarder();
    let cleaned = lab
        .world
        .run(onboarder.clean_up_expired(&master(), &mut rng(2), &mut lab.hands(Paste::Never), |_| true))
        .unwrap()
        .unwrap();
    assert_eq!(cleaned.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [old.id]);
    assert_eq!(first.stored(old.id).status, Status::Failed);
    assert_eq!(first.sessions().iter().filter(|session| session.status == Status::Active).count(), 1);
}

#[test]
fn a_command_that_nobody_runs_ends_the_wait_in_time_and_the_session_with_the_key() {
    let lab = Lab::new(Home::Foreign);
    let outcome = lab.onboard(lab.request(), &mut lab.hands(Paste::Never)).unwrap().unwrap();
    assert_eq!((outcome.end, outcome.reason.as_deref()), (End::Orphaned, Some("the command was not run in time")));
    let left = outcome.record.expires_at.saturating_since(lab.world.clock().now());
    assert!(left <= lab.pace.margin && left > Duration::from_secs(50), "{left:?}");
    assert_eq!(lab.tree(), lab.before);
    // Somebody may still run it; only after its end is it known to bring nothing.
    lab.recover_to(outcome.record.id, End::Orphaned);
    lab.pass_the_end(&outcome.record);
    let closed = lab.recover_to(outcome.record.id, End::Failed).record.closed.unwrap();
    assert_eq!(closed.evidence, Evidence::RefusedAfterExpiry);
    assert_eq!(lab.tree(), lab.before);
}

/// `PerSourcePenalties` of `sshd_config(5)`: 5 s for each failed login, and whoever has 15 s to serve is shut out.
#[test]
fn waiting_for_the_paste_shuts_nobody_out() {
    let lab = Lab::new(Home::Foreign);
    let onboarder = lab.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(1), lab.hands(Paste::Never));
    let mut times = Vec::new();
    let run = onboarder.onboard(lab.request(), &master, &mut rng, &mut hands);
    let outcome = support::watch::stepped(&lab.world, run, |_| {
        let knocks = lab.world.faults().log().iter().filter(|call| call.kind == CallKind::LogIn).count();
        if knocks > times.len() {
            times.push(lab.world.clock().now().unix_seconds());
        }
    });
    assert_eq!(outcome.unwrap().unwrap().end, End::Orphaned);
    let gaps: Vec<i64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(gaps[..4], [2, 4, 6, 6]);
    assert!((250..=320).contains(&times.len()), "{}", times.len());
    let mut served = 0;
    for (gap, time) in std::iter::once(&0).chain(&gaps).zip(&times) {
        served = (served - gap).max(0) + 5;
        // The operator may fail once besides.
        assert!(served + 5 < 15, "{served} s to serve at {time}");
    }
}

#[test]
fn seen_gone_a_key_without_expiry_never_ends_by_the_word_of_an_unproven_host() {
    let lab = Lab::new(Home::Foreign);
    let mut request = lab.request();
    request.without_expiry = true;
    let knocks = lab.call(Paste::AtOnce, |call| call.kind == CallKind::LogIn);
    let record = lab.crash(request, &mut lab.hands(Paste::AtOnce), knocks);
    lab.pass_the_end(&record);
    assert!(lab.lets_in(&record.temporary_key));
    lab.recover_to(record.id, End::Orphaned);
    // Somebody else answers there, and refuses everything.
    let other = support::account("deploy@elsewhere.example.net");
    lab.world.fleet().add_host(&other);
    lab.world.fleet().lead(&lab.account.clone().into(), &other);
    lab.recover_to(record.id, End::Orphaned);
    assert!(lab.session().status.is_open());
}

#[test]
fn a_dead_line_is_remembered_and_swept_by_the_next_session() {
    let lab = Lab::new(Home::Foreign);
    let record = abandoned(&lab);
    lab.pass_the_end(&record);
    let closed = lab.recover_to(record.id, End::Failed).record.closed.unwrap();
    assert_eq!(closed.evidence, Evidence::RefusedAfterExpiry);
    assert!(lab.holds(&record.temporary_key), "nobody could take it away");
    let claim = lab.claim().unwrap();
    assert_eq!(claim.dead.iter().map(|dead| dead.session).collect::<Vec<_>>(), [record.id]);

    let lab2 = lab.restart();
    let onboarder = lab2.onboarder();
    let next = lab2
        .world
        .run(onboarder.onboard(lab2.request(), &master(), &mut rng(7), &mut lab2.hands(Paste::AtOnce)))
        .unwrap()
        .unwrap();
    assert_eq!(next.end, End::Completed, "{:?}", next.reason);
    assert!(!lab.holds(&record.temporary_key) && !lab.holds(&next.record.temporary_key));
    assert_eq!(lab.names(), ["authorized_keys"]);
    assert_eq!(lab.claim(), None);
    assert!(lab.lets_in(&master_key()));
}

#[test]
fn on_a_host_for_whose_clock_the_end_has_come_the_command_does_nothing_and_the_session_waits_for_the_end() {
    let lab = Lab::new(Home::Foreign);
    lab.world.fleet().configure(&lab.account, |settings| settings.clock_skew = 1900);
    let outcome = lab.onboard(lab.checked(HostKeyCheck::AcceptNew), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
    assert_eq!(outcome.end, End::Orphaned, "{:?}", outcome.reason);
    assert!(lab.world.fleet().logins(&lab.account).is_empty());
    lab.pass_the_end(&outcome.record);
    lab.recover_to(outcome.record.id, End::Failed);
}
