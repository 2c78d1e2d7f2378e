//! The root's state in its two copies: whatever a write leaves behind, nothing lower than what was accepted is read again.

use crate::envelope_support::{at, keys, trusting, version};
use toehold_specsign::{RootState, StateCopy, StateError};

/// The two copies on a disk that can lose power at any byte.
#[derive(Clone, Debug, Default)]
struct Disk {
    copies: [Option<Vec<u8>>; 2],
}

impl Disk {
    fn slot(&mut self, copy: StateCopy) -> &mut Option<Vec<u8>> {
        &mut self.copies[usize::from(copy == StateCopy::Second)]
    }

    /// Writes in place, and stops after `budget` bytes of all; whether it came to the end.
    fn write(&mut self, copies: &[StateCopy], bytes: &[u8], budget: &mut usize) -> bool {
        for copy in copies {
            let fits = bytes.len().min(*budget);
            // A file is truncated before its first byte is written; a budget of zero has not begun.
            if *budget == 0 {
                return false;
            }
            *budget -= fits;
            *self.slot(*copy) = Some(bytes[..fits].to_vec());
            if fits < bytes.len() {
                return false;
            }
        }
        true
    }

    fn load(&self) -> Result<RootState, StateError> {
        self.load_to_repair().map(|loaded| loaded.state)
    }

    fn load_to_repair(&self) -> Result<toehold_specsign::Loaded, StateError> {
        RootState::load(self.copies[0].as_deref(), self.copies[1].as_deref(), false).map(Option::unwrap)
    }
}

fn state(serial: u64) -> RootState {
    let start = trusting(&[1], 1).admit(&RootState::default(), version(serial, b"[]"), at(0)).unwrap().state;
    (0..serial).fold(start, |state, _| state.next_version())
}

#[test]
fn s3_every_write_prefix_leaves_the_floor_no_lower_than_what_was_accepted() {
    let (before, after) = (state(5), state(6));
    let (old, new) = (before.encode().unwrap(), after.encode().unwrap());
    let whole = Disk { copies: [Some(old.clone()), Some(old)] };
    for cut in 0..=2 * new.len() {
        let mut disk = whole.clone();
        let finished = disk.write(&StateCopy::BOTH, &new, &mut { cut });
        assert_eq!(finished, cut == 2 * new.len());
        let loaded = disk.load_to_repair().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        assert!(loaded.state.serial >= 5, "cut at {cut}");
        assert!(!finished || loaded.state.serial == 6);
        // The repair can be cut as well, and then the next write.
        let repaired = loaded.state.encode().unwrap();
        for second_cut in (0..=2 * repaired.len()).step_by(29) {
            let mut disk = disk.clone();
            let mut budget = second_cut;
            if !disk.write(&loaded.repair, &repaired, &mut budget) && !loaded.repair.is_empty() {
                assert!(disk.load().unwrap().serial >= loaded.state.serial, "cut at {cut}, repair at {second_cut}");
                continue;
            }
            // What was read and repaired counts as accepted.
            let mut next = loaded.state.next_version();
            next.serial = 7;
            let finished = disk.write(&StateCopy::BOTH, &next.encode().unwrap(), &mut budget);
            let floor = disk.load().unwrap_or_else(|error| panic!("cut at {cut}, again at {second_cut}: {error}")).serial;
            assert!(floor >= loaded.state.serial, "cut at {cut}, again at {second_cut}");
            assert!(!finished || floor == 7);
        }
    }
}

#[test]
fn s3_one_damaged_copy_is_mended_and_two_fail_closed() {
    let good = state(5).encode().unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        for (first, second, repair) in [(&good, &bad, StateCopy::Second), (&bad, &good, StateCopy::First)] {
            let loaded = RootState::load(Some(first), Some(second), false).unwrap().unwrap();
            assert_eq!((loaded.state.serial, loaded.repair), (5, vec![repair]), "byte {at}");
        }
        assert_eq!(RootState::load(Some(&bad), Some(&bad), false), Err(StateError::Lost), "byte {at}");
    }
    assert_eq!(RootState::load(None, None, false), Err(StateError::Lost), "there was a root");
    assert_eq!(RootState::load(Some(b""), None, true), Err(StateError::Lost), "there was a copy");
    assert_eq!(RootState::load(None, None, true), Ok(None), "there never was anything");
    let lost = StateError::Lost.to_string();
    assert!(lost.contains("backup") && lost.contains("--min-serial"), "it names the repair: {lost}");
}

#[test]
fn s3_a_copy_that_was_put_back_is_noticed() {
    let (old, new) = (state(3).encode().unwrap(), state(6).encode().unwrap());
    for (first, second) in [(&old, &new), (&new, &old)] {
        assert!(matches!(RootState::load(Some(first), Some(second), false), Err(StateError::Diverged { .. })));
    }
    // One step apart the wrong way round is no trace of a write either.
    let (old, new) = (state(5), state(6));
    assert!(RootState::load(Some(&old.encode().unwrap()), Some(&new.encode().unwrap()), false).is_err());
}

#[test]
fn a_newer_releases_state_is_refused() {
    let text = String::from_utf8(state(1).encode().unwrap()).unwrap();
    let body = text.split_once('\n').unwrap().1.replacen("\"v\":1,\"readable_from\":1", "\"v\":3,\"readable_from\":2", 1);
    let bytes = format!("toehold-root-state 1 {} {}\n{body}", toehold_specsign::Sha256Digest::of(body.as_bytes()), body.len());
    assert_eq!(RootState::load(Some(bytes.as_bytes()), None, false), Err(StateError::Newer(3)));
}

#[test]
fn a_state_is_read_as_it_was_written() {
    let state = state(4);
    let bytes = state.encode().unwrap();
    let loaded = RootState::load(Some(&bytes), Some(&bytes), false).unwrap().unwrap();
    assert_eq!((loaded.state, loaded.repair), (state.clone(), Vec::new()));
    assert_eq!((state.serial, state.trusted), (4, Some(keys(&[1], 1))));
    // The form that this release wrote first stays readable.
    let stored = include_bytes!("../vectors/root_state_v1");
    let loaded = RootState::load(Some(stored), Some(stored), false).unwrap().unwrap();
    assert_eq!((loaded.state.serial, loaded.state.placed.len()), (7, 1));
}
