//! The tests of the crate, in one program, since each program links the same libraries again.

mod admission;
mod archive_hostile;
mod archive_known_answers;
mod choria_known_answers;
mod crash_at_every_call;
mod envelope_support;
mod events_known_answers;
mod journal;
mod matcher_known_answers;
mod matcher_properties;
mod matcher_unknown;
mod reconcile;
mod root_state;
mod simulated;
mod sums;
mod support;
