//! The periodical renewal: none missed, none doubled, whatever dies or fails, and one that fails is not the last.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::testing::{Fault, Moment, Process, World, join_all, sample_public_key, yield_now};
use toehold_core::{Clock as _, Fingerprint, Key, Stored, Timer as _, Timestamp};
use toehold_masterkey::renewal::{
    PeriodicalRenewal, Renew, RenewalEvent, RenewalPace, RenewalSchedule, RenewalState, Termination,
};

const DAY: Duration = Duration::from_hours(24);

const PACE: RenewalPace = RenewalPace {
    interval: DAY,
    jitter: Duration::ZERO,
    lease: Duration::from_mins(10),
    retry: Duration::from_mins(1),
    longest_retry: Duration::from_mins(10),
};

fn key(number: usize) -> Fingerprint {
    sample_public_key("ssh-ed25519", &number.to_string()).fingerprint()
}

/// What a fleet remembers of its renewals.
#[derive(Clone, Debug, Default)]
struct Fleet(Arc<Mutex<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    /// When each renewal took place.
    renewals: Vec<Timestamp>,
    open: bool,
    /// How often renewing fails from now on.
    failing: u32,
    tries: u32,
}

/// A renewal that takes a while, in two steps.
#[derive(Debug)]
struct FakeRenewal {
    fleet: Fleet,
    world: World,
    takes: Duration,
}

impl Fleet {
    fn renewals(&self) -> Vec<Timestamp> {
        self.0.lock().unwrap().renewals.clone()
    }
}

impl Renew for FakeRenewal {
    type Error = std::io::Error;

    async fn state(&mut self) -> Result<RenewalState, Self::Error> {
        let memory = self.fleet.0.lock().unwrap();
        Ok(RenewalState { current: key(memory.renewals.len()), open: memory.open })
    }

    async fn renew(&mut self) -> Result<Fingerprint, Self::Error> {
        // One at a time, as a rotation's lock sees to; another process finishes what is open.
        let begun = {
            let mut memory = self.fleet.0.lock().unwrap();
            memory.tries += 1;
            if memory.failing > 0 {
                memory.failing -= 1;
                return Err(std::io::Error::other("a host does not answer"));
            }
            let count = memory.renewals.len();
            if std::mem::replace(&mut memory.open, true) {
                count - 1
            } else {
                memory.renewals.push(self.world.clock().now());
                count
            }
        };
        let timer = self.world.timer();
        timer.sleep_until(timer.now().saturating_add(self.takes)).await;
        self.fleet.0.lock().unwrap().open = false;
        Ok(key(begun + 1))
    }
}

/// Runs until `done`, from the events.
async fn run_until(
    world: &World,
    fleet: &Fleet,
    pace: RenewalPace,
    seed: u8,
    takes: Duration,
    mut done: impl FnMut(&RenewalEvent) -> bool + Send,
) -> Vec<String> {
    let renewal = PeriodicalRenewal::new(world.store(), world.timer(), "fleet", pace);
    let end = renewal.termination();
    let mut events = Vec::new();
    let mut fake = FakeRenewal { fleet: fleet.clone(), world: world.clone(), takes };
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    renewal
        .run(&mut fake, &mut rng, |event| {
            if done(&event) {
                end.terminate();
            }
            events.push(format!("{event:?}"));
        })
        .await;
    events
}

/// Ends after the renewal number `wanted` of those that this process hears of.
fn after(wanted: usize) -> impl FnMut(&RenewalEvent) -> bool + Send {
    let mut seen = 0;
    move |event| {
        seen += usize::from(matches!(event, RenewalEvent::Renewed { .. }));
        seen >= wanted
    }
}

fn schedule(world: &World) -> RenewalSchedule {
    let entries = world.memory().entries();
    let key = Key::parse("renewal/fleet").unwrap();
    Stored::decode(entries.iter().find(|entry| entry.key == key).unwrap()).unwrap().body
}

fn days(renewals: &[Timestamp], start: Timestamp) -> Vec<u64> {
    renewals.iter().map(|at| at.saturating_since(start).as_secs() / DAY.as_secs()).collect()
}

#[test]
fn it_renews_once_an_interval() {
    let (world, fleet) = (World::new(), Fleet::default());
    let start = world.clock().now();
    world.run(run_until(&world, &fleet, PACE, 1, Duration::ZERO, after(3))).unwrap();
    assert_eq!(days(&fleet.renewals(), start), [1, 2, 3]);
    let schedule = schedule(&world);
    assert_eq!(schedule.due_at, start.saturating_add(4 * DAY));
    assert_eq!(schedule.last.unwrap().key, key(3));
    assert!(schedule.claim.is_none() && schedule.from.is_none());
}

#[test]
fn jitter_brings_a_renewal_forward_and_never_puts_it_off() {
    let pace = RenewalPace { jitter: Duration::from_hours(6), ..PACE };
    let mut gaps = Vec::new();
    for seed in 0..8 {
        let (world, fleet) = (World::new(), Fleet::default());
        let mut last = world.clock().now();
        world.run(run_until(&world, &fleet, pace, seed, Duration::ZERO, after(4))).unwrap();
        for at in fleet.renewals() {
            gaps.push(at.saturating_since(last));
            last = at;
        }
    }
    assert!(gaps.iter().all(|gap| *gap <= DAY && *gap + pace.jitter >= DAY), "{gaps:?}");
    let spread = gaps.iter().max().unwrap().saturating_sub(*gaps.iter().min().unwrap());
    assert!(spread > pace.jitter / 2, "{spread:?}");
}

#[test]
fn no_renewal_is_missed_or_doubled_over_a_restart() {
    let (world, fleet) = (World::new(), Fleet::default());
    let start = world.clock().now();
    // Every process lives for seven hours, and waits all that time.
    for _ in 0..12 {
        let world = world.restart();
        world.clock().set_auto_advance(false);
        let mut process = Process::new(run_until(&world, &fleet, PACE, 1, Duration::ZERO, |_| false));
        for _ in 0..7 {
            assert!(process.run().is_none());
            world.clock().advance(Duration::from_hours(1));
        }
    }
    assert_eq!(days(&fleet.renewals(), start), [1, 2, 3]);
}

#[test]
fn three_intervals_away_are_one_renewal() {
    let (world, fleet) = (World::new(), Fleet::default());
    world.run(run_until(&world, &fleet, PACE, 1, Duration::ZERO, |_| true)).unwrap();
    world.clock().advance(7 * DAY / 2);
    let back = world.clock().now();
    let restarted = world.restart();
    restarted.run(run_until(&restarted, &fleet, PACE, 2, Duration::ZERO, after(2))).unwrap();
    assert_eq!(fleet.renewals(), [back, back.saturating_add(DAY)]);
}

#[test]
fn a_failed_renewal_is_reported_and_tried_again_later_each_time() {
    let (world, fleet) = (World::new(), Fleet::default());
    fleet.0.lock().unwrap().failing = 6;
    let start = world.clock().now();
    let mut retries = Vec::new();
    let mut until = after(2);
    let events = world
        .run(run_until(&world, &fleet, PACE, 1, Duration::ZERO, |event| {
            if let RenewalEvent::Failed { retry_at, reason } = event {
                assert_eq!(reason, "a host does not answer");
                retries.push(*retry_at);
            }
            until(event)
        }))
        .unwrap();
    let due = start.saturating_add(DAY);
    let minutes: Vec<u64> = retries.iter().map(|at| at.saturating_since(due).as_secs() / 60).collect();
    assert_eq!(minutes, [1, 3, 7, 15, 25, 35], "{events:?}");
    let renewed = due.saturating_add(Duration::from_mins(35));
    assert_eq!(fleet.renewals(), [renewed, renewed.saturating_add(DAY)]);
    assert_eq!(schedule(&world).failures, 0);
}

#[test]
fn a_store_that_fails_does_not_end_it() {
    let (good, good_fleet) = (World::new(), Fleet::default());
    good.run(run_until(&good, &good_fleet, PACE, 1, Duration::from_mins(20), after(2))).unwrap();
    let log = good.faults().log();
    // The first day is 24 looks at the schedule, all alike.
    let interesting = log.iter().filter(|call| call.number < 3 || call.number > 20);
    for (call, fault) in interesting.flat_map(|call| call.kind.faults().iter().map(move |fault| (call, *fault))) {
        if fault == Fault::Hang {
            continue;
        }
        let (world, fleet) = (World::new(), Fleet::default());
        world.faults().fail_at(call.number, fault);
        let events = world.run(run_until(&world, &fleet, PACE, 1, Duration::from_mins(20), after(2)));
        let events = events.unwrap_or_else(|| panic!("{fault:?} at {call}: it stalls"));
        assert_eq!(fleet.renewals().len(), 2, "{fault:?} at {call}: {events:#?}");
        assert!(fleet.0.lock().unwrap().tries <= 3, "{fault:?} at {call}: {events:#?}");
    }
}

#[test]
fn a_process_that_dies_at_any_call_is_followed_by_one_that_renews_what_is_due_and_nothing_else() {
    let (good, good_fleet) = (World::new(), Fleet::default());
    good.run(run_until(&good, &good_fleet, PACE, 1, Duration::from_mins(20), after(2))).unwrap();
    for call in good.faults().log() {
        for moment in [Moment::Before, Moment::After] {
            let (world, fleet) = (World::new(), Fleet::default());
            let start = world.clock().now();
            world.faults().crash_at(call.number, moment);
            assert!(world.run(run_until(&world, &fleet, PACE, 1, Duration::from_mins(20), after(2))).is_none());
            // The next one comes an hour later.
            world.clock().advance(Duration::from_hours(1));
            let next = world.restart();
            let due = start.saturating_add(9 * DAY / 2);
            next.run(run_until(
                &next,
                &fleet,
                PACE,
                2,
                Duration::from_mins(20),
                |event| matches!(event, RenewalEvent::Waiting { until } if *until > due),
            ))
            .unwrap();
            let renewals = fleet.renewals();
            assert_eq!(renewals.len(), 4, "{moment:?} {call}: {renewals:?}");
            for pair in renewals.windows(2) {
                let gap = pair[1].saturating_since(pair[0]);
                assert!(gap >= DAY && gap <= DAY + Duration::from_hours(3), "{moment:?} {call}: {gap:?}");
            }
        }
    }
}

#[test]
fn of_two_processes_one_renews() {
    for takes in [Duration::ZERO, Duration::from_mins(5), Duration::from_hours(2)] {
        let (world, fleet) = (World::new(), Fleet::default());
        let (one, other) = (world.restart(), world.restart());
        one.faults().take_turns(true);
        other.faults().take_turns(true);
        let start = world.clock().now();
        let done = start.saturating_add(7 * DAY / 2);
        let until = |event: &RenewalEvent| matches!(event, RenewalEvent::Waiting { until } if *until > done);
        world
            .run(join_all([run_until(&one, &fleet, PACE, 1, takes, until), run_until(&other, &fleet, PACE, 2, takes, until)]))
            .unwrap();
        assert_eq!(days(&fleet.renewals(), start), [1, 2, 3], "{takes:?}");
    }
}

#[test]
fn while_one_process_renews_the_others_do_not_even_try() {
    for takes in [Duration::from_mins(5), Duration::from_hours(2)] {
        let (world, fleet) = (World::new(), Fleet::default());
        world.clock().set_auto_advance(false);
        let start = world.clock().now();
        let worlds = [world.restart(), world.restart(), world.restart()];
        let run = |(seed, world)| Process::new(run_until(world, &fleet, PACE, seed, takes, |_| false));
        let mut processes: Vec<_> = (1..).zip(&worlds).map(run).collect();
        for minute in 0..7 * 24 * 60 / 2 {
            // The others come first as often as the one that has begun.
            processes.rotate_left(minute % 3);
            for process in &mut processes {
                assert!(process.run().is_none());
            }
            world.clock().advance(Duration::from_mins(1));
        }
        assert_eq!(days(&fleet.renewals(), start), [1, 2, 3], "{takes:?}");
        assert_eq!(fleet.0.lock().unwrap().tries, 3, "{takes:?}");
    }
}

#[test]
fn termination_cuts_a_wait_short_and_leads_a_renewal_to_its_end() {
    let (world, fleet) = (World::new(), Fleet::default());
    world.clock().set_auto_advance(false);
    let renewal = PeriodicalRenewal::new(world.store(), world.timer(), "fleet", PACE);
    let mut fake = FakeRenewal { fleet: fleet.clone(), world: world.clone(), takes: Duration::from_mins(5) };
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut process = Process::new(renewal.run(&mut fake, &mut rng, |_| {}));
    assert!(process.run().is_none());
    renewal.terminate();
    assert!(process.run().is_some(), "it waits on");

    let renewal = PeriodicalRenewal::new(world.store(), world.timer(), "fleet", PACE);
    let mut fake = FakeRenewal { fleet: fleet.clone(), world: world.clone(), takes: Duration::from_mins(5) };
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let mut process = Process::new(renewal.run(&mut fake, &mut rng, |_| {}));
    assert!(process.run().is_none());
    world.clock().advance(DAY);
    assert!(process.run().is_none() && fleet.0.lock().unwrap().open);
    renewal.terminate();
    assert!(process.run().is_none() && fleet.0.lock().unwrap().open, "it was cut off");
    world.clock().advance(Duration::from_mins(5));
    assert!(process.run().is_some() && !fleet.0.lock().unwrap().open);
    assert_eq!(schedule(&world).last.unwrap().key, key(1));
}

#[test]
fn a_shorter_interval_counts_at_once_and_a_longer_one_from_the_next_renewal_on() {
    let (world, fleet) = (World::new(), Fleet::default());
    let start = world.clock().now();
    let waiting = |event: &RenewalEvent| matches!(event, RenewalEvent::Waiting { .. });
    world.run(run_until(&world, &fleet, PACE, 1, Duration::ZERO, waiting)).unwrap();
    let with = |hours| RenewalPace { interval: Duration::from_hours(hours), ..PACE };
    world.run(run_until(&world, &fleet, with(6), 1, Duration::ZERO, waiting)).unwrap();
    assert_eq!(schedule(&world).due_at, start.saturating_add(Duration::from_hours(6)));
    world.run(run_until(&world, &fleet, with(48), 1, Duration::ZERO, after(1))).unwrap();
    assert_eq!(fleet.renewals(), [start.saturating_add(Duration::from_hours(6))]);
    assert_eq!(schedule(&world).due_at, start.saturating_add(Duration::from_hours(54)));
}

#[test]
fn it_can_be_terminated_from_elsewhere_and_beforehand() {
    let (world, fleet) = (World::new(), Fleet::default());
    let renewal = PeriodicalRenewal::new(world.store(), world.timer(), "fleet", PACE);
    let end: Termination = renewal.termination();
    end.terminate();
    assert!(end.is_terminated());
    let mut fake = FakeRenewal { fleet, world: world.clone(), takes: Duration::ZERO };
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    world.run(async {
        yield_now().await;
        renewal.run(&mut fake, &mut rng, |_| panic!("nothing is to be done")).await;
    });
    assert!(world.memory().entries().is_empty());
}
