//! Random schedules: failures at any calls, crashes, operators after one another, hosts that go and come, clocks that are wrong.

use crate::support::{Lab, Watch, rng, taking_over, watched};
use proptest::prelude::*;
use toehold_core::testing::{Fault, Moment};
use toehold_core::{OnUnreachable, RotationPhase};
use toehold_masterkey::NoObserver;

#[derive(Clone, Debug)]
enum Turn {
    Resume,
    RollBack,
    TimePasses(u16),
    SwitchOff(usize),
    SwitchOn(usize),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => Just(Turn::Resume),
        2 => Just(Turn::RollBack),
        1 => any::<u16>().prop_map(Turn::TimePasses),
        1 => any::<usize>().prop_map(Turn::SwitchOff),
        1 => any::<usize>().prop_map(Turn::SwitchOn),
    ]
}

const FAULTS: [Fault; 9] = [
    Fault::Conflict,
    Fault::Denied,
    Fault::Hang,
    Fault::KeyRefused,
    Fault::LostAfter,
    Fault::LostBefore,
    Fault::ServerError,
    Fault::UnavailableAfter,
    Fault::Unreachable,
];

type Trouble = (Vec<(usize, usize)>, Option<(usize, usize)>);

fn trouble() -> impl Strategy<Value = Trouble> {
    let failures = prop::collection::vec((0..160_usize, 0..FAULTS.len()), 0..4);
    (failures, prop::option::weighted(0.6, (0..200_usize, 0..3_usize)))
}

fn plan(lab: &Lab, (failures, crash): &Trouble) {
    for (call, fault) in failures {
        lab.world.faults().fail_at(*call, FAULTS[*fault]);
    }
    if let Some((call, moment)) = crash {
        lab.world.faults().crash_at(*call, [Moment::Before, Moment::After, Moment::Late][*moment]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn holds_never_locked_out_exactly_one_key_proven_current_foreign_bytes_on_random_schedules(
        hosts in 1..4_usize,
        grace in prop_oneof![Just(0_u64), 1..4000_u64],
        defer in any::<bool>(),
        skews in prop::collection::vec(-100_000..100_000_i64, 3),
        first in trouble(),
        turns in prop::collection::vec((turn(), trouble()), 0..5),
    ) {
        let mut lab = Lab::new(hosts);
        lab.pace.wait_for_grace = false;
        for (account, skew) in lab.accounts.iter().zip(&skews) {
            lab.world.fleet().configure(account, |settings| settings.clock_skew = *skew);
        }
        let mut watch = Watch::new(&lab);
        let mut request = lab.request();
        request.policy.grace = grace;
        request.policy.on_unreachable = if defer { OnUnreachable::Defer } else { OnUnreachable::Abort };
        plan(&lab, &first);
        let rotator = lab.rotator();
        drop(watched(&lab.world, &mut watch, rotator.rotate(request, &mut rng(1), &NoObserver)));
        for (number, (turn, trouble)) in turns.iter().enumerate() {
            let next = lab.restart();
            plan(&next, trouble);
            let rotator = next.rotator();
            let mut rng = rng(20 + u8::try_from(number).unwrap());
            match turn {
                Turn::Resume => drop(watched(&next.world, &mut watch, rotator.resume(taking_over(), &mut rng, &NoObserver))),
                Turn::RollBack => {
                    drop(watched(&next.world, &mut watch, rotator.roll_back(taking_over(), &mut rng, &NoObserver)));
                }
                Turn::TimePasses(seconds) => lab.advance(u64::from(*seconds)),
                Turn::SwitchOff(host) => lab.world.fleet().switch_off(&lab.accounts[host % hosts]),
                Turn::SwitchOn(host) => lab.world.fleet().switch_on(&lab.accounts[host % hosts]),
            }
            watch.look(&|| format!("after {turn:?}"));
        }
        // Then all goes well.
        lab.world.fleet().deliver_late();
        watch.look(&|| "delivered late".to_owned());
        for account in &lab.accounts {
            lab.world.fleet().switch_on(account);
        }
        for number in 0..4 {
            if lab.rotation().is_none_or(|rotation| rotation.phase.is_closed()) {
                break;
            }
            lab.advance(grace + 700);
            let next = lab.restart();
            let rotator = next.rotator();
            let mut rng = rng(100 + number);
            let ended = watched(&next.world, &mut watch, rotator.resume(taking_over(), &mut rng, &NoObserver));
            ended.expect("a good run stalls").unwrap();
        }
        let next = lab.restart();
        let healer = next.rotator();
        let healed = watched(&next.world, &mut watch, healer.settle(&mut rng(150), &NoObserver)).unwrap();
        let Some(rotation) = lab.rotation() else {
            prop_assert_eq!(lab.current(), lab.first.clone());
            return Ok(());
        };
        prop_assert!(rotation.phase.is_closed(), "{:?}", rotation);
        let healed = healed.unwrap();
        prop_assert!(healed.hosts.iter().all(|host| host.reason.is_none()), "{:?}", healed.hosts);
        let key = if rotation.phase == RotationPhase::Done { &rotation.new } else { &rotation.old };
        lab.assert_settled_on(key, "in the end");
    }
}
