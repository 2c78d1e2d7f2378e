//! Recorded watches, cut everywhere.

use crate::support::vectors::{lines, text};
use proptest::prelude::*;
use toehold_podrun::kubernetes::{MAX_LINE, WatchDecoder, WatchError, WatchEvent};

fn recorded() -> Vec<(String, Vec<u8>, usize)> {
    let watches = lines(include_str!("../vectors/kubernetes/watch.jsonl"));
    let bytes = |watch: &serde_json::Value| {
        watch["events"].as_array().unwrap().iter().flat_map(|event| format!("{event}\n").into_bytes()).collect()
    };
    watches.iter().map(|w| (text(w, "/name").to_owned(), bytes(w), w["events"].as_array().unwrap().len())).collect()
}

fn all(decoder: &mut WatchDecoder) -> Vec<WatchEvent> {
    std::iter::from_fn(|| decoder.next_event().unwrap()).collect()
}

fn decoded(bytes: &[u8]) -> Vec<WatchEvent> {
    let mut decoder = WatchDecoder::new();
    decoder.push(bytes);
    let events = all(&mut decoder);
    assert_eq!(decoder.finish(), Ok(()));
    events
}

#[test]
fn every_line_is_an_event() {
    for (name, bytes, count) in recorded() {
        assert_eq!(decoded(&bytes).len(), count, "{name}");
    }
}

#[test]
fn bookmarks_and_an_expired_version_are_told_from_changes() {
    let watch = |name: &str| decoded(&recorded().into_iter().find(|(n, _, _)| n == name).unwrap().1);
    assert!(matches!(watch("leaves_selector").as_slice(), [WatchEvent::Added(_), WatchEvent::Deleted(_)]));
    assert_eq!(watch("too_old"), [WatchEvent::Expired]);
    let bookmarks = watch("bookmarks");
    let bookmark = |version: &str, end| WatchEvent::Bookmark { resource_version: version.to_owned(), initial_events_end: end };
    assert_eq!(bookmarks[..2], [bookmark("968", true), bookmark("1044", false)]);
}

#[test]
fn what_is_no_watch_is_refused() {
    for line in [&b"x\n"[..], b"{}\n", b"{\"type\":\"ADDED\"}\n", b"{\"type\":\"NEW\",\"object\":{}}\n", b"\xff\n"] {
        let mut decoder = WatchDecoder::new();
        decoder.push(line);
        assert!(matches!(decoder.next_event(), Err(WatchError::Malformed(_))), "{line:?}");
    }
    let mut decoder = WatchDecoder::new();
    decoder.push(b"{\"type\":");
    assert_eq!(decoder.next_event(), Ok(None));
    assert_eq!(decoder.finish(), Err(WatchError::CutShort));
    let mut endless = WatchDecoder::new();
    let refused = (0..100).any(|_| {
        endless.push(&vec![b' '; MAX_LINE / 50]);
        endless.next_event() == Err(WatchError::TooLong { limit: MAX_LINE })
    });
    assert!(refused);
}

proptest! {
    #[test]
    fn the_same_events_however_the_bytes_are_cut(sizes in proptest::collection::vec(1_usize..700, 1..40)) {
        for (_, bytes, _) in recorded() {
            let (mut decoder, mut events, mut rest) = (WatchDecoder::new(), Vec::new(), bytes.as_slice());
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*size).min(rest.len()));
                decoder.push(piece);
                events.extend(all(&mut decoder));
                rest = after;
            }
            prop_assert_eq!(events, decoded(&bytes));
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = WatchDecoder::new();
        decoder.push(&bytes);
        while let Ok(Some(_)) = decoder.next_event() {}
    }
}
