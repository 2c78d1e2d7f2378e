//! What stands between a pod and its user: frames of an exec, events of a watch, and the decisions of a whole pod's life.
//!
//! `cargo bench -p toehold-podrun`. For frames the floor is a copy of the same bytes.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use serde_json::json;
use toehold_core::Timestamp;
use toehold_podrun::LabelValue;
use toehold_podrun::exec::{Frame, MAX_INPUT, Protocol, encode_stdin};
use toehold_podrun::kubernetes::{Availability, WatchDecoder};
use toehold_podrun::pod::{Event, Life, Timing};

const FRAMES: usize = 1000;

fn frames(criterion: &mut Criterion) {
    let piece = vec![b'x'; MAX_INPUT];
    let mut message = vec![1];
    message.extend_from_slice(&piece);
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Bytes(u64::try_from(FRAMES * MAX_INPUT).unwrap())).measurement_time(Duration::from_secs(3));
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            (0..FRAMES).fold(0, |bytes, _| match Protocol::V5.decode(black_box(&message)) {
                Frame::Stdout(data) => bytes + data.len(),
                _ => bytes,
            })
        });
    });
    let mut buffer = Vec::new();
    group.bench_function("encode", |bencher| {
        bencher.iter(|| (0..FRAMES).map(|_| encode_stdin(black_box(&piece), &mut buffer)).sum::<usize>());
    });
    let mut copy = Vec::new();
    group.bench_function("floor", |bencher| {
        bencher.iter(|| {
            for _ in 0..FRAMES {
                copy.clear();
                copy.extend_from_slice(black_box(&piece));
            }
        });
    });
    group.finish();
}

fn watch(criterion: &mut Criterion) {
    let pod = json!({ "type": "MODIFIED", "object": {
        "metadata": { "name": "a", "uid": "u", "resourceVersion": "1", "annotations": { "x": "y".repeat(2000) } },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    }});
    let bytes = format!("{pod}\n").repeat(100).into_bytes();
    let mut group = criterion.benchmark_group("watch");
    group.throughput(Throughput::Bytes(u64::try_from(bytes.len()).unwrap()));
    group.bench_function("a_hundred_events", |bencher| {
        bencher.iter(|| {
            let mut decoder = WatchDecoder::new();
            let mut events = 0;
            for piece in bytes.chunks(4096) {
                decoder.push(piece);
                while decoder.next_event().unwrap().is_some() {
                    events += 1;
                }
            }
            assert_eq!(events, 100);
        });
    });
    group.finish();
}

fn a_whole_life() {
    let now = Timestamp::from_unix_seconds(1_000_000);
    let mut life = Life::new(Timing::default());
    let uid = || "uid-1".parse().unwrap();
    for event in [
        Event::HandshakeSucceeded,
        Event::RecordSaved,
        Event::Created(uid(), Availability::Pending),
        Event::Observed(uid(), Availability::Ready),
        Event::Traffic,
        Event::Disconnected,
        Event::DeleteAccepted,
        Event::Gone,
        Event::RecordRemoved,
    ] {
        black_box(life.handle(now, event).unwrap());
    }
    assert!(life.is_closed());
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frames(&mut criterion);
    watch(&mut criterion);
    criterion.bench_function("life", |bencher| bencher.iter(a_whole_life));
    criterion.bench_function("label", |bencher| bencher.iter(|| LabelValue::encode(black_box("josé@example.org"))));
    criterion.final_summary();
}
