//! Sessions that are interrupted, cancelled, forgotten and recovered, by the program itself.

use std::fs;
use std::process::Command;

use crate::support;
use crate::support::{Inside, Toehold, Waiting};
use rustix::process::{Pid, Signal, kill_process};
use toehold::adapters::local_host::Fault;

/// The open session of this name.
#[track_caller]
fn open_session(toehold: &Toehold, id: &str) -> serde_json::Value {
    let open = toehold.sessions(false);
    open.iter().find(|session| session["id"] == id).unwrap_or_else(|| panic!("{id} is not among {open:?}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn seen_gone_interrupted_while_nobody_has_pasted_the_line() {
    for signal in [Signal::INT, Signal::TERM] {
        let (toehold, host) = (Toehold::new(), Inside::start().await);
        let waiting = Waiting::start(&toehold, &host, &[]);
        // Other commands work meanwhile.
        assert_eq!(open_session(&toehold, &waiting.session)["status"], "active");
        toehold.run(["host", "ls"]).ends(0);
        toehold.run(["host", "check"]).ends(0);
        waiting.signal(signal);
        let (session, command) = (waiting.session.clone(), waiting.command.clone());
        let done = waiting.ends().ends(3);
        assert!(done.stderr.contains("interrupted"), "{}", done.stderr);
        assert_eq!(host.ours(), "");
        let open = open_session(&toehold, &session);
        assert_eq!((open["status"].as_str(), open["cancelled"].as_bool()), (Some("orphaned"), Some(true)));
        // Whoever pastes it now lets in a key that nobody has, until its end; the next contact takes it away.
        assert!(Command::new("sh").args(["-c", &command]).output().unwrap().status.success());
        host.nothing_is_lost(&toehold);
        assert!(host.ours().contains(&session));
        host.add(&toehold, &[]).ends(0);
        assert_eq!(host.ours().trim(), format!("{} toehold-master", toehold.master_key()));
        toehold.run(["session", "recover"]).ends(0);
        host.is_managed(&toehold);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anchored_as_it_was_interrupted_at_any_moment_of_the_work_on_the_host() {
    let mut codes = Vec::new();
    for (index, at) in (0..140).step_by(10).enumerate() {
        let (toehold, host) = (Toehold::new(), Inside::start().await);
        let (account, file) = (host.account(), host.host_key_file());
        let arguments =
            ["host", "add", &account, "--home", host.home(), "--host-key-file", file.to_str().unwrap(), "--via", "sh"];
        let mut child = toehold.spawn(arguments);
        while host.requests() <= at && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let signal = if index % 2 == 0 { Signal::INT } else { Signal::TERM };
        // It may have come to its end on its own.
        let _ = kill_process(Pid::from_child(&child), signal);
        let done = Toehold::wait(child);
        match done.code {
            0 => host.is_managed(&toehold),
            1 if done.stderr.contains("so the host is managed") => host.is_managed(&toehold),
            1 => {
                assert_eq!((host.ours().as_str(), host.names().len()), ("", 1), "as_it_was at {at}: {}", done.stderr);
                assert!(toehold.sessions(false).is_empty(), "{at}: {}", done.stderr);
            }
            code => panic!("at {at}: {code}: {}", done.stderr),
        }
        host.nothing_is_lost(&toehold);
        codes.push(done.code);
    }
    assert!(codes.contains(&1), "no signal came in time: {codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_by_another_command_while_it_waits() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let waiting = Waiting::start(&toehold, &host, &[]);
    // Somebody is at work on it, so that nobody else takes it up or forgets it.
    let done = toehold.run(["session", "recover", &waiting.session]).ends(1);
    assert!(done.stderr.contains("another process"), "{}", done.stderr);
    let done = toehold.run(["session", "cancel", "--forget", &waiting.session]).ends(1);
    assert!(done.stderr.contains("another process"), "{}", done.stderr);
    let session = waiting.session.clone();
    let cancelled = toehold.run(["session", "cancel", &session]).ends(3);
    assert!(cancelled.stderr.contains("cancelled"), "{}", cancelled.stderr);
    let done = waiting.ends().ends(3);
    assert!(done.stderr.contains("cancelled"), "{}", done.stderr);
    assert_eq!(open_session(&toehold, &session)["status"], "orphaned");
    assert_eq!(host.ours(), "");
    toehold.run(["session", "cancel", "0123456789abcdef0123456789abcdef"]).ends(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_after_the_line_was_run_it_is_undone() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    // The key is good for nobody who comes from here.
    let waiting = Waiting::start(&toehold, &host, &["--from", "192.0.2.0/24"]);
    assert!(waiting.paste().status.success());
    assert!(host.ours().contains(&waiting.session));
    let (session, removal) = (waiting.session.clone(), open_session(&toehold, &waiting.session)["removal_command"].clone());
    // Nobody can log in from here, so the process can take nothing away; it says so, and the session stays.
    toehold.run(["session", "cancel", &session]).ends(3);
    waiting.ends().ends(3);
    host.nothing_is_lost(&toehold);
    // The line that session show prints for it does, as it stands there.
    let listed = toehold.run(["session", "ls"]).ends(0);
    assert!(listed.stdout.lines().all(|line| line.len() <= 150), "a removal line makes the list unreadable: {}", listed.stdout);
    assert!(listed.stdout.contains("session show"), "{}", listed.stdout);
    let shown = toehold.run(["session", "show", &session]).ends(0);
    let line = shown.stdout.lines().skip_while(|line| !line.contains("by hand, run this on")).nth(1).unwrap();
    assert_eq!(line, removal.as_str().unwrap());
    assert!(Command::new("sh").args(["-c", line]).output().unwrap().status.success());
    assert_eq!((host.ours().as_str(), host.names().len()), ("", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_after_its_process_died() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let mut sessions = Vec::new();
    for more in [&[][..], &["--seal-temporary-key"]] {
        let waiting = Waiting::start(&toehold, &host, more);
        assert!(waiting.paste().status.success());
        sessions.push(waiting.session.clone());
        waiting.kill();
        toehold.run(["session", "cancel", sessions.last().unwrap()]);
    }
    // The key of the second is at hand, that of the first is not.
    assert!(!host.ours().contains(&sessions[1]), "{}", host.ours());
    assert!(host.ours().contains(&sessions[0]), "{}", host.ours());
    assert_eq!(toehold.sessions(false).len(), 1);
    assert_eq!(open_session(&toehold, &sessions[0])["cancelled"], true);
    let all = toehold.run(["session", "cancel", "--all"]).ends(3);
    assert!(all.stdout.contains(&sessions[0]) && all.stderr.contains("1 session is still owed"), "{}{}", all.stdout, all.stderr);
    host.comes_to_an_end(&toehold);
    let none = toehold.run(["session", "cancel", "--all"]).ends(0);
    assert!(none.stdout.contains("No session is open"), "{}", none.stdout);
    let closed = toehold.run(["session", "cancel", &sessions[1]]).ends(1);
    assert!(closed.stderr.contains("failed already"), "{}", closed.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_only_after_the_end_of_the_key() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let waiting = Waiting::start(&toehold, &host, &[]);
    assert!(waiting.paste().status.success());
    let session = waiting.session.clone();
    waiting.kill();
    let done = toehold.run(["session", "cancel", "--forget", &session]).ends(1);
    assert!(done.stderr.contains("once its key has ended"), "{}", done.stderr);
    let record = open_session(&toehold, &session);
    assert!(done.stderr.contains(record["expires_at"].as_str().unwrap()), "{}", done.stderr);
    // As if half an hour had gone by.
    support::store::change(&toehold, &format!("session/{session}"), |record| {
        record["expires_at"] = record["created_at"].clone();
    });
    let listed = toehold.run(["session", "ls"]).ends(0);
    assert!(listed.stdout.contains("ended"), "{}", listed.stdout);
    toehold.run(["session", "cancel", "--forget", &session]).ends(0);
    assert!(toehold.sessions(false).is_empty());
    let all = toehold.sessions(true);
    assert_eq!((all.len(), all[0]["closed"]["evidence"].as_str()), (1, Some("operators_word")));
}

#[tokio::test(flavor = "multi_thread")]
async fn never_on_disk_a_sealed_key_settles_a_crash_at_once_and_without_it_the_next_contact_does() {
    for sealed in [true, false] {
        let (toehold, host) = (Toehold::new(), Inside::start().await);
        let waiting = Waiting::start(&toehold, &host, if sealed { &["--seal-temporary-key"] } else { &[] });
        // Dead before the line is pasted, so that it cannot have got anywhere.
        let (session, command) = (waiting.session.clone(), waiting.command.clone());
        waiting.kill();
        assert!(Command::new("sh").args(["-c", &command]).output().unwrap().status.success());
        assert!(host.ours().contains(&session));
        let record = open_session(&toehold, &session);
        assert_eq!(record["status"], "active");
        assert!(record.get("sealed_temporary_key").is_none(), "nobody needs to see it: {record}");
        for file in fs::read_dir(toehold.state()).unwrap() {
            let text = String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).into_owned();
            assert!(!text.contains("PRIVATE KEY"), "never_on_disk");
        }
        let recovered = toehold.run(["session", "recover", &session]);
        if sealed {
            assert_eq!(recovered.code, 0, "{}", recovered.stderr);
            assert_eq!((host.ours().as_str(), host.names().len()), ("", 1), "as_it_was");
            assert!(toehold.sessions(false).is_empty());
        } else {
            assert_eq!(recovered.code, 3, "{}", recovered.stderr);
            assert!(host.ours().contains(&session), "nobody could log in to take it away");
            assert_eq!(open_session(&toehold, &session)["status"], "orphaned");
            host.nothing_is_lost(&toehold);
            host.add(&toehold, &[]).ends(0);
            host.is_managed(&toehold);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_says_how_it_stands_by_its_exit_code() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    assert!(toehold.run(["session", "recover"]).ends(0).stdout.contains("No session is open"));
    let unknown = toehold.run(["session", "recover", "0123456789abcdef0123456789abcdef"]).ends(1);
    assert!(unknown.stderr.contains("there is no session") && unknown.stderr.contains("session ls --all"), "{}", unknown.stderr);
    toehold.run(["session", "recover", "not-an-id"]).ends(2);
    host.add(&toehold, &[]).ends(0);
    let closed = toehold.sessions(true)[0]["id"].as_str().unwrap().to_owned();
    let done = toehold.run(["session", "recover", &closed]).ends(1);
    assert!(done.stderr.contains("completed already"), "{}", done.stderr);
    // A live one is left alone, and named.
    let waiting = Waiting::start(&toehold, &host, &[]);
    let done = toehold.run(["session", "recover"]).ends(0);
    assert_eq!(open_session(&toehold, &waiting.session)["status"], "active");
    assert!(done.stdout.contains(&format!("Another process is working on {}", waiting.session)), "{}", done.stdout);
    let done = toehold.run(["session", "cancel", "--all"]).ends(3);
    assert!(done.stderr.contains(&waiting.session), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_comes_too_late_says_so() {
    let rehearsal = Inside::start().await;
    rehearsal.add(&Toehold::new(), &[]).ends(0);
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    // The last thing asked of the host: the master key is proven by then, and the temporary one was taken away.
    host.fault(Fault::HoldRequest(rehearsal.requests() - 1));
    let (account, file) = (host.account(), host.host_key_file());
    let arguments = ["host", "add", &account, "--home", host.home(), "--host-key-file", file.to_str().unwrap(), "--via", "sh"];
    let adding = toehold.spawn(arguments);
    while !host.is_holding() {
        std::thread::yield_now();
    }
    let session = toehold.sessions(false)[0]["id"].as_str().unwrap().to_owned();
    let cancelling = toehold.spawn(["--json", "session", "cancel", &session]);
    while open_session(&toehold, &session)["cancelled"] != true {
        std::thread::yield_now();
    }
    host.heal();
    Toehold::wait(adding).ends(0);
    let done = Toehold::wait(cancelling).ends(1);
    let document = done.json();
    assert_eq!((document["status"].as_str(), document["session"].as_str()), (Some("completed"), Some(session.as_str())));
    assert!(document["error"].as_str().unwrap().contains("too late"), "{document}");
    assert!(document["hint"].as_str().unwrap().contains("host rm"), "{document}");
    host.is_managed(&toehold);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_name_the_account_that_they_are_about() {
    let toehold = Toehold::new();
    let (first, second) = (Inside::start().await, Inside::start().await);
    let mut sessions = Vec::new();
    for host in [&first, &second] {
        let waiting = Waiting::start(&toehold, host, &["--seal-temporary-key"]);
        assert!(waiting.paste().status.success());
        sessions.push(waiting.session.clone());
        waiting.kill();
    }
    let named = |done: &support::Done| -> std::collections::BTreeSet<String> {
        let events = done.lines().into_iter().filter(|line| line.get("event").is_some());
        events.map(|event| event["account"].as_str().unwrap().to_owned()).collect()
    };
    let one = toehold.run(["--json", "session", "cancel", &sessions[0]]).ends(0);
    assert_eq!(named(&one).into_iter().collect::<Vec<_>>(), [first.account()]);
    let again = Waiting::start(&toehold, &first, &["--seal-temporary-key"]);
    assert!(again.paste().status.success());
    again.kill();
    let all = toehold.run(["--json", "session", "cancel", "--all"]).ends(0);
    assert_eq!(named(&all), [first.account(), second.account()].into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_cannot_be_taken_is_not_somebody_elses() {
    use std::os::unix::fs::symlink;
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let waiting = Waiting::start(&toehold, &host, &["--seal-temporary-key"]);
    let session = waiting.session.clone();
    waiting.kill();
    // As on a disk that cannot be written to, also for root.
    let lock = toehold.state().join(format!("session-{session}.lock"));
    drop(fs::remove_file(&lock));
    symlink("/nowhere/at/all", &lock).unwrap();
    for command in [&["recover"][..], &["cancel", "--all"]] {
        let done = toehold.run(["--json", "session"].into_iter().chain(command.iter().copied())).ends(3);
        let document = done.json();
        assert_eq!((document["owed"].as_u64(), document["busy"].as_array().unwrap().len()), (Some(1), 0), "{document}");
        assert!(document["sessions"][0]["reason"].as_str().unwrap().contains("no lock file"), "{document}");
    }
    fs::remove_file(&lock).unwrap();
    // Nobody has pasted its line, and somebody still may: owed, but taken up.
    let done = toehold.run(["--json", "session", "recover"]).ends(3);
    assert_eq!(done.json()["sessions"][0]["status"], "orphaned", "{}", done.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_managed_is_not_told_as_failed_for_what_others_left() {
    use std::os::unix::fs::symlink;
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    // An orphaned session whose lock cannot be taken.
    let waiting = Waiting::start(&toehold, &host, &[]);
    let session = waiting.session.clone();
    waiting.signal(Signal::TERM);
    waiting.ends().ends(3);
    symlink("/nowhere/at/all", toehold.state().join(format!("session-{session}.lock"))).unwrap();
    let done = host.add(&toehold, &["--json"]).ends(0);
    assert!(
        done.stdout.contains("\"completed\"") && done.stdout.contains("earlier sessions could not be settled"),
        "{}",
        done.stdout
    );
}

/// A terminal takes only so long a line; a shell that reads it from a pipe takes any.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_too_long_to_paste_is_fed_to_a_shell_all_the_same() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let file = host.host_key_file();
    let many = ["--host-key-file", file.to_str().unwrap()].repeat(40);
    let account = host.account();
    let done = toehold.run([&["host", "add", &account, "--home", host.home()], many.as_slice()].concat()).ends(1);
    assert!(done.stderr.contains("over the limit of 4000"), "{}", done.stderr);
    assert!(toehold.sessions(true).is_empty(), "a session was begun for a line that nobody can paste");
    host.add(&toehold, &many).ends(0);
    host.is_managed(&toehold);
}
