//! The rules S1 to S5 of the threat model, at the command.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use crate::spec_support::machines::{Node, Says, document, key, plain_document, version};
use crate::support::eventually;
use toehold_specsign::{Format, StateCopy};

/// Applies this document, which is refused for a reason; what is in place stays.
#[track_caller]
fn refused(node: &Node, document: &[u8], more: &[&str], why: &str) {
    let before = (node.live("facts"), node.live("more"));
    node.publish(document);
    let done = node.apply(more);
    assert!(matches!(done.code, 1 | 3), "{}", done.stderr);
    assert!(done.stderr.contains(why), "{}", done.stderr);
    assert_eq!((node.live("facts"), node.live("more")), before);
}

#[test]
fn s1_a_root_that_has_seen_an_envelope_takes_nothing_without_one() {
    let node = Node::new();
    let entries = node.entries(&[version("facts", 1)]);
    let plain = plain_document(&node.entries(&[version("facts", 2)]), Some(1));
    node.publish(&document(&entries, &Says::default()));
    // New roots require an envelope unless told otherwise; this one is told, and the first envelope ends it.
    node.apply(&["--accept-plain"]).ends(0);
    refused(&node, &plain, &["--accept-plain"], "has seen one");
    refused(&node, &plain_document(&entries, None), &["--accept-unsigned"], "has seen one");
    // Stripped of its envelope, what was signed with it is no plain document either.
    let mut stripped: serde_json::Value =
        serde_json::from_slice(&document(&entries, &Says { serial: 2, ..Says::default() })).unwrap();
    stripped.as_object_mut().unwrap().remove("envelope");
    refused(&node, stripped.to_string().as_bytes(), &["--accept-plain"], "has seen one");
    // An envelope of other things' is none.
    let mut moved: serde_json::Value =
        serde_json::from_slice(&document(&entries, &Says { serial: 3, ..Says::default() })).unwrap();
    let other: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    moved["machines"] = other["machines"].clone();
    refused(&node, moved.to_string().as_bytes(), &[], "is not about this payload");
}

#[test]
fn s2_a_root_takes_one_specification_of_one_format() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    let entries = node.entries(&[version("facts", 2)]);
    let says = |says: Says| document(&entries, &says);
    refused(&node, &says(Says { name: "other", serial: 2, ..Says::default() }), &[], "bound to");
    refused(&node, &says(Says { format: Format::Plugins, serial: 2, ..Says::default() }), &[], "plugins");
    // Out of the store, by a name: the root is bound to it, whatever the store has under another.
    node.toehold.run(["init"]).ends(0);
    let file = node.file();
    let by_name = |name: &str, says: &Says| {
        node.publish(&document(&entries, says));
        node.toehold.run(["spec", "put", name, file.to_str().unwrap()]).ends(0);
        let arguments: Vec<String> = node.arguments(&["--name", name]);
        node.toehold.run(arguments.iter().map(String::as_str).filter(|argument| *argument != file.to_str().unwrap()))
    };
    let done = by_name("other", &Says { name: "other", serial: 2, ..Says::default() }).ends(1);
    assert!(done.stderr.contains("bound to"), "{}", done.stderr);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    by_name("fleet", &Says { serial: 2, ..Says::default() }).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
}

#[test]
fn s3_old_expired_forked_and_far_serials_are_refused_and_stale_is_seen() {
    let node = Node::new();
    let entries = node.entries(&[version("facts", 1)]);
    let (second, third) = (node.entries(&[version("facts", 2)]), node.entries(&[version("facts", 3)]));
    let says = |serial: u64| Says { serial, ..Says::default() };
    // First contact: the lowest serial comes with the command line.
    refused(&node, &document(&entries, &says(4)), &["--min-serial", "5"], "below 5");
    refused(&node, &document(&entries, &Says { expires_in: -10, ..says(5) }), &[], "expired");
    refused(&node, &document(&entries, &Says { signer: 2, ..says(5) }), &[], "signed by 0 of the trusted keys");
    node.publish(&document(&entries, &says(5)));
    node.apply(&["--min-serial", "5"]).ends(0);
    refused(&node, &document(&second, &says(4)), &[], "below 5");
    refused(&node, &document(&second, &says(5)), &[], "another document before");
    refused(&node, &document(&second, &says(1 << 40)), &[], "more than");
    refused(&node, &document(&second, &Says { expires_in: -10, ..says(6) }), &[], "expired");
    // Persisted keys win over the command line.
    let stranger = key(2).verifying_key().to_string();
    refused(&node, &document(&second, &Says { signer: 2, ..says(6) }), &["--public-key", &stranger], "signed by 0");

    // One that expires while it is in place is held and mended; nothing is removed, and everybody sees it.
    // On a slow machine it may end before it is taken: the next one has more time.
    let taken = (6..).zip([3, 12, 48]).any(|(serial, expires_in)| {
        node.publish(&document(&third, &Says { expires_in, ..says(serial) }));
        let done = node.apply(&["--json"]);
        done.code == 0 && done.json()["outcome"] == "updated"
    });
    assert!(taken);
    let mut stale = serde_json::Value::Null;
    eventually("its end", || {
        let done = node.apply(&["--json", "--purge-unknown"]);
        stale = done.json();
        done.code == 3
    });
    assert!(stale["stale_since"].is_string(), "{stale}");
    assert!(stale["error"].as_str().unwrap().contains("expired"), "{stale}");
    fs::write(node.root().join("facts/extra"), "").unwrap();
    node.apply(&["--purge-unknown"]).ends(3);
    assert_eq!(node.live("facts"), Some(version("facts", 3).tree));
}

#[test]
fn s3_the_floor_survives_a_torn_copy_and_fails_closed_without_any() {
    let node = Node::new();
    node.apply_versions(3, &[version("facts", 1)], &[]).ends(0);
    let copies = StateCopy::BOTH.map(|copy| {
        let name = if copy == StateCopy::First { "state-1" } else { "state-2" };
        node.root().join(".toehold").join(name)
    });
    let whole = fs::read(&copies[0]).unwrap();
    let old = document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() });
    let current = fs::read(node.file()).unwrap();
    // Every copy torn at every tenth of it, and gone.
    for copy in &copies {
        for length in (0..=9).map(|tenth| whole.len() * tenth / 10) {
            fs::write(copy, &whole[..length]).unwrap();
            refused(&node, &old, &[], "below 3");
            node.publish(&current);
            node.apply(&[]).ends(0);
        }
        fs::remove_file(copy).unwrap();
        refused(&node, &old, &[], "below 3");
    }
    for copy in &copies {
        fs::write(copy, "torn").unwrap();
    }
    refused(&node, &old, &[], "--min-serial");
    for copy in &copies {
        fs::remove_file(copy).unwrap();
    }
    refused(&node, &old, &[], "--min-serial");
    refused(&node, &current, &[], "--min-serial");
}

#[test]
fn s3_a_run_that_ends_between_the_two_copies_has_raised_the_floor() {
    let node = Node::new();
    node.apply_versions(3, &[version("facts", 1)], &[]).ends(0);
    let old = fs::read(node.file()).unwrap();
    // The second copy cannot be written: as if the run had been killed right before it.
    let obstacle = node.root().join(".toehold/state-2.new");
    fs::create_dir(&obstacle).unwrap();
    let done = node.apply_versions(4, &[version("facts", 2)], &[]).ends(3);
    assert!(done.stderr.contains("writing the state failed"), "{}", done.stderr);
    let new = fs::read(node.file()).unwrap();
    let copies = ["state-1", "state-2"].map(|name| fs::read(node.root().join(".toehold").join(name)).unwrap());
    assert_ne!(copies[0], copies[1]);
    fs::remove_dir(obstacle).unwrap();
    // The old one is refused, and the new one, which was kept before the floor was raised, is what the run goes on with.
    node.publish(&old);
    let done = node.apply(&[]).ends(3);
    assert!(done.stderr.contains("below 4"), "{}", done.stderr);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
    node.publish(&new);
    node.apply(&[]).ends(0);
}

#[test]
fn s4_a_purge_needs_noes_apart_and_stays_within_the_guard() {
    let node = Node::new();
    let flag = node.directory.path().join("flag");
    fs::write(&flag, "").unwrap();
    let versions: Vec<_> = ["a", "b", "c", "d"].map(|name| version(name, 1)).into();
    let mut entries = node.entries(&versions);
    entries[0]["match"] = format!("has_file('{}')", flag.display()).into();
    node.publish(&document(&entries, &Says::default()));
    node.apply(&["--purge-unknown"]).ends(0);
    // An unmounted disk: the no comes again and again, and is believed only when that was long enough.
    fs::remove_file(&flag).unwrap();
    for _ in 0..5 {
        let done = node.apply(&["--purge-unknown", "--json"]).ends(3).json();
        assert!(done["machines"]["a"]["why"].as_str().unwrap().contains("said no 1 of 3 times"), "{done}");
        assert!(node.live("a").is_some());
    }
    fs::write(&flag, "").unwrap();
    node.apply(&["--purge-unknown"]).ends(0);

    // More than the share at once: nothing; said to be meant, for that serial alone.
    let rest = node.entries(&versions[..1]);
    node.publish(&document(&rest, &Says { serial: 2, ..Says::default() }));
    let done = node.apply(&["--purge-unknown", "--json"]).ends(3).json();
    assert!(done["machines"]["b"]["why"].as_str().unwrap().contains("over the guard of 30 %"), "{done}");
    node.publish(&document(&[], &Says { serial: 3, ..Says::default() }));
    node.apply(&["--purge-unknown", "--guard", "100%"]).ends(3);
    for name in ["a", "b", "c", "d"] {
        assert!(node.live(name).is_some(), "{name}");
    }
    node.publish(&document(&rest, &Says { serial: 4, removals_meant: true, ..Says::default() }));
    node.apply(&["--purge-unknown"]).ends(0);
    assert!(node.live("a").is_some() && node.live("b").is_none() && node.live("d").is_none());
    node.publish(&document(&[], &Says { serial: 5, ..Says::default() }));
    node.apply(&["--purge-unknown"]).ends(3);
    assert!(node.live("a").is_some());
}

#[test]
fn s5_links_lead_nowhere_and_what_is_not_ours_is_left_alone() {
    let node = Node::new();
    let outside = node.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    symlink(&outside, node.root().join("facts")).unwrap();
    let done = node.apply_versions(1, &[version("facts", 1), version("more", 1)], &["--json"]).ends(3).json();
    assert!(done["machines"]["facts"]["why"].as_str().unwrap().contains("not placed here"), "{done}");
    fs::remove_file(node.root().join("facts")).unwrap();
    node.apply(&[]).ends(0);

    // A machine that somebody made a link of, and one with links in it, are mended without going through them.
    fs::remove_dir_all(node.root().join("facts")).unwrap();
    symlink(&outside, node.root().join("facts")).unwrap();
    fs::remove_dir_all(node.root().join("more/bin")).unwrap();
    symlink(&outside, node.root().join("more/bin")).unwrap();
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    assert_eq!(node.live("more"), Some(version("more", 1).tree));
    // So is one whose file has a second name outside, or is a pipe, which is not waited for.
    fs::hard_link(node.root().join("more/machine.yaml"), outside.join("second")).unwrap();
    fs::remove_file(node.root().join("facts/machine.yaml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        node.root().join("facts/machine.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    // A purge leaves what was not placed; what is mended goes with its links, and not with what they lead to.
    symlink(&outside, node.root().join("more/away")).unwrap();
    symlink("/", node.root().join("more/bin/root")).unwrap();
    let last = node.entries(&[version("facts", 1)]);
    node.publish(&document(&last, &Says { serial: 2, removals_meant: true, ..Says::default() }));
    let done = node.apply(&["--purge-unknown"]).ends(3);
    assert!(done.stdout.contains("not what was placed"), "{}", done.stdout);
    node.apply_versions(3, &[version("facts", 1), version("more", 1)], &[]).ends(0);
    assert!(node.private("trash").is_empty());
    node.publish(&document(&last, &Says { serial: 4, removals_meant: true, ..Says::default() }));
    node.apply(&["--purge-unknown"]).ends(0);
    assert_eq!(node.live("more"), None);
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    assert!(node.private("trash").is_empty());
}

#[test]
fn s5_a_root_that_others_reach_into_is_no_root() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    let private = node.root().join(".toehold");
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&private, 0o755);
    assert!(node.apply(&[]).ends(1).stderr.contains("0700"));
    mode(&private, 0o700);
    mode(&node.root(), 0o777);
    assert!(node.apply(&[]).ends(1).stderr.contains("everybody may write"));
    mode(&node.root(), 0o755);
    fs::rename(&private, node.directory.path().join("moved")).unwrap();
    symlink(node.directory.path().join("moved"), &private).unwrap();
    node.apply(&[]).ends(1);
    // What we place has the modes that we give it, whatever the umask.
    fs::remove_file(&private).unwrap();
    fs::rename(node.directory.path().join("moved"), &private).unwrap();
    let arguments = node.arguments(&[]).join(" ");
    node.publish(&document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() }));
    let script = format!("umask 077; exec {} {arguments}", env!("CARGO_BIN_EXE_toehold"));
    assert!(std::process::Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
    for (path, expected) in [("facts", 0o755), ("facts/bin", 0o755), ("facts/bin/run.sh", 0o755), ("facts/machine.yaml", 0o644)] {
        assert_eq!(fs::metadata(node.root().join(path)).unwrap().permissions().mode() & 0o7777, expected, "{path}");
    }
}

/// Another directory on the same node.
fn other_root(node: &Node, name: &str) -> String {
    let other = node.directory.path().join(name);
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    other.to_str().unwrap().to_owned()
}

#[test]
fn s1_a_key_that_has_signed_an_envelope_is_held_to_it_in_every_root() {
    let node = Node::new();
    node.apply_versions(1, &[version("facts", 1)], &[]).ends(0);
    let other = other_root(&node, "other");
    let stranger = key(2).verifying_key().to_string();
    let apply = |signer: u8| {
        node.publish(&plain_document(&node.entries(&[version("facts", 2)]), Some(signer)));
        let root = node.root();
        let arguments = node.arguments(&["--accept-plain", "--public-key", &stranger]).into_iter();
        let arguments: Vec<String> =
            arguments.map(|argument| if argument == root.to_str().unwrap() { other.clone() } else { argument }).collect();
        node.toehold.run(arguments.iter().map(String::as_str))
    };
    let done = apply(1).ends(1);
    assert!(done.stderr.contains("has seen one"), "{}", done.stderr);
    apply(2).ends(0);
}

#[test]
fn s3_the_floor_outlives_the_roots_own_state() {
    let node = Node::new();
    node.apply_versions(3, &[version("facts", 1)], &[]).ends(0);
    let current = fs::read(node.file()).unwrap();
    let old = document(&node.entries(&[version("facts", 2)]), &Says { serial: 2, ..Says::default() });
    let forget = || fs::remove_dir_all(node.root().join(".toehold")).unwrap();
    forget();
    refused(&node, &old, &[], "below 3");
    node.publish(&current);
    node.apply(&[]).ends(0);
    // Nor is it lowered where all of the root is gone.
    forget();
    fs::remove_dir_all(node.root().join("facts")).unwrap();
    refused(&node, &old, &[], "below 3");
    node.publish(&current);
    node.apply(&[]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    // Without that one, too, machines that lie there say that there was one: somebody has to say what the floor is.
    forget();
    fs::remove_dir_all(node.toehold.state().join("spec")).unwrap();
    refused(&node, &old, &[], "--begin-anew");
    refused(&node, &old, &["--begin-anew", "--min-serial", "3"], "below 3");
    node.publish(&current);
    let done = node.apply(&["--begin-anew", "--min-serial", "3", "--json"]).ends(0).json();
    assert_eq!(done["machines"]["facts"]["why"], "was there already, and is taken over");
    refused(&node, &old, &[], "below 3");
}
