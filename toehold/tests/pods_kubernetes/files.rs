//! Files and repositories, with what the image holds: sftp, scp, rsync, git.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::gateway::{Pods, Session, fed, path};
use crate::ground::Ground;
use crate::support::Done;

/// A pod that stays, so that several programs find the same.
fn tools() -> Pods {
    let ground = Ground::new();
    let mut config = ground.tools();
    config["pod"]["mode"] = json!("persistent");
    config["pod"]["createMissingPods"] = json!(true);
    Pods::on_ground(ground, &config, &[])
}

/// The command that rsync and git run as their ssh.
pub(crate) fn as_remote_shell(pods: &Pods) -> String {
    let ssh = pods.client("ssh");
    ["ssh".to_owned()]
        .into_iter()
        .chain(ssh.get_args().map(|word| word.to_str().unwrap().to_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn content() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(u32::to_le_bytes).take(3_000_000).collect()
}

#[test]
fn sftp_and_scp_copy_both_ways() {
    let pods = tools();
    let (here, back) = (pods.file("here"), pods.file("back"));
    fs::write(&here, content()).unwrap();
    let batch = format!(
        "mkdir /tmp/a\nput {0} /tmp/a/b\nrename /tmp/a/b /tmp/a/c\nget /tmp/a/c {1}\nls -l /tmp/a\n",
        path(&here),
        path(&back)
    );
    let mut command = pods.client("sftp");
    command.args(["-b", "-", "anybody@127.0.0.1"]);
    let told = String::from_utf8(fed(command, batch.as_bytes())).unwrap();
    assert!(told.contains("3000000") && fs::read(&back).unwrap() == content(), "{told}");
    let tree = pods.file("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), content()).unwrap();
    let scp = |arguments: &[&str]| {
        let mut command = pods.client("scp");
        command.arg("-rp").args(arguments);
        Done::of(command.output().unwrap()).ends(0)
    };
    scp(&[&path(&tree), "anybody@127.0.0.1:/tmp/copy"]);
    let again = pods.file("again");
    scp(&["anybody@127.0.0.1:/tmp/copy", &path(&again)]);
    assert!(fs::read(again.join("sub/file")).unwrap() == content());
}

#[test]
fn rsync_and_git_work_over_it() {
    let pods = tools();
    let shell = as_remote_shell(&pods);
    let run = |program: &str, directory: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.current_dir(directory).args(arguments).stdin(Stdio::null());
        command.env("RSYNC_RSH", &shell).env("GIT_SSH_COMMAND", &shell).env("GIT_CONFIG_GLOBAL", "/dev/null");
        Done::of(command.output().unwrap()).ends(0)
    };
    let tree = pods.file("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/file"), content()).unwrap();
    run("rsync", &tree, &["-a", "./", "anybody@127.0.0.1:/tmp/copy/"]);
    fs::write(tree.join("more"), "more").unwrap();
    run("rsync", &tree, &["-a", "./", "anybody@127.0.0.1:/tmp/copy/"]);
    let back = pods.file("back");
    fs::create_dir_all(&back).unwrap();
    run("rsync", &back, &["-a", "anybody@127.0.0.1:/tmp/copy/", "./"]);
    assert!(fs::read(back.join("sub/file")).unwrap() == content() && fs::read(back.join("more")).unwrap() == b"more");

    pods.run("git init --quiet --bare /tmp/there.git").ends(0);
    run("git", &tree, &["init", "--quiet"]);
    run("git", &tree, &["add", "."]);
    run("git", &tree, &["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "one"]);
    let url = "ssh://anybody@127.0.0.1/tmp/there.git";
    run("git", &tree, &["push", "--quiet", url, "HEAD:refs/heads/main"]);
    run("git", &back, &["clone", "--quiet", "--branch", "main", url, "cloned"]);
    assert!(fs::read(back.join("cloned/sub/file")).unwrap() == content());
}

#[test]
fn fifty_megabytes_go_both_ways_byte_for_byte() {
    let pods = Pods::start();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let noise: Vec<u8> = (0..6_250_000)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    assert!(pods.run_with("cat", &noise) == noise);
    // A session beside it, with bash where the image has it.
    let ground = Ground::clone(&pods.ground);
    let bash = pods.another(&ground.tools(), &[]);
    let mut session = Session::start(bash.ssh("echo ${BASH_VERSION:+bash}; exit 3"));
    assert_eq!(session.line(), "bash");
    session.ends().ends(3);
}
