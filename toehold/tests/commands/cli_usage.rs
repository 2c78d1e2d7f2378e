//! Command lines that cannot be meant as they stand, and what would have no effect: exit code, words and document. Needs no
//! server; the tests with `shells` in their names need the shells that completions are made for.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support;
use crate::support::Toehold;

/// Everything below a directory with its content.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    support::names_in(directory).into_iter().map(|name| (name.clone(), fs::read(directory.join(&name)).unwrap())).collect()
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let toehold = Toehold::new();
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    for arguments in [&["completions", "bash"][..], &["--json", "host", "ls"], &["key", "show"]] {
        let child = toehold.command(arguments.iter().copied()).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        let done = Toehold::wait(child).ends(3);
        assert!(done.stderr.contains("not everything could be written to standard output: No space left"), "{}", done.stderr);
    }
}

#[test]
fn every_failure_has_one_form() {
    let toehold = Toehold::new();
    let missing = toehold.state().join("missing");
    let cases: [(&[&str], u8, &str, bool); 12] = [
        // Clap's own.
        (&["--json"], 2, "no command", true),
        (&["--json", "host"], 2, "no command", true),
        (&["--json", "frobnicate"], 2, "unrecognized subcommand 'frobnicate'", true),
        (&["host", "add", "--json"], 2, "required arguments were not provided: <ACCOUNT>", true),
        (&["--json", "host", "add", "web1"], 2, "has no user", true),
        (&["--json", "host", "ls", "--no-such-option"], 2, "unexpected argument '--no-such-option'", true),
        (&["--json", "host", "add", "a@b", "--ask", "--accept-new"], 2, "cannot be used with", true),
        (&["--json", "host", "add", "--file", "x", "--via", "sh", "--ask"], 2, "cannot be used with", true),
        // Ours.
        (&["--json", "host", "add", "a@b", "--via", "sh 'x"], 2, "cannot be read", false),
        (&["--json", "host", "add", "a@b", "--jump", "a@b"], 2, "its own jump host", false),
        (&["--json", "host", "show", "a@b"], 1, "not managed", true),
        (&["--json", "host", "add", "a@b", "--key", missing.to_str().unwrap()], 1, "No such file", false),
    ];
    for (arguments, code, words, hinted) in cases {
        let done = toehold.run(arguments.iter().copied()).ends(code.into());
        let lines = done.lines();
        assert_eq!(lines.len(), 1, "{arguments:?}: {}", done.stdout);
        let document = lines[0].as_object().unwrap();
        assert_eq!(document["exit_code"], code, "{arguments:?}");
        let error = document["error"].as_str().unwrap();
        assert!(error.contains(words) && !error.contains('\n') && !error.starts_with("error"), "{arguments:?}: {error}");
        assert_eq!(
            document.get("hint").is_some_and(|hint| !hint.as_str().unwrap().is_empty()),
            hinted,
            "{arguments:?}: {document:?}"
        );
        assert!(document.keys().all(|name| ["error", "exit_code", "hint"].contains(&name.as_str())), "{document:?}");
        assert!(done.stderr.starts_with(&format!("toehold: {error}")), "{arguments:?}: {}", done.stderr);
    }
    // Without --json there is nothing on standard output.
    for arguments in [&["host", "add", "web1"][..], &["host", "show", "a@b"], &[]] {
        let done = toehold.run(arguments.iter().copied());
        assert!(matches!(done.code, 1 | 2) && done.stdout.is_empty() && !done.stderr.is_empty(), "{done:?}");
    }
    // A failure that found something out says both in one document.
    support::store::change(&toehold, "masterkey/current", |record| record["readable_from"] = 99.into());
    let done = toehold.run(["--json", "key", "show"]).ends(1);
    assert!(done.json()["error"].as_str().unwrap().contains("newer"), "{}", done.stdout);
}

#[test]
fn help_and_version_are_no_failures() {
    let toehold = Toehold::bare();
    for arguments in [&["--help"][..], &["--version"], &["--json", "host", "add", "--help"]] {
        let done = toehold.run(arguments.iter().copied()).ends(0);
        assert!(done.stdout.contains("toehold") && done.stderr.is_empty(), "{done:?}");
    }
}

#[test]
fn a_second_init_says_what_has_no_effect() {
    let toehold = Toehold::new();
    let before = (fs::read(toehold.state().join("identity")).unwrap(), toehold.master_key());
    let secret = toehold.state().join("passphrase");
    support::server::write_private(&secret, "open sesame\n");
    let secret = secret.to_str().unwrap();
    let other = toehold.state().join("other");
    support::keys::ssh_keygen(&other, &["-t", "ed25519"]);
    for (more, words) in [
        (&["--passphrase"][..], "without a passphrase, and stays as it is: --passphrase has no effect"),
        (&["--passphrase", "--passphrase-file", secret], "stays as it is"),
        (&["--passphrase-file", secret], "--passphrase-file has no effect"),
        (&["--algorithm", "ecdsa-p256"], "which stays as it is: --algorithm ecdsa-p256 has no effect"),
        (&["--import", other.to_str().unwrap()], "which stays as it is: the one to import was not taken"),
    ] {
        let done = toehold.run(["init"].into_iter().chain(more.iter().copied())).ends(1);
        assert!(done.stderr.contains(words), "{more:?}: {}", done.stderr);
        assert_eq!((fs::read(toehold.state().join("identity")).unwrap(), toehold.master_key()), before, "{more:?}");
    }
    // What is there is what was asked for.
    toehold.run(["init"]).ends(0);
    toehold.run(["init", "--algorithm", "ed25519"]).ends(0);

    // Under a passphrase: it stays the one that it is, and an init without the option has nothing to complain of.
    let toehold = Toehold::bare();
    toehold.run(["init", "--passphrase", "--passphrase-file", secret, "--algorithm", "rsa-2048"]).ends(0);
    let before = contents(&toehold.state());
    let done = toehold.run(["init", "--passphrase", "--passphrase-file", secret]).ends(1);
    assert!(done.stderr.contains("stays under the passphrase that it has"), "{}", done.stderr);
    let done = toehold.run(["init", "--algorithm", "rsa-3072"]).ends(1);
    assert!(done.stderr.contains("--algorithm rsa-3072 has no effect"), "{}", done.stderr);
    toehold.run(["init", "--passphrase-file", secret, "--algorithm", "rsa-2048"]).ends(0);
    let identity = |contents: &[(String, Vec<u8>)]| contents.iter().find(|(name, _)| name == "identity").unwrap().1.clone();
    assert_eq!(identity(&contents(&toehold.state())), identity(&before));
}

#[test]
fn an_init_that_was_cut_off_before_the_master_key_is_completed_with_the_same_options() {
    let toehold = Toehold::bare();
    let scratch = support::server::directory("secret");
    let secret = scratch.path().join("passphrase");
    support::server::write_private(&secret, "open sesame\n");
    let arguments = ["init", "--passphrase", "--passphrase-file", secret.to_str().unwrap()];
    toehold.run(arguments).ends(0);
    let database = support::store::open(&toehold);
    database.execute("DELETE FROM entry", []).unwrap();
    drop(database);
    toehold.run(arguments).ends(0);
    toehold.run(["--passphrase-file", secret.to_str().unwrap(), "key", "show"]).ends(0);
}

/// A script that writes its arguments into the file named first, each with a NUL behind it, and then is a shell.
fn argument_recorder(directory: &Path) -> String {
    let path = directory.join("record");
    fs::write(&path, "#!/bin/sh\nout=$1\nshift\nprintf '%s\\0' \"$@\" >\"$out\"\nexec sh\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

const HOSTILE: [&str; 16] = [
    "a$(id>marker)",
    "a`id>marker`",
    "a;id>marker",
    "a&id>marker&",
    "a|id>marker",
    "$HOME",
    "${HOME}",
    "~root",
    "*",
    "a\\b",
    "#a",
    "!!",
    "{host}",
    "a{b,c}",
    "[a-z]*",
    "ü§",
];

#[test]
fn a_hostile_user_name_reaches_the_command_of_via_as_one_argument() {
    let toehold = Toehold::new();
    let scratch = support::server::directory("via");
    let recorder = argument_recorder(scratch.path());
    // All at once: there is no such host, and each of them takes some time to find that out.
    let start = |user: &str, via: &str| {
        let account = format!("{user}@127.0.0.1:1");
        let mut command = toehold.command(["host", "add", &account, "--home", "/nowhere", "--via", via]);
        command.current_dir(scratch.path()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let out = |number: usize| scratch.path().join(format!("arguments-{number}"));
    let mut children = Vec::new();
    for (number, user) in HOSTILE.into_iter().enumerate() {
        let out = out(number);
        children
            .push(start(user, &format!("{recorder} {} {{user}} -l{{user}} '{{account}}' {{host}} {{port}} end", out.display())));
    }
    // The way that the documentation names.
    let last = out(HOSTILE.len());
    children.push(start("b$(id>marker)", &format!("sh -c 'exec {recorder} {} \"$1\"' sh {{account}}", last.display())));
    let mut words = Vec::new();
    for child in children {
        let done = Toehold::wait(child);
        assert_ne!(done.code, 0);
        words.push(done.stderr);
    }
    for (number, user) in HOSTILE.into_iter().enumerate() {
        let got = fs::read_to_string(out(number)).unwrap_or_else(|_| panic!("{user}: {}", words[number]));
        let got: Vec<&str> = got.trim_end_matches('\0').split('\0').collect();
        let (option, account) = (format!("-l{user}"), format!("{user}@127.0.0.1:1"));
        assert_eq!(got, [user, &option, &account, "127.0.0.1", "1", "end"], "{user}");
    }
    assert_eq!(fs::read_to_string(&last).unwrap(), "b$(id>marker)@127.0.0.1:1\0");
    assert!(!scratch.path().join("marker").exists(), "a shell read the user name");
}

#[test]
fn a_hostile_user_name_is_refused_where_a_shell_would_read_it() {
    let toehold = Toehold::new();
    let scratch = support::server::directory("via");
    let list = scratch.path().join("list");
    for user in HOSTILE {
        let account = format!("{user}@127.0.0.1:1");
        for via in [
            "sh -c 'true {user}; sh'",
            "sh -ec {account}",
            "ssh admin@127.0.0.1 sudo -u {user} sh",
            "ssh -oProxyCommand={user} 127.0.0.1",
        ] {
            let run = |arguments: &[&str]| {
                let done = toehold.command(arguments.iter().copied()).current_dir(scratch.path()).output().unwrap();
                let words = String::from_utf8(done.stderr).unwrap();
                assert_eq!(done.status.code(), Some(2), "{user}, {via}: {words}");
                assert!(words.contains("no plain word to a shell") && words.contains(user), "{user}, {via}: {words}");
            };
            run(&["host", "add", &account, "--via", via]);
            if !user.starts_with('#') {
                fs::write(&list, format!("deploy@127.0.0.1:1\n{account}\n")).unwrap();
                run(&["host", "add", "--file", list.to_str().unwrap(), "--via", via]);
            }
        }
    }
    assert!(!scratch.path().join("marker").exists(), "a shell read the user name");
    assert!(toehold.sessions(true).is_empty(), "refused after something had begun");
}

/// Feeds a script to a shell that only reads it, or sources it.
fn accepted_by(shell: &str, arguments: &[&str], script: &str) {
    let mut child =
        Command::new(shell).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && complaints.is_empty(), "{shell}: {complaints}");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("invite"), "{shell} completes nothing: {said}");
}

#[test]
fn completions_are_accepted_by_their_shells() {
    let toehold = Toehold::bare();
    let script = |shell: &str| {
        let done = toehold.run(["completions", shell]).ends(0);
        assert!(done.stderr.is_empty() && done.stdout.contains("invite"), "{shell}");
        done.stdout
    };
    // bash asks the function for what comes behind "toehold host ".
    let asked = "\nCOMP_WORDS=(toehold host ''); COMP_CWORD=2; _toehold toehold '' host; printf '%s\\n' \"${COMPREPLY[@]}\"\n";
    accepted_by("bash", &["--norc", "-eu", "-s"], &(script("bash") + asked));
    let loaded = "autoload -U compinit; compinit -u -D\n";
    let asked = "\nwhence -f _toehold__host_commands _toehold__subcmd__host_commands 2>/dev/null; true\n";
    accepted_by("zsh", &["-f", "-s"], &format!("{loaded}{}{asked}", script("zsh")));
    accepted_by("fish", &["--no-config"], &(script("fish") + "\ncomplete -C 'toehold host '\n"));
    // No Debian package has these; their scripts are made, and nobody reads them here.
    for shell in ["elvish", "powershell"] {
        script(shell);
    }
    let done = toehold.run(["completions", "tcsh"]).ends(2);
    assert!(done.stderr.contains("possible values"), "{}", done.stderr);
}
