//! Specifications from the gateway, over the session that a joined machine opens.

use std::fs;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::join_support::gateway::{Gateway, line};
use crate::spec_support::machines::{Node, Says, document, key, version};
use crate::spec_support::web::Page;
use crate::support;
use crate::support::cli::{Done, Toehold};
use crate::support::waiting::eventually;

/// A list that goes over in several parts: what is on this node, and many machines that are not.
fn fleet(node: &Node, number: u32, serial: u64) -> Vec<u8> {
    let mut entries = node.entries(&[version("facts", number)]);
    for other in 0..300 {
        let mut entry: Value = entries[0].clone();
        entry["name"] = json!(format!("other-{other}"));
        entry["match"] = json!("identity('^elsewhere$')");
        entries.push(entry);
    }
    document(&entries, &Says { serial, ..Says::default() })
}

fn apply(node: &Node, more: &[&str]) -> Done {
    let root = node.root();
    let mut arguments = vec!["spec", "apply", "--allow-http", "--name", "fleet", "--root", root.to_str().unwrap()];
    arguments.extend(more);
    node.toehold.run(arguments)
}

fn join(node: &Node, operator: &Toehold, gateway: &Gateway) {
    let file = node.directory.path().join("line");
    fs::write(&file, line(operator, gateway.address, &[]).expose().as_bytes()).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    node.toehold.run(["agent", "join", "--file", file.to_str().unwrap()]).ends(0);
}

#[test]
fn s3_a_joined_machine_takes_specifications_and_their_keys_from_its_gateway() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let node = Node::new();
    let put = |number: u32, serial: u64| {
        let document = fleet(&node, number, serial);
        assert!(document.len() > 100_000);
        node.publish(&document);
        let public = key(1).verifying_key().to_string();
        operator.run(["spec", "put", "fleet", node.file().to_str().unwrap(), "--public-key", &public]).ends(0);
    };
    put(1, 5);
    // Once for what is new, and not again for what is there.
    put(1, 5);
    let told = operator.run(["--json", "audit", "ls", "--what", "spec.put"]).ends(0).json();
    let told: Vec<(&str, &str)> = told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["subject"].as_str().unwrap(), entry["details"]["serial"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("fleet", "5")]);
    let not_joined = apply(&node, &["--gateway"]).ends(1);
    assert!(not_joined.stderr.contains("agent join"), "{}", not_joined.stderr);

    join(&node, &operator, &gateway);

    // Nobody names a key here: it comes from the gateway that was joined, and with it the lowest serial.
    apply(&node, &["--gateway"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    let specs: Value = serde_json::from_slice(&fs::read(node.toehold.state().join("agent/specs.json")).unwrap()).unwrap();
    assert_eq!(specs["specs"]["fleet"]["serial"], 5);
    // It counts: an older one from the gateway is none for a root that has taken nothing yet.
    let kept = node.toehold.state().join("agent/specs.json");
    let (said, mut later) = (fs::read(&kept).unwrap(), specs.clone());
    later["specs"]["fleet"]["serial"] = 6.into();
    fs::write(&kept, later.to_string()).unwrap();
    let other = node.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let first = ["spec", "apply", "--allow-http", "--gateway", "--name", "fleet", "--root", other.to_str().unwrap()];
    let old = node.toehold.run(first).ends(1);
    assert!(old.stderr.contains("below 6"), "{}", old.stderr);
    fs::write(&kept, said).unwrap();
    node.toehold.run(first).ends(0);
    put(2, 6);
    apply(&node, &["--gateway", &gateway.address.to_string()]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));

    let another = apply(&node, &["--gateway", "192.0.2.1:1"]).ends(1);
    assert!(another.stderr.contains("has joined"), "{}", another.stderr);
    // Without its gateway, the last good document is held.
    drop(gateway);
    fs::write(node.root().join("facts/extra"), "").unwrap();
    apply(&node, &["--gateway"]).ends(3);
    assert_eq!(node.live("facts"), Some(version("facts", 2).tree));
}

/// What a machine begins with is what was so when it joined: whoever has the gateway's store later changes nothing of that.
#[test]
fn s3_keys_and_serials_come_with_the_join_itself() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let node = Node::new();
    let put = |signer: u8, serial: u64| {
        let public = key(signer).verifying_key().to_string();
        node.publish(&document(&node.entries(&[version("facts", 1)]), &Says { serial, signer, ..Says::default() }));
        operator.run(["spec", "put", "fleet", node.file().to_str().unwrap(), "--public-key", &public])
    };
    // Nobody but a test, or who has the store's file, makes it forget a specification.
    let forget = || {
        let forgotten = support::store::open(&operator).execute("DELETE FROM entry WHERE key GLOB 'spec*/fleet*'", ()).unwrap();
        assert!(forgotten > 0, "{:?}", support::store::keys(&operator));
    };
    put(1, 5).ends(0);
    join(&node, &operator, &gateway);
    let kept = fs::read(node.toehold.state().join("agent/specs.json")).unwrap();
    let said: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(said["specs"]["fleet"]["serial"], 5);

    // The first document that this machine is handed is an older one, with the keys of somebody else.
    forget();
    put(2, 9).ends(0);
    let refused = apply(&node, &["--gateway"]).ends(1);
    assert!(refused.stderr.contains("signed by 0 of the trusted keys"), "{}", refused.stderr);
    assert_eq!(node.live("facts"), None);
    forget();
    put(1, 4).ends(0);
    let refused = apply(&node, &["--gateway"]).ends(1);
    assert!(refused.stderr.contains("below 5"), "{}", refused.stderr);
    assert_eq!(fs::read(node.toehold.state().join("agent/specs.json")).unwrap(), kept);
    forget();
    put(1, 5).ends(0);
    apply(&node, &["--gateway"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));

    // Of a specification that is younger than the join, the gateway is asked when it is wanted first, and says what is so then.
    node.publish(&document(&node.entries(&[version("facts", 1)]), &Says { name: "young", ..Says::default() }));
    let public = key(1).verifying_key().to_string();
    operator.run(["spec", "put", "young", node.file().to_str().unwrap(), "--public-key", &public]).ends(0);
    let root = node.directory.path().join("young");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let young = ["spec", "apply", "--allow-http", "--gateway", "--name", "young", "--root", root.to_str().unwrap()];
    node.toehold.run(young).ends(0);
}

/// One record that cannot be read is told, and keeps none of the others from anybody.
#[test]
fn s3_a_specification_that_cannot_be_read_keeps_no_machine_from_the_others() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let node = Node::new();
    let public = key(1).verifying_key().to_string();
    for name in ["another", "fleet"] {
        node.publish(&document(&node.entries(&[version("facts", 1)]), &Says { name, ..Says::default() }));
        operator.run(["spec", "put", name, node.file().to_str().unwrap(), "--public-key", &public]).ends(0);
    }
    support::store::change(&operator, "spec/another", |record| record["serial"] = "none".into());
    join(&node, &operator, &gateway);
    apply(&node, &["--gateway"]).ends(0);
    assert_eq!(node.live("facts"), Some(version("facts", 1).tree));
    let checked = operator.run(["store", "check"]).ends(3);
    assert!(format!("{}{}", checked.stdout, checked.stderr).contains("spec/another"), "{checked:?}");
}

/// Two machines that share nothing but their gateway: the one that is in an update holds the other back.
#[test]
fn agents_share_the_slots_of_their_gateway() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &["--governor", "two=2"]);
    let nodes = [Node::new(), Node::new()];
    for node in &nodes {
        join(node, &operator, &gateway);
    }
    let put = |serial: u64, governor: &str| {
        let mut entries = nodes[0].entries(&[version("facts", u32::try_from(serial).unwrap())]);
        entries[0]["governor"] = governor.into();
        nodes[0].publish(&document(&entries, &Says { serial, ..Says::default() }));
        let public = key(1).verifying_key().to_string();
        operator.run(["spec", "put", "fleet", nodes[0].file().to_str().unwrap(), "--public-key", &public]).ends(0);
        format!("/{}", entries[0]["source"].as_str().unwrap().rsplit_once('/').unwrap().1)
    };
    let slots = || support::store::keys(&operator).into_iter().filter(|key| key.starts_with("slot")).count();
    let apply = |node: &Node| {
        let root = node.root();
        node.toehold.run([
            "spec",
            "apply",
            "--allow-http",
            "--gateway",
            "--name",
            "fleet",
            "--json",
            "--root",
            root.to_str().unwrap(),
        ])
    };

    let path = put(1, "one");
    let archive = version("facts", 1).archive;
    nodes[0].web.serve(&path, Page::Stalls(archive.clone(), 10));
    let root = nodes[0].root();
    let stalled = ["spec", "apply", "--allow-http", "--gateway", "--name", "fleet", "--request-timeout", "5m", "--root"];
    let mut first = nodes[0].toehold.command(stalled).arg(&root).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the request", || !nodes[0].web.seen().is_empty());
    assert_eq!(slots(), 1);
    let done = apply(&nodes[1]).ends(3).json();
    let why = done["machines"]["facts"]["why"].as_str().unwrap();
    assert!(why.contains("all slots that the gateway has for the governor one are taken"), "{why}");
    kill_process(Pid::from_child(&first), Signal::KILL).unwrap();
    first.wait().unwrap();
    // It died with its slot, and takes it over.
    nodes[0].web.serve(&path, Page::Good(archive));
    apply(&nodes[1]).ends(3);
    apply(&nodes[0]).ends(0);
    assert_eq!(slots(), 0, "given back");
    apply(&nodes[1]).ends(0);
    assert_eq!(nodes[1].live("facts"), Some(version("facts", 1).tree));

    // Where the gateway has two, both may.
    let path = put(2, "two");
    let archive = version("facts", 2).archive;
    nodes[0].web.serve(&path, Page::Stalls(archive.clone(), 10));
    drop(nodes[0].web.seen());
    let mut first = nodes[0].toehold.command(stalled).arg(&root).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the request", || !nodes[0].web.seen().is_empty());
    nodes[0].web.serve(&path, Page::Good(archive));
    apply(&nodes[1]).ends(0);
    kill_process(Pid::from_child(&first), Signal::KILL).unwrap();
    first.wait().unwrap();
    apply(&nodes[0]).ends(0);
    assert_eq!(slots(), 0);
}
