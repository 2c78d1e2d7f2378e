//! What Choria's archive watcher made of what it found in a machine's place, and what `spec apply` makes of the same.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::spec_support::machines::{Node, Says, Tree, document, tree};
use crate::spec_support::web::Page;

fn archive(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/spec").join(name)).unwrap()
}

/// A node that has the good version, and what that is.
fn placed(case: &Value) -> (Node, Tree) {
    let node = Node::new();
    let (checksum, verify_checksum) = (case["checksum"].as_str().unwrap(), case["verify_checksum"].as_str().unwrap());
    apply(&node, 1, &archive("good.tgz"), checksum, verify_checksum);
    let tree = node.live("app").unwrap();
    (node, tree)
}

/// The state of the machine after a pass, why, and how often something was fetched.
fn apply(node: &Node, serial: u64, archive: &[u8], checksum: &str, verify_checksum: &str) -> (String, String, usize) {
    node.web.serve("/app.tgz", Page::Good(archive.to_vec()));
    let entry = json!({
        "name": "app", "source": node.web.url("/app.tgz"), "verify": "SHA256SUMS",
        "checksum": checksum, "verify_checksum": verify_checksum,
    });
    node.publish(&document(&[entry], &Says { serial, ..Says::default() }));
    node.web.seen();
    let done = node.apply(&["--json"]);
    let machine = done.json()["machines"]["app"].clone();
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("why"), node.web.seen().len())
}

/// Where something of a case lies on a node.
fn at(node: &Node, path: &str) -> PathBuf {
    path.strip_prefix("etc/machines/").map_or_else(|| node.directory.path().join(path), |below| node.root().join(below))
}

/// Lays out what a case begins with. A file has the mode that a version has in its place where the case names none.
fn lay_out(node: &Node, case: &Value, version: &Tree) {
    fs::remove_dir_all(node.root().join("app")).unwrap();
    for entry in case["create"].as_array().unwrap() {
        let path = entry["path"].as_str().unwrap();
        let place = at(node, path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match entry["type"].as_str().unwrap() {
            "dir" => fs::create_dir(&place).unwrap(),
            "link" => {
                let target = entry["target"].as_str().unwrap().strip_prefix("@BASE@/").unwrap();
                symlink(at(node, target), &place).unwrap();
            }
            "file" => {
                fs::write(&place, entry["content"].as_str().unwrap()).unwrap();
                let known = path.strip_prefix("etc/machines/app/").and_then(|below| version.get(below));
                let named = entry["mode"].as_str().map(|octal| u32::from_str_radix(octal, 8).unwrap());
                let mode = named.or(known.map(|entry| entry.mode)).unwrap_or(0o644);
                fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
            }
            other => panic!("{other}"),
        }
    }
}

/// What the watcher left in the machine's place: paths, and what they lead to or hold; nothing for a directory.
fn recorded(case: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    // Nothing is said of the content of an empty file.
    let empty = |entry: &Value| (entry["type"] == "file").then(String::new);
    let mut found: Vec<_> = case["tree"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| {
            let path = entry["path"].as_str()?.strip_prefix("etc/machines/app")?.to_owned();
            Some((path, text(&entry["content"]).or_else(|| text(&entry["target"])).or_else(|| empty(entry))))
        })
        .collect();
    found.sort();
    found
}

/// The same of what lies there now.
fn found(node: &Node) -> Vec<(String, Option<String>)> {
    let app = node.root().join("app");
    let Ok(metadata) = app.symlink_metadata() else { return Vec::new() };
    let mut found = vec![(String::new(), None)];
    if metadata.is_dir() {
        found.extend(tree(&app).unwrap().into_iter().map(|(path, entry)| {
            let content = entry.content.map(|content| String::from_utf8(content).unwrap());
            (format!("/{path}"), content)
        }));
    }
    found.sort();
    found
}

#[test]
fn what_lies_in_a_machines_place_is_mended_as_choria_does_but_where_it_looks_away() {
    let (mut same, mut others) = (0, Vec::new());
    let good: Value = serde_json::from_str(include_str!("../vectors/spec/present.jsonl").lines().next().unwrap()).unwrap();
    for line in include_str!("../vectors/spec/present.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        let (node, version) = placed(&good);
        lay_out(&node, &case, &version);
        let text = |name: &str| case[name].as_str().unwrap();
        let again = || apply(&node, 2, &archive(text("archive")), text("checksum"), text("verify_checksum"));
        let before = found(&node);
        let (state, why, requests) = again();
        // Whole and as listed, or what was there before: nothing in between, and nothing of it elsewhere.
        let taken = matches!(&*state, "updated" | "unchanged");
        if taken {
            assert_eq!(node.live("app").as_ref(), Some(&version), "{id}");
            let (state, why, requests) = again();
            assert_eq!((&*state, requests), ("unchanged", 0), "{id}: {why}");
        } else {
            assert_eq!(found(&node), before, "{id}: {why}");
        }
        for empty in ["unpacking", "staged", "trash"] {
            assert!(node.private(empty).is_empty(), "{id}: {empty}");
        }
        for entry in case["create"].as_array().unwrap() {
            let path = entry["path"].as_str().unwrap();
            if !path.starts_with("etc/machines/app") && entry["type"] == "file" {
                assert_eq!(fs::read_to_string(at(&node, path)).unwrap(), entry["content"].as_str().unwrap(), "{id}: {path}");
            }
        }
        let theirs = (case["outcome"] == "accepted", case["requests"].as_array().unwrap().len(), recorded(&case));
        if theirs == (taken, requests, found(&node)) {
            same += 1;
        } else {
            others.push((id.to_owned(), state, requests));
        }
    }
    let expected = [
        // Only `verify_checksum` counts for the original.
        ("present_good_checksum_property_changed", "error", 1),
        // What nobody listed, a mode and a link are drift.
        ("present_good_extra_file", "updated", 1),
        ("present_mode_changed", "updated", 1),
        ("present_file_became_symlink", "updated", 1),
        // It goes through no link, and needs no directory with a name that a machine could have.
        ("present_is_dangling_symlink", "updated", 1),
        ("present_tmp_is_file", "updated", 1),
    ];
    assert_eq!(others, expected.map(|(id, state, requests)| (id.to_owned(), state.to_owned(), requests)));
    assert_eq!(same, 15);
}
