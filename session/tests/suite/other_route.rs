//! One account over two routes: an account names one host, and behind another jump host is another one.

use crate::support;
use crate::support::{Home, Lab, Paste, account, master, master_key, rng};
use toehold_core::testing::{CallKind, join_all};
use toehold_core::{Account, Route};
use toehold_session::{End, Evidence, Outcome, Request, SessionError};

const BASTION: &str = "ops@bastion.example.net";

/// A host that is reached by the lab's account through a jump host.
fn behind_the_bastion(lab: &Lab) -> (Route, Account) {
    let other = account("deploy@behind.example.net");
    lab.world.fleet().add_host(&other);
    lab.world.fleet().add_host(&account(BASTION));
    let route = Route { account: lab.account.clone(), jumps: vec![account(BASTION)] };
    lab.world.fleet().lead(&route, &other);
    (route, other)
}

fn request(route: &Route) -> Request {
    let mut request = Request::new(route.clone(), support::master_line());
    request.keys.push(support::colleague_line());
    request
}

/// Onboards over a route that leads to `at`.
fn onboard(lab: &Lab, route: &Route, at: &Account, seed: u8) -> Result<Outcome, SessionError> {
    let lab = lab.restart();
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::AtOnce);
    hands.account = at.clone();
    lab.world.run(onboarder.onboard(request(route), &master(), &mut rng(seed), &mut hands)).unwrap()
}

#[test]
fn o5_a_managed_account_is_not_added_over_another_route() {
    for managed_behind in [false, true] {
        let lab = Lab::new(Home::Foreign);
        let (behind, other) = behind_the_bastion(&lab);
        let mut ways = [(Route::direct(lab.account.clone()), lab.account.clone()), (behind, other)];
        if managed_behind {
            ways.reverse();
        }
        let [(first, at), (second, elsewhere)] = ways;
        let outcome = onboard(&lab, &first, &at, 1).unwrap();
        assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
        let entries = lab.world.memory().entries();
        let trees = [lab.world.fleet().tree(&at), lab.world.fleet().tree(&elsewhere)];

        let error = onboard(&lab, &second, &elsewhere, 2).unwrap_err();
        assert!(matches!(error, SessionError::ManagedElsewhere { .. }), "{error}");
        let text = error.to_string();
        let ways = [format!("is managed {}", first.way()), format!("cannot be added {}", second.way())];
        for words in ways.iter().map(String::as_str).chain(["host name of its own", "toehold host rm deploy@web1.example.net"]) {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
        // Nothing has happened anywhere.
        assert_eq!(lab.world.memory().entries(), entries);
        assert_eq!([lab.world.fleet().tree(&at), lab.world.fleet().tree(&elsewhere)], trees);
        // Over its own route it is added again as ever.
        assert_eq!(onboard(&lab, &first, &at, 3).unwrap().end, End::Completed);
    }
}

#[test]
fn o5_nor_while_a_session_over_another_route_is_open() {
    let lab = Lab::new(Home::Foreign);
    let (behind, other) = behind_the_bastion(&lab);
    let adds = lab.call_that_adds();
    let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), adds - 1);
    for orphaned in [false, true] {
        if orphaned {
            lab.recover_to(first.id, End::Orphaned);
        }
        let before = (lab.world.memory().entries(), lab.tree(), lab.world.fleet().tree(&other));
        let error = onboard(&lab, &behind, &other, 2).unwrap_err();
        assert!(matches!(&error, SessionError::OpenElsewhere { id, .. } if *id == first.id), "{error}");
        assert!(error.to_string().contains(&format!("is open directly, and another cannot begin through {BASTION}")), "{error}");
        assert_eq!((lab.world.memory().entries(), lab.tree(), lab.world.fleet().tree(&other)), before);
    }
    // Closed, it is in nobody's way; its dead line stays that host's, and remembered.
    lab.pass_the_end(&first);
    lab.recover_to(first.id, End::Failed);
    assert!(lab.holds(&first.temporary_key));
    assert_eq!(onboard(&lab, &behind, &other, 3).unwrap().end, End::Completed);
    assert!(lab.holds(&first.temporary_key));
    let claim = lab.claim().unwrap();
    assert_eq!(claim.dead.iter().map(|dead| dead.session).collect::<Vec<_>>(), [first.id]);
}

#[test]
fn an_orphan_that_lost_the_claim_keeps_other_routes_away_as_well() {
    let lab = Lab::new(Home::Foreign);
    let (behind, other) = behind_the_bastion(&lab);
    let adds = lab.call_that_adds();
    let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), adds - 1);
    lab.recover_to(first.id, End::Orphaned);
    // Another session takes the account over and fails: the claim goes with it.
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
    assert_eq!(onboard(&lab, &Route::direct(lab.account.clone()), &lab.account, 2).unwrap().end, End::Failed);
    assert_eq!(lab.claim(), None);
    let error = onboard(&lab, &behind, &other, 3).unwrap_err();
    assert!(matches!(&error, SessionError::OpenElsewhere { id, .. } if *id == first.id), "{error}");
}

#[test]
fn of_two_that_begin_at_once_over_two_routes_one_is_never_shown() {
    // Whoever looks first, and however far it is when the other one claims the account.
    let calls = Lab::new(Home::Foreign).call(Paste::AtOnce, |call| call.kind == CallKind::Close);
    let mut refused = [0, 0];
    for pause in (0..8).chain((8..calls + 12).step_by(7)) {
        let lab = Lab::new(Home::Foreign);
        let (behind, other) = behind_the_bastion(&lab);
        let slow = lab.restart();
        slow.world.faults().take_turns(true);
        let onboarder = slow.onboarder();
        let (master, mut rng, mut hands) = (master(), rng(1), slow.hands(Paste::AtOnce));
        hands.account = other.clone();
        let mut fast = None;
        let ended =
            support::watch::stepped(&slow.world, onboarder.onboard(request(&behind), &master, &mut rng, &mut hands), |calls| {
                if calls >= pause && fast.is_none() {
                    fast = Some(onboard(&lab, &Route::direct(lab.account.clone()), &lab.account, 2));
                }
            });
        let Some(fast) = fast else { continue };
        let completed = |ended: &Result<Outcome, SessionError>| matches!(ended, Ok(outcome) if outcome.end == End::Completed);
        let slow_end = ended.unwrap();
        assert_eq!(u32::from(completed(&slow_end)) + u32::from(completed(&fast)), 1, "{pause}: {slow_end:?}, {fast:?}");
        let (winner, loser) = if completed(&fast) { (lab.account.clone(), other) } else { (other, lab.account.clone()) };
        assert!(lab.world.fleet().would_log_in(&winner, &master_key(), toehold_core::Clock::now(lab.world.clock())), "{pause}");
        for entry in lab.world.fleet().tree(&loser) {
            assert!(!support::holds(&entry.content, &master_key()), "{pause}: {entry:?}");
        }
        let host = lab.host().unwrap();
        assert_eq!(host.route.jumps.is_empty(), winner == lab.account, "{pause}");
        let lost = if completed(&fast) { slow_end } else { fast };
        match lost {
            Err(error) => {
                refused[0] += 1;
                assert!(matches!(error, SessionError::ManagedElsewhere { .. } | SessionError::OpenElsewhere { .. }), "{error}");
            }
            Ok(lost) => {
                refused[1] += 1;
                assert_eq!((lost.end, lost.record.closed.unwrap().evidence), (End::Failed, Evidence::NeverShown), "{pause}");
                assert!(lost.reason.unwrap().contains("is managed directly"), "{pause}");
            }
        }
    }
    assert!(refused.into_iter().all(|count| count > 0), "{refused:?}");
}

#[test]
fn what_an_orphan_has_added_on_another_host_is_not_taken_over() {
    let lab = Lab::new(Home::Foreign);
    let (behind, other) = behind_the_bastion(&lab);
    let slow = lab.restart();
    slow.world.faults().take_turns(true);
    let onboarder = slow.onboarder();
    let (master, mut rng, mut hands) = (master(), rng(2), slow.hands(Paste::AtOnce));
    hands.account = other.clone();
    let mut orphan = None;
    let run = onboarder.onboard(request(&behind), &master, &mut rng, &mut hands);
    let ended = support::watch::stepped(&slow.world, run, |calls| {
        // It has looked, and found nothing in its way.
        if calls == lab.call_that_opens() && orphan.is_none() {
            let record = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_adds() - 1);
            lab.recover_to(record.id, End::Orphaned);
            orphan = Some(record);
        }
    });
    let (ended, orphan) = (ended.unwrap().unwrap(), orphan.unwrap());
    assert_eq!((ended.end, ended.record.closed.unwrap().evidence), (End::Failed, Evidence::NeverShown));
    assert!(ended.reason.unwrap().contains(&format!("session {} for {} is still open", orphan.id, lab.account)));
    assert_eq!(lab.claim().unwrap().session, orphan.id);
}

#[test]
fn of_two_that_look_at_the_same_moment_one_wins() {
    let lab = Lab::new(Home::Foreign);
    let (behind, other) = behind_the_bastion(&lab);
    let labs = [lab.restart(), lab.restart()];
    let onboarders = [labs[0].onboarder(), labs[1].onboarder()];
    for lab in &labs {
        lab.world.faults().take_turns(true);
    }
    let ways = [(Route::direct(lab.account.clone()), lab.account.clone()), (behind, other)];
    let run = |at: u8| {
        let (lab, onboarder, (route, host)) = (&labs[usize::from(at)], &onboarders[usize::from(at)], &ways[usize::from(at)]);
        async move {
            let mut hands = lab.hands(Paste::AtOnce);
            hands.account = host.clone();
            onboarder.onboard(request(route), &master(), &mut rng(at), &mut hands).await.unwrap()
        }
    };
    let ended = lab.world.run(join_all(vec![run(0), run(1)])).unwrap();
    let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(|outcome| outcome.end == End::Completed);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_eq!(lost[0].record.closed.unwrap().evidence, Evidence::NeverShown);
}
