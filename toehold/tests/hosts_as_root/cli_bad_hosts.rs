//! `host add` of hosts that are not what they should be: somebody else's key, files that cannot be replaced, no room, a
//! server that reads another file. Each is a clear error, a non-zero exit code, and nothing lost.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::support;
use crate::support::server::write_private;
use crate::support::{Done, FOREIGN, Inside, RealSshd, Toehold, names_in};

/// `host add` of this server through `via`.
fn add(toehold: &Toehold, host: &RealSshd, home: &Path, via: &str) -> Done {
    let account = host.account().to_string();
    toehold.run(["host", "add", &account, "--home", home.to_str().unwrap(), "--via", via])
}

/// A shell that sees the files as the server does.
fn shell_of(host: &RealSshd) -> String {
    format!("nsenter --mount --target {} sh", host.processes()[0])
}

fn run_at(host: &RealSshd, script: &str, argument: &Path) {
    let pid = host.processes()[0].to_string();
    let status =
        Command::new("nsenter").args(["--mount", "--target", &pid, "sh", "-ec", script, "sh"]).arg(argument).status().unwrap();
    assert!(status.success(), "{script}");
}

/// What the host holds is what it held before, and nobody owes anything that is still there.
#[track_caller]
fn is_as_it_was(host: &RealSshd, before: &[u8]) {
    assert_eq!(fs::read(host.authorized_keys()).unwrap(), before, "as_it_was");
    assert_eq!(names_in(&host.home().join(".ssh")), ["authorized_keys"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn o1_host_key_asked_somebody_in_the_middle_with_a_key_of_his_own() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    host.show_another_host_key(true);
    let done = host.add(&toehold, &[]).ends(3);
    assert!(done.stderr.contains("proof") && done.stderr.contains("key"), "{}", done.stderr);
    assert_eq!(host.ours(), "", "nothing of value was sent, and the way of the command took the key away");
    host.nothing_is_lost(&toehold);
    host.heal();
    host.comes_to_an_end(&toehold);

    // The host is known now: another key is refused at once, whatever is asked for.
    let account = host.account();
    host.show_another_host_key(true);
    let before = host.requests();
    for more in [&[][..], &["--accept-new"], &["--host-key", &support::key("ed25519").public_key.fingerprint().to_string()]] {
        let done = host.add(&toehold, more);
        assert!(matches!(done.code, 1 | 3), "{more:?}: {}", done.stderr);
        assert!(done.stderr.contains("host key"), "{more:?}: {}", done.stderr);
    }
    let check = toehold.run(["host", "check", &account]).ends(3);
    assert!(check.stdout.contains("host key changed"), "{}", check.stdout);
    let done = toehold.run(["host", "rm", &account]).ends(1);
    assert!(done.stderr.contains("host key") && done.stderr.contains("stays on record"), "{}", done.stderr);
    assert_eq!(host.requests(), before, "a request was sent to a host with another key");
    host.heal();
    toehold.run(["session", "recover"]).ends(0);
    host.is_managed(&toehold);
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_an_sftp_chroot_is_named_and_nothing_is_left() {
    let (toehold, host) = (Toehold::new(), Inside::with(|host| host.chroot(true)).await);
    let done = host.add(&toehold, &[]).ends(3);
    assert!(done.stderr.contains("chroot"), "{}", done.stderr);
    assert_eq!(host.ours(), "");
    assert_eq!(host.names(), ["authorized_keys"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn as_it_was_a_host_without_atomic_rename_is_refused_by_name() {
    let (toehold, host) = (Toehold::new(), Inside::with(|host| host.posix_rename(false)).await);
    let done = host.add(&toehold, &[]).ends(3);
    assert!(done.stderr.contains("posix-rename@openssh.com"), "{}", done.stderr);
    assert_eq!(host.ours(), "");
    assert_eq!(host.names(), ["authorized_keys"]);
    // Pasted by hand, the line stays, with its end; and the list has the line that takes it away.
    let done = host.add_via_once(&toehold, &[]).ends(3);
    assert!(done.stderr.contains("posix-rename@openssh.com"), "{}", done.stderr);
    host.nothing_is_lost(&toehold);
    assert!(host.ours().contains("toehold-temporary:"), "{}", host.ours());
    let open = toehold.sessions(false);
    let by_hand = open.iter().find(|session| host.ours().contains(session["id"].as_str().unwrap())).unwrap();
    let status = Command::new("sh").args(["-c", by_hand["removal_command"].as_str().unwrap()]).status().unwrap();
    assert!(status.success());
    assert_eq!(host.ours(), "");
    assert_eq!(host.names(), ["authorized_keys"]);
}

#[test]
fn foreign_bytes_a_file_of_100_mb_is_refused_and_a_truncated_one_is_not() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    let line = format!("# {}\n", "x".repeat(8000));
    let mut file = fs::File::create(host.authorized_keys()).unwrap();
    for _ in 0..100_000_000 / line.len() {
        file.write_all(line.as_bytes()).unwrap();
    }
    drop(file);
    host_file_mode(&host);
    let before = fs::read(host.authorized_keys()).unwrap();
    let done = add(&toehold, &host, &host.home(), "sh").ends(3);
    assert!(done.stderr.contains("is too large") && done.stderr.contains("nothing was changed"), "{}", done.stderr);
    is_as_it_was(&host, &before);

    // Cut off in the middle of a key, as a full disk or a crash leaves it.
    let before = &FOREIGN[..60];
    host.authorize(before);
    add(&toehold, &host, &host.home(), "sh").ends(0);
    let file = fs::read(host.authorized_keys()).unwrap();
    assert!(file.starts_with(before));
    assert_eq!(String::from_utf8_lossy(&file[before.len()..]), format!("\n{} toehold-master\n", toehold.master_key()));
    owes_only_what_may_still_run(&toehold, 1);
}

fn host_file_mode(host: &RealSshd) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(host.authorized_keys(), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn as_it_was_a_home_that_cannot_be_written_to() {
    let (toehold, host) = (Toehold::new(), RealSshd::builder().own_home().start());
    host.authorize(FOREIGN);
    let read_only = r#"mount --bind "$1" "$1"; mount -o remount,bind,ro "$1""#;
    run_at(&host, read_only, &host.home());
    // The command cannot write.
    let done = add(&toehold, &host, &host.home(), &shell_of(&host)).ends(3);
    assert!(done.stderr.contains("cannot write") && done.stderr.contains("nothing was changed"), "{}", done.stderr);
    is_as_it_was(&host, FOREIGN);
    // The command can, by another way, and the server cannot.
    let done = add(&toehold, &host, &host.home(), "sh").ends(3);
    assert!(done.stderr.contains("creating") && done.stderr.contains("toehold-lock"), "{}", done.stderr);
    is_as_it_was(&host, FOREIGN);
    toehold.run(["session", "recover"]).ends(3);
    run_at(&host, r#"umount "$1""#, &host.home());
    add(&toehold, &host, &host.home(), &shell_of(&host)).ends(0);
    // Of the two, one had run to its end and was settled by this contact.
    owes_only_what_may_still_run(&toehold, 1);
}

/// A command that failed, or that nobody saw the end of, may run later all the same: it is owed until its key has ended.
#[track_caller]
fn owes_only_what_may_still_run(toehold: &Toehold, most: usize) {
    let open = toehold.sessions(false);
    assert!(open.len() <= most, "{open:?}");
    for session in &open {
        assert!(session["reason"].as_str().unwrap().contains("whether the command will still be run"), "{open:?}");
        assert!(session["removal_command"].is_string(), "{open:?}");
    }
}

#[test]
fn as_it_was_anchored_a_full_disk_on_the_host() {
    let toehold = Toehold::new();
    let host =
        RealSshd::builder().own_home().small_disk("96k").config("AuthorizedKeysFile %h/small/.ssh/authorized_keys").start();
    let home = host.home().join("small");
    let on_server = host.seen_by_server(&home);
    fs::create_dir(on_server.join(".ssh")).unwrap();
    // As large as what is left beside it, so that there is no room for a second one.
    let foreign = [FOREIGN, &b"\n# padding\n".repeat(5000)].concat();
    write_private(&on_server.join(".ssh/authorized_keys"), &foreign);
    let done = add(&toehold, &host, &home, &shell_of(&host)).ends(3);
    assert!(done.stderr.contains("authorized_keys.toehold-"), "{}", done.stderr);
    let file = fs::read(on_server.join(".ssh/authorized_keys")).unwrap();
    assert!(file.starts_with(&foreign), "foreign_bytes");
    assert!(!String::from_utf8_lossy(&file).contains("toehold-master"));
    let open = toehold.sessions(false);
    assert!(open.len() == 1 && file.len() > foreign.len(), "there was no room for the removal either, so it is owed: {open:?}");

    // So full that not even the line fits.
    let ballast = on_server.join("ballast");
    drop(fs::write(&ballast, vec![0; 200_000]));
    let done = add(&toehold, &host, &home, &shell_of(&host)).ends(3);
    assert!(done.stderr.contains("nothing was changed"), "{}", done.stderr);
    assert_eq!(fs::read(on_server.join(".ssh/authorized_keys")).unwrap(), file);

    // Room again: the next contact brings it in and settles what is owed.
    fs::remove_file(ballast).unwrap();
    write_private(&on_server.join(".ssh/authorized_keys"), &file[..][foreign.len() - FOREIGN.len()..]);
    add(&toehold, &host, &home, &shell_of(&host)).ends(0);
    owes_only_what_may_still_run(&toehold, 1);
    toehold.run(["host", "check"]).ends(0);
    let file = fs::read_to_string(on_server.join(".ssh/authorized_keys")).unwrap_or_default();
    assert!(!file.contains("toehold-temporary"), "{file}");
    assert_eq!(names_in(&on_server.join(".ssh")), ["authorized_keys"]);
}

#[test]
fn acl_and_security_labels_are_refused_in_words() {
    let (toehold, host) = (Toehold::new(), RealSshd::start());
    host.authorize(FOREIGN);
    let set = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(host.authorized_keys()).status().unwrap().success(), "{program}");
    };
    set("setfacl", &["-m", "u:nobody:r"]);
    let done = add(&toehold, &host, &host.home(), "sh").ends(3);
    assert!(done.stderr.contains("has an ACL"), "{}", done.stderr);
    is_as_it_was(&host, FOREIGN);
    set("setfacl", &["-b"]);
    // As SELinux has it where a file came from elsewhere: a replacement would get the type of its directory.
    let label = |path: &Path, label: &str| {
        let arguments = ["-n", "security.selinux", "-v", label];
        assert!(Command::new("setfattr").args(arguments).arg(path).status().unwrap().success(), "setfattr");
    };
    label(&host.home().join(".ssh"), "system_u:object_r:ssh_home_t:s0");
    label(&host.authorized_keys(), "unconfined_u:object_r:user_home_t:s0");
    let done = add(&toehold, &host, &host.home(), "sh").ends(3);
    assert!(done.stderr.contains("SELinux"), "{}", done.stderr);
    is_as_it_was(&host, FOREIGN);
}

#[test]
fn o6_a_server_that_reads_another_file_is_named_and_the_key_taken_away() {
    let toehold = Toehold::new();
    let host = RealSshd::builder().config("AuthorizedKeysFile /nowhere/%u").start();
    host.authorize(FOREIGN);
    let done = add(&toehold, &host, &host.home(), "sh").ends(3);
    assert!(done.stderr.contains("ran on the host") && done.stderr.contains("refuses the temporary key"), "{}", done.stderr);
    is_as_it_was(&host, FOREIGN);
}

#[test]
fn one_login_try_is_enough() {
    let toehold = Toehold::new();
    let host = RealSshd::builder().config("MaxAuthTries 1").start();
    add(&toehold, &host, &host.home(), "sh").ends(0);
    toehold.run(["host", "check"]).ends(0);
    toehold.run(["host", "rm", &host.account().to_string()]).ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_measured_and_shown() {
    let toehold = Toehold::new();
    for (error, words) in [(130, "130 s ahead of ours"), (-4000, "4000 s behind ours")] {
        let host = Inside::with(|host| host.clock_error(error)).await;
        let done = host.add(&toehold, &[]).ends(0);
        // Seconds go by between two looks at two clocks.
        let shown = done.stderr.lines().find(|line| line.contains("the host's clock is")).expect("it is shown");
        let seconds: i64 = shown.split("clock is ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((seconds - i64::from(error.abs())).abs() <= 2, "{words}: {shown}");
        assert!(shown.ends_with(words.split_once(" s ").unwrap().1), "{words}: {shown}");
        let done = host.add(&toehold, &["--json"]).ends(0);
        let told = done.lines().into_iter().find(|line| line["event"] == "clock_error").expect("it is told");
        assert!((told["seconds"].as_i64().unwrap() - i64::from(error)).abs() <= 2, "{told}");
    }
    let host = Inside::start().await;
    assert!(!host.add(&toehold, &[]).ends(0).stderr.contains("clock"));
}
