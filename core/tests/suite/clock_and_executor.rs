//! The clock that stands still, and running futures without a runtime.

use std::cell::RefCell;
use std::future::pending;
use std::time::Duration;

use toehold_core::testing::{ManualClock, Process, block_on, join_all, run_until_stalled, yield_now};
use toehold_core::{Clock as _, Timer as _, Timestamp};

fn after(clock: &ManualClock, seconds: u64) -> Timestamp {
    clock.now().saturating_add(Duration::from_secs(seconds))
}

#[test]
fn a_sleep_ends_when_its_time_has_come_and_not_before() {
    let clock = ManualClock::default();
    let mut sleep = Process::new(clock.sleep_until(after(&clock, 60)));
    assert_eq!(sleep.run(), None);
    clock.advance(Duration::from_secs(59));
    assert_eq!(sleep.run(), None);
    assert_eq!(clock.sleepers(), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(sleep.run(), Some(()));
    drop(sleep);
    assert_eq!(clock.sleepers(), 0);
}

#[test]
fn a_sleep_into_the_past_ends_at_once_and_the_clock_can_be_put_back() {
    let clock = ManualClock::default();
    let start = clock.now();
    assert_eq!(run_until_stalled(clock.sleep_until(start)), Some(()));
    clock.set(Timestamp::UNIX_EPOCH);
    assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
    assert_eq!(run_until_stalled(clock.sleep_until(start)), None);
}

#[test]
fn an_advance_wakes_a_sleeper_on_another_thread() {
    let clock = ManualClock::default();
    let deadline = after(&clock, 5);
    let sleeper = std::thread::spawn({
        let clock = clock.clone();
        move || block_on(clock.sleep_until(deadline))
    });
    while clock.sleepers() == 0 {
        std::thread::yield_now();
    }
    clock.set(deadline);
    sleeper.join().unwrap();
}

#[test]
fn auto_advance_ends_sleeps_in_the_order_of_their_deadlines() {
    let clock = ManualClock::default().auto_advance();
    let start = clock.now();
    let seen = RefCell::new(Vec::new());
    let poll = async |name: &str, every: u64, times: u64| {
        for _ in 0..times {
            clock.sleep_until(after(&clock, every)).await;
            seen.borrow_mut().push((clock.now().saturating_since(start).as_secs(), name.to_owned()));
        }
    };
    let both = join_all([poll("slow", 100, 2), poll("fast", 30, 7)]);
    run_until_stalled(both).unwrap();
    let times: Vec<u64> = seen.borrow().iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [30, 60, 90, 100, 120, 150, 180, 200, 210]);
}

#[test]
fn auto_advance_lets_everything_that_is_ready_run_first() {
    let clock = ManualClock::default().auto_advance();
    let start = clock.now();
    let steps = RefCell::new(0);
    // The one that gives up sleeps first and is polled first; the other has not waited for anything outside.
    let give_up = async {
        clock.sleep_until(after(&clock, 30)).await;
        assert_eq!(*steps.borrow(), 5);
    };
    let work = async {
        for _ in 0..5 {
            *steps.borrow_mut() += 1;
            assert_eq!(clock.now(), start);
        }
    };
    run_until_stalled(async {
        let (mut give_up, mut work) = (std::pin::pin!(give_up), std::pin::pin!(work));
        let mut worked = false;
        std::future::poll_fn(|context| {
            let done = give_up.as_mut().poll(context);
            worked = worked || work.as_mut().poll(context).is_ready();
            if worked { done } else { std::task::Poll::Pending }
        })
        .await;
    })
    .unwrap();
}

#[test]
fn a_sleep_that_nobody_polls_does_not_hold_up_the_others() {
    let clock = ManualClock::default();
    let mut forgotten = Process::new(clock.sleep_until(after(&clock, 10)));
    assert_eq!(forgotten.run(), None);
    clock.set_auto_advance(true);
    let deadline = after(&clock, 1_000);
    assert_eq!(run_until_stalled(clock.sleep_until(deadline)), Some(()));
    assert_eq!(clock.now(), deadline);
}

#[test]
fn what_waits_for_ever_is_seen_to_stall() {
    assert_eq!(run_until_stalled(async { 1 }), Some(1));
    assert_eq!(run_until_stalled(pending::<u8>()), None);
    assert_eq!(
        run_until_stalled(async {
            yield_now().await;
            yield_now().await;
            2
        }),
        Some(2)
    );
}

#[test]
fn joined_futures_keep_their_order_and_take_turns() {
    let trace = RefCell::new(String::new());
    let one = async |name: char, turns: usize| {
        for _ in 0..turns {
            trace.borrow_mut().push(name);
            yield_now().await;
        }
        name
    };
    let outputs = block_on(join_all([one('a', 3), one('b', 1), one('c', 2)]));
    assert_eq!(outputs, ['a', 'b', 'c']);
    assert_eq!(*trace.borrow(), "abcaca");
}
