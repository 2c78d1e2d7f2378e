//! Commands, their environment and how they end.

use serde_json::json;

use crate::gateway::Pods;
use crate::ground::POD_NAME;
use crate::support::Done;

#[test]
fn a_command_runs_in_a_pod_of_its_own_that_goes_with_the_connection() {
    let pods = Pods::start();
    let done = pods.run(&format!("echo \"{POD_NAME}\"; echo words >&2")).ends(0);
    let name = done.stdout.trim();
    assert!(name.starts_with("toehold-"), "{done:?}");
    assert_eq!(done.stderr, "words\n");
    let other = pods.run(&format!("echo \"{POD_NAME}\"")).ends(0);
    assert_ne!(other.stdout.trim(), name);
    pods.waits_until_empty();
}

#[test]
fn it_ends_as_the_command_has_ended_and_says_what_could_not_be_run() {
    let pods = Pods::start();
    for (line, code, said) in [
        ("exit 0", 0, ""),
        ("exit 42", 42, ""),
        ("exit 255", 255, ""),
        ("/bin/nosuch", 127, "nosuch"),
        ("nosuch-either", 127, "nosuch-either"),
        ("touch plain; exec ./plain", 126, "plain"),
        ("/bin/echo a; /bin/echo b; exit 3", 3, ""),
    ] {
        let done = pods.run(line).ends(code);
        assert!(done.stderr.contains(said) && (said.is_empty() == done.stderr.is_empty()), "{line}: {done:?}");
        assert_eq!(done.stdout, if code == 3 { "a\nb\n" } else { "" });
    }
}

/// Linux takes 131,071 bytes as one argument, and a shell is given the line as one.
#[test]
fn a_line_that_no_shell_can_be_given_is_refused_with_words() {
    let pods = Pods::start();
    let (head, tail) = ("printf %s ", " | wc -c");
    let most = "x".repeat(131_071 - head.len() - tail.len());
    assert_eq!(pods.run(&format!("{head}{most}{tail}")).ends(0).stdout.trim(), most.len().to_string());
    // Here, too, no argument may be longer: ssh puts a blank between two.
    for bytes in [131_072, 200_000] {
        let rest = "y".repeat(bytes - head.len() - 100_001);
        let done = Done::of(pods.ssh(&format!("{head}{}", "x".repeat(100_000))).arg(&rest).output().unwrap()).ends(126);
        let said = done.stderr.contains("argument list too long") && done.stderr.contains(&bytes.to_string());
        assert!(said && done.stdout.is_empty(), "{done:?}");
    }
    // The connection lives on.
    pods.run("exit 3").ends(3);
    pods.waits_until_empty();
}

/// As sshd(8) does it: who starts something in the background and lets it have the output hears that to its end.
#[test]
fn what_a_command_leaves_in_the_background_is_heard_to_its_end() {
    let pods = Pods::start();
    let done = pods.run("(sleep 3; echo late; echo trouble >&2) & echo early; exit 7").ends(7);
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("early\nlate\n", "trouble\n"));
    // What lets go of it holds nobody up.
    let since = std::time::Instant::now();
    pods.run("sleep 60 >/dev/null 2>&1 & exit 0").ends(0);
    assert!(since.elapsed() < std::time::Duration::from_secs(30), "{:?}", since.elapsed());
    pods.waits_until_empty();
}

#[test]
fn death_by_a_signal_is_told_as_one() {
    let pods = Pods::start();
    let done = Done::of(pods.ssh_with(&["-v", "-o", "LogLevel=DEBUG1"], "kill -TERM $$").output().unwrap()).ends(255);
    assert!(done.stderr.contains("rtype exit-signal") && !done.stderr.contains("rtype exit-status"), "{}", done.stderr);
    // The status, or the signal, comes before the end of the output.
    let told = done.stderr.find("rtype exit-signal").unwrap();
    assert!(done.stderr.find("rcvd eof").is_none_or(|eof| told < eof), "{}", done.stderr);
}

#[test]
fn the_environment_reaches_the_command_and_nothing_of_the_gateways_does() {
    let pods = Pods::start();
    let greeting = "it's \"here\" $HOME `id` \\ é";
    let set = format!("SetEnv=GREETING=\"{}\"", greeting.replace('\\', "\\\\").replace('"', "\\\""));
    let done = Done::of(
        pods.ssh_with(&["-o", &set], "printf %s \"$GREETING\"; env | grep -v ^TOEHOLD_POD | grep -c TOEHOLD").output().unwrap(),
    );
    assert_eq!((done.code, done.stdout), (1, format!("{greeting}0\n")));
}

#[test]
fn a_subsystem_that_is_not_there_is_refused() {
    let pods = Pods::start();
    let done = Done::of(pods.ssh_with(&["-s"], "netconf").output().unwrap()).ends(255);
    assert!(done.stderr.contains("subsystem request failed"), "{done:?}");
}

#[test]
fn p4_a_key_that_is_bound_to_a_command_runs_that_and_gets_no_terminal() {
    let pods = Pods::start();
    let file = pods.file("authorized_keys");
    let line = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("restrict,command=\"echo bound to \\\"$SSH_ORIGINAL_COMMAND\\\"\" {line}")).unwrap();
    assert_eq!(pods.run("rm -rf 'a b'").ends(0).stdout, "bound to rm -rf 'a b'\n");
    // What was asked for is on record beside what was run.
    let log = pods.toehold.run(["--json", "audit", "ls"]).ends(0).stdout;
    assert!(log.contains("echo bound to") && log.contains("rm -rf 'a b'"), "{log}");
    let done = Done::of(pods.ssh_with(&["-tt"], "").output().unwrap());
    assert!(done.stderr.contains("PTY allocation request failed"), "{done:?}");
    assert_eq!(Done::of(pods.ssh_with(&["-T"], "").output().unwrap()).ends(0).stdout, "bound to \n");
    // Nor does it choose variables, which can make a program run another one; its language it may have.
    std::fs::write(&file, format!("restrict,command=\"echo \\\"$GIT_CONFIG_COUNT,$LC_ALL\\\"\" {line}")).unwrap();
    for (set, printed) in [("GIT_CONFIG_COUNT=1", ",\n"), ("LC_ALL=C.UTF-8", ",C.UTF-8\n")] {
        let done = Done::of(pods.ssh_with(&["-o", &format!("SetEnv={set}")], "").output().unwrap());
        assert_eq!(done.stdout, printed, "{done:?}");
    }
    std::fs::write(&file, format!("environment=\"A=b\" {line}")).unwrap();
    let done = pods.run("true").ends(255);
    assert!(done.stderr.contains("Permission denied (publickey)"), "{done:?}");
}

/// A command that decides by what was asked for must not run as if nothing had been.
#[test]
fn p4_a_line_that_the_command_of_a_key_cannot_be_told_is_refused_with_words() {
    let pods = Pods::start();
    let file = pods.file("authorized_keys");
    let line = std::fs::read_to_string(&file).unwrap();
    let bound = "touch ran; printf %s \\\"$SSH_ORIGINAL_COMMAND\\\" | wc -c";
    std::fs::write(&file, format!("restrict,command=\"{bound}\" {line}")).unwrap();
    let asked = |bytes: usize| "x".repeat(bytes);
    assert_eq!(pods.run(&asked(60_000)).ends(0).stdout.trim(), "60000");
    let most = 65_024 - "SSH_ORIGINAL_COMMAND".len();
    assert_eq!(pods.run(&asked(most)).ends(0).stdout.trim(), most.to_string());
    for (bytes, set) in [(most + 1, ""), (130_000, ""), (most, "LC_ALL=C")] {
        let options = if set.is_empty() { Vec::new() } else { vec!["-o".to_owned(), format!("SetEnv={set}")] };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let done = Done::of(pods.ssh_with(&options, &asked(bytes)).output().unwrap()).ends(255);
        assert_eq!(done.stdout, "", "it did not run");
        let why = if set.is_empty() { bytes.to_string() } else { "what the client sets".to_owned() };
        assert!(done.stderr.contains("SSH_ORIGINAL_COMMAND") && done.stderr.contains(&why), "{done:?}");
    }
    // So many that none is left for it.
    let many: Vec<String> = (0..256).map(|number| format!("LC_{number}=a")).collect();
    let done = Done::of(pods.ssh_with(&["-o", &format!("SetEnv={}", many.join(" "))], "id").output().unwrap()).ends(255);
    assert!(done.stdout.is_empty() && done.stderr.contains("SSH_ORIGINAL_COMMAND"), "{done:?}");
}

#[test]
fn each_channel_may_have_a_pod_of_its_own_and_a_pod_may_stay() {
    let pods = Pods::configured(&json!({ "pod": { "mode": "session" } }), &[]);
    pods.run("echo hello; exit 5").ends(5);
    pods.waits_until_empty();
    let stays = json!({ "pod": { "mode": "persistent", "createMissingPods": true } });
    let pods = pods.again(&stays, &[]);
    pods.run("echo kept > file; (setsid sleep 600 >/dev/null 2>&1 &)").ends(0);
    assert_eq!(pods.run("cat file").ends(0).stdout, "kept\n");
    let name = pods.list()[0]["name"].as_str().unwrap().to_owned();
    assert_eq!(pods.list()[0]["principal"], "alice@example.org");
    // There is no record of it: it is nobody's connection's.
    let since = pods.list()[0]["since"].as_str().unwrap_or_else(|| panic!("{:?}", pods.list())).to_owned();
    assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    // Also over a gateway's death: its processes go, what it holds stays.
    let pods = pods.again(&stays, &[]);
    assert_eq!(pods.run("cat file").ends(0).stdout, "kept\n");
    assert_eq!(pods.about(["rm", &name]).ends(0).json()["removed"], name.as_str());
    pods.waits_until_empty();
}
