//! The beginning of the audit log removed again and again, cut off in between or not: at every moment the log verifies.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use toehold::store_gc::AuditPlan;
use toehold_core::testing::{MemoryStore, block_on};
use toehold_core::{AuditEvent, AuditHead, AuditLog, AuditSink as _, StoreAudit, Timestamp};

const WRITERS: [&str; 3] = ["age1ops", "gateway", "pods"];
const DAY: Duration = Duration::from_hours(24);

#[derive(Clone, Debug)]
enum Step {
    /// A writer has something to say.
    Write(usize),
    /// Days go by.
    Wait(u32),
    /// Somebody removes what is older than so many days, and is stopped after so many entries.
    Prune { by: usize, days: u32, stopped_after: Option<usize> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..3).prop_map(Step::Write),
        2 => (1_u32..5).prop_map(Step::Wait),
        2 => (0_usize..3, 1_u32..6, prop::option::of(0_usize..4))
            .prop_map(|(by, days, stopped_after)| Step::Prune { by, days, stopped_after }),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn a_log_whose_beginning_goes_verifies_at_every_moment(steps in steps()) {
        let store = MemoryStore::new();
        // Some go on for ever, others are new each time.
        let lasting = WRITERS.map(|writer| StoreAudit::new(&store, writer));
        let mut now = Timestamp::from_unix_seconds(1_764_000_000);
        let mut seen: BTreeMap<String, AuditHead> = BTreeMap::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Write(writer) => {
                    let event = AuditEvent::new(now, "pods.started", number.to_string());
                    let fresh = StoreAudit::new(&store, WRITERS[*writer]);
                    let audit = if number % 2 == 0 { &lasting[*writer] } else { &fresh };
                    block_on(audit.record(event)).unwrap();
                }
                Step::Wait(days) => now = now.saturating_add(DAY * *days),
                Step::Prune { by, days, stopped_after } => {
                    let log = block_on(AuditLog::read(&store)).unwrap();
                    let limit = now.saturating_sub(DAY * *days);
                    let plan = AuditPlan::of(&log, &log.verify(&seen), limit);
                    let left = Cell::new(stopped_after.unwrap_or(usize::MAX));
                    let goes_on = || left.get() > 0 && { left.set(left.get() - 1); true };
                    let own = StoreAudit::new(&store, WRITERS[*by]);
                    let planned: usize = plan.entries.values().sum();
                    if !plan.is_empty() {
                        let removed = block_on(plan.carry_out(&store, &own, now, goes_on)).unwrap();
                        prop_assert_eq!(removed, planned.min(stopped_after.unwrap_or(usize::MAX)));
                    }
                    // Only what is old has gone, and no chain as a whole.
                    let after = block_on(AuditLog::read(&store)).unwrap();
                    for (writer, number, found) in log.places() {
                        let is_old = found.as_ref().unwrap().event.at < limit;
                        prop_assert!(is_old || after.find(writer, number).is_some(), "{} of {}", number, writer);
                    }
                    prop_assert!(log.writers().all(|writer| after.writers().any(|left| left == writer)));
                }
            }
            let report = block_on(AuditLog::read(&store)).unwrap().verify(&seen);
            prop_assert_eq!(&report.faults, &[], "after {:?}", step);
            seen = report.sound_heads();
        }
    }
}
