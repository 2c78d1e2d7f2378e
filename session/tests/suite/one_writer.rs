//! Several processes at one account: whoever was overtaken, however late it wakes up, writes no managed line any more and takes
//! none away.

use std::future::Future;
use std::pin::Pin;

use crate::support;
use crate::support::watch::stepped;
use crate::support::{Hands, Home, Lab, Paste, Watch, colleague, master, master_key, rng};
use toehold_core::testing::{CallKind, Moment, Process, World};
use toehold_core::{Identity, SessionId};
use toehold_session::{End, HostKeyCheck, Outcome, Request, SessionError, SessionRecord};

type Ending = Result<Outcome, SessionError>;

/// One process: its own view of the world, and what it does there.
struct Actor {
    lab: Lab,
    hands: Hands,
    master: Identity,
    seed: u8,
    does: Does,
}

enum Does {
    Onboard(Box<Request>),
    Recover(SessionId),
}

impl Actor {
    fn onboards(lab: &Lab, seed: u8, request: Request) -> Self {
        let lab = lab.restart();
        Self { hands: lab.hands(Paste::AtOnce), lab, master: master(), seed, does: Does::Onboard(Box::new(request)) }
    }

    fn recovers(lab: &Lab, seed: u8, id: SessionId) -> Self {
        let lab = lab.restart();
        Self { hands: lab.hands(Paste::Never), lab, master: master(), seed, does: Does::Recover(id) }
    }

    fn start(&self) -> Pin<Box<dyn Future<Output = Ending> + '_>> {
        self.lab.world.faults().take_turns(true);
        Box::pin(async {
            let onboarder = self.lab.onboarder();
            let (mut rng, mut hands) = (rng(self.seed), self.hands.clone());
            match &self.does {
                Does::Onboard(request) => onboarder.onboard((**request).clone(), &self.master, &mut rng, &mut hands).await,
                Does::Recover(id) => onboarder.recover(*id, &self.master, &mut rng, &mut hands).await,
            }
        })
    }
}

/// Lets the first run up to its call `pause`, then the second to its end, then the first to its end.
fn overtake(lab: &Lab, watch: &mut Watch, slow: &Actor, pause: usize, fast: &Actor, when: &str) -> (Ending, Ending) {
    let mut slow_run = slow.start();
    let mut before = None;
    // One poll is one call.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while slow.lab.world.faults().calls() < pause && before.is_none() {
        if let std::task::Poll::Ready(ended) = slow_run.as_mut().poll(&mut context) {
            before = Some(ended);
        }
        watch.look(&|| format!("{when}, before it is overtaken"));
    }
    let ended = stepped(&fast.lab.world, fast.start(), |_| watch.look(&|| format!("{when}, overtaking")));
    let fast_end = ended.unwrap_or_else(|| panic!("{when}: the second stalls"));
    let slow_end = before.unwrap_or_else(|| {
        let world: &World = &lab.world;
        let mut process = Process::new(slow_run);
        world.faults().take_turns(true);
        process.run().unwrap_or_else(|| panic!("{when}: the first stalls"))
    });
    watch.look(&|| format!("{when}, overtaken"));
    (slow_end, fast_end)
}

/// Every session is led to its end, and then: whoever said that the host is managed was right.
fn settle(lab: &Lab, watch: &mut Watch, managed: bool, when: &str) {
    for _ in 0..2 {
        for record in lab.sessions().into_iter().filter(|session| session.status.is_open()) {
            lab.restart().recover(record.id).unwrap().unwrap();
            watch.look(&|| format!("{when}, settling"));
        }
        if let Some(open) = lab.sessions().into_iter().find(|session| session.status.is_open()) {
            lab.pass_the_end(&open);
        }
    }
    assert!(lab.sessions().iter().all(|session| !session.status.is_open()), "{when}: {:?}", lab.sessions());
    if managed {
        assert!(lab.lets_in(&master_key()), "{when}: said to be managed, and the master key cannot log in");
        assert!(lab.holds(&colleague()), "{when}");
    }
    watch.check_end(when);
}

fn completed(ending: &Ending) -> bool {
    matches!(ending, Ok(outcome) if outcome.end == End::Completed)
}

/// Calls of an undisturbed onboarding.
fn calls(home: Home) -> usize {
    Lab::new(home).call(Paste::AtOnce, |call| call.kind == CallKind::Close)
}

#[test]
fn holds_one_writer_anchored_when_a_recovery_overtakes_a_process_that_is_merely_slow() {
    for (home, seal) in [(Home::Foreign, false), (Home::Bare, true), (Home::Managed, true)] {
        for pause in Lab::new(home).call_that_opens() + 4..calls(home) {
            let when = format!("{home:?}, sealed: {seal}, overtaken before call {pause}");
            let lab = Lab::new(home);
            let mut watch = Watch::new(&lab);
            let mut request = lab.request();
            request.seal_temporary_key = seal;
            let slow = Actor::onboards(&lab, 1, request);
            // Which session that will be is known by its seed.
            let id = {
                let probe = Lab::new(home);
                probe.crash(probe.request(), &mut probe.hands(Paste::Never), probe.call_that_opens() + 2).id
            };
            let fast = Actor::recovers(&lab, 2, id);
            let (slow_end, fast_end) = overtake(&lab, &mut watch, &slow, pause, &fast, &when);
            if completed(&fast_end) {
                let end = slow_end.as_ref().unwrap().end;
                assert!(matches!(end, End::LetGo | End::Completed), "{when}: {end:?}");
            }
            settle(&lab, &mut watch, completed(&fast_end) || completed(&slow_end), &when);
        }
    }
}

#[test]
fn holds_one_writer_anchored_when_an_undoing_is_overtaken() {
    // The slow one cannot log in with the master key, so that it undoes what it has added; the recovery can.
    let undone = {
        let lab = Lab::new(Home::Foreign);
        refuse(&lab);
        lab.onboard(lab.request(), &mut lab.hands(Paste::AtOnce)).unwrap().unwrap();
        lab.world.faults().calls()
    };
    for pause in 40..undone {
        let when = format!("overtaken before call {pause}");
        let lab = Lab::new(Home::Foreign);
        refuse(&lab);
        let mut watch = Watch::new(&lab);
        let slow = Actor::onboards(&lab, 1, lab.request());
        let mut slow_run = slow.start();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while slow.lab.world.faults().calls() < pause {
            assert!(slow_run.as_mut().poll(&mut context).is_pending(), "{when}");
            watch.look(&|| when.clone());
        }
        allow(&lab);
        let id = lab.session().id;
        let recovered = lab.restart().recover(id);
        watch.look(&|| format!("{when}, recovered"));
        let slow_end = Process::new(slow_run).run().unwrap();
        watch.look(&|| format!("{when}, overtaken"));
        let managed = completed(&slow_end) || recovered.as_ref().is_some_and(completed);
        settle(&lab, &mut watch, managed, &when);
    }
}

fn refuse(lab: &Lab) {
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.push(master_key().fingerprint()));
}

fn allow(lab: &Lab) {
    lab.world.fleet().configure(&lab.account, |settings| settings.revoked.clear());
}

/// A session that is orphaned with lines on the host that it has added and nobody has proven.
fn orphaned_with_lines(lab: &Lab, watch: &mut Watch) -> SessionRecord {
    let first = Actor::onboards(lab, 1, lab.request());
    first.lab.world.faults().crash_at(lab.call_that_adds(), Moment::After);
    assert!(stepped(&first.lab.world, first.start(), |_| watch.look(&|| "the first".to_owned())).is_none());
    let record = lab.session();
    lab.world.fleet().switch_off(&lab.account);
    lab.recover_to(record.id, End::Orphaned);
    lab.world.fleet().switch_on(&lab.account);
    lab.advance(5);
    watch.look(&|| "orphaned".to_owned());
    lab.stored(record.id)
}

#[test]
fn holds_one_writer_anchored_a_later_session_keeps_the_lines_that_an_orphaned_one_has_added() {
    for cancelled in [false, true] {
        let lab = Lab::new(Home::Foreign);
        let mut watch = Watch::new(&lab);
        let first = orphaned_with_lines(&lab, &mut watch);
        if cancelled {
            toehold_core::testing::block_on(lab.restart().onboarder().mark_cancelled(first.id)).unwrap();
        }
        let actor = Actor::onboards(&lab, 7, lab.request());
        let second = stepped(&actor.lab.world, actor.start(), |_| watch.look(&|| "the second".to_owned())).unwrap().unwrap();
        assert_eq!(second.end, End::Completed, "{:?}", second.reason);
        // The undoing of the first takes its own temporary key away, and nothing that the second has.
        lab.recover_to(first.id, End::Failed);
        settle(&lab, &mut watch, true, "the first is undone");
    }
}

#[test]
fn as_it_was_a_later_session_that_fails_undoes_what_it_took_over() {
    let lab = Lab::new(Home::Foreign);
    let mut watch = Watch::new(&lab);
    let first = orphaned_with_lines(&lab, &mut watch);
    assert!(lab.holds(&master_key()));
    refuse(&lab);
    let actor = Actor::onboards(&lab, 7, lab.request());
    let second = lab.world.run(actor.start()).unwrap().unwrap();
    assert_eq!(second.end, End::Failed, "{:?}", second.reason);
    assert!(!lab.holds(&master_key()) && !lab.holds(&colleague()));
    // What is left is the first's temporary key, which is on the list.
    lab.pass_the_end(&first);
    lab.recover_to(first.id, End::Failed);
}

#[test]
fn a_later_session_takes_away_what_an_orphaned_one_has_added_and_it_does_not_want() {
    let lab = Lab::new(Home::Foreign);
    let mut watch = Watch::new(&lab);
    let first = orphaned_with_lines(&lab, &mut watch);
    let actor = Actor::onboards(&lab, 7, Request::new(lab.account.clone(), support::master_line()));
    let second = lab.world.run(actor.start()).unwrap().unwrap();
    assert_eq!(second.end, End::Completed, "{:?}", second.reason);
    assert!(!lab.holds(&colleague()), "a line that nobody answers for");
    assert!(lab.lets_in(&master_key()));
    lab.recover_to(first.id, End::Failed);
    assert!(lab.lets_in(&master_key()) && !lab.holds(&first.temporary_key));
}

#[test]
fn holds_one_writer_anchored_when_a_later_session_overtakes_the_recovery_of_an_orphaned_one() {
    let recovery = {
        let lab = Lab::new(Home::Foreign);
        let first = orphaned_with_lines(&lab, &mut Watch::new(&lab));
        let second = lab.restart();
        second.recover(first.id).unwrap().unwrap();
        second.world.faults().calls()
    };
    for cancelled in [false, true] {
        for pause in 0..recovery {
            let when = format!("cancelled: {cancelled}, overtaken before call {pause}");
            let lab = Lab::new(Home::Foreign);
            let mut watch = Watch::new(&lab);
            let first = orphaned_with_lines(&lab, &mut watch);
            if cancelled {
                toehold_core::testing::block_on(lab.restart().onboarder().mark_cancelled(first.id)).unwrap();
            }
            let slow = Actor::recovers(&lab, 2, first.id);
            let fast = Actor::onboards(&lab, 7, lab.request());
            let (slow_end, fast_end) = overtake(&lab, &mut watch, &slow, pause, &fast, &when);
            if let Err(error) = &fast_end {
                let refused = matches!(error, SessionError::AlreadyOpen { id, .. } if *id == first.id);
                assert!(refused, "{when}: {error}");
            }
            settle(&lab, &mut watch, completed(&fast_end) || completed(&slow_end), &when);
        }
    }
}

#[test]
fn holds_one_writer_two_names_of_one_host_do_not_take_each_others_lines_away() {
    // The same file under two accounts that nothing connects: each adds what it finds missing at that very moment.
    let calls = calls(Home::Foreign);
    for pause in (8..calls).step_by(2) {
        let when = format!("overtaken before call {pause}");
        let lab = Lab::new(Home::Foreign);
        let alias = Lab { account: support::account("deploy@192.0.2.7"), ..lab.clone() };
        lab.world.fleet().lead(&alias.account.clone().into(), &lab.account);
        let slow = Actor::onboards(&lab, 1, lab.request());
        let fast = {
            let mut actor = Actor::onboards(&lab, 7, alias.checked(HostKeyCheck::Proof));
            actor.hands.account = lab.account.clone();
            actor
        };
        let mut slow_run = slow.start();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while slow.lab.world.faults().calls() < pause {
            assert!(slow_run.as_mut().poll(&mut context).is_pending(), "{when}");
        }
        let fast_end = stepped(&fast.lab.world, fast.start(), |_| {}).unwrap().unwrap();
        let slow_end = Process::new(slow_run).run().unwrap().unwrap();
        assert_eq!(slow_end.end, End::Completed, "{when}: {:?}", slow_end.reason);
        if fast_end.end == End::Orphaned {
            // It came upon the slow one's lock, and its patience ended before that was gone.
            assert!(fast_end.reason.unwrap().contains("another Toehold"), "{when}");
            let recovered = lab.restart().recover(fast_end.record.id).unwrap().unwrap();
            assert!(matches!(recovered.end, End::Completed | End::Failed), "{when}: {:?}", recovered.reason);
        } else {
            assert_eq!(fast_end.end, End::Completed, "{when}: {:?}", fast_end.reason);
        }
        let file = lab.file();
        for key in [master_key(), colleague()] {
            let lines = file.split(|byte| *byte == b'\n').filter(|line| support::holds(line, &key)).count();
            assert_eq!(lines, 1, "{when}");
        }
    }
}
