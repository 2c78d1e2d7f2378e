//! What is refused at the start, and what is told of pods.

use std::fs;

use crate::gateway::{Pods, file_of};
use crate::support::Toehold;

fn serve(toehold: &Toehold, more: &[&str]) -> crate::support::Done {
    let keys = file_of(toehold, "authorized_keys");
    fs::write(&keys, "").unwrap();
    let mut arguments = vec!["pods", "serve", "--backend", "local", "--authorized-keys", keys.to_str().unwrap()];
    arguments.extend(more);
    toehold.run(arguments)
}

#[test]
fn p5_local_pods_are_for_loopback_and_for_a_directory_of_their_own() {
    let toehold = Toehold::bare();
    let done = serve(&toehold, &["--listen", "0.0.0.0:0"]).ends(2);
    assert!(done.stderr.contains("loopback"), "{done:?}");
    // A store that is worth something, named or where it would be looked for.
    let operators = Toehold::new();
    let done = serve(&operators, &["--listen", "127.0.0.1:0"]).ends(1);
    assert!(done.stderr.contains("holds something else already"), "{done:?}");
    let store = file_of(&toehold, "home/.local/share/toehold");
    fs::create_dir_all(&store).unwrap();
    fs::copy(operators.state().join("state.db"), store.join("state.db")).unwrap();
    let done = serve(&toehold, &["--listen", "127.0.0.1:0"]).ends(1);
    assert!(done.stderr.contains("can be read by this user"), "{done:?}");
    assert!(!toehold.state().exists());
}

#[test]
fn what_is_wrong_is_said_before_anybody_is_let_in() {
    let toehold = Toehold::bare();
    let config = file_of(&toehold, "config.yaml");
    fs::write(&config, "pod: {podSpec: {containers: []}, mode: session}\n").unwrap();
    let done = serve(&toehold, &["--config", config.to_str().unwrap()]).ends(2);
    assert!(done.stderr.contains("pod.podSpec.containers"), "{done:?}");
    let done = toehold.run(["pods", "serve", "--backend", "local", "--authorized-keys", "/nowhere/keys"]).ends(1);
    assert!(done.stderr.contains("/nowhere/keys"), "{done:?}");
    let done = Toehold::bare().run(["pods", "ls", "--backend", "local"]).ends(1);
    assert!(done.stderr.contains("no gateway with local pods has run"), "{done:?}");
}

#[test]
fn pods_are_listed_with_whose_they_are_and_who_ran_what_is_on_record() {
    let pods = Pods::start();
    let mut session = crate::gateway::Session::start(pods.ssh("echo 'a secret'; cat"));
    assert_eq!(session.line(), "a secret");
    // Its input is at its end; what was there is listed with the connection's facts until then.
    let done = session.ends();
    assert_eq!(done.code, 0);
    let mut waiting = crate::gateway::Session::start(pods.ssh("echo begun; sleep 600"));
    assert_eq!(waiting.line(), "begun");
    crate::support::eventually("one pod", || pods.list().len() == 1);
    let pod = &pods.list()[0];
    assert_eq!((pod["principal"].as_str(), pod["user"].as_str()), (Some("alice@example.org"), Some("anybody")), "{pod}");
    assert!(pod["address"].as_str().unwrap().starts_with("127.0.0.1:") && pod["since"].is_string(), "{pod}");
    let text = pods.toehold.run(["pods", "ls", "--backend", "local"]).ends(0).stdout;
    assert!(text.contains("alice@example.org") && text.contains(pod["name"].as_str().unwrap()), "{text}");
    let store = crate::support::store::open(&pods.toehold);
    crate::support::eventually("both commands on record", || {
        let mut found = store.prepare("SELECT value FROM entry WHERE key LIKE 'audit%'").unwrap();
        let rows: Vec<Vec<u8>> = found.query_map([], |row| row.get(0)).unwrap().flatten().collect();
        let text: String = rows.iter().map(|row| String::from_utf8_lossy(row).into_owned()).collect();
        text.contains("pods.logged_in") && text.contains("echo 'a secret'; cat") && text.contains("sleep 600")
    });
    drop(waiting);
    pods.waits_until_empty();
}

#[test]
fn the_host_key_is_kept() {
    let pods = Pods::start();
    let first = pods.announced["host_key"].clone();
    assert_eq!(pods.announced["isolates"], false);
    let pods = Pods::at(pods.kill(), &[]);
    assert_eq!(pods.announced["host_key"], first);
    pods.run("true").ends(0);
}

#[test]
fn the_role_is_printed_for_people_and_programs() {
    let toehold = Toehold::bare();
    let done = toehold.run(["--json", "pods", "role", "--namespace", "guests"]).ends(0);
    let list = done.json();
    assert_eq!(list["items"][0]["metadata"]["namespace"], "guests");
    let text = toehold.run(["pods", "role"]).ends(0).stdout;
    assert!(text.starts_with("---\n") && text.contains("kind: \"RoleBinding\"") && text.contains("pods/exec"), "{text}");
    toehold.run(["pods", "role", "--namespace", "No Good"]).ends(2);
}
