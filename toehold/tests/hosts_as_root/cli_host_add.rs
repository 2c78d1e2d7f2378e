//! `toehold host add` and what belongs to it, against real OpenSSH.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::support;
use crate::support::{Done, RealSshd, Toehold};
use toehold::adapters::sqlite::SqliteStore;
use toehold_core::{Account, HostRecord, Route, Stored};

const FOREIGN: &[u8] = b"# somebody's own\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUJRSZ8v0MTV4WDCCOeKnIDG3mTjTq3sSPsqEO2nGOV \xff\0x\n\n  not a key";

/// `host add` of this server through a local `sh`, with further arguments.
fn add(toehold: &Toehold, host: &RealSshd, more: &[&str]) -> Done {
    let (account, home) = (host.account().to_string(), host.home());
    let mut arguments = vec!["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"];
    arguments.extend(more);
    toehold.run(arguments)
}

/// `host add` of this server through another command.
fn add_via(toehold: &Toehold, host: &RealSshd, via: &str) -> Done {
    let (account, home) = (host.account().to_string(), host.home());
    toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", via])
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_host_goes_from_first_contact_to_managed_and_back() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    let account = host.account().to_string();
    add(&toehold, &host, &["--label", "one", "--tag", "site=a"]).ends(0);

    // Foreign bytes stay; one line is ours; nothing else is left.
    let file = fs::read(host.authorized_keys()).unwrap();
    assert!(file.starts_with(FOREIGN));
    let ours = String::from_utf8(file[FOREIGN.len()..].to_vec()).unwrap();
    assert_eq!(ours.trim(), format!("{} toehold-master", toehold.master_key()));
    assert_eq!(names_in(&host.home().join(".ssh")), ["authorized_keys"]);
    assert_eq!(fs::metadata(host.authorized_keys()).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(toehold.sessions(false).is_empty());

    let hosts = toehold.run(["--json", "host", "ls"]).ends(0).json();
    assert_eq!(hosts["hosts"][0]["account"], account);
    assert_eq!(hosts["hosts"][0]["label"], "one");
    assert_eq!(hosts["hosts"][0]["tags"]["site"], "a");
    let shown = toehold.run(["--json", "host", "show", &account]).ends(0).json();
    assert_eq!(shown["host_key_fingerprint"], host.host_key().fingerprint().to_string());
    assert_eq!(shown["host_key"]["trust"], "proof");
    toehold.run(["host", "check"]).ends(0);

    let removed = toehold.run(["--json", "host", "rm", &account]).ends(0).json();
    assert_eq!(removed["evidence"], "seen_gone");
    assert_eq!(removed["other_keys"], 1);
    assert!(fs::read(host.authorized_keys()).unwrap().starts_with(FOREIGN));
    assert!(toehold.run(["--json", "host", "ls"]).json()["hosts"].as_array().unwrap().is_empty());
    toehold.run(["host", "show", &account]).ends(1);
}

#[test]
fn selected_keys_and_a_hardened_master_key() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let file = toehold.state().join("colleague.pub");
    let colleague = support::key("ecdsa-p256");
    fs::write(&file, format!("{} colleague@example.net\n", colleague.line().trim())).unwrap();
    add(&toehold, &host, &["--harden", "--key", file.to_str().unwrap()]).ends(0);
    let text = fs::read_to_string(host.authorized_keys()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], format!("restrict,command=\"internal-sftp\" {} toehold-master", toehold.master_key()));
    assert!(lines[1].ends_with("colleague@example.net"), "{text}");
    toehold.run(["host", "check"]).ends(0);

    // Drift is seen, and said with exit code 3.
    fs::write(host.authorized_keys(), lines[0].replacen("restrict", "restrict,pty", 1) + "\n").unwrap();
    let drift = toehold.run(["--json", "host", "check"]).ends(3);
    let findings = drift.lines()[0]["hosts"][0]["findings"].to_string();
    assert!(findings.contains("other options") && findings.contains("missing"), "{findings}");
}

#[test]
fn the_pasted_line_and_the_wait() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let (account, home) = (host.account().to_string(), host.home());
    let mut child = toehold.spawn(["--json", "host", "add", &account, "--home", home.to_str().unwrap()]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    let line = loop {
        let mut line = String::new();
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "ended without a command");
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        if document["event"] == "command" {
            break document["command"].as_str().unwrap().to_owned();
        }
    };
    assert!(line.starts_with(' ') && line.len() <= 4000 && line.trim_end().lines().count() == 1, "{line}");
    // journal_first: the session is on record before anybody can have run the line; another command reads it meanwhile.
    assert_eq!(toehold.sessions(false)[0]["status"], "active");
    let mut shell = std::process::Command::new("bash").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
    std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text}");
    assert!(text.contains("\"completed\""), "{text}");
}

#[test]
fn as_it_was_when_the_master_key_cannot_log_in() {
    // The server takes no key of the master key's type.
    let host = RealSshd::builder().config("PubkeyAcceptedAlgorithms ssh-ed25519").start();
    let toehold = Toehold::bare();
    toehold.run(["init", "--algorithm", "ecdsa-p256"]).ends(0);
    for content in [Some(FOREIGN), Some(b"".as_slice()), None] {
        match content {
            Some(content) => host.authorize(content),
            None => fs::remove_file(host.authorized_keys()).unwrap(),
        }
        let done = add(&toehold, &host, &[]).ends(1);
        assert!(done.stderr.contains("master key cannot log in") && done.stderr.contains("as it was"), "{}", done.stderr);
        assert_eq!(fs::read(host.authorized_keys()).ok().as_deref(), content);
        assert_eq!(names_in(&host.home().join(".ssh")).len(), usize::from(content.is_some()));
        assert!(toehold.sessions(false).is_empty());
    }
}

#[test]
fn host_key_asked_wrong_fingerprints_and_changed_keys() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    let wrong = support::key("ed25519").identity.public_key().fingerprint().to_string();
    let done = add(&toehold, &host, &["--host-key", &wrong]).ends(3);
    assert!(done.stderr.contains("not the expected"), "{}", done.stderr);
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), FOREIGN);
    add(&toehold, &host, &["--host-key", &host.host_key().fingerprint().to_string()]).ends(0);
    // The next contact settled what the first left open.
    assert!(toehold.sessions(false).is_empty(), "{:?}", toehold.sessions(false));

    // Another server at the same address, with a key of another type: refused, whatever its algorithm.
    let (port, home) = (host.port(), host.home());
    let before = fs::read(host.authorized_keys()).unwrap();
    drop(host);
    let other = RealSshd::builder().port(port).host_key(&["-t", "ecdsa"]).start();
    other.authorize(&before);
    assert_ne!(other.home(), home);
    let check = toehold.run(["--json", "host", "check"]).ends(3);
    assert_eq!(check.lines()[0]["hosts"][0]["state"], "host key changed");
    let again = add(&toehold, &other, &["--accept-new"]).ends(3);
    assert!(again.stderr.contains("not the expected"), "{}", again.stderr);
    assert_eq!(fs::read(other.authorized_keys()).unwrap(), before);
}

#[test]
fn o1_a_missing_proof_is_a_refusal() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    // Somebody who can authorize the key, but does not know the secret: the proof never comes to be.
    let script = "sh -c 'sh; rm -f \"$0\"/.ssh/toehold-proof-*' ".to_owned() + host.home().to_str().unwrap();
    let (account, home) = (host.account().to_string(), host.home());
    let done = toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", &script]).ends(3);
    assert!(done.stderr.contains("proof"), "{}", done.stderr);
    let file = fs::read(host.authorized_keys()).unwrap();
    assert!(!String::from_utf8_lossy(&file).contains("toehold-master"));
    // --accept-new, named beforehand, is another matter.
    toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", &script, "--accept-new"]).ends(0);
}

#[test]
fn links_and_loose_modes_are_refused_in_words_and_nothing_is_left() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let elsewhere = host.home().join("elsewhere");
    fs::write(&elsewhere, FOREIGN).unwrap();
    symlink(&elsewhere, host.authorized_keys()).unwrap();
    let done = add(&toehold, &host, &[]).ends(3);
    assert!(done.stderr.contains("is a link"), "{}", done.stderr);
    assert_eq!(fs::read(&elsewhere).unwrap(), FOREIGN);

    fs::remove_file(host.authorized_keys()).unwrap();
    host.authorize(FOREIGN);
    fs::set_permissions(host.home().join(".ssh"), fs::Permissions::from_mode(0o777)).unwrap();
    let done = add(&toehold, &host, &[]).ends(3);
    assert!(done.stderr.contains("chmod go-w"), "{}", done.stderr);
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), FOREIGN);
    assert_eq!(names_in(&host.home().join(".ssh")), ["authorized_keys"]);
}

#[test]
fn one_writer_two_onboardings_of_one_host_at_once() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    let (account, home) = (host.account().to_string(), host.home());
    let arguments = ["host", "add", &account, "--home", home.to_str().unwrap(), "--via", "sh"];
    let children: Vec<_> = (0..3).map(|_| toehold.spawn(arguments)).collect();
    let done: Vec<Done> = children.into_iter().map(Toehold::wait).collect();
    assert!(done.iter().any(|done| done.code == 0), "{done:?}");
    for refused in done.iter().filter(|done| done.code != 0) {
        assert!(refused.stderr.contains("still open") || refused.stderr.contains("another"), "{}", refused.stderr);
    }
    let text = fs::read(host.authorized_keys()).unwrap();
    assert!(text.starts_with(FOREIGN));
    let ours = String::from_utf8(text[FOREIGN.len()..].to_vec()).unwrap();
    assert_eq!(ours.matches("toehold-master").count(), 1, "{ours}");
    assert!(!ours.contains("toehold-temporary"), "{ours}");
    toehold.run(["session", "recover"]).ends(0);
    toehold.run(["host", "check"]).ends(0);
}

#[test]
fn a_list_of_hosts() {
    let toehold = Toehold::new();
    let hosts: Vec<RealSshd> = (0..4).map(|_| RealSshd::builder().own_home().start()).collect();
    let list = toehold.state().join("hosts");
    let text: String = hosts.iter().map(|host| format!("{} # a host\n", host.account())).collect();
    fs::write(&list, format!("# the fleet\n\n{text}{}\n", hosts[0].account())).unwrap();
    // As on a real host, the account's home is what its user database says: each script runs where its server's does.
    let reach = toehold.state().join("reach");
    let cases: String = hosts
        .iter()
        .map(|host| format!("{}) exec nsenter --mount --target {} sh ;;\n", host.port(), host.processes()[0]))
        .collect();
    fs::write(&reach, format!("case $1 in\n{cases}esac\nexit 7\n")).unwrap();
    let via = format!("sh {} {{port}}", reach.display());
    let arguments = ["--json", "host", "add", "--file", list.to_str().unwrap(), "--via", &via, "--concurrency", "2"];
    let done = toehold.run(arguments).ends(0);
    assert_eq!(done.lines().iter().filter(|line| line["event"] == "completed").count(), 4, "{}", done.stdout);
    toehold.run(["host", "check"]).ends(0);
    assert!(toehold.sessions(false).is_empty());
    for host in &hosts {
        assert_eq!(fs::read_to_string(host.authorized_keys()).unwrap().lines().count(), 1);
    }
    // One of them is gone: the others are done, and the exit code says that it is not all.
    let list = toehold.state().join("more");
    fs::write(&list, format!("{text}nobody@127.0.0.1:1\n")).unwrap();
    let done = toehold.run(["host", "add", "--file", list.to_str().unwrap(), "--via", &via]).ends(3);
    assert!(done.stdout.contains("4 of 5 hosts are managed"), "{}", done.stdout);
    // The same place for every account is refused before anything happens.
    let (shell, elsewhere) = toehold.shell_elsewhere();
    let done = toehold.run(["host", "add", "--file", list.to_str().unwrap(), "--via", &shell]).ends(2);
    assert_eq!(support::names_in(&elsewhere), Vec::<String>::new());
    assert!(done.stderr.contains("same place"), "{}", done.stderr);
}

#[test]
fn malformed_input_is_refused_in_words() {
    let toehold = Toehold::new();
    toehold.run(["host", "add", "web1"]).ends(2);
    toehold.run(["host", "add", "deploy@web1:0"]).ends(2);
    toehold.run(["host", "add", "deploy@2001:db8::1"]).ends(2);
    toehold.run(["host", "add", "deploy@web1", "--ttl", "5s"]).ends(2);
    toehold.run(["host", "add", "deploy@web1", "--host-key", "SHA256:short"]).ends(2);
    toehold.run(["host", "add", "deploy@web1", "--host-key", "x", "--accept-new"]).ends(2);
    for (from, words) in [
        ("10.0.0.0/8\" evil", "is not an address"),
        ("10.0.0.1/8", "is not a CIDR block"),
        ("!10.0.0.1", "matches nobody"),
        ("ops.example.net", "reverse DNS"),
        ("10.0.0.0/8,*.example.net", "\"*.example.net\""),
        ("10.0.0.0/8,!ops.example.net", "\"ops.example.net\""),
        ("10.0.0.*", "UseDNS"),
    ] {
        let done = toehold.run(["host", "add", "deploy@web1", "--from", from, "--via", "false"]).ends(2);
        assert!(done.stderr.contains(words), "{from}: {}", done.stderr);
    }
    let file = toehold.state().join("key");
    for (content, words) in [
        ("", "one line"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "private key"),
        ("ssh-ed25519 AAAA\n", "algorithm"),
        ("nonsense\n", "public key"),
    ] {
        fs::write(&file, content).unwrap();
        let done = toehold.run(["host", "add", "deploy@web1", "--key", file.to_str().unwrap()]).ends(1);
        assert!(done.stderr.contains(words), "{content:?}: {}", done.stderr);
    }
    let done = toehold.run(["host", "add", "deploy@web1", "--via", "no-such-program-here"]).ends(1);
    assert!(done.stderr.contains("not to be found"), "{}", done.stderr);
    let done = Toehold::bare().run(["host", "ls"]).ends(1);
    assert!(done.stderr.contains("toehold init"), "{}", done.stderr);
    assert!(toehold.sessions(true).is_empty(), "a refused command left a session behind");
}

#[test]
fn a_command_of_via_that_leaves_somebody_in_the_background_has_ended() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    // As ssh does with ControlPersist: its master keeps standard error open.
    add_via(&toehold, &host, "sh -c 'sh; sleep 600 >&2 2>&1 & exit 0'").ends(0);
}

#[tokio::test]
async fn host_key_asked_another_account_of_the_host_keeps_its_pin() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    add(&toehold, &host, &[]).ends(0);
    // Another account of the same host is on record as well.
    let other = Account::new("other", "127.0.0.1", host.port()).unwrap();
    let store = SqliteStore::open(&toehold.state()).unwrap();
    let first = Stored::<HostRecord>::read(&store, &HostRecord::key(&host.account()).unwrap()).await.unwrap().unwrap();
    let record = HostRecord { route: Route::direct(other.clone()), ..first.body };
    Stored::create(&store, HostRecord::key(&other).unwrap(), record).await.unwrap();
    drop(store);
    toehold.run(["host", "rm", &host.account().to_string()]).ends(0);
    let shown = toehold.run(["--json", "host", "show", &other.to_string()]).ends(0).json();
    assert_eq!(shown["host_key_fingerprint"], host.host_key().fingerprint().to_string());
}

#[test]
fn a_command_of_via_that_hangs_is_ended_with_all_that_it_started() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let (account, home) = (host.account().to_string(), host.home());
    let marker = toehold.state().join("started");
    let script = format!("sh -c 'echo $$ >{}; sleep 600 & wait'", marker.display());
    let child = toehold.spawn(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", &script]);
    let begun = std::time::Instant::now();
    while fs::read_to_string(&marker).unwrap_or_default().is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "the command was not started");
        std::thread::yield_now();
    }
    let group: i32 = fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let done = Toehold::wait(child);
    assert_ne!(done.code, 0, "{}", done.stdout);
    let left = rustix::process::test_kill_process_group(rustix::process::Pid::from_raw(group).unwrap());
    assert!(left.is_err(), "something of the command is still running");
}

#[test]
fn the_shortest_life_is_long_enough() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    add(&toehold, &host, &["--ttl", "1m"]).ends(0);
}

#[test]
fn seen_gone_a_host_that_refuses_us_stays_on_record() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    add(&toehold, &host, &[]).ends(0);
    let account = host.account().to_string();
    // StrictModes refuses every key in there; ours are there all the same.
    let directory = host.home().join(".ssh");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let done = toehold.run(["host", "rm", &account]).ends(3);
    assert!(done.stderr.contains("stays on record"), "{}", done.stderr);
    toehold.run(["host", "show", &account]).ends(0);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    toehold.run(["host", "rm", &account]).ends(0);
    assert!(fs::read(host.authorized_keys()).unwrap().is_empty());
}

#[test]
fn a_line_that_was_run_once_more_is_seen_and_taken_away() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    // Run twice: once before the onboarding goes on, and once more when the host is managed.
    let copy = toehold.state().join("line");
    add_via(&toehold, &host, &format!("sh -c 'tee {} | sh'", copy.display())).ends(0);
    let status = std::process::Command::new("sh").stdin(fs::File::open(&copy).unwrap()).status().unwrap();
    assert!(status.success());
    let check = toehold.run(["--json", "host", "check"]).ends(3);
    assert!(check.json()["hosts"][0]["findings"].to_string().contains("a temporary key is left"), "{}", check.stdout);
    toehold.run(["host", "rm", &host.account().to_string()]).ends(0);
    let file = fs::read(host.authorized_keys()).unwrap();
    assert!(file.starts_with(FOREIGN) && file.len() <= FOREIGN.len() + 1, "{}", String::from_utf8_lossy(&file));
    assert_eq!(names_in(&host.home().join(".ssh")), ["authorized_keys"]);
}

#[test]
fn what_would_leave_a_session_behind_is_refused_before_it_begins() {
    let toehold = Toehold::new();
    let done = toehold.run(["host", "add", "deploy@web1", "--jump", "ops@bastion"]).ends(1);
    assert!(done.stderr.contains("not managed"), "{}", done.stderr);
    toehold.run(["host", "add", "deploy@web1", "--jump", "deploy@web1"]).ends(2);
    let done = toehold.run(["host", "add", "deploy@web1", "--ask"]).ends(1);
    assert!(done.stderr.contains("no terminal"), "{}", done.stderr);
    let file = toehold.state().join("user-data");
    fs::write(&file, "mine").unwrap();
    toehold.run(["host", "invite", "deploy@web1", "--output", file.to_str().unwrap()]).ends(1);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert!(toehold.sessions(true).is_empty());
}

#[test]
fn foreign_bytes_somebodys_own_line_with_a_key_of_ours_stays() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let (alice, bob) = (support::key("ed25519"), support::key("ed25519"));
    let own = alice.line_with("from=\"10.0.0.0/8\"");
    host.authorize(&own);
    let scratch = support::server::directory("keys");
    let file = |name: &str, key: &support::Key| {
        let path = scratch.path().join(name);
        fs::write(&path, format!("{} {name}\n", key.line().trim())).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (alice_file, bob_file) = (file("alice", &alice), file("bob", &bob));
    // Alice's line was there first; whether ours is added beside it is the onboarding's to decide.
    let done = add(&toehold, &host, &["--key", &bob_file, "--key", &alice_file]);
    if done.code != 0 {
        add(&toehold, &host, &["--key", &bob_file]).ends(0);
    }
    assert!(fs::read_to_string(host.authorized_keys()).unwrap().starts_with(&own));
    let done = toehold.run(["host", "rm", &host.account().to_string()]).ends(0);
    assert_eq!(fs::read_to_string(host.authorized_keys()).unwrap(), own, "{}", done.stdout);
    assert!(!done.stdout.contains("nobody can log in"), "{}", done.stdout);
}

#[test]
fn a_machine_under_two_names_does_not_lose_its_keys_under_one() {
    let (toehold, host) = (Toehold::new(), RealSshd::builder().config("ListenAddress 127.0.0.2").start());
    add(&toehold, &host, &[]).ends(0);
    let (first, home) = (host.account().to_string(), host.home());
    let second = first.replace("127.0.0.1", "127.0.0.2");
    toehold.run(["host", "add", &second, "--home", home.to_str().unwrap(), "--via", "sh"]).ends(0);
    let before = fs::read(host.authorized_keys()).unwrap();
    for (one, other) in [(&first, &second), (&second, &first)] {
        let done = toehold.run(["--json", "host", "rm", one]).ends(1);
        let document = done.json();
        assert!(document["error"].as_str().unwrap().contains(other.as_str()), "{document}");
        assert!(document["hint"].as_str().unwrap().contains(&format!("host rm --unreachable {other}")), "{document}");
    }
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), before);
    toehold.run(["host", "check"]).ends(0);
    // As the advice says: one name is forgotten, then the keys go under the other.
    toehold.run(["host", "rm", "--unreachable", &second]).ends(0);
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), before);
    toehold.run(["host", "rm", &first]).ends(0);
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), b"");
    // And all the same, where the operator says so.
    add(&toehold, &host, &[]).ends(0);
    toehold.run(["host", "add", &second, "--home", home.to_str().unwrap(), "--via", "sh"]).ends(0);
    toehold.run(["host", "rm", "--same-host-key", &first]).ends(0);
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), b"");
}

#[test]
fn a_home_that_was_named_once_is_remembered() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    add(&toehold, &host, &[]).ends(0);
    let account = host.account().to_string();
    // Without it the command would work in the home of passwd, which is another.
    let (shell, elsewhere) = toehold.shell_elsewhere();
    toehold.run(["host", "add", &account, "--label", "again", "--via", &shell]).ends(0);
    assert_eq!(support::names_in(&elsewhere), Vec::<String>::new());
    let shown = toehold.run(["--json", "host", "show", &account]).ends(0).json();
    assert_eq!((shown["label"].as_str(), shown["home"].as_str()), (Some("again"), host.home().to_str()));
    toehold.run(["host", "check"]).ends(0);
    assert_eq!(fs::read_to_string(host.authorized_keys()).unwrap().lines().count(), 1);
}
