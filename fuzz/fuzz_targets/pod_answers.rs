//! Everything that a cluster says: no panic; a status that cannot be read is no success; the same events however a watch is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_podrun::exec::{ExecEnd, Frame, Outcome, Protocol};
use toehold_podrun::kubernetes::{ApiFailure, PodSnapshot, WatchDecoder, WatchEvent};

fn events(pieces: &[&[u8]]) -> Vec<WatchEvent> {
    let (mut decoder, mut events) = (WatchDecoder::new(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return events,
            }
        }
    }
    events
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let outcome = Outcome::decode(bytes);
    assert_eq!(outcome.exit_status() == 0, outcome == Outcome::Exited(0));
    assert_eq!(outcome.words("x").is_none(), matches!(outcome, Outcome::Exited(_)));
    for protocol in [Protocol::V4, Protocol::V5] {
        if let Frame::Status(status) = protocol.decode(bytes) {
            let mut end = ExecEnd::new();
            end.status(status);
            drop(end.finish());
        }
    }
    let failure = ApiFailure::from_response(u16::from(*cut) + 300, None, bytes);
    assert!(!failure.words().chars().any(char::is_control));
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    let whole = events(&[bytes]);
    assert_eq!(whole, events(&[first, second]));
    for event in whole {
        if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
            && let Ok(pod) = PodSnapshot::from_object(object)
        {
            drop(pod.availability("main"));
        }
    }
});
