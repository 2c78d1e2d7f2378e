//! Programs that copy over ssh: rsync and git, byte for byte.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::gateway::{Pods, path};
use crate::support::Done;

/// The `ssh` of these programs, as one word for a shell.
fn ssh(pods: &Pods) -> String {
    let command = pods.client("ssh");
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_str().unwrap()).collect();
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

fn noise(seed: u32, length: u32) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n.wrapping_mul(2_654_435_761) ^ seed).rotate_left(n % 31) % 256).unwrap()).collect()
}

fn same(one: &Path, other: &Path) {
    let done = Done::of(Command::new("diff").arg("-r").arg("--no-dereference").args([one, other]).output().unwrap());
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""));
}

/// In a session of its own pod: what is copied there goes with the pod, so both ways go through one connection.
fn mux(pods: &Pods) -> (std::process::Child, String) {
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master =
        pods.ssh_with(&["-M", "-o", &socket], "echo begun; cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut begun = [0; 6];
    std::io::Read::read_exact(master.stdout.as_mut().unwrap(), &mut begun).unwrap();
    let ssh = format!("{} '-o' '{socket}'", ssh(pods));
    (master, ssh)
}

#[test]
fn rsync_copies_there_and_back_and_only_what_has_changed() {
    let pods = Pods::start();
    let (mut master, ssh) = mux(&pods);
    let (here, back) = (pods.file("here"), pods.file("back"));
    fs::create_dir_all(here.join("a b/c")).unwrap();
    fs::write(here.join("a b/large"), noise(1, 3_000_000)).unwrap();
    fs::write(here.join("a b/c/empty"), "").unwrap();
    fs::write(here.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(here.join("run"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("a b/large", here.join("link")).unwrap();
    let rsync = |arguments: &[&str]| {
        let mut command = Command::new("rsync");
        Done::of(command.args(["-a", "--stats", "--no-whole-file", "-e", &ssh]).args(arguments).output().unwrap()).ends(0)
    };
    let (from, to) = (format!("{}/", path(&here)), path(&back));
    rsync(&[&from, "anybody@127.0.0.1:kept/"]);
    // A few bytes in the middle of a large file.
    let mut large = noise(1, 3_000_000);
    large[1_500_000..1_500_010].fill(0);
    fs::write(here.join("a b/large"), &large).unwrap();
    // Written within the same second, perhaps.
    let stats = rsync(&["--ignore-times", &from, "anybody@127.0.0.1:kept/"]).stdout;
    let sent = stats.lines().find_map(|line| line.strip_prefix("Total bytes sent: ")).unwrap().replace(',', "");
    assert!(sent.parse::<u64>().unwrap() < 300_000, "{stats}");
    rsync(&["anybody@127.0.0.1:kept/", &format!("{to}/")]);
    same(&here, &back);
    assert_eq!(fs::metadata(back.join("run")).unwrap().permissions().mode() & 0o777, 0o750);
    // What cannot be, says so and does not end with 0.
    let mut command = Command::new("rsync");
    let done = Done::of(command.args(["-a", "-e", &ssh, "anybody@127.0.0.1:nowhere/", &to]).output().unwrap());
    assert!(done.code != 0 && done.stderr.contains("nowhere"), "{done:?}");
    drop(master.stdin.take());
    assert!(master.wait().unwrap().success());
    pods.waits_until_empty();
}

#[test]
fn git_clones_pushes_and_fetches() {
    let pods = Pods::start();
    let (mut master, ssh) = mux(&pods);
    let work = pods.file("work");
    fs::create_dir(&work).unwrap();
    let git = |directory: &Path, arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]).args(arguments);
        command
            .current_dir(directory)
            .env("GIT_SSH_COMMAND", &ssh)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        Done::of(command.output().unwrap()).ends(0)
    };
    let made = Command::new("sh").args(["-c", &format!("{ssh} anybody@127.0.0.1 git init -q --bare -b main kept.git")]).output();
    Done::of(made.unwrap()).ends(0);
    git(&work, &["init", "-q", "one"]);
    let one = work.join("one");
    for (number, size) in [(1, 10), (2, 1_000_000), (3, 70_000)] {
        fs::write(one.join(format!("file {number}")), noise(number, size)).unwrap();
        git(&one, &["add", "."]);
        git(&one, &["commit", "-q", "-m", "another"]);
    }
    git(&one, &["push", "-q", "anybody@127.0.0.1:kept.git", "main"]);
    git(&work, &["clone", "-q", "anybody@127.0.0.1:kept.git", "two"]);
    let two = work.join("two");
    let head = |directory: &Path| git(directory, &["rev-parse", "HEAD"]).stdout;
    assert_eq!(head(&one), head(&two));
    git(&two, &["fsck", "--strict"]);
    fs::write(two.join("file 2"), noise(9, 1_000_000)).unwrap();
    git(&two, &["commit", "-q", "-a", "-m", "back"]);
    git(&two, &["push", "-q"]);
    git(&one, &["pull", "-q", "--ff-only", "anybody@127.0.0.1:kept.git", "main"]);
    assert_eq!(head(&one), head(&two));
    assert!(fs::read(one.join("file 2")).unwrap() == noise(9, 1_000_000));
    drop(master.stdin.take());
    assert!(master.wait().unwrap().success());
    pods.waits_until_empty();
}
