//! `spec apply` on a root of its own: what it puts there, keeps, brings back and removes, and what it says.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::spec_support::machines::{Node, Says, document, key, plain_document, tree, under, version};
use crate::spec_support::web::Page;
use crate::support;
use crate::support::{Done, eventually};
use rustix::process::{Pid, Signal, kill_process};
use toehold_specsign::Format;

#[test]
fn machines_come_change_and_go_and_every_run_says_what_it_did() {
    let node = Node::new();
    let first = [version("facts", 1), version("logs", 1), version("old", 1), version("more", 1), version("again", 1)];
    let done = node.apply_versions(1, &first, &["--json"]).ends(0).json();
    assert_eq!((done["outcome"].as_str(), done["serial"].as_u64()), (Some("updated"), Some(1)));
    assert_eq!(done["machines"]["facts"]["state"], "updated");
    // With its modes: a script can be run, and nothing else.
    let modes = node.live("facts").unwrap().into_iter().map(|(path, entry)| (path, entry.mode));
    let expected = [("SHA256SUMS", 0o644), ("bin", 0o755), ("bin/run.sh", 0o755), ("machine.yaml", 0o644)];
    assert_eq!(modes.collect::<Vec<_>>(), expected.map(|(path, mode)| (path.to_owned(), mode)));
    for version in &first {
        assert_eq!(node.live(&version.name).as_ref(), Some(&version.tree));
    }
    node.web.seen();
    let done = node.apply(&["--json"]).ends(0).json();
    assert_eq!((done["outcome"].as_str(), done["counts"]["unchanged"].as_u64()), (Some("unchanged"), Some(5)));
    assert!(node.web.seen().is_empty(), "what is there is not fetched again");

    // One changes, one goes; nothing is removed unless that is asked for.
    let second = [version("facts", 2), version("logs", 1), version("more", 1), version("again", 1)];
    let done = node.apply_versions(2, &second, &[]).ends(0);
    assert!(done.stdout.contains("facts") && done.stdout.contains("another version"), "{}", done.stdout);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
    assert_eq!(node.live("old"), Some(version("old", 1).tree));
    assert_eq!(node.private("previous"), ["facts"], "the version before is kept");
    let done = node.apply(&["--purge-unknown", "--json"]).ends(0).json();
    assert_eq!(done["machines"]["old"]["why"], "removed: not listed");
    assert_eq!(node.live("old"), None);
    for empty in ["unpacking", "staged", "trash"] {
        assert!(node.private(empty).is_empty(), "{empty}");
    }

    // What somebody changed is mended.
    fs::write(node.root().join("logs/bin/run.sh"), "#!/bin/sh\nmine\n").unwrap();
    fs::write(node.root().join("more/extra"), "").unwrap();
    fs::remove_dir_all(node.root().join("again")).unwrap();
    node.apply(&[]).ends(0);
    for version in &second {
        assert_eq!(node.live(&version.name).as_ref(), Some(&version.tree));
    }
}

#[test]
fn a_version_that_does_not_work_makes_room_for_the_one_before() {
    let node = Node::new();
    let broken = "sh -c 'sleep 1000 & ! grep -q \"version: 2\" \"$TOEHOLD_MACHINE_DIRECTORY/machine.yaml\" || { echo it is broken >&2; exit 3; }'";
    let with = |more: &[&'static str]| [&["--health-command", broken][..], more].concat();
    node.apply_versions(1, &[version("facts", 1)], &with(&[])).ends(0);
    let done = node.apply_versions(2, &[version("facts", 2), version("logs", 1)], &with(&["--json"])).ends(3);
    let document = done.json();
    assert!(document["machines"]["facts"]["why"].as_str().unwrap().contains("it is broken"), "{document}");
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree), "the version before is back");
    assert_eq!(node.live("logs"), Some(version("logs", 1).tree), "the other machine is none the worse");
    // Not tried again at once, and said when.
    node.web.seen();
    let again = node.apply(&with(&["--json"])).ends(3).json();
    assert!(again["machines"]["facts"]["why"].as_str().unwrap().contains("it is tried again after 2"), "{again}");
    assert!(node.web.seen().is_empty());
    // A mistake of the operator's is no verdict on a machine.
    let done = node.apply_versions(3, &[version("facts", 3)], &["--health-command", "no-such-program {name}"]).ends(2);
    assert!(done.stderr.contains("there is no such program"), "{}", done.stderr);
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 3).tree));
}

#[test]
fn a_health_command_that_hangs_is_ended_with_all_that_it_started() {
    let node = Node::new();
    let pid = node.directory.path().join("pid");
    let command = format!("sh -c 'sleep 1000 & echo $! >{}; wait'", pid.display());
    let done = node.apply_versions(1, &[version("facts", 1)], &["--health-command", &command, "--health-timeout", "5s"]).ends(3);
    assert!(done.stdout.contains("did not end within 5 s"), "{}", done.stdout);
    assert_eq!(node.live("facts"), None, "there was no version before");
    let process = format!("/proc/{}/stat", fs::read_to_string(pid).unwrap().trim());
    eventually("the end of the process", || {
        fs::read_to_string(&process).map_or(true, |stat| stat.rsplit(')').next().unwrap().starts_with(" Z"))
    });
}

/// Whoever kills an apply in the middle of the question leaves a version in place of which nobody has said that it works.
#[test]
fn a_version_whose_health_command_has_not_answered_stays_unproven_until_one_does() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1), version("logs", 1)], &[]).ends(0);
    let asked = node.directory.path().join("asked");
    let command = format!("sh -c 'echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000'", asked.display());
    node.publish(&document(&node.entries(&[version("facts", 2), version("logs", 1)]), &Says { serial: 2, ..Says::default() }));
    let mut child = node.command(&["--health-command", &command]).spawn().unwrap();
    eventually("the question", || asked.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    // What was asked is left behind by SIGKILL: nobody is there to end it.
    let left: i32 = fs::read_to_string(&asked).unwrap().trim().parse().unwrap();
    let _ = kill_process(Pid::from_raw(left).unwrap(), Signal::KILL);
    for _ in 0..2 {
        let told = node.apply(&["--json"]).ends(3).json();
        assert_eq!(told["machines"]["facts"]["state"], "held", "{told}");
        assert!(told["machines"]["facts"]["why"].as_str().unwrap().contains("nobody has said that it works"), "{told}");
        assert_eq!(node.live("facts"), Some(version("facts", 2).tree), "it is in place all the same");
    }
    let (root, file) = (node.root(), node.file());
    let arguments = ["spec", "plan", "--allow-http", "--root", root.to_str().unwrap(), file.to_str().unwrap()];
    let planned = node.toehold.run(arguments).ends(3);
    assert!(planned.stdout.contains("nobody has said that it works"), "{}", planned.stdout);
    // Asked, it goes back; or somebody says that it works.
    let kept = node.directory.path().join("kept");
    assert!(std::process::Command::new("cp").arg("-a").args([node.root(), kept.clone()]).status().unwrap().success());
    let told = node.apply(&["--json", "--health-command", "false"]).ends(3).json();
    assert!(told["machines"]["facts"]["why"].as_str().unwrap().contains("failed its health command"), "{told}");
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    fs::remove_dir_all(node.root()).unwrap();
    fs::rename(kept, node.root()).unwrap();
    node.apply(&["--health-command", "true"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
    node.apply(&[]).ends(0);
}

#[test]
fn a_public_key_may_be_in_a_file_as_everywhere() {
    let node = Node::new();
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says::default()));
    let (file, root) = (node.file(), node.root());
    let key_file = node.directory.path().join("release.pub");
    let run = |command: &str, named: &str| {
        let arguments = ["spec", command, "--allow-http", "--root", root.to_str().unwrap(), "--public-key", named];
        node.toehold.run(arguments.into_iter().chain([file.to_str().unwrap()]))
    };
    let refused = run("apply", key_file.to_str().unwrap()).ends(1);
    assert!(refused.stderr.contains("is no public key"), "{}", refused.stderr);
    let ssh = key(1).verifying_key().to_ssh().unwrap().to_string();
    for written in [key(1).verifying_key().to_string(), format!("{ssh} release@example.net\n")] {
        fs::write(&key_file, written).unwrap();
        run("plan", key_file.to_str().unwrap()).ends(0);
    }
    run("plan", &ssh).ends(0);
    run("apply", key_file.to_str().unwrap()).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
}

/// Somebody's download directory is no root that has lost its memory.
#[test]
fn a_directory_with_a_list_of_sums_in_it_is_not_called_damaged() {
    let node = Node::new();
    fs::create_dir(node.root().join("debian")).unwrap();
    fs::write(node.root().join("debian/SHA256SUMS"), "").unwrap();
    let done = node.apply_versions(1, &[version("facts", 1)], &[]).ends(1);
    let says = |what: &str| done.stderr.contains(what);
    assert!(says("something in this directory has a SHA256SUMS") && says("--begin-anew") && !says("damaged"), "{}", done.stderr);
    node.apply(&["--begin-anew"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
}

#[test]
fn a_document_that_is_not_taken_leaves_the_last_good_one_in_force() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    for bad in
        [&b"not a document"[..], b"", b"{}", b"[]", b"null", &[0xff; 100], b"{\"machines\":\"bnVsbA==\",\"signature\":\"00\"}"]
    {
        fs::write(node.root().join("facts/extra"), "").unwrap();
        node.publish(bad);
        let done = node.apply(&["--json"]).ends(3).json();
        assert!(done["error"].as_str().unwrap().contains("last good document"), "{done}");
        assert_eq!(node.live("facts"), Some(version("facts", 1).tree), "mended all the same");
    }
    fs::remove_file(node.file()).unwrap();
    let done = node.apply(&[]).ends(3);
    assert!(done.stderr.contains("spec.json"), "{}", done.stderr);
}

#[test]
fn without_anything_to_go_on_it_fails_and_leaves_nothing() {
    let node = Node::new();
    node.publish(b"not a document");
    let done = node.apply(&["--json"]).ends(1).json();
    assert_eq!(done["exit_code"], 1);
    assert_eq!(fs::read_dir(node.root()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != ".toehold").count(), 0);
    // Nothing is remembered of it: a good one is taken.
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    let no_root = node.directory.path().join("no-root");
    let arguments = ["spec", "apply", "x", "--root", no_root.to_str().unwrap()];
    let done = node.toehold.run(arguments).ends(1);
    assert!(done.stderr.contains("make the directory first"), "{}", done.stderr);
    node.toehold.run(["spec", "apply", "--root", "x"]).ends(2);
    node.toehold.run(["spec", "apply", "x", "--root", "x", "--guard", "101%"]).ends(2);
    node.toehold.run(["--json", "spec", "apply", "x", "--root", "x", "--notify", "-"]).ends(2);
}

#[test]
fn matchers_ask_this_node() {
    let node = Node::new();
    let flag = node.directory.path().join("flag");
    let matchers = [
        ("here", "identity('^web') && has_command('sh')".to_owned()),
        ("elsewhere", "identity('^db')".to_owned()),
        ("doubtful", "has_file('relative')".to_owned()),
        ("broken", "identity(".to_owned()),
        ("flagged", format!("has_file('{}')", flag.display())),
    ];
    let mut entries = node.entries(&matchers.each_ref().map(|(name, _)| version(name, 1)));
    for (entry, (_, matcher)) in entries.iter_mut().zip(&matchers) {
        entry["match"] = matcher.as_str().into();
    }
    node.publish(&document(&entries, &Says::default()));
    let done = node.apply(&["--json", "--identity", "web1.example.net"]).ends(3).json();
    let states = matchers.each_ref().map(|(name, _)| done["machines"][*name]["state"].as_str().unwrap());
    assert_eq!(states, ["updated", "skipped", "unknown", "error", "skipped"]);
    assert!(node.live("here").is_some() && node.live("flagged").is_none() && node.live("doubtful").is_none());
    fs::write(flag, "").unwrap();
    node.apply(&["--identity", "web1.example.net"]).ends(3);
    assert!(node.live("flagged").is_some());
}

#[test]
fn governors_take_slots_from_the_store() {
    let node = Node::new();
    let mut entries = node.entries(&[version("facts", 1)]);
    entries[0]["governor"] = "updates".into();
    node.publish(&document(&entries, &Says::default()));
    let done = node.apply(&["--json"]).ends(3).json();
    assert_eq!(done["machines"]["facts"]["state"], "held", "no store, no slot");
    assert!(done["machines"]["facts"]["why"].as_str().unwrap().contains("this node has none"), "{done}");
    node.toehold.run(["init"]).ends(0);
    node.apply(&["--identity", "web1", "--governor", "updates=2"]).ends(0);
    assert!(node.live("facts").is_some());
    assert!(!support::store::keys(&node.toehold).iter().any(|key| key.starts_with("slot")), "the slot was given back");
}

/// Two roots of one node, which has one name: the one that is in an update holds the other back, and its slot stays its own.
#[test]
fn two_processes_on_one_store_share_the_slots_of_a_governor() {
    let node = Node::new();
    node.toehold.run(["init"]).ends(0);
    let mut entries = node.entries(&[version("facts", 1)]);
    entries[0]["governor"] = "updates".into();
    let path = format!("/{}", entries[0]["source"].as_str().unwrap().rsplit_once('/').unwrap().1);
    node.web.serve(&path, Page::Stalls(version("facts", 1).archive, 10));
    node.publish(&document(&entries, &Says::default()));
    let mut first = node.command(&["--request-timeout", "5m"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the request", || !node.web.seen().is_empty());
    node.web.serve(&path, Page::Good(version("facts", 1).archive));
    let slots = || support::store::keys(&node.toehold).into_iter().filter(|key| key.starts_with("slot")).count();
    let other = node.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let apply = |more: &[&str]| {
        let (root, other) = (node.root().to_str().unwrap().to_owned(), other.to_str().unwrap().to_owned());
        let arguments: Vec<String> =
            node.arguments(more).into_iter().map(|argument| if argument == root { other.clone() } else { argument }).collect();
        node.toehold.run(arguments.iter().map(String::as_str))
    };
    let done = apply(&["--json"]).ends(3).json();
    let why = done["machines"]["facts"]["why"].as_str().unwrap();
    assert!(why.contains("all slots of the governor updates are taken"), "{why}");
    assert_eq!(slots(), 1, "the one at work has its slot");
    // With room for two, both are at it, each in its own.
    apply(&["--governor", "updates=2"]).ends(0);
    assert_eq!(slots(), 1, "the other one was given back");
    // Who is told to stop holds nobody else up for as long as an update may take.
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(3));
    assert_eq!(slots(), 0);
}

#[test]
fn passes_are_told_in_choria_s_words() {
    let node = Node::new();
    let file = node.directory.path().join("events");
    let notify = ["--notify", file.to_str().unwrap(), "--identity", "web1.example.net"];
    node.apply_versions(1, &[version("facts", 1)], &notify).ends(0);
    node.publish(b"not a document");
    node.apply(&notify).ends(3);
    let events: Vec<serde_json::Value> =
        fs::read_to_string(&file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!((&events[0]["specversion"], &events[0]["subject"]), (&"1.0".into(), &"web1.example.net".into()));
    assert_eq!(events[0]["type"], "io.choria.machine.watcher.machines.v1.state");
    assert_eq!(events[0]["data"]["previous_outcome"], "updated");
    assert_eq!(events[0]["data"]["machines"][0], "facts");
    assert_eq!(events[1]["data"]["previous_outcome"], "error");
    // Plugins are told as plugins, also by a pass that fails.
    let other = Node::new();
    let plugins = Says { format: Format::Plugins, ..Says::default() };
    other.publish(&document(&other.entries(&[version("facts", 1)]), &plugins));
    let plugin_events = other.directory.path().join("events");
    let notify_plugins = ["--notify", plugin_events.to_str().unwrap()];
    other.apply(&notify_plugins).ends(0);
    other.publish(b"not a document");
    other.apply(&notify_plugins).ends(3);
    for line in fs::read_to_string(&plugin_events).unwrap().lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["type"], "io.choria.machine.watcher.plugins.v1.state");
        assert_eq!(event["data"]["plugins"][0], "facts", "{event}");
    }
    // On standard output they are alone.
    node.publish(&document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() }));
    let lines = node.apply(&["--notify", "-"]).ends(0).lines();
    assert_eq!((lines.len(), &lines[0]["data"]["previous_outcome"]), (1, &"updated".into()));
}

#[test]
fn plain_and_unsigned_documents_are_taken_in_words_only() {
    let node = Node::new();
    node.publish(&plain_document(&node.entries(&[version("facts", 1)]), Some(1)));
    let done = node.apply(&[]).ends(1);
    assert!(done.stderr.contains("--accept-plain"), "{}", done.stderr);
    node.apply(&["--accept-plain"]).ends(0);
    assert!(node.live("facts").is_some());
    node.publish(&plain_document(&node.entries(&[version("facts", 2)]), Some(2)));
    node.apply(&["--accept-plain"]).ends(3);
    node.publish(&plain_document(&node.entries(&[version("facts", 2)]), None));
    node.apply(&["--accept-plain"]).ends(3);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    node.apply(&["--accept-unsigned"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
}

#[test]
fn two_at_once_on_one_root_are_kept_apart() {
    let node = Node::new();
    let entries = node.entries(&[version("facts", 1)]);
    let path = entries[0]["source"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
    node.web.serve(&format!("/{path}"), Page::Stalls(version("facts", 1).archive, 10));
    node.publish(&document(&entries, &Says::default()));
    let child = node.command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the request", || !node.web.seen().is_empty());
    let done = node.apply(&[]).ends(1);
    assert!(done.stderr.contains("another process is at work"), "{}", done.stderr);

    // And a signal ends the one that waits for a server, at once, with nothing left behind.
    let asked = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let done = Done::of(child.wait_with_output().unwrap()).ends(3);
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    assert!(done.stderr.contains("stopped by a signal"), "{}", done.stderr);
    assert_eq!(node.live("facts"), None);
    for empty in ["unpacking", "staged", "previous", "trash"] {
        assert!(node.private(empty).is_empty(), "{empty}");
    }
    node.apply_versions(1, &[version("facts", 1)], &[]);
    node.apply_versions(2, &[version("facts", 1)], &[]).ends(0);
}

#[test]
fn with_an_interval_it_goes_on_until_it_is_told_to_stop() {
    let node = Node::new();
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says::default()));
    let mut child = node.command(&["--json", "--interval", "1s"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&events.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["outcome"], "updated");
    assert_eq!(next()["outcome"], "unchanged");
    node.publish(b"not a document");
    loop {
        let event = next();
        if let Some(refused) = event["refused"].as_str() {
            assert!(refused.contains("no specification"), "{event}");
            break;
        }
        assert_eq!(event["outcome"], "unchanged");
    }
    node.publish(&document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() }));
    while next()["outcome"] != "updated" {}
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert!(matches!(status.code(), Some(0 | 3)), "between two passes it is done, within one it was stopped: {status}");
}

#[test]
fn modes_and_owners_are_mended_as_root() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    let at = |path: &str| node.root().join("facts").join(path);
    let (directory, file, script) = (at("bin"), at("machine.yaml"), at("bin/run.sh"));
    let set = |path: &std::path::Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let edits: [(&str, &dyn Fn()); 8] = [
        ("a file is closed", &|| set(&file, 0o600)),
        ("a file is executable", &|| set(&file, 0o755)),
        ("a script is not", &|| set(&script, 0o644)),
        ("a script is for its owner alone", &|| set(&script, 0o700)),
        ("a script has its owner's rights", &|| set(&script, 0o4755)),
        ("a directory is closed", &|| set(&directory, 0o700)),
        ("the machine is closed", &|| set(&node.root().join("facts"), 0o711)),
        ("a file is somebody's", &|| chown(&file, Some(65_534), None).unwrap()),
    ];
    for (what, edit) in edits {
        edit();
        let done = node.apply(&["--json"]).ends(0).json();
        let why = done["machines"]["facts"]["why"].as_str().unwrap_or_default();
        assert!(why.contains("drifted"), "{what}: {done}");
        for (path, mode) in [(&file, 0o644), (&script, 0o755), (&directory, 0o755)] {
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.mode() & 0o7777, found.uid()), (mode, rustix::process::geteuid().as_raw()), "{what}");
        }
        assert_eq!(node.apply(&["--json"]).ends(0).json()["outcome"], "unchanged", "{what}");
    }
}

/// An apply that sees a mount which nobody else sees.
fn mounted(node: &Node, mount: &str) -> Command {
    let mounting = format!("mount {mount}; exec \"$@\"");
    under(&["unshare", "--mount", "--propagation", "private", "sh", "-ec", &mounting, "sh"], &node.command(&["--json"]))
}

/// A file system that another is mounted into cannot exchange anything with it.
#[test]
fn a_private_directory_on_another_file_system_is_refused_as_root() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    node.publish(&document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() }));
    let before = tree(&node.root());
    let mount = format!("-t tmpfs -o mode=0700 tmpfs {}", node.root().join(".toehold").display());
    let done = Done::of(mounted(&node, &mount).output().unwrap()).ends(1);
    assert!(done.stderr.contains("another file system than that of the root"), "{}", done.stderr);
    assert_eq!(tree(&node.root()), before);
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
}

/// What the kernel says for a file system that cannot exchange, strace says here.
#[test]
fn a_file_system_that_strace_lets_exchange_nothing_is_refused_before_anything_depends_on_it() {
    let node = Node::new();
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says::default()));
    let log = node.directory.path().join("log");
    let strace = ["strace", "-f", "-e", "trace=renameat2", "-e", "inject=renameat2:error=EINVAL", "-o", log.to_str().unwrap()];
    let done = Done::of(under(&strace, &node.command(&["--json"])).output().unwrap()).ends(1);
    assert!(done.stderr.contains("cannot exchange two directories in one step (Invalid argument"), "{}", done.stderr);
    assert!(fs::read_to_string(log).unwrap().contains("RENAME_EXCHANGE) = -1 EINVAL"));
    assert!(node.web.seen().is_empty() && node.live("facts").is_none());
    for empty in ["unpacking", "staged", "previous", "trash"] {
        assert!(node.private(empty).is_empty(), "{empty}");
    }
    // Nothing is remembered of it: on another file system it is the first time.
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
}

/// A machine that is a mount point cannot be moved; the others go on.
#[test]
fn a_mount_point_is_its_own_error_as_root() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1), version("logs", 1)], &[]).ends(0);
    node.publish(&document(&node.entries(&[version("facts", 2), version("logs", 2)]), &Says { serial: 2, ..Says::default() }));
    let facts = node.root().join("facts");
    let done = Done::of(mounted(&node, &format!("--bind {0} {0}", facts.display())).output().unwrap()).ends(3).json();
    assert!(done["machines"]["facts"]["why"].as_str().unwrap().contains("putting it into place failed"), "{done}");
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    assert_eq!(node.live("logs"), Some(version("logs", 2).tree));
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
    assert!(node.private("staged").is_empty());
}

#[test]
fn what_was_put_in_a_machines_place_since_is_held_and_named() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1), version("logs", 1)], &[]).ends(0);
    fs::write(node.root().join("logs/notes"), "somebody's own").unwrap();
    let done = node.apply_versions(2, &[version("facts", 1)], &["--purge-unknown"]).ends(3);
    assert!(done.stdout.contains("not what was placed") && done.stdout.contains("notes"), "{}", done.stdout);
    assert_eq!(fs::read_to_string(node.root().join("logs/notes")).unwrap(), "somebody's own");
    fs::remove_file(node.root().join("logs/notes")).unwrap();
    node.apply(&["--purge-unknown"]).ends(0);
    assert_eq!(node.live("logs"), None);
}

#[test]
fn a_plan_for_a_root_says_what_the_next_pass_does_and_does_nothing() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1), version("logs", 1)], &[]).ends(0);
    node.publish(&document(&node.entries(&[version("facts", 2), version("web", 1)]), &Says { serial: 2, ..Says::default() }));
    fs::write(node.root().join("logs/notes"), "").unwrap();
    let (root, file) = (node.root(), node.file());
    let plan = |more: &[&str]| {
        let arguments = ["--json", "spec", "plan", "--allow-http", file.to_str().unwrap(), "--root", root.to_str().unwrap()];
        node.toehold.run(arguments.into_iter().chain(more.iter().copied()))
    };
    let lines = plan(&["--purge-unknown", "--guard", "100%"]).ends(3).lines();
    let machines: Vec<(&str, &str)> = lines[0]["machines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| (machine["machine"].as_str().unwrap(), machine["verdict"].as_str().unwrap()))
        .collect();
    assert_eq!(machines, [("facts", "deploy"), ("logs", "held"), ("web", "deploy")], "{lines:?}");
    fs::remove_file(node.root().join("logs/notes")).unwrap();
    let lines = plan(&["--purge-unknown", "--guard", "100%"]).ends(0).lines();
    assert_eq!(lines[1]["remove"], 1, "{lines:?}");
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    // It is judged as the pass would judge it.
    node.apply(&[]).ends(0);
    assert_eq!((&lines[1]["expired"], &lines[1]["not_before"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says::default()));
    let done = plan(&[]).ends(1);
    assert!(done.stderr.contains("below 2") || done.stdout.contains("below 2"), "{}{}", done.stdout, done.stderr);
}

/// A plan of what can never come to be would mislead whoever reads it.
#[test]
fn a_plan_with_a_document_that_has_expired_says_so() {
    let node = Node::new();
    let (root, file) = (node.root(), node.file());
    let entries = node.entries(&[version("facts", 1)]);
    // A busy machine may need longer than that to take it.
    let taken = (1..).zip([4, 16, 64]).any(|(serial, expires_in)| {
        node.publish(&document(&entries, &Says { serial, expires_in, ..Says::default() }));
        node.apply(&[]).code == 0
    });
    assert!(taken);
    let for_root = || {
        let arguments = ["--json", "spec", "plan", "--allow-http", file.to_str().unwrap(), "--root", root.to_str().unwrap()];
        node.toehold.run(arguments)
    };
    let elsewhere = || node.toehold.run(["--json", "spec", "plan", file.to_str().unwrap()]);
    eventually("its end", || for_root().code == 3);
    for (done, words) in [(for_root(), "held"), (elsewhere(), "no node takes it any more")] {
        let done = done.ends(3);
        assert!(done.stderr.contains("the document expired at 20") && done.stderr.contains(words), "{done:?}");
        assert!(done.json()["expired"].as_str().unwrap().starts_with("20"), "{done:?}");
    }
}

#[test]
fn a_plan_for_a_root_judges_as_a_pass_with_the_same_options_and_makes_nothing() {
    let node = Node::new();
    let (root, file) = (node.root(), node.file());
    let (one, two) = (key(1).verifying_key().to_string(), key(2).verifying_key().to_string());
    let plan = |more: &[&str]| {
        let arguments = ["spec", "plan", file.to_str().unwrap(), "--root", root.to_str().unwrap()];
        node.toehold.run(arguments.into_iter().chain(more.iter().copied()))
    };
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says { serial: 4, ..Says::default() }));
    for (more, why) in [
        (&[][..], "no public key is known"),
        (&["--public-key", &one], "http"),
        (&["--public-key", &one, "--allow-http", "--min-serial", "5"], "below 5"),
        (&["--public-key", &one, "--allow-http", "--name", "other"], "bound to other"),
        (&["--public-key", &one, "--public-key", &two, "--threshold", "2", "--allow-http"], "2 are asked for"),
    ] {
        let done = plan(more).ends(1);
        assert!(done.stderr.contains(why), "{why}: {}", done.stderr);
        let apply: Vec<&str> = ["spec", "apply", file.to_str().unwrap(), "--root", root.to_str().unwrap()].into();
        let done = node.toehold.run(
            apply
                .into_iter()
                .filter(|argument| !(more.contains(&"--name") && *argument == file.to_str().unwrap()))
                .chain(more.iter().copied()),
        );
        assert!(more.contains(&"--name") || done.ends(1).stderr.contains(why), "apply: {why}");
        let _ = fs::remove_dir_all(root.join(".toehold"));
    }
    let told = plan(&["--public-key", &one, "--allow-http", "--min-serial", "4", "--name", "fleet"]).ends(0);
    assert!(told.stdout.contains("deploy facts"), "{}", told.stdout);
    node.publish(&plain_document(&node.entries(&[version("facts", 1)]), None));
    plan(&["--accept-plain", "--public-key", &one, "--allow-http"]).ends(1);
    plan(&["--accept-unsigned", "--allow-http"]).ends(0);
    // Looking makes nothing, whoever looks: a directory of theirs would keep the one out who is to work there.
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    // A machine that lies there is no reason to stop where it is named.
    node.apply_versions(4, &[version("facts", 1)], &[]).ends(0);
    for memory in [root.join(".toehold"), node.toehold.state().join("spec")] {
        fs::remove_dir_all(memory).unwrap();
    }
    let done = plan(&["--public-key", &one, "--allow-http"]).ends(1);
    assert!(done.stderr.contains("--begin-anew"), "{}", done.stderr);
    plan(&["--public-key", &one, "--allow-http", "--begin-anew"]).ends(0);
    assert!(!root.join(".toehold").exists());
    plan(&["--accept-unsigned", "--accept-plain"]).ends(2);
    node.toehold.run(["spec", "plan", file.to_str().unwrap(), "--min-serial", "5"]).ends(2);
}
