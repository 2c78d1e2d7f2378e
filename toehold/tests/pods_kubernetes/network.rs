//! A network that is slow, cuts connections or loses what they carry without a word: everything ends well, and nothing is left.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::files::as_remote_shell;
use crate::gateway::{Pods, Session, path};
use crate::ground::Ground;
use crate::support::{Done, eventually};
use crate::way::{Cut, Way};

/// What a gateway may take, with two seconds for a call, until it says that a stream is lost: it is asked in the stream, and beside it.
const BOUND: Duration = Duration::from_secs(20);

const LOST: &str = "the connection to the pod is lost, and how the command ended is not known";

fn by(way: &Way, ground: &Ground) -> Pods {
    by_with(way, ground, &json!({}))
}

fn by_with(way: &Way, ground: &Ground, more: &Value) -> Pods {
    let mut config = more.clone();
    config["connection"] = way.connection(ground);
    Pods::on_ground(ground.clone(), &config, &[])
}

fn begun(pods: &Pods, line: &str) -> Session {
    let mut command = pods.ssh(line);
    command.stdin(Stdio::piped());
    let mut session = Session::start(command);
    assert_eq!(session.line(), "begun");
    session
}

/// Somebody types, a line every 100 ms, until it is told to stop or nothing can be typed any more.
fn typing(session: &mut Session) -> impl FnOnce() + use<> {
    let mut stdin = session.child.stdin.take().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) && stdin.write_all(b"is anybody there?\n").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

/// Without a word to either end, as where a network dies or a router forgets a connection. It hung for a quarter of an hour.
#[test]
fn what_is_lost_without_a_word_while_somebody_types_ends_with_the_reason() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by(&way, &ground);
    // First the stream alone, and whoever asks anew is answered; then everything.
    for swallow in [Way::swallow, Way::swallow_all] {
        let (mut typed_into, quiet) = (begun(&pods, "echo begun; cat"), begun(&pods, "echo begun; sleep 600"));
        let stop = typing(&mut typed_into);
        assert_eq!(typed_into.line(), "is anybody there?");
        swallow(&way);
        let lost = Instant::now();
        for session in [typed_into, quiet] {
            let done = session.ends();
            assert!(done.code == 255 && done.stderr.contains(LOST), "{done:?}");
        }
        assert!(lost.elapsed() < BOUND, "{:?}", lost.elapsed());
        stop();
        way.mend();
        eventually("a new pod", || pods.run("true").code == 0);
    }
    pods.waits_until_empty();
}

/// A process that takes no input, however much of it there is, is no dead network.
#[test]
fn input_of_any_length_may_wait_for_its_process() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by(&way, &ground);
    // Into what is on the way: nothing of it, a part, all of it, more than that.
    let children: Vec<_> = [20_000, 200_000, 1_000_000, 4_000_000, 30_000_000]
        .into_iter()
        .map(|length: usize| {
            let mut command = pods.ssh("sleep 15; wc -c");
            let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let writing = std::thread::spawn(move || stdin.write_all(&vec![b'x'; length]));
            (length, child, writing)
        })
        .collect();
    for (length, child, writing) in children {
        let done = Done::of(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.stdout.trim()), (0, &*length.to_string()), "{}", done.stderr);
        writing.join().unwrap().unwrap();
    }
    pods.waits_until_empty();
}

#[test]
fn a_stream_that_is_cut_anywhere_ends_with_the_reason_and_leaves_nothing() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by(&way, &ground);
    // In the first frame's head, in the gateway's own answer, in the middle of the output.
    for (after, how) in [(1, Cut::End), (3, Cut::Reset), (60, Cut::End), (20_001, Cut::Reset), (200_003, Cut::End)] {
        way.cut(after, how);
        let cut = Instant::now();
        let done = pods.run("head -c 1000000 /dev/zero; sleep 600");
        assert!(done.code == 255 && done.stderr.contains(LOST), "{after} {how:?}: {:?} {}", done.code, done.stderr);
        assert!(done.stdout.len() < after, "{after} {how:?}: {}", done.stdout.len());
        assert!(cut.elapsed() < BOUND, "{after} {how:?}: {:?}", cut.elapsed());
        pods.waits_until_empty();
    }
    way.mend();
    pods.run("exit 4").ends(4);
    pods.waits_until_empty();
}

/// A copy in the middle of which the way to the pod is cut is no copy, for the programs that people copy with as well; done again it is
/// whole, and on a slow way, too.
#[test]
fn a_copy_that_is_cut_off_fails_and_done_again_it_is_whole() {
    /// In every image with tools, and larger than where the stream is cut.
    const THERE: &str = "/usr/bin/git";
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by_with(&way, &ground, &ground.tools());
    let whole = pods.run_with(&format!("cat {THERE}"), b"");
    assert!(whole.len() > 2_000_000, "{}", whole.len());
    let (by_sftp, by_rsync) = (pods.file("by-sftp"), pods.file("by-rsync"));
    let from = format!("anybody@127.0.0.1:{THERE}");
    let copies = || {
        let mut sftp = pods.client("sftp");
        sftp.args([&from, &path(&by_sftp)]);
        let mut rsync = Command::new("rsync");
        rsync.args(["-e", &as_remote_shell(&pods), &from, &path(&by_rsync)]);
        [sftp, rsync].map(|mut copy| Done::of(copy.stdin(Stdio::null()).output().unwrap()))
    };
    for how in [Cut::Reset, Cut::End] {
        way.cut(1_000_000, how);
        let cut = Instant::now();
        for done in copies() {
            assert!(done.code != 0 && done.stderr.contains(LOST), "{how:?}: {done:?}");
        }
        assert!(cut.elapsed() < 2 * BOUND, "{:?}", cut.elapsed());
        // What is there of it is not taken for the file by anybody: rsync leaves none under its name.
        assert!(fs::metadata(&by_sftp).is_ok_and(|file| file.len() < 1_000_000) && !by_rsync.exists());
        pods.waits_until_empty();
    }
    way.mend();
    way.slow(Duration::from_millis(10));
    for done in copies() {
        done.ends(0);
    }
    assert!(fs::read(&by_sftp).unwrap() == whole && fs::read(&by_rsync).unwrap() == whole);
    pods.waits_until_empty();
}

#[test]
fn a_slow_way_changes_nothing_but_the_time() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by(&way, &ground);
    way.slow(Duration::from_millis(150));
    let mut session = begun(&pods, "echo begun; read word; echo $word; exit 7");
    session.child.stdin.take().unwrap().write_all(b"slowly\n").unwrap();
    assert_eq!(session.line(), "slowly");
    session.ends().ends(7);
    pods.waits_until_empty();
}

/// While the API server answers nothing, whoever comes is told; of what it was asked for nothing is left when it does again.
#[test]
fn a_creation_whose_answer_is_lost_leaves_no_pod() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let pods = by_with(&way, &ground, &json!({ "timeout": "6s" }));
    pods.run("true").ends(0);
    way.hold(&format!("POST /api/v1/namespaces/{}/pods", ground.namespace().name()));
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("the cluster does not answer"), "{done:?}");
    way.mend();
    pods.run("true").ends(0);
    pods.waits_until_empty();
}

/// Looking for what others have left takes as long as the cluster lets it; a sign of life is not held up by that.
#[test]
fn p2_the_heartbeat_waits_for_no_clearing_up() {
    let ground = Ground::new();
    let way = Way::of(&ground);
    let mut config = json!({ "connection": way.connection(&ground) });
    // Far longer than a heartbeat's interval.
    config["connection"]["timeout"] = json!("2m");
    let pods = Pods::on_ground(ground.clone(), &config, &[]);
    way.hold(&format!("GET /apis/batch/v1/namespaces/{}/jobs?", ground.namespace().name()));
    let heartbeat = || -> u64 {
        let jobs = ground.namespace().kubectl(["get", "jobs"]).json();
        let annotations = jobs["items"][0]["metadata"]["annotations"].as_object().unwrap();
        annotations.iter().find(|(name, _)| name.contains("heartbeat")).unwrap().1.as_str().unwrap().parse().unwrap()
    };
    let before = heartbeat();
    let begun = Instant::now();
    eventually("three signs of life", || heartbeat() >= before + 3);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    way.mend();
    pods.run("true").ends(0);
}

/// A server that knows no v5: the end of input cannot be told to a process there, and everything else is as ever.
#[test]
fn a_server_that_speaks_v4_alone_is_spoken_to() {
    let ground = Ground::new();
    let way = Way::rewriting(&ground, &[("v5.channel.k8s.io, ", "")]);
    let pods = by(&way, &ground);
    let done = pods.run("echo out; echo err >&2; exit 3").ends(3);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(pods.run_with("head -c 5", b"12345"), b"12345");
    pods.run("/bin/nosuch").ends(127);
    let done = Done::of(pods.ssh_with(&["-tt"], "test -t 0 && echo terminal; exit 5").output().unwrap()).ends(5);
    assert_eq!(done.stdout.trim(), "terminal", "{done:?}");
    // Output of any length loses nothing, whether or not the input has ended.
    assert_eq!(pods.run("head -c 3000000 /dev/zero").ends(0).stdout.len(), 3_000_000);
    let mut waits = begun(&pods, "echo begun; cat; echo ended");
    waits.child.stdin.take().unwrap().write_all(b"last\n").unwrap();
    assert_eq!(waits.line(), "last");
    assert!(waits.child.try_wait().unwrap().is_none());
    assert!(way.streams() >= 6);
    drop(waits);
    pods.waits_until_empty();
}
