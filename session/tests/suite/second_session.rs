//! Two sessions for one account.

use crate::support;
use crate::support::{Home, Lab, Paste, master, master_key, rng};
use toehold_core::testing::join_all;
use toehold_session::{End, Evidence, Outcome, SessionError, Status};

fn onboard(lab: &Lab, seed: u8) -> Result<Outcome, SessionError> {
    let lab = lab.restart();
    let onboarder = lab.onboarder();
    let mut hands = lab.hands(Paste::AtOnce);
    lab.world.run(onboarder.onboard(lab.request(), &master(), &mut rng(seed), &mut hands)).unwrap()
}

#[test]
fn a_second_one_is_refused_while_the_first_is_under_way() {
    let lab = Lab::new(Home::Foreign);
    for call in [lab.call_that_adds() - 30, lab.call_that_adds()] {
        let lab = Lab::new(Home::Foreign);
        let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), call);
        assert!(matches!(first.status, Status::Active | Status::Committing));
        let before = lab.tree();
        let error = onboard(&lab, 2).unwrap_err();
        assert!(
            matches!(&error, SessionError::AlreadyOpen { id, account } if *id == first.id && *account == lab.account),
            "{error}"
        );
        assert_eq!(lab.tree(), before);
        assert_eq!(lab.sessions().len(), 1, "the second left no record");
    }
}

#[test]
fn an_orphaned_one_is_in_nobodys_way() {
    let lab = Lab::new(Home::Foreign);
    let adds = lab.call_that_adds();
    let first = lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), adds - 1);
    lab.recover_to(first.id, End::Orphaned);
    let second = onboard(&lab, 2).unwrap();
    assert_eq!(second.end, End::Completed, "{:?}", second.reason);
    assert_eq!(lab.recover_to(first.id, End::Failed).record.closed.unwrap().evidence, Evidence::SeenGone);
    assert!(lab.lets_in(&master_key()));
}

#[test]
fn of_two_that_begin_at_once_one_is_never_shown() {
    // Both look before either has claimed the account.
    let lab = Lab::new(Home::Foreign);
    let labs = [lab.restart(), lab.restart()];
    let (one, two) = (labs[0].onboarder(), labs[1].onboarder());
    for lab in &labs {
        lab.world.faults().take_turns(true);
    }
    let run = |lab, onboarder, seed| {
        let (lab, onboarder): (&Lab, &support::TestOnboarder) = (lab, onboarder);
        async move {
            let mut hands = lab.hands(Paste::AtOnce);
            let outcome = onboarder.onboard(lab.request(), &master(), &mut rng(seed), &mut hands).await.unwrap();
            let shown = hands.seen().command.is_some();
            (outcome, shown)
        }
    };
    let ended = lab.world.run(join_all(vec![run(&labs[0], &one, 1), run(&labs[1], &two, 2)])).unwrap();
    let (won, lost): (Vec<_>, Vec<_>) = ended.into_iter().partition(|(outcome, _)| outcome.end == End::Completed);
    assert_eq!((won.len(), lost.len()), (1, 1));
    let (lost, shown) = &lost[0];
    assert!(!shown);
    assert_eq!((lost.end, lost.record.closed.unwrap().evidence), (End::Failed, Evidence::NeverShown));
    assert!(lost.reason.as_ref().unwrap().contains("still open"), "{:?}", lost.reason);
    assert!(lab.lets_in(&master_key()));
    assert_eq!(lab.claim(), None);
}

#[test]
fn other_accounts_are_other_claims() {
    let lab = Lab::new(Home::Foreign);
    lab.crash(lab.request(), &mut lab.hands(Paste::AtOnce), lab.call_that_adds());
    for (seed, other) in (2..).zip(["root@web1.example.net", "deploy@web1.example.net:2222", "deploy@web2.example.net"]) {
        let other = Lab { account: support::account(other), ..lab.clone() };
        other.world.fleet().add_host(&other.account);
        let outcome = onboard(&other, seed).unwrap();
        assert_eq!(outcome.end, End::Completed, "{:?}", outcome.reason);
    }
}
