//! Bytes, byte for byte, in both directions, and who holds whom up.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::gateway::{Pods, fed, waits_until_still};
use crate::ground::ON_ITS_WAY;
use crate::support::Done;

/// Ten million bytes that do not repeat.
fn noise() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..1_250_000).flat_map(|_| next()).collect()
}

#[test]
fn what_goes_in_comes_out() {
    let pods = Pods::start();
    let noise = noise();
    assert!(pods.run_with("cat", &noise) == noise, "through cat");
    assert_eq!(String::from_utf8(pods.run_with("wc -c", &noise)).unwrap().trim(), noise.len().to_string());
    let out = pods.run("head -c 10000000 /dev/zero | tr '\\0' x | wc -c; head -c 10000000 /dev/zero").ends(0).stdout;
    assert_eq!(out.len(), "10000000\n".len() + 10_000_000);
}

#[test]
fn either_half_may_close_first() {
    let pods = Pods::start();
    assert_eq!(pods.run_with("cat; echo after the end", b"before\n"), b"before\nafter the end\n");
    let mut command = pods.ssh("exec >&- 2>&-; cat > taken; wc -c < taken > count; exit 7");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdout = Vec::new();
    child.stdin.as_mut().unwrap().write_all(b"first ").unwrap();
    std::thread::scope(|scope| {
        // Our end goes on although the other is closed.
        let mut stdin = child.stdin.take().unwrap();
        scope.spawn(move || stdin.write_all(b"second").unwrap());
        child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    });
    assert_eq!((child.wait().unwrap().code(), stdout), (Some(7), Vec::new()));
}

/// All that it said is there, and how it ended. An API server by itself loses both, more often than not, or never says that it has ended.
#[test]
fn what_a_command_does_not_take_does_not_hold_up_its_end() {
    let pods = Pods::start();
    let said: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    for _ in 0..8 {
        let mut child = pods.ssh("seq 1 20000; exit 3").stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writing = std::thread::spawn(move || while stdin.write_all(&[b'x'; 16_384]).is_ok() {});
        let done = Done::of(child.wait_with_output().unwrap()).ends(3);
        assert!(done.stdout == said && done.stderr.is_empty(), "{} bytes, {}", done.stdout.len(), done.stderr);
        writing.join().unwrap();
    }
}

#[test]
fn a_reader_that_is_slow_gets_everything_and_the_gateway_keeps_little() {
    let pods = Pods::start();
    let input = noise();
    let mut child = pods.ssh("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (copy, written) = (input.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&written);
    let writing = std::thread::spawn(move || {
        for piece in (0..12).flat_map(|_| copy.chunks(65_536)) {
            stdin.write_all(piece).unwrap();
            counted.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    // Nobody takes what comes out: what goes in comes to a stand as well.
    waits_until_still(&written);
    assert!(written.load(Ordering::Relaxed) < ON_ITS_WAY, "{written:?}");
    let before = pods.memory();
    assert!(before < 90_000, "{before} KiB");
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(child.wait().unwrap().success());
    let expected: Vec<u8> = (0..12).flat_map(|_| input.iter().copied()).collect();
    assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
}

#[test]
fn who_takes_no_input_holds_no_other_channel_up() {
    let pods = Pods::start();
    let socket = pods.file("mux");
    let option = format!("ControlPath={}", socket.display());
    let mux = |more: &[&'static str], line: &str| {
        let mut options = vec!["-o", option.as_str()];
        options.extend(more);
        pods.ssh_with(&options, line)
    };
    let mut stuck = mux(&["-M"], "echo begun; sleep 600").stdin(Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    stuck.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
    let mut stdin = stuck.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        let mut written = 0_usize;
        while stdin.write_all(&[b'x'; 16_384]).is_ok() && written < 64 * 1024 * 1024 {
            written += 16_384;
        }
    });
    let begun = Instant::now();
    for round in 0..5 {
        let done = Done::of(mux(&[], &format!("head -c 3000000 /dev/zero; exit {round}")).output().unwrap()).ends(round);
        assert_eq!(done.stdout.len(), 3_000_000);
    }
    assert_eq!(fed(mux(&[], "cat"), b"and in"), b"and in");
    assert!(begun.elapsed() < Duration::from_secs(60));
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    writing.join().unwrap();
    pods.waits_until_empty();
}
