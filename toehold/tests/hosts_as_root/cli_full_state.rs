//! Commands whose own state directory is on a full disk.

use std::fs;
use std::process::Command;

use crate::support::{Done, FOREIGN, Inside, Toehold};

/// Runs a shell script in which the state directory is a disk of this size, `$T` is the program and `$F` a file that fills
/// the disk where somebody writes to it. What it leaves in the state directory is gone with it.
fn on_a_disk(toehold: &Toehold, size: &str, script: &str) -> Done {
    fs::create_dir_all(toehold.state()).unwrap();
    let mount = format!("mount -t tmpfs -o size={size},mode=0700 none \"$TOEHOLD_STATE_DIR\" || exit 99\n{script}");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &mount])
        .env("T", env!("CARGO_BIN_EXE_toehold"))
        .env("F", toehold.state().join("fill"))
        .env("TOEHOLD_STATE_DIR", toehold.state())
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn add(host: &Inside, via: &str) -> String {
    let file = host.host_key_file();
    format!("\"$T\" host add {} --home {} --host-key-file {} --via {via}", host.account(), host.home(), file.display())
}

#[test]
fn init_on_a_full_disk_is_an_error_in_words_and_can_be_run_again() {
    let toehold = Toehold::bare();
    let script = "cat /dev/zero >\"$F\" 2>/dev/null; \"$T\" init; code=$?; rm \"$F\"; \"$T\" init >&2 || exit 98; exit $code";
    for size in ["12k", "1m"] {
        let script = if size == "12k" { "\"$T\" init" } else { script };
        let done = on_a_disk(&toehold, size, script).ends(1);
        assert!(done.stderr.contains("full") || done.stderr.contains("No space"), "{size}: {}", done.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_was_a_disk_that_is_full_before_a_session_begins() {
    let (toehold, host) = (Toehold::bare(), Inside::start().await);
    let script = format!("\"$T\" init >&2 || exit 98; cat /dev/zero >\"$F\" 2>/dev/null; {}", add(&host, "sh"));
    let done = on_a_disk(&toehold, "2m", &script).ends(1);
    assert!(done.stderr.contains("full") || done.stderr.contains("No space"), "{}", done.stderr);
    assert_eq!(host.ours(), "");
    assert_eq!(host.names(), ["authorized_keys"]);
    assert_eq!(fs::read(host.authorized_keys_file()).unwrap(), FOREIGN);
}

/// The line is on the host, and then no record can be written any more.
#[tokio::test(flavor = "multi_thread")]
async fn journal_first_seen_gone_a_disk_that_fills_while_a_session_is_under_way() {
    let (toehold, host) = (Toehold::bare(), Inside::start().await);
    let fill = host.home().to_owned() + "/fill.sh";
    fs::write(&fill, "sh; cat /dev/zero >\"$F\" 2>/dev/null; :\n").unwrap();
    let then = "echo \"code $?\"; rm \"$F\"; \"$T\" --json session ls; \"$T\" session recover >&2; \"$T\" --json session ls";
    let script = format!("\"$T\" init >&2 || exit 98; {}; {then}", add(&host, &format!("'sh {fill}'")));
    let done = on_a_disk(&toehold, "2m", &script).ends(0);
    let lines: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with(['{', 'c'])).collect();
    assert!(matches!(lines[0], "code 1" | "code 3"), "{}\n{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("full") || done.stderr.contains("No space"), "{}", done.stderr);
    // Nothing of value was left unrecorded: what is still there is owed by a session on the list.
    let left = lines.last().unwrap();
    for line in host.ours().lines().filter(|line| !line.is_empty()) {
        let (_, id) = line.split_once("toehold-temporary:").unwrap_or_else(|| panic!("managed, and on no record: {line}"));
        assert!(left.contains(id), "{id} is on no list: {left}");
    }
}
