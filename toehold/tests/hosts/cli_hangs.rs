//! `host add` of hosts that stop answering, at any point: a clear end within the limits, and nothing lost.

use std::time::{Duration, Instant};

use crate::support::{Inside, Toehold};
use rustix::process::{Pid, Signal, kill_process};
use toehold::adapters::local_host::Fault;

const LIMITS: [&str; 6] = ["--connect-timeout", "1s", "--login-timeout", "1s", "--request-timeout", "1s"];

/// Three tries for each of the ways there and back, each with a limit of 1 s and a pause of 2 s behind it, and room for a busy
/// machine. With the usual limits it would be over a minute, and with none for ever.
const LONGEST: Duration = Duration::from_secs(45);

async fn hangs(fault: Fault, words: &str) {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.fault(fault);
    let begun = Instant::now();
    let done = host.add(&toehold, &LIMITS).ends(3);
    assert!(begun.elapsed() < LONGEST, "{fault:?} took {:?}", begun.elapsed());
    assert!(done.stderr.contains(words) && done.stderr.contains("session recover"), "{fault:?}: {}", done.stderr);
    host.nothing_is_lost(&toehold);
    assert!(!toehold.sessions(false).is_empty(), "{fault:?}: nothing was seen gone, and yet nothing is owed");
    host.heal();
    host.comes_to_an_end(&toehold);
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_gone_where_a_host_takes_connections_and_never_speaks() {
    hangs(Fault::HangAtGreeting, "exchanging keys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_gone_where_a_host_stops_after_the_key_exchange() {
    hangs(Fault::HangAfterKeyExchange, "logging in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_gone_where_a_host_does_not_answer_a_login() {
    hangs(Fault::HangInLogin, "logging in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_gone_where_a_host_does_not_answer_sftp() {
    hangs(Fault::HangAtSftpStart, "SFTP").await;
}

/// The first request, and some of every part of a whole run: reading the proof, looking, adding, removing, reading back.
#[test]
fn anchored_seen_gone_where_a_host_stops_answering_requests_about_its_files() {
    std::thread::scope(|scope| {
        for at in [0, 5, 25, 45, 65, 85, 105, 125] {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                runtime.block_on(hangs(Fault::HangAtRequest(at), "did not answer in time"));
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn host_rm_of_a_host_that_hangs_ends_with_a_signal() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.add(&toehold, &[]).ends(0);
    host.fault(Fault::HangInLogin);
    let before = host.ours();
    let account = host.account();
    for signal in [Signal::INT, Signal::TERM] {
        let child = toehold.spawn(["-vv", "host", "rm", &account]);
        caught(&child, signal);
        let begun = Instant::now();
        let done = Toehold::wait(child).ends(1);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(done.stderr.contains("interrupted") && done.stderr.contains("stays on record"), "{}", done.stderr);
    }
    host.heal();
    assert_eq!(host.ours(), before);
    host.is_managed(&toehold);
}

#[test]
fn init_that_makes_a_large_key_ends_with_a_signal() {
    for signal in [Signal::INT, Signal::TERM] {
        let toehold = Toehold::bare();
        let child = toehold.spawn(["init", "--algorithm", "rsa-8192"]);
        caught(&child, signal);
        let done = Toehold::wait(child).ends(1);
        assert!(done.stderr.contains("interrupted") && done.stdout.is_empty(), "{done:?}");
        assert!(!toehold.state().join("identity").exists());
        toehold.run(["init"]).ends(0);
    }
}

/// Sends the signal as soon as the process catches it (`SigCgt` in proc(5)).
fn caught(child: &std::process::Child, signal: Signal) {
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let text = std::fs::read_to_string(&status).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & (1 << (signal.as_raw() - 1)) != 0
    };
    while !catches() {
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(child), signal).unwrap();
}
