//! SIGKILL at random moments of `spec apply`, against a server that also breaks off, stalls, lies and serves the wrong file, while
//! somebody reads: the old or the new machine, whole, at every moment; and the next run goes on. One machine comes and goes with every
//! second version, one has versions that do not work, and older documents are refused all the while.
//!
//! `TOEHOLD_KILLS` says how often (4 where it is not set), `TOEHOLD_SEED` repeats a run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

mod spec_support;
mod support;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rustix::fs::{Mode, OFlags, openat};
use spec_support::machines::{Node, Says, Version, document, packed};
use spec_support::web::Page;

const NAMES: [&str; 5] = ["broken", "facts", "logs", "sick", "web"];
/// In every second version of the list alone.
const EXTRA: &str = "extra";
/// What a node is told besides: versions of `sick` that end in 3 do not work.
const MORE: [&str; 6] = more("1s");
/// The same for a run that has to get there however slow this machine is.
const PATIENT: [&str; 6] = more("5m");

const fn more(patience: &str) -> [&str; 6] {
    [
        "--request-timeout",
        patience,
        "--purge-unknown",
        "--guard=100%",
        "--health-command",
        "sh -c 'test {name} != sick || ! grep -q \"^[0-9]*3$\" \"$TOEHOLD_MACHINE_DIRECTORY/a\"'",
    ]
}

/// Whether a version of the list has one of `sick` that does not work.
fn is_sick(serial: u64) -> bool {
    serial % 10 == 3
}

/// The machines of a version of the list.
fn versions(serial: u64, rng: &mut ChaCha20Rng) -> Vec<Version> {
    let extra = (serial % 2 == 1).then_some(EXTRA);
    NAMES.into_iter().chain(extra).map(|name| version(name, serial, rng)).collect()
}
/// Files that a reader looks at; each says which version it is of.
const FILES: [&str; 3] = ["a", "deep/er/b", "z"];

/// A version of a machine: every file begins with its number.
fn version(name: &str, number: u64, rng: &mut ChaCha20Rng) -> Version {
    let mut contents = Vec::new();
    for _ in 0..40 {
        let mut content = format!("{number}\n").into_bytes();
        content.resize(2_000 + usize::try_from(rng.next_u32() % 8_000).unwrap(), 0);
        rng.fill_bytes(&mut content[16..]);
        contents.push(content);
    }
    let paths: Vec<String> =
        (0..40).map(|n| FILES.get(n).map_or_else(|| format!("some/{n}"), |path| (*path).to_owned())).collect();
    let files: Vec<(&str, &[u8])> = paths.iter().map(String::as_str).zip(contents.iter().map(Vec::as_slice)).collect();
    packed(name, &files)
}

/// What a reader makes of a machine.
enum Sight {
    /// Which version each file is of.
    Whole(Vec<String>),
    /// The name was there no more, or leads nowhere.
    Neither(io::Error),
    /// A file is missing in the directory that the reader holds.
    Missing(io::Error),
}

/// Holds a machine's directory, and looks at each file in it.
fn read(root: &Path, name: &str) -> Sight {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(root.join(name), flags | OFlags::DIRECTORY, Mode::empty()) {
        Ok(directory) => directory,
        Err(error) => return Sight::Neither(error.into()),
    };
    let first_line = |path: &&str| {
        let mut text = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(openat(&directory, *path, flags, Mode::empty())?), &mut text)?;
        Ok(String::from_utf8_lossy(&text[..text.len().min(16)]).lines().next().unwrap_or_default().to_owned())
    };
    match FILES.iter().map(first_line).collect() {
        Ok(seen) => Sight::Whole(seen),
        // The name still leads to the directory that was found wanting.
        Err(error) if same(&directory, &root.join(name)) => Sight::Neither(error),
        Err(error) => Sight::Missing(error),
    }
}

/// Whether a path leads to this very directory.
fn same(directory: &OwnedFd, path: &Path) -> bool {
    let held = rustix::fs::fstat(directory).unwrap();
    rustix::fs::stat(path).is_ok_and(|named| (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino))
}

/// Looks until it is over, and says what it saw that must not be: a name that is not there for a moment, too. Only a machine that was
/// replaced may be taken away file by file while a reader still holds it: that one looks again from the name on.
fn watch(root: &Path, over: &AtomicBool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut looked = 0_u64;
    while !over.load(Ordering::Relaxed) {
        for name in NAMES {
            looked += 1;
            for tries in 0.. {
                match read(root, name) {
                    Sight::Whole(seen) if seen.windows(2).all(|pair| pair[0] == pair[1]) => {}
                    Sight::Whole(seen) => wrong.push(format!("{name}: {seen:?}")),
                    Sight::Missing(error) if error.kind() == io::ErrorKind::NotFound && tries < 1000 => continue,
                    Sight::Neither(error) | Sight::Missing(error) => wrong.push(format!("{name}: {error}")),
                }
                break;
            }
        }
    }
    println!("a reader looked {looked} times");
    wrong
}

/// How the server has it with an archive.
fn page(version: &Version, other: &Version, rng: &mut ChaCha20Rng) -> Page {
    let archive = version.archive.clone();
    let part = usize::try_from(rng.next_u32()).unwrap() % archive.len();
    match rng.next_u32() % 10 {
        0 => Page::Breaks(archive, part.max(20_000)),
        1 => Page::Stalls(archive, part),
        2 => Page::Lies(archive, 500),
        3 => Page::Good(other.archive.clone()),
        4 => Page::WithoutRanges(archive),
        _ => Page::Good(archive),
    }
}

fn kills() -> usize {
    std::env::var("TOEHOLD_KILLS").map_or(4, |text| text.parse().expect("TOEHOLD_KILLS is a number"))
}

/// Its seed is shown.
fn random() -> ChaCha20Rng {
    let seed = std::env::var("TOEHOLD_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |text| text.parse().expect("TOEHOLD_SEED is a number"),
    );
    println!("TOEHOLD_SEED={seed} TOEHOLD_KILLS={}", kills());
    ChaCha20Rng::seed_from_u64(seed)
}

/// Starts an apply, and kills it after some part of the time that one takes; how it ended where that was before.
fn kill(node: &Node, more: &[&str], longest: Duration, rng: &mut ChaCha20Rng) -> (Option<ExitStatus>, Duration) {
    let begun = Instant::now();
    let mut child = node.command(more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let after = longest.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX));
    // The moment is what this test is about; nothing is waited for.
    std::thread::sleep(after.saturating_sub(begun.elapsed()));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    (status.signal().is_none().then_some(status), after)
}

/// A first apply has no state before it that could be gone back to: whatever there is of the first one is enough for the same command to
/// go on, without a word about floors.
#[test]
fn a_first_apply_that_is_killed_is_simply_run_again() {
    let mut rng = random();
    let mut longest = Duration::ZERO;
    let (mut all, mut begun, mut tries) = (0, 0, 0);
    while all < kills() {
        tries += 1;
        assert!(tries < 4 * kills() + 20, "the moments are off: only {all} were killed");
        let node = Node::new();
        let first = versions(2, &mut rng);
        node.publish(&document(&node.entries(&first), &Says { serial: 2, ..Says::default() }));
        if longest.is_zero() {
            let start = Instant::now();
            node.apply(&PATIENT).ends(0);
            longest = start.elapsed();
            continue;
        }
        let (ended, after) = kill(&node, &PATIENT, longest, &mut rng);
        let when = format!("SIGKILL after {after:?}");
        if ended.is_some() {
            longest = longest.max(Duration::from_millis(20)).mul_f64(0.9);
            continue;
        }
        all += 1;
        begun += usize::from(node.root().join(".toehold").exists());
        for version in &first {
            let live = node.live(&version.name);
            assert!(
                live.is_none() || live.as_ref() == Some(&version.tree),
                "{when}: {} is neither whole nor absent",
                version.name
            );
        }
        let done = node.apply(&PATIENT);
        assert_eq!(done.code, 0, "{when}: {}{}", done.stdout, done.stderr);
        for version in &first {
            assert_eq!(node.live(&version.name).as_ref(), Some(&version.tree), "{when}");
        }
        for empty in ["unpacking", "staged", "previous", "trash"] {
            assert!(node.private(empty).is_empty(), "{when}: {empty} holds {:?}", node.private(empty));
        }
        let done = node.apply_versions(1, &first, &PATIENT).ends(3);
        assert!(done.stderr.contains("below 2"), "{when}: {}", done.stderr);
    }
    println!("{all} killed, {begun} of them had begun");
}

#[test]
fn s5_old_or_new_and_whole_over_sigkill() {
    let (kills, mut rng) = (kills(), random());
    let node = Node::new();
    let mut current = versions(1, &mut rng);
    let begun = Instant::now();
    node.apply_versions(1, &current, &PATIENT).ends(0);
    let mut last = std::fs::read(node.file()).unwrap();
    let mut older = last.clone();
    let mut longest = begun.elapsed();
    let (over, root) = (AtomicBool::new(false), node.root());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| watch(&root, &over));
        let (mut killed, mut serial, mut old, mut new) = (0, 1, 0, 0);
        while killed < kills {
            serial += 1;
            assert!(serial < 4 * u64::try_from(kills).unwrap() + 20, "the moments are off: only {killed} were killed");
            let next = versions(serial, &mut rng);
            let before = |name: &str| current.iter().find(|version| version.name == name);
            let entries: Vec<_> = next
                .iter()
                .map(|version| {
                    let path = format!("/{}-{serial}.tgz", version.name);
                    let other = before(&version.name).unwrap_or(&current[0]);
                    node.web.serve(&path, page(version, other, &mut rng));
                    version.entry(&node.web.url(&path))
                })
                .collect();
            let newer = document(&entries, &Says { serial, ..Says::default() });
            node.publish(&newer);
            let (ended, after) = kill(&node, &MORE, longest, &mut rng);
            if ended.is_none() {
                killed += 1;
            } else {
                longest = longest.max(Duration::from_millis(20)).mul_f64(0.9);
            }
            let when = format!("serial {serial}, SIGKILL after {after:?}, {ended:?}");
            // Right after the kill, before anything recovers: the old or the new one, and nothing else.
            for version in next.iter().chain(&current) {
                let Some(live) = node.live(&version.name) else {
                    assert_eq!(version.name, EXTRA, "{when}: {} is gone", version.name);
                    continue;
                };
                let of = |versions: &[Version]| versions.iter().any(|other| other.name == version.name && other.tree == live);
                assert!(of(&next) || of(&current), "{when}: {} is neither old nor new", version.name);
                if of(&current) { old += 1 } else { new += 1 }
            }
            // The floor is not lower than what was accepted before: a document from before that is refused at once.
            if killed % 2 == 0 && serial > 2 {
                node.publish(&older);
                let refused = node.apply(&MORE);
                assert!(refused.code == 3 && refused.stderr.contains("below"), "{when}: {}", refused.stderr);
                node.publish(&newer);
            }
            // With a server that behaves, the next run gets there, and leaves nothing lying about.
            for (version, entry) in next.iter().zip(&entries) {
                let path = entry["source"].as_str().unwrap().rsplit_once('/').unwrap().1.to_owned();
                node.web.serve(&format!("/{path}"), Page::Good(version.archive.clone()));
            }
            let done = node.apply(&PATIENT);
            assert_eq!(done.code, if is_sick(serial) { 3 } else { 0 }, "{when}: {}{}", done.stdout, done.stderr);
            current = next
                .iter()
                .map(|version| {
                    let works = !(is_sick(serial) && version.name == "sick");
                    if works { version.clone() } else { before("sick").unwrap().clone() }
                })
                .collect();
            for version in &current {
                assert_eq!(node.live(&version.name).as_ref(), Some(&version.tree), "{when}");
            }
            assert_eq!(node.live(EXTRA).is_some(), serial % 2 == 1, "{when}");
            older = std::mem::replace(&mut last, newer);
            for empty in ["unpacking", "staged", "trash"] {
                assert!(node.private(empty).is_empty(), "{when}: {empty} holds {:?}", node.private(empty));
            }
            // Of `sick`, the version before may have gone back to its place.
            let previous: Vec<String> = node.private("previous").into_iter().filter(|name| name != "sick").collect();
            assert_eq!(previous, NAMES.into_iter().filter(|name| *name != "sick").collect::<Vec<_>>(), "{when}");
        }
        over.store(true, Ordering::Relaxed);
        let wrong = reader.join().unwrap();
        assert!(wrong.is_empty(), "seen by a reader: {wrong:?}");
        println!("{killed} killed up to serial {serial}: {old} machines old, {new} new right after the kill");
    });
}
