//! `toehold host invite`: user data for a host that is not there yet, run by a real shell when it is.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use crate::support;
use crate::support::{RealSshd, Toehold};
use serde_json::Value;
use yaml_rust2::YamlLoader;

/// What cloud-init writes into a script of root's and runs with `sh` at the end of the first boot.
fn script(user_data: &str) -> String {
    assert!(user_data.starts_with("#cloud-config\n"), "{user_data}");
    let documents = YamlLoader::load_from_str(user_data).unwrap();
    documents[0]["runcmd"][0].as_str().unwrap().to_owned()
}

/// Runs it on the host.
fn boot(host: &RealSshd, script: &str) {
    let pid = host.processes()[0].to_string();
    let mut shell = Command::new("nsenter")
        .args(["--mount", "--target", &pid, "sh"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(shell.wait_with_output().unwrap().status.success());
}

#[track_caller]
fn is_managed(toehold: &Toehold, host: &RealSshd) {
    let file = fs::read_to_string(host.authorized_keys()).unwrap();
    assert_eq!(file, format!("{} toehold-master\n", toehold.master_key()));
    assert_eq!(support::names_in(&host.home().join(".ssh")), ["authorized_keys"]);
    assert!(toehold.sessions(false).is_empty());
    toehold.run(["host", "check"]).ends(0);
    let shown = toehold.run(["--json", "host", "show", &host.account().to_string()]).ends(0).json();
    assert_eq!(shown["host_key"]["trust"], "proof");
}

#[test]
fn an_invited_host_is_managed_once_it_has_booted() {
    let toehold = Toehold::new();
    let port = support::server::free_port();
    let account = format!("{}@127.0.0.1:{port}", support::server::current_user());
    let file = toehold.state().join("user-data");
    let mut child = toehold.spawn(["--json", "host", "invite", &account, "--output", file.to_str().unwrap()]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = |event: &str| loop {
        let document: Value = serde_json::from_str(&lines.next().expect("another event").unwrap()).unwrap();
        if document["event"] == event {
            break document;
        }
    };
    let told = next("user_data");
    assert_eq!(told["file"], file.to_str().unwrap());
    assert!(told.get("user_data").is_none(), "it is in the file alone: {told}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(toehold.sessions(false)[0]["id"], told["session"]);
    // There is no such host yet, which is no reason to give up.
    next("retrying");
    let host = RealSshd::builder().port(port).own_home().start();
    boot(&host, &script(&fs::read_to_string(&file).unwrap()));
    next("completed");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    is_managed(&toehold, &host);
}

#[test]
fn the_user_data_on_standard_output_is_all_that_is_there_until_the_host_is_managed() {
    let (toehold, host) = (Toehold::new(), RealSshd::builder().own_home().start());
    let mut child = toehold.spawn(["host", "invite", &host.account().to_string()]);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut user_data = String::new();
    while !user_data.ends_with("\n    END-OF-TOEHOLD\n") {
        assert_ne!(stdout.read_line(&mut user_data).unwrap(), 0, "{user_data}");
    }
    boot(&host, &script(&user_data));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let expected = format!("{} is managed; its host key is {}.", host.account(), host.host_key().fingerprint());
    assert_eq!((child.wait().unwrap().code(), rest.lines().next()), (Some(0), Some(expected.as_str())));
    is_managed(&toehold, &host);
}
