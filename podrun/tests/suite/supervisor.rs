//! What the supervisor's texts do in real shells: the ones that this machine has, of `sh`, `dash`, `bash` and `busybox`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use toehold_core::SecretBytes;
use toehold_podrun::supervisor::{Epilogue, FileToWrite, Launch, Leash, Preface, PrefaceState, ProcessNumber};
use toehold_podrun::{Nonce, Signal};

/// The shells of this machine, each as the words that stand in for `/bin/sh`.
fn shells() -> Vec<Vec<&'static str>> {
    let all = [vec!["/bin/sh"], vec!["dash"], vec!["bash"], vec!["bash", "--posix"], vec!["busybox", "sh"]];
    let there = |shell: &Vec<&str>| {
        Command::new(shell[0]).args(&shell[1..]).args(["-c", ":"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let shells: Vec<_> = all.into_iter().filter(there).collect();
    assert!(!shells.is_empty());
    shells
}

/// The command as a runtime starts it: as the leader of a session of its own.
fn start(shell: &[&str], command: &[String]) -> Child {
    // With the signals that a container's first process has: no shell can trap what was ignored before it, as by nohup(1).
    let mut process = Command::new("env");
    process
        .args(["--default-signal", "setsid"])
        .args(shell)
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    process.spawn().unwrap()
}

fn nonce() -> Nonce {
    Nonce::generate(&mut ChaCha20Rng::from_seed([7; 32]))
}

struct Ran {
    state: PrefaceState,
    output: Vec<u8>,
    errors: String,
    status: ExitStatus,
}

fn run(shell: &[&str], launch: &Launch, input: &[u8]) -> Ran {
    let mut child = start(shell, &Launch::command());
    let preamble = launch.preamble().unwrap();
    let mut all = preamble.expose().to_vec();
    all.extend_from_slice(input);
    let mut stdin = child.stdin.take().unwrap();
    // What does not read its input to the end is no failure.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&all)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let mut preface = Preface::new(launch.nonce, preamble.len());
    let state = preface.receive(&output.stdout);
    let from = if let PrefaceState::Ready { output_from, .. } = state { output_from } else { output.stdout.len() };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { state, output: output.stdout[from..].to_vec(), errors, status: output.status }
}

fn words(list: &[&str]) -> Vec<Vec<u8>> {
    list.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn p6_every_byte_arrives_and_none_is_read_as_shell() {
    let nasty: Vec<u8> = (1..=255).collect();
    let texts: [&[u8]; 7] = [b"", b"$(touch /tmp/x) `id` ; | & \\", b"'\"", b" a  b ", b"\n\n", b"-n", &nasty];
    for shell in shells() {
        for text in texts {
            let mut launch = Launch::new(nonce(), words(&["/bin/sh", "-c", r#"printf '%s|%s' "$VALUE" "$1""#, "sh"]));
            launch.arguments.push(text.to_vec());
            launch.environment.push(("VALUE".parse().unwrap(), SecretBytes::new(text.to_vec())));
            let ran = run(&shell, &launch, b"");
            assert!(matches!(ran.state, PrefaceState::Ready { .. }), "{shell:?} {text:?} {}", ran.errors);
            assert_eq!(ran.output, [text, b"|", text].concat(), "{shell:?}");
        }
    }
}

#[test]
fn p6_nothing_of_a_start_stands_in_the_arguments() {
    let mut launch = Launch::new(nonce(), words(&["/bin/sh", "-c", "secret-command"]));
    launch.environment.push(("SECRET_NAME".parse().unwrap(), SecretBytes::new(b"secret-value".to_vec())));
    let arguments = Launch::command().join(" ");
    assert!(!arguments.to_lowercase().contains("secret"));
    assert!(!format!("{launch:?}").contains("secret-value"));
}

#[test]
fn input_after_the_preamble_is_the_commands_own_to_the_byte() {
    let input: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 256).unwrap()).collect();
    for shell in shells() {
        let ran = run(&shell, &Launch::new(nonce(), words(&["cat"])), &input);
        assert_eq!(ran.output, input, "{shell:?}");
        assert_eq!(ran.status.code(), Some(0));
    }
}

#[test]
fn not_found_is_127_and_not_executable_126_each_with_a_line() {
    for shell in shells() {
        for (program, code) in [("/bin/nosuch", 127), ("nosuch-command", 127), ("/etc/passwd", 126)] {
            let ran = run(&shell, &Launch::new(nonce(), words(&[program])), b"");
            assert_eq!(ran.status.code(), Some(code), "{shell:?} {program}: {}", ran.errors);
            assert!(ran.errors.contains(program), "{shell:?}: {}", ran.errors);
        }
    }
}

#[test]
fn sh_takes_the_place_of_a_shell_that_is_not_there() {
    for shell in shells() {
        let mut launch = Launch::new(nonce(), words(&["/bin/nosuch-bash", "-c", "echo here"]));
        launch.or_sh = true;
        assert_eq!(run(&shell, &launch, b"").output, b"here\n", "{shell:?}");
        launch.arguments[0] = b"/bin/cat".to_vec();
        launch.arguments.truncate(1);
        assert_eq!(run(&shell, &launch, b"kept").output, b"kept", "{shell:?}");
    }
}

fn file(path: &std::path::Path, mode: u16, content: &[u8]) -> FileToWrite {
    FileToWrite { path: path.to_str().unwrap().parse().unwrap(), mode, content: SecretBytes::new(content.to_vec()) }
}

#[test]
fn files_are_there_before_the_command_with_their_mode() {
    use std::os::unix::fs::PermissionsExt as _;
    let content: Vec<u8> = (0..=255).cycle().take(5000).collect();
    for shell in shells() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/a file $(x)");
        let mut launch = Launch::new(nonce(), words(&["cat", path.to_str().unwrap()]));
        launch.files.push(file(&path, 0o640, &content));
        assert_eq!(run(&shell, &launch, b"").output, content, "{shell:?}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        launch.files[0] = file(&path, 0o6600, b"");
        assert_eq!(run(&shell, &launch, b"").output, b"", "{shell:?}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{shell:?}: only what is masked");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing stays beside it");
        // A link is replaced, not followed.
        let other = directory.path().join("other");
        std::fs::write(&other, "as it was").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(matches!(run(&shell, &launch, b"").state, PrefaceState::Ready { .. }));
        assert!(path.symlink_metadata().unwrap().is_file() && std::fs::read(&other).unwrap() == b"as it was", "{shell:?}");
    }
}

#[test]
fn a_file_below_home_goes_below_the_home_that_the_image_has() {
    for shell in shells() {
        let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut launch = Launch::new(nonce(), words(&["/bin/sh", "-c", "cat \"$1/.config/x y\"; echo $HOME", "sh"]));
        launch.arguments.push(home.path().to_str().unwrap().into());
        launch.files.push(file(std::path::Path::new("~/.config/x y"), 0o600, b"here\n"));
        // What a client sets is for the command: it neither moves the file nor chooses the programs that write it.
        let set = |text: &std::path::Path| SecretBytes::new(text.to_str().unwrap().into());
        launch.environment.push(("HOME".parse().unwrap(), set(elsewhere.path())));
        launch.environment.push(("PATH".parse().unwrap(), SecretBytes::new(b"/usr/bin:/bin".to_vec())));
        let under = |home: &str| ["env", &format!("HOME={home}")].map(str::to_owned).to_vec();
        let with_home = |home: &str| {
            let prefix = under(home);
            let words: Vec<&str> = prefix.iter().map(String::as_str).chain(shell.iter().copied()).collect();
            run(&words, &launch, b"")
        };
        let ran = with_home(home.path().to_str().unwrap());
        assert_eq!(String::from_utf8(ran.output).unwrap(), format!("here\n{}\n", elsewhere.path().display()), "{shell:?}");
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        for none in ["", "relative"] {
            let ran = with_home(none);
            assert!(matches!(ran.state, PrefaceState::Failed(words) if words.contains("home")), "{shell:?}: {:?}", ran.state);
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_the_command_does_not_run() {
    for shell in shells() {
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("good");
        std::fs::create_dir(directory.path().join("taken")).unwrap();
        std::fs::write(directory.path().join("plain"), "").unwrap();
        for bad in ["taken", "plain/below", "/proc/none", "/proc/none/below", "/dev/full/x"] {
            let mut launch = Launch::new(nonce(), words(&["echo", "ran"]));
            launch.files.push(file(&good, 0o600, b"x"));
            launch.files.push(file(&directory.path().join(bad), 0o600, b"x"));
            let ran = run(&shell, &launch, b"");
            assert_eq!(ran.state, PrefaceState::FileFailed(1), "{shell:?}: {bad}: {}", ran.errors);
            assert_eq!((ran.output, ran.status.code()), (Vec::new(), Some(125)), "the command was not run");
        }
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 3, "nothing stays beside them");
    }
}

#[test]
fn a_preamble_that_breaks_off_runs_nothing() {
    let launch = Launch::new(nonce(), words(&["echo", "ran"]));
    let preamble = launch.preamble().unwrap();
    for shell in shells() {
        for cut in [0, 5, preamble.len() - 4] {
            let mut child = start(&shell, &Launch::command());
            child.stdin.take().unwrap().write_all(&preamble.expose()[..cut]).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(125), "{shell:?} {cut}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("ran"));
        }
    }
}

/// In a pod that stays nothing runs that is not on the leash yet.
#[test]
fn what_is_held_runs_when_it_is_told_to_and_not_at_all_where_nobody_is_left_to_tell_it() {
    for shell in shells() {
        for told in [true, false] {
            let mut launch = Launch::new(nonce(), words(&["/bin/sh", "-c", "echo ran; cat"]));
            launch.held = true;
            let preamble = launch.preamble().unwrap();
            let mut child = start(&shell, &Launch::command());
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(preamble.expose()).unwrap();
            let mut preface = Preface::new(launch.nonce, preamble.len());
            let mut byte = [0];
            let stdout = child.stdout.as_mut().unwrap();
            let process = loop {
                assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{shell:?}: it ended before it was ready");
                if let PrefaceState::Ready { process, .. } = preface.receive(&byte) {
                    break process;
                }
            };
            assert_eq!(process.to_string(), child.id().to_string(), "{shell:?}");
            if told {
                stdin.write_all(&[Launch::GO, b"input"].concat()).unwrap();
            }
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            if told {
                assert_eq!((said.as_str(), output.status.code()), ("ran\ninput", Some(0)), "{shell:?}");
            } else {
                assert!(!said.contains("ran") && output.status.code() == Some(125), "{shell:?}: {said}");
            }
        }
    }
}

/// The input of a terminal does not end with the stream: whoever gives a start up says so, wherever it is.
#[test]
fn p1_what_is_held_is_given_up_by_a_word_while_its_input_stays_open() {
    let mut launch = Launch::new(nonce(), words(&["/bin/sh", "-c", "echo ran"]));
    launch.held = true;
    launch.environment.push(("A".parse().unwrap(), SecretBytes::new(b"b".to_vec())));
    let preamble = launch.preamble().unwrap();
    for shell in shells() {
        for cut in 0..=preamble.len() {
            let mut child = start(&shell, &Launch::command());
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&preamble.expose()[..cut]).unwrap();
            stdin.write_all(Launch::NEVER).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(!said.contains("ran") && !output.status.success(), "{shell:?}, {cut}: {said}");
            drop(stdin);
        }
    }
}

/// Starts a command and waits until it runs.
#[expect(clippy::zombie_processes, reason = "the caller waits for it")]
fn running(shell: &[&str], arguments: &[&str]) -> (Child, ChildStdin, ProcessNumber) {
    let launch = Launch::new(nonce(), words(arguments));
    let preamble = launch.preamble().unwrap();
    let mut child = start(shell, &Launch::command());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(preamble.expose()).unwrap();
    let mut preface = Preface::new(launch.nonce, preamble.len());
    let mut byte = [0];
    let stdout = child.stdout.as_mut().unwrap();
    loop {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended before it was ready");
        if let PrefaceState::Ready { process, .. } = preface.receive(&byte) {
            return (child, stdin, process);
        }
    }
}

fn ended_within_a_minute(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signals_reach_the_command_without_a_program_of_ours() {
    use std::os::unix::process::ExitStatusExt as _;
    for shell in shells() {
        let (mut child, _stdin, process) = running(&shell, &["/bin/sh", "-c", "sleep 600; exit 3"]);
        let mut leash = start(&shell, &Leash::command());
        let mut orders = leash.stdin.take().unwrap();
        orders.write_all(Leash::Signal(process, Signal::Term).line().as_bytes()).unwrap();
        assert_eq!(ended_within_a_minute(&mut child).signal(), Some(15), "{shell:?}");
        drop(orders);
        assert_eq!(ended_within_a_minute(&mut leash).code(), Some(0), "{shell:?}: nothing was left to end");
    }
}

/// A session with a group of its own in it (without a terminal no shell makes one, and `timeout` does), all of which ignores HUP. Prints the
/// number of what leads that group.
const DEAF_IN_ITS_GROUP: [&str; 3] = ["/bin/sh", "-c", "trap '' HUP; timeout 600 sleep 600 & echo $!; wait"];

/// What leads the other group, once it does.
fn other_group(child: &mut Child, session: ProcessNumber) -> String {
    let mut number = String::new();
    let mut byte = [0];
    while child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        number.push(char::from(byte[0]));
    }
    assert_ne!(number, session.to_string());
    let deadline = Instant::now() + Duration::from_mins(1);
    // State, parent, group, session: proc_pid_stat(5).
    while !stat(&number).contains(&format!(" {number} {session} ")) {
        assert!(Instant::now() < deadline, "{}", stat(&number));
        std::thread::sleep(Duration::from_millis(5));
    }
    number
}

fn stat(number: &str) -> String {
    std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default()
}

/// All of it is gone: what was started, and the other group.
#[track_caller]
fn is_over(mut child: Child, other: &str, shell: &[&str]) {
    ended_within_a_minute(&mut child);
    let deadline = Instant::now() + Duration::from_mins(1);
    while !stat(other).is_empty() && !stat(other).contains(") Z ") {
        assert!(Instant::now() < deadline, "{shell:?}: {}", stat(other));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_watched_ends_with_the_stream_also_in_other_groups_and_deaf_to_hangup() {
    for shell in shells() {
        let (mut child, _stdin, process) = running(&shell, &DEAF_IN_ITS_GROUP);
        let group = other_group(&mut child, process);
        let (mut free, free_input, other) = running(&shell, &["cat"]);
        let mut leash = start(&shell, &Leash::command());
        let mut orders = leash.stdin.take().unwrap();
        for order in [Leash::Watch(process), Leash::Watch(other), Leash::Unwatch(other)] {
            orders.write_all(order.line().as_bytes()).unwrap();
        }
        orders.write_all(b"s $(id) TERM\nw x\nnonsense\n").unwrap();
        // Said again, as to a leash that is begun anew, it is not watched twice.
        orders.write_all(Leash::Watch(process).line().as_bytes()).unwrap();
        let mut confirmed = BufReader::new(leash.stdout.take().unwrap()).lines();
        for expected in [process, other, process] {
            assert_eq!(Leash::confirmed(confirmed.next().unwrap().unwrap().as_bytes()), Some(expected), "{shell:?}");
        }
        drop(orders);
        ended_within_a_minute(&mut leash);
        is_over(child, &group, &shell);
        assert!(free.try_wait().unwrap().is_none(), "{shell:?}: what is no longer watched lives on");
        drop(free_input);
        ended_within_a_minute(&mut free);
    }
}

#[test]
fn what_is_to_end_does_so_at_once_in_all_its_groups_and_nothing_else_does() {
    for shell in shells() {
        let (mut child, _stdin, process) = running(&shell, &DEAF_IN_ITS_GROUP);
        let group = other_group(&mut child, process);
        let (mut other, other_input, watched) = running(&shell, &["cat"]);
        let mut leash = start(&shell, &Leash::command());
        let mut orders = leash.stdin.take().unwrap();
        for order in [Leash::Watch(process), Leash::Watch(watched), Leash::End(process)] {
            orders.write_all(order.line().as_bytes()).unwrap();
        }
        is_over(child, &group, &shell);
        assert!(other.try_wait().unwrap().is_none() && leash.try_wait().unwrap().is_none(), "{shell:?}");
        // It goes on, and what it has ended is not watched any more.
        orders.write_all(Leash::Unwatch(watched).line().as_bytes()).unwrap();
        drop(orders);
        assert_eq!(ended_within_a_minute(&mut leash).code(), Some(0), "{shell:?}");
        assert!(other.try_wait().unwrap().is_none(), "{shell:?}");
        drop(other_input);
        ended_within_a_minute(&mut other);
    }
}

/// With the shell beside it, which tells how it ended.
fn run_told(shell: &[&str], launch: &Launch, input: &[u8]) -> (Ran, Option<u8>) {
    let mut child = start(shell, &Launch::command());
    let preamble = launch.preamble().unwrap();
    let all = [Launch::TELL_END, preamble.expose(), input].concat();
    let mut stdin = child.stdin.take().unwrap();
    // All of it is taken, whatever the command takes of it.
    let writer = std::thread::spawn(move || stdin.write_all(&all).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let mut preface = Preface::new(launch.nonce, preamble.len());
    let state = preface.receive(&output.stdout);
    let from = if let PrefaceState::Ready { output_from, .. } = state { output_from } else { output.stdout.len() };
    let (mut epilogue, mut own) = (Epilogue::new(launch.nonce), Vec::new());
    let told = epilogue.receive(&output.stderr, &mut own);
    own.extend(epilogue.rest());
    let errors = String::from_utf8_lossy(&own).into_owned();
    (Ran { state, output: output.stdout[from..].to_vec(), errors, status: output.status }, told)
}

#[test]
fn the_shell_that_stays_tells_the_end_and_takes_the_input_that_the_command_does_not() {
    let input = vec![b'x'; 3_000_000];
    for shell in shells() {
        let of = |words_of: &[&str], input: &[u8]| run_told(&shell, &Launch::new(nonce(), words(words_of)), input);
        let (ran, told) = of(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], &input);
        assert_eq!((ran.status.code(), told, ran.errors.as_str()), (Some(3), Some(3), "err\n"), "{shell:?}");
        assert_eq!(ran.output, b"out\n", "{shell:?}");
        let (ran, told) = of(&["head", "-c", "1000000"], &input);
        assert_eq!((ran.status.code(), told, ran.output.len()), (Some(0), Some(0), 1_000_000), "{shell:?}: {}", ran.errors);
        let (ran, told) = of(&["cat"], &input);
        assert_eq!((told, ran.output.len()), (Some(0), input.len()), "{shell:?}");
        // A name is that of a program, also where the shell has one of its own.
        let (ran, told) = of(&["exit", "5"], b"");
        assert_eq!((ran.status.code(), told), (Some(127), Some(127)), "{shell:?}: {}", ran.errors);
        for (program, code) in [("/bin/nosuch", 127), ("/etc/passwd", 126)] {
            let (ran, told) = of(&[program], &input);
            assert_eq!((ran.status.code(), told), (Some(i32::from(code)), Some(code)), "{shell:?}: {}", ran.errors);
            assert!(ran.errors.contains(program), "{shell:?}: {}", ran.errors);
        }
        // No word of the shell's own about a command that a signal has ended.
        let (ran, told) = of(&["/bin/sh", "-c", "kill -KILL $$"], &input);
        assert_eq!((ran.status.code(), told, ran.errors.as_str()), (Some(137), Some(137), ""), "{shell:?}");
        // It has the default for what the shell beside it bears, and its descriptors are the three.
        let (ran, told) = of(&["/bin/sh", "-c", "ls /proc/$$/fd >&2; kill -TERM $$; exit 1"], b"");
        assert_eq!((told, ran.status.code()), (Some(143), Some(143)), "{shell:?}");
        assert!(!ran.errors.lines().any(|line| line == "3"), "{shell:?}: {}", ran.errors);
    }
}

/// A signal goes to the whole group: the shell outlives all but `KILL`, and tells what became of the command.
#[test]
fn the_shell_that_stays_outlives_the_signals_that_the_command_gets() {
    for shell in shells() {
        for (signal, ends_with) in [("TERM", 42), ("HUP", 42), ("USR1", 42), ("KILL", 0)] {
            let mut child = start(&shell, &Launch::command());
            let line = "trap 'exit 42' TERM HUP USR1; echo begun; while :; do sleep 0.02; done";
            let launch = Launch::new(nonce(), words(&["/bin/sh", "-c", line]));
            let mut stdin = child.stdin.take().unwrap();
            let preamble = launch.preamble().unwrap();
            stdin.write_all(&[Launch::TELL_END, preamble.expose()].concat()).unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap());
            let mut answer = String::new();
            lines.read_line(&mut answer).unwrap();
            let mut preface = Preface::new(launch.nonce, preamble.len());
            let PrefaceState::Ready { process, .. } = preface.receive(answer.as_bytes()) else { panic!("{answer:?}") };
            let group = format!("-{process}");
            assert!(Command::new("kill").args([&format!("-{signal}"), "--", &group]).status().unwrap().success());
            if signal == "KILL" {
                assert!(ended_within_a_minute(&mut child).code().is_none(), "{shell:?}");
                continue;
            }
            // Its input stays open: it tells all the same, and ends with the input.
            let mut said = Vec::new();
            let mut stderr = child.stderr.take().unwrap();
            let (mut epilogue, mut own) = (Epilogue::new(launch.nonce), Vec::new());
            let told = loop {
                let mut piece = [0; 64];
                let length = stderr.read(&mut piece).unwrap();
                assert!(length > 0, "{shell:?} {signal}");
                said.extend_from_slice(&piece[..length]);
                if let Some(told) = epilogue.receive(&piece[..length], &mut own) {
                    break told;
                }
            };
            assert_eq!(told, ends_with, "{shell:?} {signal}: {}", String::from_utf8_lossy(&said));
            assert!(child.try_wait().unwrap().is_none());
            drop(stdin);
            assert_eq!(ended_within_a_minute(&mut child).code(), Some(i32::from(ends_with)), "{shell:?} {signal}");
        }
    }
}
