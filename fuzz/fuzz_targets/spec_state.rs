//! A root's state and its journal, with sums that are right: no panic, a state is read as it was written, and a journal changes only
//! what it may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_specsign::{RootState, Sha256Digest};

fn copy(body: &[u8]) -> Vec<u8> {
    [format!("toehold-root-state 1 {} {}\n", Sha256Digest::of(body), body.len()).as_bytes(), body].concat()
}

fuzz_target!(|bytes: &[u8]| {
    // The first line is the body of a copy, the others are the objects of a journal.
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let body = lines.next().unwrap_or_default();
    let Ok(Some(loaded)) = RootState::load(Some(&copy(body)), None, false) else { return };
    let written = loaded.state.encode().expect("a state can be written");
    let again = RootState::load(Some(&written), Some(&written), false).expect("and read").expect("and is there");
    assert_eq!((&again.state, again.repair.len()), (&loaded.state, 0));
    let mut journal = Vec::new();
    for line in lines {
        journal.extend_from_slice(format!("{} ", Sha256Digest::of(line)).as_bytes());
        journal.extend_from_slice(line);
        journal.push(b'\n');
    }
    let mut replayed = loaded.state.clone();
    if replayed.replay(&journal).is_ok() {
        assert_eq!((replayed.serial, &replayed.name), (loaded.state.serial, &loaded.state.name), "only machines change");
        assert_eq!((replayed.statement, &replayed.trusted), (loaded.state.statement, &loaded.state.trusted));
        let cut = &journal[..journal.len().saturating_sub(2)];
        assert!(loaded.state.clone().replay(cut).is_ok(), "a torn line is none");
    }
});
