//! What is asked for at once, and where the fence stands.

use crate::replacement_common;
use crate::replacement_common::{FILE, FOREIGN, MOMENTS, connect, file, host, line, litter, plan, with};
use toehold_core::testing::{CallKind, World, block_on, run_until_stalled};
use toehold_core::{HostSession as _, Source};
use toehold_keygen::AuthorizedKeys;
use toehold_keygen::replacement::{FencedEdit, FencedError, KeyFile, Reading, Replaced, replace_fenced};

/// Adds a line, and looks at the world where the fence is.
struct Fenced<'a> {
    world: &'a World,
    stop: bool,
    passed: u32,
}

impl FencedEdit for Fenced<'_> {
    type Stop = &'static str;

    fn edit(&mut self, file: KeyFile, document: &mut AuthorizedKeys, reading: &Reading) -> Result<(), Source> {
        assert!(reading.host_time.unix_seconds() > 0);
        if file == KeyFile::AuthorizedKeys {
            assert!(reading.second.is_some() && self.reads_second_file());
            let _ = document.add(&line("a"));
        }
        Ok(())
    }

    fn reads_second_file(&self) -> bool {
        true
    }

    async fn pass(&mut self) -> Result<(), &'static str> {
        assert_eq!(file(self.world, FILE).unwrap(), FOREIGN, "nothing is replaced before the fence is passed");
        assert!(
            litter(self.world).iter().any(|name| name.ends_with(".fence-7")),
            "the new file is staged: {:?}",
            litter(self.world)
        );
        self.passed += 1;
        if self.stop { Err("no") } else { Ok(()) }
    }
}

fn two_files() -> World {
    let world = host(Some(FOREIGN));
    world.fleet().write_file(&replacement_common::account(), replacement_common::SECOND, with(b"", &["b"]), 0o600);
    world
}

async fn run(world: &World, fenced: &mut Fenced<'_>) -> Result<Replaced, FencedError<&'static str>> {
    let mut session = connect(world);
    replace_fenced(session.files(), plan("first", 1).fence(7).also_second_file(), fenced).await
}

#[test]
fn r8_the_fence_is_passed_once_when_the_new_file_is_staged_and_not_yet_in_its_place() {
    let world = two_files().restart();
    let mut fenced = Fenced { world: &world, stop: false, passed: 0 };
    assert!(block_on(run(&world, &mut fenced)).unwrap().changed());
    assert_eq!(fenced.passed, 1);
    assert_eq!((file(&world, FILE).unwrap(), litter(&world)), (with(FOREIGN, &["a"]), Vec::new()));
}

#[test]
fn r8_without_leave_nothing_is_replaced_and_nothing_stays() {
    let world = two_files().restart();
    let mut fenced = Fenced { world: &world, stop: true, passed: 0 };
    let stopped = block_on(run(&world, &mut fenced)).unwrap_err();
    assert!(matches!(stopped, FencedError::Stopped("no")), "{stopped:?}");
    assert_eq!((file(&world, FILE).unwrap(), litter(&world)), (FOREIGN.to_vec(), Vec::new()));
    assert!(world.faults().log().iter().all(|call| call.kind != CallKind::Rename));
}

/// The looks that are asked for together lie between the changes between which they would lie one by one.
#[test]
fn r8_every_look_is_between_its_changes() {
    use CallKind::{List, Read, RealPath, Remove, Rename, Stage, Stat, Sync};
    let world = two_files().restart();
    block_on(run(&world, &mut Fenced { world: &world, stop: false, passed: 0 })).unwrap();
    let log = world.faults().log();
    let calls: Vec<(CallKind, &str)> = log
        .iter()
        .filter(|call| call.kind != CallKind::LogIn)
        .map(|call| {
            let path = call.subject.split(' ').nth(1).unwrap();
            let name = path.strip_prefix("/home/ops/.ssh/").unwrap_or(path);
            (call.kind, if name.contains(".fence-7") { "staged" } else { name })
        })
        .collect();
    let (lock, file, second) = ("authorized_keys.toehold-lock", "authorized_keys", "authorized_keys2");
    assert_eq!(
        calls,
        [
            (RealPath, "."),
            (Stat, "/home/ops"),
            (Stat, "/home/ops/.ssh"),
            (Stat, file),
            (Stat, second),
            (Stage, lock),
            (Stat, lock),
            (List, "/home/ops/.ssh"),
            (Stat, file),
            (Read, file),
            (Read, second),
            (Stage, "staged"),
            (Sync, "staged"),
            (Stat, "staged"),
            (Read, "staged"),
            (Read, lock),
            (Stat, file),
            (Read, file),
            (Rename, "staged"),
            (Stat, file),
            (Read, file),
            (Stat, second),
            // Nobody asks for this one, since the second file is there.
            (Read, lock),
            (Read, second),
            (Read, lock),
            (Remove, lock),
        ]
    );
}

#[test]
fn r8_after_a_crash_anywhere_between_the_looks_the_file_is_old_or_new() {
    let good = two_files().restart();
    block_on(run(&good, &mut Fenced { world: &good, stop: false, passed: 0 })).unwrap();
    for number in 1..good.faults().calls() {
        for moment in MOMENTS {
            let world = two_files().restart();
            world.faults().crash_at(number, moment);
            let mut fenced = Fenced { world: &world, stop: false, passed: 0 };
            assert!(run_until_stalled(run(&world, &mut fenced)).is_none());
            let now = file(&world, FILE).unwrap();
            let what = world.faults().describe(number);
            assert!(now == FOREIGN || (now == with(FOREIGN, &["a"]) && fenced.passed == 1), "{moment:?} {what}");
        }
    }
}
