//! `toehold spec match` and `plan`: which machines belong on which node, and what a new list would change.

use std::fs;

use crate::spec_support::spec::{Desk, PRIVATE, entry, list};
use serde_json::{Value, json};

/// The node that the vectors were made on.
fn facts(desk: &Desk) -> String {
    let facts = json!({
        "identity": "web1.example.net",
        "files": ["/etc/passwd", "/etc/hosts", "/usr"],
        "directories": ["/usr", "/etc"],
        "commands": ["facter", "sh", "bash"],
    });
    desk.write("facts.json", facts.to_string())
}

#[test]
fn an_answer_and_why() {
    let desk = Desk::new();
    let facts = facts(&desk);
    let answer = |expression: &str, code| desk.spec(&["match", expression, "--facts", &facts]).ends(code).stdout;
    assert_eq!(answer("identity('^web') && has_command('facter')", 0), "yes\n");
    assert_eq!(answer("identity('^db')", 0), "no\n");
    assert_eq!(answer("-1 > 0", 0), "no\n");
    let invalid = answer("has_file('/x') && hasfile('/y')", 1);
    let lines: Vec<&str> = invalid.lines().collect();
    assert!(lines[0].starts_with("invalid: "), "{invalid}");
    assert_eq!(lines[1], " | has_file('/x') && hasfile('/y')");
    assert_eq!(lines[2].find('^'), lines[1].find("hasfile"), "the caret is under the place: {invalid}");
    let told = desk.spec(&["match", "len('a') == 1", "--facts", &facts, "--json"]).ends(1).json();
    assert_eq!(told["answer"], "invalid");
    assert!(told["reason"].as_str().unwrap().contains("len"), "what is not supported is named: {told}");
    // What the facts do not say is no "no".
    let partial = desk.write("partial.json", "{\"identity\": \"web1\"}");
    let unknown = desk.spec(&["match", "has_file('/etc/passwd')", "--facts", &partial]).ends(3).stdout;
    assert!(unknown.starts_with("unknown: ") && unknown.contains("files"), "{unknown}");
    desk.spec(&["match", "has_file('/etc/passwd') || identity('web')", "--facts", &partial]).ends(0);
    for bad in ["[]", "{\"identity\": 1}", "{\"identities\": \"x\"}", ""] {
        let file = desk.write("bad.json", bad);
        desk.spec(&["match", "true", "--facts", &file]).ends(1);
    }
}

#[test]
fn this_node_is_asked_where_no_other_is_described() {
    let desk = Desk::new();
    let directory = desk.at("");
    let here = |expression: String| desk.spec(&["match", &expression, "--identity", "web7"]).stdout;
    assert_eq!(here(format!("identity('^web7$') && has_directory('{directory}') && has_command('sh')")), "yes\n");
    assert_eq!(here(format!("has_file('{}')", desk.at("none"))), "no\n");
    let looped = desk.path("loop");
    std::os::unix::fs::symlink("loop", &looped).unwrap();
    assert!(here(format!("has_file('{}')", looped.display())).starts_with("unknown: "));
    // Its own name, where it is not given another.
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(desk.spec(&["match", &format!("identity('^{}$')", name.trim())]).ends(0).stdout, "yes\n");
}

/// All expressions of the original on one standard input: never the other truth value, and an error where it has one.
#[test]
fn expressions_one_a_line_agree_with_the_original() {
    let desk = Desk::new();
    let facts = facts(&desk);
    let cases: Vec<Value> =
        include_str!("../vectors/spec/matcher.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let one_line = |case: &&Value| !case["expr"].as_str().unwrap().contains(['\n', '\r']);
    let cases: Vec<&Value> = cases.iter().filter(one_line).collect();
    let input: String = cases.iter().map(|case| format!("{}\n", case["expr"].as_str().unwrap())).collect();
    let done = desk.spec_with(&["match", "-", "--facts", &facts, "--json"], &[], &input).ends(3);
    let answers = done.lines();
    assert_eq!(answers.len(), cases.len());
    let mut agreed = 0;
    for (case, answer) in cases.iter().zip(&answers) {
        assert_eq!(case["expr"], answer["expression"]);
        match (case["outcome"].as_str().unwrap(), answer["answer"].as_str().unwrap()) {
            ("true", "yes") | ("false", "no") | ("error", "invalid") => agreed += 1,
            ("true" | "false", "invalid") => {
                assert_eq!(answer["problem"], "unsupported", "{answer}");
            }
            other => panic!("{other:?}: {answer}"),
        }
    }
    assert!(agreed > 500, "{agreed} of {}", cases.len());
    let text = desk.spec_with(&["match", "-", "--facts", &facts], &[], "true\nfalse\n").ends(0).stdout;
    assert_eq!(text, "yes\ttrue\nno\tfalse\n");
}

fn node(desk: &Desk, name: &str) {
    let facts = json!({ "identity": name, "files": [], "directories": [], "commands": [] });
    fs::create_dir_all(desk.path("nodes")).unwrap();
    desk.write(&format!("nodes/{name}.json"), facts.to_string());
}

#[test]
fn a_plan_says_what_a_list_would_change_on_every_node() {
    let desk = Desk::new();
    for name in ["web1", "web2", "db1"] {
        node(&desk, name);
    }
    desk.write("nodes/notes.txt", "no facts");
    let before: Vec<String> = (0..8).map(|number| entry(&format!("m{number}"), 1, "identity('^web')")).collect();
    let mut after = before.clone();
    after[0] = entry("m0", 2, "identity('^web')");
    after[1] = entry("m1", 1, "identity('^db')");
    after[2] = entry("m2", 1, "has_file('/x') || identity('^web')");
    after.remove(7);
    after.push(entry("new", 1, "true"));
    let document = |name: &str, entries: &[String]| {
        let machines = desk.write("machines.json", list(entries));
        desk.keep(name, &["pack", &machines, PRIVATE])
    };
    let (before, after) = (document("before.json", &before), document("after.json", &after));
    let nodes = desk.at("nodes");
    let plan = ["plan", &after, "--before", &before, "--facts", &nodes];
    let done = desk.spec(&[&plan[..], &["--json"]].concat()).ends(0);
    let lines = done.lines();
    let of = |node: &str| lines.iter().find(|line| line["node"] == node).unwrap();
    let verdict = |node: &str, machine: &str| {
        let machines = of(node)["machines"].as_array().unwrap();
        machines.iter().find(|told| told["machine"] == machine).map(|told| told["verdict"].as_str().unwrap().to_owned())
    };
    for web in ["web1", "web2"] {
        assert_eq!(verdict(web, "m0").as_deref(), Some("deploy"));
        assert_eq!(verdict(web, "m1").as_deref(), Some("remove"), "its matcher says no");
        assert_eq!(verdict(web, "m2"), None, "another expression, the same answer");
        assert_eq!(verdict(web, "m7").as_deref(), Some("remove"), "it is not listed");
        assert_eq!(verdict(web, "new").as_deref(), Some("deploy"));
    }
    assert_eq!((verdict("db1", "m1").as_deref(), verdict("db1", "m0")), (Some("deploy"), None));
    assert_eq!(lines.last().unwrap()["remove"], 4);
    let text = desk.spec(&plan).ends(0).stdout;
    assert!(text.contains("web2: ") && text.contains("  remove m7: not listed"), "{text}");
}

#[test]
fn s4_a_plan_shows_what_the_guard_would_hold_and_what_cannot_be_told() {
    let desk = Desk::new();
    node(&desk, "web1");
    let all: Vec<String> = (0..10).map(|number| entry(&format!("m{number}"), 1, "true")).collect();
    let machines = |entries: &[String]| desk.write("machines.json", list(entries));
    let before = desk.keep("before.json", &["pack", &machines(&all), PRIVATE]);
    let after = desk.keep("after.json", &["pack", &machines(&all[..4]), PRIVATE]);
    let nodes = desk.at("nodes");
    let held = desk.spec(&["plan", &after, "--before", &before, "--facts", &nodes]).ends(3).stdout;
    assert!(held.contains("held m9") && held.contains("6 of 10, over the guard of 30 %"), "{held}");
    // One signed version says that this is meant.
    let meant = ["--name", "fleet", "--serial", "1", "--expires", "7d", "--removals-meant"];
    let meant = desk.keep("meant.json", &[&["pack", &machines(&all[..4]), PRIVATE][..], &meant].concat());
    let removed = desk.spec(&["plan", &meant, "--before", &before, "--facts", &nodes]).ends(0).stdout;
    assert!(removed.contains("remove m9"), "{removed}");
    // Facts that say too little, and facts that are none.
    desk.write("nodes/dark.json", "{\"identity\": \"dark\"}");
    desk.write("nodes/bad.json", "[");
    let doubtful = desk.keep("doubtful.json", &["pack", &machines(&[entry("a", 1, "has_file('/x')")]), PRIVATE]);
    let done = desk.spec(&["plan", &doubtful, "--facts", &nodes, "--json"]).ends(3);
    let total = done.json();
    assert_eq!((&total["nodes"], &total["unknown"], &total["unreadable"]), (&3.into(), &1.into(), &1.into()));
    desk.spec(&["plan", &doubtful, "--facts", &desk.at("none")]).ends(3);
    fs::create_dir(desk.path("empty")).unwrap();
    desk.spec(&["plan", &doubtful, "--facts", &desk.at("empty")]).ends(1);
    // This node, where no other is described.
    let here = desk.keep("here.json", &["pack", &machines(&[entry("a", 1, "identity('^web7$')")]), PRIVATE]);
    let told = desk.spec(&["plan", &here, "--identity", "web7"]).ends(0).stdout;
    assert!(told.contains("deploy a: new"), "{told}");
}

#[test]
fn a_plan_with_a_document_that_does_not_hold_yet_says_so() {
    let desk = Desk::new();
    node(&desk, "web1");
    let machines = desk.write("machines.json", list(&[entry("a", 1, "true")]));
    let says = ["--name", "fleet", "--serial", "1", "--not-before", "2999-01-01T00:00:00Z", "--expires", "2999-01-02T00:00:00Z"];
    let document = desk.keep("early.json", &[&["pack", &machines, PRIVATE][..], &says].concat());
    let done = desk.spec(&["plan", &document, "--facts", &desk.at("nodes"), "--json"]).ends(3);
    assert_eq!(done.json()["not_before"], "2999-01-01T00:00:00Z", "{done:?}");
    assert!(done.stderr.contains("holds from 2999-01-01T00:00:00Z on"), "{done:?}");
    assert!(done.stdout.contains("\"deploy\""), "what it would be is shown all the same: {done:?}");
}
