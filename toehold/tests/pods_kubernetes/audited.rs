//! What the API server writes down of us: an exec's arguments, for everybody who may read its audit log.
//!
//! A module of its own, since only a log of our own cluster can be read here: `cargo xtask test-cluster` leaves it out elsewhere.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use base64ct::Encoding as _;
use serde_json::{Value, json};
use toehold_podrun::supervisor::{Launch, Leash};

use crate::gateway::{Pods, Session, fed, path};
use crate::ground::{ACCOUNT, Ground};
use crate::logins::{command, encoded};
use crate::support::{Done, eventually};

/// Whole lines, those of the pods of this namespace.
fn log(ground: &Ground) -> Vec<String> {
    let directory = PathBuf::from(std::env::var_os("TOEHOLD_TEST_CLUSTER").unwrap());
    let file = directory.join("audit.log");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let here = format!("/namespaces/{}/pods/", ground.namespace().name());
    text.split_inclusive('\n').filter(|line| line.ends_with('\n') && line.contains(&here)).map(str::to_owned).collect()
}

/// An exec's arguments, and whose it was.
fn exec(line: &str) -> (String, Vec<String>) {
    let event: Value = serde_json::from_str(line).unwrap();
    let query = event["requestURI"].as_str().unwrap().split_once('?').unwrap().1;
    let arguments = query.split('&').filter_map(|member| member.strip_prefix("command=")).map(plain).collect();
    (event["user"]["username"].as_str().unwrap().to_owned(), arguments)
}

/// What stands in a member of a query (RFC 3986, section 2.1; a plus is a blank).
fn plain(member: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = member.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// By every way in, in pods that go and in one that stays: the arguments are our two constant texts. So neither what a login brings along
/// stands there, nor what somebody types, nor the number by which the supervisor's answer is known.
#[test]
fn p6_nothing_that_is_anybodys_stands_in_the_clusters_audit_log() {
    let unlike_any_other = |what| format!("{what}-{:016x}", getrandom::u64().unwrap());
    let all = ["variable", "content", "path", "metadata", "set", "typed", "input"].map(unlike_any_other);
    let [variable, content, file, metadata, set, typed, input] = &all;
    let more = json!({
        "environment": { "TOKEN": variable },
        "files": [{ "path": format!("/data/{file}"), "content": encoded(content.as_bytes()) }],
        "metadata": { "ticket": metadata },
    });
    let ground = Ground::new();
    for mode in ["connection", "persistent"] {
        let toehold = Pods::prepared();
        let who = command(&toehold, &more);
        let mut config = ground.tools();
        config["pod"]["mode"] = json!(mode);
        config["pod"]["createMissingPods"] = json!(mode == "persistent");
        let pods = Pods::with_keys_by(toehold, ground.clone(), &config, &["--authorized-keys-command", &who]);
        let before = log(&ground).len();
        let set_it = format!("SetEnv=GIVEN={set}");
        let line = format!("echo {typed} \"$TOKEN\" \"$GIVEN\"; cat /data/{file} -");
        let whole = format!("{typed} {variable} {set}\n{content}{input}");
        // A command, the same on a terminal, a shell, and sftp.
        let told = fed(pods.ssh_with(&["-o", &set_it], &line), input.as_bytes());
        assert_eq!(String::from_utf8(told).unwrap(), whole);
        let on_terminal = format!("stty -echo; echo {typed} \"$TOKEN\"; cat /data/{file}");
        let done = Done::of(pods.ssh_with(&["-tt"], &on_terminal).output().unwrap()).ends(0);
        assert!(done.stdout.contains(&format!("{typed} {variable}\r\n{content}")), "{done:?}");
        let told = fed(pods.ssh(""), format!("echo {typed} \"$TOKEN\"; cat /data/{file}\n").as_bytes());
        assert_eq!(String::from_utf8(told).unwrap(), format!("{typed} {variable}\n{content}"));
        let mut sftp = pods.client("sftp");
        sftp.args(["-b", "-", "anybody@127.0.0.1"]);
        fs::write(pods.file("here"), input).unwrap();
        fed(sftp, format!("put {} /tmp/{typed}\n", path(&pods.file("here"))).as_bytes());
        // One that is ended from outside.
        let mut session = Session::start({
            let mut command = pods.ssh(&format!("echo {typed}; sleep 600"));
            command.stdin(Stdio::piped());
            command
        });
        assert_eq!(session.line(), *typed);
        // And one of somebody else's, which says what it has to say in its arguments: there it is found.
        let loud = format!("loud-{:016x}", getrandom::u64().unwrap());
        let name = ground.pods().into_iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).unwrap();
        let name = name["metadata"]["name"].as_str().unwrap();
        ground.namespace().kubectl(["exec", name, "--", "echo", &loud]).text();
        drop(session);
        eventually("the last exec in the log", || log(&ground).iter().any(|line| line.contains(&loud)));
        let lines = log(&ground).split_off(before);
        let gateway = format!("system:serviceaccount:{}:{ACCOUNT}", ground.namespace().name());
        let ours: Vec<_> = lines.iter().map(|line| exec(line)).filter(|(user, _)| *user == gateway).collect();
        assert!(ours.len() >= 5, "{mode}: {lines:#?}");
        for (_, arguments) in &ours {
            assert!([Launch::command(), Leash::command()].contains(arguments), "{mode}: {arguments:?}");
        }
        for one in &all {
            let disguised = base64ct::Base64Unpadded::encode_string(one.as_bytes());
            for line in &lines {
                assert!(!line.contains(one) && !line.contains(&disguised), "{mode}: {one} in {line}");
            }
        }
        if mode == "connection" {
            pods.waits_until_empty();
        }
    }
}
