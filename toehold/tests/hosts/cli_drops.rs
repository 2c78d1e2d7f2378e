//! `host add` of a host whose connections break at one of the requests about its files: at each that there is in a whole run,
//! right before the host performs it or right before it answers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Inside, Toehold};
use toehold::adapters::local_host::Fault;

/// How many hosts are tried at a time: most of what a run does is waiting between two tries.
const WORKERS: usize = 24;

/// How many requests a whole run makes.
async fn requests() -> u64 {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    host.requests()
}

/// Returns how `host add` ended.
async fn breaks(toehold: &Toehold, fault: Fault, cleans_up: bool) -> i32 {
    let host = Inside::start().await;
    host.fault(fault);
    let done = if cleans_up { host.add(toehold, &[]) } else { host.add_via_once(toehold, &[]) };
    host.nothing_is_lost(toehold);
    match done.code {
        0 => {
            host.is_managed(toehold);
            return 0;
        }
        1 => {
            assert_eq!((host.ours().as_str(), host.names().len()), ("", 1), "as_it_was, {fault:?}: {}", done.stderr);
            assert!(toehold.sessions(false).is_empty(), "{fault:?}: {}", done.stderr);
        }
        3 => assert_eq!(toehold.sessions(false).len(), 1, "{fault:?}: {}", done.stderr),
        code => panic!("{fault:?}: {code}: {}", done.stderr),
    }
    // On a busy machine a note that the host's clock is behind may come first.
    assert!(done.stderr.lines().any(|line| line.starts_with("toehold: ")), "{fault:?}: {}", done.stderr);
    host.heal();
    host.comes_to_an_end(toehold);
    done.code
}

/// Every one of these faults on a host of its own; how `host add` ended, each with how often.
fn run(faults: &[Fault]) -> BTreeMap<i32, usize> {
    let (next, codes) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let (runtime, toehold) = (runtime(), Toehold::new());
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(fault) = faults.get(index) else { break };
                    // Every second one has nobody to clean up through, so that the line is still there at the next contact.
                    let code = runtime.block_on(breaks(&toehold, *fault, index % 2 == 0));
                    *codes.lock().unwrap().entry(code).or_default() += 1;
                }
            });
        }
    });
    codes.into_inner().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn anchored_as_it_was_foreign_bytes_seen_gone_whichever_request_breaks_the_connection() {
    let total = runtime().block_on(requests());
    assert!(total > 50, "{total} requests are too few for a whole run: the tests look at the wrong ones");
    let faults: Vec<Fault> = (0..total).map(Fault::DropOnceAfterRequest).collect();
    let codes = run(&faults);
    println!("{total} requests; how host add ended: {codes:?}");
    assert!(codes[&0] > 0 && codes.len() > 1, "{codes:?}");
}

#[test]
fn anchored_as_it_was_foreign_bytes_seen_gone_whichever_request_is_the_last() {
    let total = runtime().block_on(requests());
    let of = |at: u64| if at.is_multiple_of(8) { Fault::DropBeforeRequest(at) } else { Fault::DropAfterRequest(at) };
    let faults: Vec<Fault> = (0..total).step_by(6).map(of).collect();
    let codes = run(&faults);
    println!("{total} requests; how host add ended: {codes:?}");
    assert!(codes.get(&3).is_some_and(|owed| *owed > faults.len() / 2), "{codes:?}");
}
