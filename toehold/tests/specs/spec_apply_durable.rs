//! In which order `spec apply` puts things on the disk, read off its system calls, and what is there when it dies before any one of them.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use crate::spec_support::machines::{Node, Says, Tree, document, under, version};
use crate::support::Done;

/// All calls that change what is on the disk, but for what is written into a file before it has its name.
const CALLS: &str = "mkdir,mkdirat,fchmod,fsync,fdatasync,syncfs,rename,renameat,renameat2,unlink,unlinkat";

/// What is in the private directory when all is done.
const FILES: [&str; 8] = ["document", "lock", "previous", "staged", "state-1", "state-2", "trash", "unpacking"];

/// Publishes a list of one machine in this version.
fn publish(node: &Node, number: u32) {
    let entries = node.entries(&[version("facts", number)]);
    node.publish(&document(&entries, &Says { serial: number.into(), ..Says::default() }));
}

/// The calls that worked in the order in which they were made, in words; paths are below the root.
fn steps(log: &str, root: &Path) -> Vec<String> {
    let mut steps: Vec<String> = log.lines().filter_map(|line| step(line, root.to_str().unwrap())).collect();
    // From and to are the same directory for a file that is replaced.
    steps.dedup();
    steps
}

fn step(line: &str, root: &str) -> Option<String> {
    let (call, arguments) = line.split_once(' ')?.1.trim_start().split_once('(')?;
    let (arguments, result) = arguments.rsplit_once(" = ")?;
    // A descriptor is `9</path>`, a name `"name"`.
    let parts: Vec<&str> = arguments.strip_suffix(')').unwrap_or(arguments).split(", ").collect();
    let path = |part: &str| {
        let path = part.split_once('<')?.1.strip_suffix('>')?.strip_prefix(root)?;
        Some(path.strip_prefix('/').unwrap_or(path).to_owned())
    };
    let below = |directory: &str, name: &str| {
        let path = format!("{}/{}", path(directory)?, name.trim_matches('"'));
        Some(path.trim_start_matches('/').to_owned())
    };
    if result != "0" {
        return None;
    }
    match (call, &*parts) {
        ("fsync" | "fdatasync" | "syncfs", [file]) => Some(format!("{call} {}", path(file)?)),
        ("renameat2", [from, name, to, new_name, flags]) => {
            let how = if *flags == "RENAME_EXCHANGE" { "exchange" } else { "rename" };
            Some(format!("{how} {} {}", below(from, name)?, below(to, new_name)?))
        }
        ("unlinkat", [directory, name, _]) => Some(format!("unlink {}", below(directory, name)?)),
        _ => None,
    }
}

#[test]
fn strace_sees_everything_on_the_disk_before_it_gets_its_name() {
    let node = Node::new();
    publish(&node, 1);
    node.apply(&[]).ends(0);
    publish(&node, 2);
    let log = node.directory.path().join("log");
    let calls = format!("trace={CALLS}");
    let strace = ["strace", "-f", "-y", "-s", "4096", "-e", &calls, "-o", log.to_str().unwrap()];
    Done::of(under(&strace, &node.command(&[])).output().unwrap()).ends(0);
    let replaced = |name: &str| {
        let (new, file) = (format!(".toehold/{name}.new"), format!(".toehold/{name}"));
        [format!("fsync {new}"), format!("rename {new} {file}"), "fsync .toehold".to_owned()]
    };
    let both = || [replaced("state-1"), replaced("state-2")].concat();
    let words = |steps: &[&str]| steps.iter().map(|&step| step.to_owned()).collect::<Vec<_>>();
    let expected = [
        // What is gone on with, before the floor is raised; the floor, copy by copy, before anything is done on the document's word.
        replaced("document").to_vec(),
        both(),
        // All files and directories of the machine, before it is taken for complete.
        words(&[
            "syncfs .toehold/unpacking/facts",
            "rename .toehold/unpacking/facts .toehold/staged/facts",
            "fsync .toehold/staged",
            "fsync .toehold/unpacking",
        ]),
        // What is about to be done, before it is.
        words(&[
            "fdatasync .toehold/journal",
            "fsync .toehold",
            "exchange .toehold/staged/facts facts",
            "fsync ",
            "fsync .toehold/staged",
        ]),
        words(&[
            "rename .toehold/staged/facts .toehold/previous/facts",
            "fsync .toehold/previous",
            "fsync .toehold/staged",
            "fdatasync .toehold/journal",
        ]),
        // The journal goes when the state says the same.
        both(),
        words(&["unlink .toehold/journal", "fsync .toehold"]),
    ];
    let steps = steps(&fs::read_to_string(log).unwrap(), &node.root());
    assert_eq!(steps, expected.concat(), "{steps:#?}");
}

/// Runs an apply that is killed before it makes a call for the n-th time; what was about to be done, or `None` where it was not made as often.
fn killed(node: &Node, call: &str, times: usize) -> Option<String> {
    let file = node.directory.path().join("log");
    let (calls, inject) = (format!("trace={CALLS}"), format!("inject={call}:signal=SIGKILL:when={times}"));
    let strace = ["strace", "-f", "-y", "-e", &calls, "-e", &inject, "-o", file.to_str().unwrap()];
    let output = under(&strace, &node.command(&[])).output().unwrap();
    if output.status.signal().is_none() {
        Done::of(output).ends(0);
        return None;
    }
    let log = fs::read_to_string(file).unwrap();
    Some(log.lines().rfind(|line| !line.contains("+++")).unwrap().to_owned())
}

/// What is wrong with a node right after an apply of this version was killed, or after it was run again.
fn wrong(node: &Node, before: Option<&Tree>, number: u32) -> Option<String> {
    let new = version("facts", number).tree;
    let live = node.live("facts");
    if live.as_ref() != before && live.as_ref() != Some(&new) {
        return Some(format!("neither old nor new: {live:?}"));
    }
    let done = node.apply(&[]);
    if done.code != 0 || node.live("facts").as_ref() != Some(&new) {
        return Some(format!("{}{}", done.stdout, done.stderr));
    }
    let left: Vec<String> = ["unpacking", "staged", "trash"].into_iter().flat_map(|name| node.private(name)).collect();
    let (files, previous) = (node.private(""), node.private("previous"));
    if !left.is_empty() || files != FILES || previous.len() != usize::from(before.is_some()) {
        return Some(format!("left behind: {left:?}, {files:?}, {previous:?}"));
    }
    // The floor is where the document raised it to.
    publish(node, number - 1);
    let done = node.apply(&[]);
    (done.code != 3 || !done.stderr.contains(&format!("below {number}"))).then(|| format!("the floor: {}", done.stderr))
}

/// Kills an apply before each of its calls, and runs it again; how many calls there were.
fn over_every_call(begin: fn() -> Node, number: u32) -> usize {
    let over = |call: &str| {
        let (mut all, mut bad) = (0, Vec::new());
        for times in 1.. {
            let node = begin();
            let before = node.live("facts");
            publish(&node, number);
            let Some(line) = killed(&node, call, times) else { break };
            all += 1;
            bad.extend(wrong(&node, before.as_ref(), number).map(|what| format!("killed before {line}: {what}")));
        }
        (all, bad)
    };
    // Most of the time is a disk's.
    let found: Vec<(usize, Vec<String>)> = std::thread::scope(|scope| {
        let calls: Vec<_> = CALLS.split(',').map(|call| scope.spawn(move || over(call))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let all = found.iter().map(|(all, _)| all).sum();
    let bad: Vec<String> = found.into_iter().flat_map(|(_, bad)| bad).collect();
    assert!(bad.is_empty(), "{} of {all} calls: {bad:#?}", bad.len());
    all
}

/// Nothing is told but what the first run was told.
#[test]
fn a_first_apply_that_strace_kills_before_any_of_its_calls_is_simply_run_again() {
    let calls = over_every_call(Node::new, 2);
    assert!(calls > 50, "{calls}");
}

#[test]
fn a_later_apply_that_strace_kills_before_any_of_its_calls_is_simply_run_again() {
    let settled = || {
        let node = Node::new();
        publish(&node, 1);
        node.apply(&[]).ends(0);
        node
    };
    let calls = over_every_call(settled, 2);
    assert!(calls > 40, "{calls}");
}
