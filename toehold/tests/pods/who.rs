//! Who may log in: by files, by keys in the store, by a command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::gateway::{Pods, Session, file_of, path};
use crate::support::keys::ssh_keygen;
use crate::support::{Done, Toehold, eventually};

const REFUSED: &str = "Permission denied (publickey)";

/// A new key's file, and its public half as a line.
fn new_key(toehold: &Toehold, name: &str) -> (PathBuf, String) {
    let file = file_of(toehold, name);
    let key = ssh_keygen(&file, &["-t", "ed25519"]);
    (file, key.to_string())
}

/// Logs in with this key instead of the usual one.
fn run_with_key(pods: &Pods, key: &std::path::Path, line: &str) -> Done {
    let mut command = pods.client_with_key("ssh", key);
    Done::of(command.args(["anybody@127.0.0.1", line]).output().unwrap())
}

/// A gateway that asks this script as well.
fn with_command(script: &str, arguments: &str) -> Pods {
    let toehold = Pods::prepared();
    let file = file_of(&toehold, "who");
    write_script(&file, script);
    let command = format!("{} {arguments}", path(&file));
    Pods::at(toehold, &["--authorized-keys-command", &command, "--authorized-keys-command-timeout", "5s"])
}

fn write_script(file: &std::path::Path, script: &str) {
    // Whole or not at all: a gateway may be running it.
    let staged = file.with_extension("new");
    fs::write(&staged, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(staged, file).unwrap();
}

fn principal(pods: &Pods) -> String {
    pods.list()[0]["principal"].as_str().unwrap().to_owned()
}

#[test]
fn p4_keys_in_the_store_come_and_go_without_a_restart() {
    let toehold = Pods::prepared();
    let (file, line) = new_key(&toehold, "bobs");
    let pods = Pods::at(toehold, &["--keys-in-store"]);
    let key = |arguments: &[&str]| {
        let words = ["--json", "pods", "key"].iter().chain(arguments).chain(&["--backend", "local"]).copied().collect::<Vec<_>>();
        pods.toehold.run(words)
    };
    assert!(run_with_key(&pods, &file, "true").ends(255).stderr.contains(REFUSED));
    let public = path(&file.with_extension("pub"));
    let added = key(&["add", "bob@example.org", &public]).ends(0);
    assert_eq!(added.json()["added"].as_array().unwrap().len(), 1);
    let fingerprint = added.json()["added"][0].as_str().unwrap().to_owned();
    let mut session = pods.client_with_key("ssh", &file);
    session.args(["anybody@127.0.0.1", "echo here; sleep 600"]);
    let mut session = Session::start(session);
    assert_eq!(session.line(), "here");
    assert_eq!(principal(&pods), "bob@example.org");
    // Those in files are as before.
    pods.run("true").ends(0);
    let listed = key(&["ls"]).ends(0);
    assert_eq!(
        (listed.json()["keys"][0]["principal"].as_str(), listed.json()["keys"][0]["line"].as_str()),
        (Some("bob@example.org"), Some(&*line))
    );
    // Nobody takes a key that is somebody else's, unless told so.
    assert!(key(&["add", "eve", &public]).ends(1).stderr.contains("bob@example.org"));
    let restricted = file_of(&pods.toehold, "restricted");
    fs::write(&restricted, format!("restrict,command=\"echo bound\" {line}\n")).unwrap();
    key(&["add", "bob@example.org", &path(&restricted)]).ends(1);
    key(&["add", "bob@example.org", &path(&restricted), "--replace"]).ends(0);
    assert_eq!(run_with_key(&pods, &file, "id").ends(0).stdout, "bound\n");
    // Who is logged in stays, and nobody comes in any more.
    key(&["rm", &fingerprint]).ends(0);
    assert!(run_with_key(&pods, &file, "true").ends(255).stderr.contains(REFUSED));
    assert!(session.child.try_wait().unwrap().is_none());
    key(&["rm", "bob@example.org"]).ends(1);
    for (text, said) in [("environment=\"A=b\" ", "environment="), ("no-such-option ", "does not know")] {
        fs::write(&restricted, format!("{text}{line}\n")).unwrap();
        let done = key(&["add", "bob@example.org", &path(&restricted)]).ends(2);
        assert!(done.stderr.contains(said) || done.stdout.contains(said), "{done:?}");
    }
    assert!(key(&["add", "bob", &path(&file)]).ends(1).stderr.contains("private key"));
    let store = crate::support::store::open(&pods.toehold);
    let mut found = store.prepare("SELECT value FROM entry WHERE key LIKE 'audit%'").unwrap();
    let rows: Vec<Vec<u8>> = found.query_map([], |row| row.get(0)).unwrap().flatten().collect();
    let text: String = rows.iter().map(|row| String::from_utf8_lossy(row).into_owned()).collect();
    assert!(text.contains("pods.key_added") && text.contains("pods.key_removed"));
}

#[test]
fn keys_may_be_there_before_the_first_gateway_and_without_any_file() {
    let toehold = Pods::prepared();
    let (file, line) = new_key(&toehold, "bobs");
    let mut add = toehold.command(["pods", "key", "add", "bob", "-", "--backend", "local"]);
    let out = crate::gateway::fed(
        {
            add.stdout(std::process::Stdio::piped());
            add
        },
        format!("{line}\n").as_bytes(),
    );
    assert!(String::from_utf8(out).unwrap().contains("is a key of bob"));
    let pods = Pods::by(toehold, &["--keys-in-store"]);
    run_with_key(&pods, &file, "true").ends(0);
    pods.run("true").ends(255);
    // Nobody at all is no way to start one.
    let done = Toehold::bare().run(["pods", "serve", "--backend", "local"]).ends(2);
    assert!(done.stderr.contains("--authorized-keys"), "{done:?}");
}

#[test]
fn a_command_decides_for_those_whom_nobody_else_knows() {
    let toehold = Pods::prepared();
    let (file, line) = new_key(&toehold, "bobs");
    let script = file_of(&toehold, "who");
    let asked = file_of(&toehold, "asked");
    write_script(
        &script,
        &format!(
            "echo \"$*\" >>{}; [ \"$3\" = '{}' ] && echo '{line} bob'; exit 0",
            asked.display(),
            line.split(' ').nth(1).unwrap()
        ),
    );
    let pods = Pods::at(toehold, &["--authorized-keys-command", &format!("{} %u %t %k", script.display())]);
    let mut session = pods.client_with_key("ssh", &file);
    session.args(["anybody@127.0.0.1", "echo here; sleep 600"]);
    let mut session = Session::start(session);
    assert_eq!((session.line().as_str(), principal(&pods).as_str()), ("here", "bob"));
    assert_eq!(fs::read_to_string(&asked).unwrap().lines().next().unwrap(), format!("anybody {line}"));
    // Whom a file knows, it is not asked about.
    fs::remove_file(&asked).unwrap();
    pods.run("true").ends(0);
    assert!(!asked.exists());
    let (stranger, _) = new_key(&pods.toehold, "strangers");
    assert!(run_with_key(&pods, &stranger, "true").ends(255).stderr.contains(REFUSED));
    // It may be changed while the gateway runs; what others could change is not run.
    write_script(&script, &format!("echo '{line} bob'; exit 1"));
    assert!(run_with_key(&pods, &file, "true").ends(255).stderr.contains(REFUSED));
    write_script(&script, &format!("echo '{line} bob'"));
    run_with_key(&pods, &file, "true").ends(0);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(run_with_key(&pods, &file, "true").ends(255).stderr.contains(REFUSED));
    pods.run("true").ends(0);
}

#[test]
fn a_command_that_hangs_holds_nobody_else_up_and_leaves_nothing() {
    let pods = with_command("echo $$ >\"${0%/*}/hanging\"; sleep 600 & wait", "");
    let (stranger, _) = new_key(&pods.toehold, "strangers");
    let mut waiting = pods.client_with_key("ssh", &stranger);
    let waiting = waiting.args(["anybody@127.0.0.1", "true"]).spawn().unwrap();
    let number = file_of(&pods.toehold, "hanging");
    eventually("its start", || fs::read_to_string(&number).is_ok_and(|text| text.ends_with('\n')));
    let number: i32 = fs::read_to_string(&number).unwrap().trim().parse().unwrap();
    pods.run("true").ends(0);
    let done = Done::of(waiting.wait_with_output().unwrap()).ends(255);
    assert!(done.stderr.contains(REFUSED), "{done:?}");
    eventually("its end", || !crate::gateway::is_alive(number));
}

#[test]
fn a_command_that_cannot_be_relied_on_is_refused_at_the_start() {
    let toehold = Pods::prepared();
    let script = file_of(&toehold, "who");
    write_script(&script, "true");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o775)).unwrap();
    for (line, said) in [
        (path(&script), "others than its owner can write it"),
        ("who %u".to_owned(), "absolute path"),
        ("/bin/true %h".to_owned(), "stands for nothing"),
        ("/nowhere/who".to_owned(), "/nowhere/who"),
    ] {
        let done = toehold.run(["pods", "serve", "--backend", "local", "--authorized-keys-command", &line]).ends(2);
        assert!(done.stderr.contains(said), "{done:?}");
    }
}

/// A document for everybody with the usual key.
fn document(toehold: &Toehold, more: &serde_json::Value) -> String {
    let line = fs::read_to_string(file_of(toehold, "key.pub")).unwrap();
    let mut document = json!({ "keys": [line.trim()], "principal": "alice@example.org" });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document.to_string()
}

/// A gateway whose command prints the document that is in the file `document`.
fn with_document(more: &serde_json::Value, configuration: &str) -> Pods {
    let toehold = Pods::prepared();
    write_script(&file_of(&toehold, "who"), "exec cat \"${0%/*}/document\"");
    fs::write(file_of(&toehold, "document"), document(&toehold, more)).unwrap();
    let config = file_of(&toehold, "config.yaml");
    fs::write(&config, configuration).unwrap();
    let (command, config) = (path(&file_of(&toehold, "who")), path(&config));
    Pods::by(toehold, &["--authorized-keys-command", &command, "--config", &config])
}

/// In base64.
const HELLO: &str = "aGVsbG8K";

#[test]
fn p6_what_a_login_brings_along_is_there_before_anything_runs() {
    let long: Vec<u8> = (0..100_000_u32).map(|number| u8::try_from(number * 7 % 251).unwrap()).collect();
    let encoded = <base64ct::Base64 as base64ct::Encoding>::encode_string(&long);
    let more = json!({
        "environment": { "TOKEN": "it's $(id) \"here\"", "GIVEN": "by the operator" },
        "files": [
            { "path": "~/.netrc", "content": HELLO },
            { "path": "~/new dir/$(touch x)", "mode": "0444", "content": HELLO },
            { "path": "~/long", "content": encoded },
        ],
        "metadata": { "team": "blue", "cost center": "a b" },
    });
    let pods = with_document(&more, "");
    let line = "stat -c '%a %n' .netrc long 'new dir/$(touch x)'; cat .netrc 'new dir/$(touch x)'; printf '%s|%s' \"$TOKEN\" \"$GIVEN\"; ls -A";
    let done = Done::of(pods.ssh_with(&["-o", "SetEnv=GIVEN=by-the-client"], line).output().unwrap()).ends(0);
    let expected =
        "600 .netrc\n600 long\n444 new dir/$(touch x)\nhello\nhello\nit's $(id) \"here\"|by the operator.netrc\nlong\nnew dir\n";
    assert_eq!(done.stdout, expected, "{done:?}");
    assert!(fed_back(&pods, "cat long") == long);
    // On a terminal, and for what has no command line, as well.
    let done = Done::of(pods.ssh_with(&["-tt"], "cat .netrc; echo \"$TOKEN\"").output().unwrap()).ends(0);
    assert_eq!(done.stdout, "hello\r\nit's $(id) \"here\"\r\n");
    let back = pods.file("back");
    Done::of(pods.client("scp").arg("anybody@127.0.0.1:.netrc").arg(&back).output().unwrap()).ends(0);
    assert_eq!(fs::read_to_string(back).unwrap(), "hello\n");
    let mut session = Session::start(pods.ssh("echo $TOEHOLD_POD; sleep 600"));
    let name = session.line();
    let object = fs::read_to_string(pods.toehold.state().join("pods").join(name).join("pod.json")).unwrap();
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["metadata"]["annotations"]["toehold.local/metadata.team"], "blue");
    assert_eq!(object["metadata"]["labels"]["toehold.local/metadata.cost_20center"], "a_20b");
    assert_eq!(principal(&pods), "alice@example.org");
}

fn fed_back(pods: &Pods, line: &str) -> Vec<u8> {
    pods.ssh(line).output().unwrap().stdout
}

#[test]
fn files_are_written_once_for_a_pod_and_by_whoever_comes_first() {
    let more = json!({ "files": [{ "path": "~/count", "content": HELLO }] });
    let pods = with_document(&more, "");
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master = Session::start(pods.ssh_with(&["-M", "-o", &socket], "echo begun; sleep 600"));
    assert_eq!(master.line(), "begun");
    let channels: Vec<_> = (0..8)
        .map(|number| pods.ssh_with(&["-o", &socket], &format!("cat count; echo {number} >>count")).spawn().unwrap())
        .collect();
    for channel in channels {
        assert!(Done::of(channel.wait_with_output().unwrap()).ends(0).stdout.starts_with("hello\n"));
    }
    let done = Done::of(pods.ssh_with(&["-o", &socket], "wc -l <count").output().unwrap()).ends(0);
    assert_eq!(done.stdout.trim(), "9", "what people write there is not written over");
    drop(master);
    // Each pod of a channel's own has them, and one that stays has them anew with each login.
    for mode in ["{mode: session}", "{mode: persistent, createMissingPods: true}"] {
        let pods = with_document(&more, &format!("pod: {mode}"));
        for _ in 0..2 {
            assert_eq!(pods.run("cat count; echo changed >>count").ends(0).stdout, "hello\n", "{mode}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_no_shell_starts() {
    for mode in ["{mode: connection}", "{mode: session}", "{mode: persistent, createMissingPods: true}"] {
        let more = json!({ "files": [{ "path": "~/good", "content": HELLO }, { "path": "/proc/none/x", "content": HELLO }] });
        let pods = with_document(&more, &format!("pod: {mode}"));
        for options in [&["-T"][..], &["-tt"]] {
            let done = Done::of(pods.ssh_with(options, "echo ran; touch ran").output().unwrap()).ends(255);
            assert!(
                done.stderr.contains("the file /proc/none/x, which belongs to the login, cannot be written"),
                "{mode}: {done:?}"
            );
            assert!(!done.stdout.contains("ran"), "{mode}: {done:?}");
        }
        let done = Done::of(pods.ssh_with(&["-T"], "").output().unwrap()).ends(255);
        assert!(done.stderr.contains("/proc/none/x"), "{mode}: {done:?}");
        let done = Done::of(pods.client("sftp").arg("anybody@127.0.0.1").output().unwrap()).ends(255);
        assert!(done.stderr.contains("/proc/none/x"), "{mode}: {done:?}");
        // With the next login it may be well.
        fs::write(pods.file("document"), document(&pods.toehold, &json!({}))).unwrap();
        pods.run("! [ -e ran ]").ends(0);
    }
}

#[test]
fn a_document_that_is_not_as_it_should_be_lets_nobody_in() {
    for more in [
        json!({ "enviroment": {} }),
        json!({ "files": [{ "path": "../x", "content": "" }] }),
        json!({ "environment": { "LD PRELOAD": "x" } }),
        json!({ "principal": "" }),
    ] {
        let pods = with_document(&more, "");
        let done = pods.run("true").ends(255);
        assert!(done.stderr.contains(REFUSED), "{more}: {done:?}");
    }
}
