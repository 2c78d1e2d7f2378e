//! Nothing runs that is not on record, and nobody waits for a store that does not answer.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::gateway::{Pods, Session};
use crate::support::Done;

#[test]
fn a_store_that_has_come_to_a_stand_is_a_refusal_within_seconds_and_holds_up_nobody_who_works() {
    let pods = Pods::with(&["--metrics", "127.0.0.1:0"]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master = pods.ssh_with(&["-M", "-o", &socket], "echo begun; cat");
    master.stdin(Stdio::piped());
    let mut master = Session::start(master);
    assert_eq!(master.line(), "begun");
    let run = |line: &str| Done::of(pods.ssh_with(&["-o", &socket], line).output().unwrap());
    run("touch before").ends(0);

    let store = crate::support::store::open(&pods.toehold);
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..2 {
        let begun = Instant::now();
        let done = run("touch unrecorded").ends(255);
        assert!(done.stderr.contains("nothing is run that is not on record"), "{done:?}");
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        // Who works goes on.
        let mut input = master.child.stdin.take().unwrap();
        input.write_all(b"still here\n").unwrap();
        master.child.stdin = Some(input);
        assert_eq!(master.line(), "still here");
    }
    store.execute_batch("ROLLBACK").unwrap();

    crate::support::eventually("a store that answers again", || run("true").code == 0);
    assert_eq!(run("ls").ends(0).stdout, "before\n", "what was refused did not run");
    assert!(pods.counted("toehold_pods_audit_failures_total") >= 2);
    drop(master.child.stdin.take());
    master.ends().ends(0);
    pods.waits_until_empty();
}
