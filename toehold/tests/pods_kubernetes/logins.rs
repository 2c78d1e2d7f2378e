//! Who may log in, and what a login brings along into its pod: files, variables, marks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use base64ct::Encoding as _;
use serde_json::{Value, json};

use crate::gateway::{Pods, Session, file_of, path};
use crate::ground::Ground;
use crate::support::keys::ssh_keygen;
use crate::support::{Done, Toehold};

/// A command that prints the document beside it, whoever asks.
pub(crate) fn command(toehold: &Toehold, more: &Value) -> String {
    let script = file_of(toehold, "who");
    fs::write(&script, "#!/bin/sh\nexec cat \"${0%/*}/document\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let line = fs::read_to_string(file_of(toehold, "key.pub")).unwrap();
    let mut document = json!({ "keys": [line.trim()], "principal": "alice@example.org" });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fs::write(file_of(toehold, "document"), document.to_string()).unwrap();
    path(&script)
}

fn with_document(more: &Value, config: &Value) -> Pods {
    let toehold = Pods::prepared();
    let command = command(&toehold, more);
    Pods::with_keys_by(toehold, Ground::new(), config, &["--authorized-keys-command", &command])
}

pub(crate) fn encoded(content: &[u8]) -> String {
    base64ct::Base64::encode_string(content)
}

#[test]
fn p6_what_a_command_says_a_login_brings_along_is_in_its_pod_before_anything_runs() {
    let secret = "it's $(id) \"here\" 4d8f1c";
    let blob: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let more = json!({
        "environment": { "TOKEN": secret },
        "files": [
            { "path": "/data/deep/.netrc", "mode": "0640", "content": encoded(b"hello\n") },
            { "path": "/blob", "content": encoded(&blob) },
        ],
        "metadata": { "team": "blue", "cost center": "a b" },
    });
    let config = json!({ "pod": { "podSpec": { "terminationGracePeriodSeconds": 1 } } });
    let pods = with_document(&more, &config);
    let done = pods.run("cat /data/deep/.netrc; stat -c %a /data/deep/.netrc /blob; wc -c </blob; printf %s \"$TOKEN\"").ends(0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[..4], ["hello", "640", "600", "100000"], "{done:?}");
    assert_eq!(lines[4], secret);
    assert!(pods.ssh("cat /blob").output().unwrap().stdout == blob);
    // In a terminal, and over sftp's and scp's way in, too.
    let done = Done::of(pods.ssh_with(&["-tt"], "cat /data/deep/.netrc; echo \"$TOKEN\"").output().unwrap()).ends(0);
    assert_eq!(done.stdout, format!("hello\r\n{secret}\r\n"));
    // What it is marked with, and who it is for; a secret stands nowhere in it.
    let mut session = Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(session.line(), "begun");
    let pod = pods.ground.pods().into_iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).unwrap();
    let (labels, annotations) = (&pod["metadata"]["labels"], &pod["metadata"]["annotations"]);
    assert_eq!(annotations["toehold.local/metadata.team"], "blue");
    assert_eq!(labels["toehold.local/metadata.cost_20center"], "a_20b");
    assert_eq!(annotations["toehold.local/principal"], "alice@example.org");
    assert!(!pod.to_string().contains("4d8f1c"), "{pod}");
    drop(session);
    pods.waits_until_empty();
}

#[test]
fn a_file_that_cannot_be_written_is_named_and_nothing_runs() {
    let more = json!({ "files": [{ "path": "/proc/none/x", "content": encoded(b"x") }] });
    let pods = with_document(&more, &json!({}));
    for options in [&["-T"][..], &["-tt"]] {
        let done = Done::of(pods.ssh_with(options, "echo ran").output().unwrap()).ends(255);
        assert!(done.stderr.contains("the file /proc/none/x, which belongs to the login, cannot be written"), "{done:?}");
        assert!(!done.stdout.contains("ran"), "{done:?}");
    }
    pods.waits_until_empty();
    // An image without a shell can take no files, and nothing runs without them there either.
    let ground = Ground::new();
    let mut config = Ground::image(&ground.cluster().images.no_shell);
    config["pod"]["idleCommand"] = json!(["/bin/sleep", "3600"]);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(0);
    let toehold = Pods::prepared();
    let command = command(&toehold, &json!({ "environment": { "TOKEN": "x" } }));
    let pods = Pods::with_keys_by(toehold, ground, &config, &["--authorized-keys-command", &command]);
    let done = pods.run("/bin/echo ran").ends(255);
    assert!(done.stderr.contains("what belongs to the login cannot be put into the pod without one"), "{done:?}");
    pods.waits_until_empty();
}

#[test]
fn p4_keys_in_the_store_let_in_whose_they_are_and_a_pod_is_that_principals() {
    let toehold = Pods::prepared();
    let file = file_of(&toehold, "bobs");
    ssh_keygen(&file, &["-t", "ed25519"]);
    let public = path(&file.with_extension("pub"));
    let key = |arguments: &[&str]| toehold.run(["--json", "pods", "key"].iter().chain(arguments).copied());
    let added = key(&["add", "bob@example.org", &public]).ends(0);
    let fingerprint = added.json()["added"][0].as_str().unwrap().to_owned();
    assert_eq!(key(&["ls"]).ends(0).json()["keys"][0]["principal"], "bob@example.org");
    let pods = Pods::with_keys_by(toehold, Ground::new(), &json!({}), &["--keys-in-store"]);
    let log_in = |line: &str| {
        let mut command = pods.client_with_key("ssh", &file);
        command.args(["anybody@127.0.0.1", line]).stdin(Stdio::null());
        command
    };
    let mut session = Session::start(log_in("echo begun; sleep 600"));
    assert_eq!(session.line(), "begun");
    let pod = &pods.ground.pods()[0];
    assert_eq!(pod["metadata"]["annotations"]["toehold.local/principal"], "bob@example.org", "{pod}");
    // Whose key is in no place that was named is nobody.
    assert!(pods.run("true").ends(255).stderr.contains("Permission denied (publickey)"));
    pods.toehold.run(["--json", "pods", "key", "rm", &fingerprint]).ends(0);
    let done = Done::of(log_in("true").output().unwrap()).ends(255);
    assert!(done.stderr.contains("Permission denied (publickey)"), "{done:?}");
    drop(session);
    pods.waits_until_empty();
}
