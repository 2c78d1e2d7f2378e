//! What a replacement does where nothing breaks, and what it refuses.

use std::error::Error as _;

use crate::replacement_common;
use crate::replacement_common::{
    FILE, FOREIGN, SECOND, Stepper, account, add, connect, file, host, key, litter, plan, remove, with,
};
use toehold_core::testing::{CallKind, World, block_on};
use toehold_core::{FileError, FileKind, HostSession as _, Source};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Digest, ExpiryTime, MAX_AUTHORIZED_KEYS};
use toehold_keygen::replacement::{Action, IfEmpty, KeyFile, Plan, ReplaceError, Replaced, inspect, replace, sweep};

fn run<E>(world: &World, plan: &Plan, edit: E) -> Result<Replaced, ReplaceError>
where
    E: FnMut(KeyFile, &mut AuthorizedKeys) -> Result<(), Source> + Send,
{
    let mut session = connect(world);
    block_on(replace(session.files(), plan, edit))
}

/// The calls that change something, other than those for the lock.
fn writes(world: &World) -> Vec<String> {
    let log = world.faults().log().into_iter();
    log.filter(|call| call.kind.has_effect() && call.kind != CallKind::LogIn && !call.subject.contains("toehold-lock"))
        .map(|call| call.to_string())
        .collect()
}

#[test]
fn a_line_is_added_and_all_is_told() {
    let world = host(Some(FOREIGN)).restart();
    world.fleet().configure(&account(), |settings| settings.clock_skew = -3600);
    let replaced = run(&world, &plan("session", 1), add("a")).unwrap();
    assert!(replaced.changed() && replaced.leftovers.is_empty());
    assert_eq!(replaced.host_time.unix_seconds(), toehold_core::Clock::now(world.clock()).unix_seconds() - 3600);
    let change = replaced.file(KeyFile::AuthorizedKeys).unwrap();
    assert_eq!(change.path, "/home/ops/.ssh/authorized_keys");
    assert_eq!((change.before, change.after), (Some(Digest::of(FOREIGN)), Some(Digest::of(&with(FOREIGN, &["a"])))));
    let now = world.fleet().file(&account(), FILE).unwrap();
    assert_eq!((now.content, now.mode & 0o777, now.kind), (with(FOREIGN, &["a"]), 0o640, FileKind::Regular));
    assert_eq!(litter(&world), [""; 0]);
}

#[test]
fn an_edit_without_a_change_writes_nothing() {
    let world = host(Some(&with(FOREIGN, &["a"]))).restart();
    let replaced = run(&world, &plan("session", 1).also_second_file(), add("a")).unwrap();
    assert!(!replaced.changed());
    assert_eq!(replaced.files.len(), 1);
    assert_eq!(writes(&world), [""; 0]);
    let world = host(None).restart();
    assert!(!run(&world, &plan("session", 1), remove("a")).unwrap().changed());
    assert_eq!(file(&world, FILE), None);
    assert_eq!(litter(&world), [""; 0]);
}

#[test]
fn a_missing_file_is_created_for_its_owner_alone() {
    let world = host(None);
    let replaced = run(&world, &plan("session", 1).also_second_file(), add("a")).unwrap();
    assert_eq!(replaced.file(KeyFile::AuthorizedKeys).unwrap().before, None);
    assert_eq!(world.fleet().file(&account(), FILE).unwrap().mode & 0o777, 0o600);
    assert_eq!(file(&world, SECOND), None, "the second file is never created");
}

#[test]
fn an_empty_file_stays_or_goes_as_told() {
    for (if_empty, left) in [(IfEmpty::Keep, Some(Vec::new())), (IfEmpty::Remove, None)] {
        let world = host(Some(&with(b"", &["a"])));
        let replaced = run(&world, &plan("session", 1).if_empty(if_empty), remove("a")).unwrap();
        assert_eq!(file(&world, FILE), left);
        assert_eq!(replaced.file(KeyFile::AuthorizedKeys).unwrap().after, left.as_deref().map(Digest::of));
        assert_eq!(litter(&world), [""; 0]);
    }
}

#[test]
fn r9_a_removal_acts_on_every_copy_in_both_files() {
    let copies = format!("expiry-time=\"20200101\" {}\n# foreign\nssh-rsa {} copy", key("a"), key("a").base64()).into_bytes();
    let world = host(Some(&copies));
    world.fleet().write_file(&account(), SECOND, copies.clone(), 0o600);
    let inspection = block_on(inspect(connect(&world).files(), ".")).unwrap();
    let everywhere = [
        (KeyFile::AuthorizedKeys, 1),
        (KeyFile::AuthorizedKeys, 3),
        (KeyFile::AuthorizedKeys2, 1),
        (KeyFile::AuthorizedKeys2, 3),
    ];
    assert_eq!(inspection.copies(&key("a")), everywhere);

    let replaced = run(&world, &plan("session", 1).also_second_file(), remove("a")).unwrap();
    assert_eq!(replaced.files.iter().filter(|change| change.changed()).count(), 2);
    for path in [FILE, SECOND] {
        assert_eq!(file(&world, path).unwrap(), b"# foreign");
    }
    assert_eq!(block_on(inspect(connect(&world).files(), ".")).unwrap().copies(&key("a")), []);
}

#[test]
fn options_of_one_line_are_exchanged_for_others() {
    let world = host(Some(&with(FOREIGN, &["a"])));
    let end = ExpiryTime::utc("2026-11-23T02:00:00Z".parse().unwrap());
    let replaced = run(&world, &plan("session", 1), |_, document| {
        document.edit_options(&key("a"), |options| {
            let mut options = options.clone();
            options.set_expiry_time(Some(&end));
            Some(options)
        });
        Ok(())
    });
    assert!(replaced.unwrap().changed());
    let text = format!("\nrestrict,expiry-time=\"20261123020000Z\" {} a", key("a"));
    assert_eq!(file(&world, FILE).unwrap(), [FOREIGN, text.as_bytes()].concat());
}

#[test]
fn without_an_atomic_rename_nothing_is_touched() {
    let world = host(Some(FOREIGN)).restart();
    world.fleet().configure(&account(), |settings| settings.atomic_rename = false);
    let before = world.fleet().tree(&account());
    let error = run(&world, &plan("session", 1), add("a")).unwrap_err();
    assert!(matches!(error, ReplaceError::NoAtomicRename { .. }), "{error}");
    assert_eq!(world.faults().calls(), 1, "the login alone");
    assert_eq!(world.fleet().tree(&account()), before);
    assert!(block_on(inspect(connect(&world).files(), ".")).is_ok(), "looking needs no rename");
}

#[test]
fn without_sync_it_works_as_well() {
    let world = host(Some(FOREIGN)).restart();
    world.fleet().configure(&account(), |settings| settings.sync = false);
    assert!(run(&world, &plan("session", 1), add("a")).unwrap().changed());
    assert!(!world.faults().log().iter().any(|call| call.kind == CallKind::Sync));
}

/// Whether an error is the one that is meant.
type Is = fn(&ReplaceError) -> bool;

/// What is wrong, how it comes about, and the error for it.
type Refusal = (&'static str, fn(&World), Is);

#[test]
fn what_sshd_would_not_read_is_refused_before_anything_is_written() {
    let refusals: [Refusal; 11] = [
        ("no .ssh", |w| w.fleet().remove_path(&account(), ".ssh"), |e| matches!(e, ReplaceError::Missing { .. })),
        (
            "the file is a link",
            |w| {
                w.fleet().write_file(&account(), "elsewhere", FOREIGN, 0o600);
                w.fleet().make_link(&account(), FILE, "../elsewhere");
            },
            |e| matches!(e, ReplaceError::WrongKind { found: "symbolic link", .. }),
        ),
        (
            ".ssh is a link",
            |w| {
                w.fleet().remove_path(&account(), ".ssh");
                w.fleet().make_directory(&account(), "elsewhere", 0o700);
                w.fleet().make_link(&account(), ".ssh", "elsewhere");
            },
            |e| matches!(e, ReplaceError::WrongKind { found: "symbolic link", .. }),
        ),
        (
            "the file is a directory",
            |w| {
                w.fleet().remove_path(&account(), FILE);
                w.fleet().make_directory(&account(), FILE, 0o700);
            },
            |e| matches!(e, ReplaceError::WrongKind { found: "directory", .. }),
        ),
        ("home loose", |w| w.fleet().set_mode(&account(), "/home/ops", 0o775), |e| matches!(e, ReplaceError::LooseMode { .. })),
        (".ssh loose", |w| w.fleet().set_mode(&account(), ".ssh", 0o770), |e| matches!(e, ReplaceError::LooseMode { .. })),
        ("file loose", |w| w.fleet().set_mode(&account(), FILE, 0o602), |e| matches!(e, ReplaceError::LooseMode { .. })),
        (
            "file foreign",
            |w| w.fleet().set_owner(&account(), FILE, 0),
            |e| matches!(e, ReplaceError::WrongOwner { owner: 0, .. }),
        ),
        (
            ".ssh foreign",
            |w| w.fleet().set_owner(&account(), ".ssh", 7),
            |e| matches!(e, ReplaceError::WrongOwner { owner: 7, .. }),
        ),
        (
            "the second file loose",
            |w| w.fleet().write_file(&account(), SECOND, FOREIGN, 0o666),
            |e| matches!(e, ReplaceError::LooseMode { .. }),
        ),
        (
            "the file too long",
            |w| {
                let length = usize::try_from(MAX_AUTHORIZED_KEYS).unwrap() + 1;
                w.fleet().write_file(&account(), FILE, vec![b'\n'; length], 0o600);
            },
            |e| matches!(e, ReplaceError::File { source, .. } if matches!(**source, FileError::TooLarge { .. })),
        ),
    ];
    for (what, arrange, expected) in refusals {
        let world = host(Some(FOREIGN)).restart();
        arrange(&world);
        let before = world.fleet().tree(&account());
        let error = run(&world, &plan("session", 1).also_second_file(), add("a")).unwrap_err();
        assert!(expected(&error), "{what}: {error:?}");
        assert_eq!(world.fleet().tree(&account()), before, "{what}");
        assert_eq!(writes(&world), [""; 0], "{what}");
        // Whoever only looks is told the same, unless the file cannot even be read.
        match block_on(inspect(connect(&world).files(), ".")) {
            Ok(found) => assert!(found.objections.iter().any(expected), "{what}: {:?}", found.objections),
            Err(error) => assert!(matches!(error, ReplaceError::File { .. }), "{what}: {error}"),
        }
    }
}

#[test]
fn a_home_that_is_roots_is_no_obstacle() {
    let world = host(Some(FOREIGN));
    world.fleet().set_owner(&account(), "/home/ops", 0);
    assert!(run(&world, &plan("session", 1), add("a")).unwrap().changed());
    // A file that is not the account's own is found out once there is a file that is.
    world.fleet().set_owner(&account(), FILE, 0);
    let before = world.fleet().tree(&account());
    let error = run(&world, &plan("session", 2), add("b")).unwrap_err();
    assert!(matches!(error, ReplaceError::WrongOwner { owner: 0, .. }), "{error}");
    assert_eq!(world.fleet().tree(&account()), before);
}

#[test]
fn an_edit_may_say_no() {
    let world = host(Some(FOREIGN));
    let before = world.fleet().tree(&account());
    let error = run(&world, &plan("session", 1), |_, _| Err("no anchor".into())).unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "no anchor");
    assert_eq!(error.to_string(), "/home/ops/.ssh/authorized_keys is not changed");
    assert_eq!(world.fleet().tree(&account()), before);
}

#[test]
fn looking_changes_nothing_and_sees_all() {
    let world = host(Some(&with(FOREIGN, &["a"]))).restart();
    replacement_common::leave_stale_lock(&world, "dead");
    let before = world.fleet().tree(&account());
    let found = block_on(inspect(connect(&world).files(), ".")).unwrap();
    assert_eq!(found.home, "/home/ops");
    assert_eq!(found.document(KeyFile::AuthorizedKeys).unwrap().as_bytes(), with(FOREIGN, &["a"]));
    assert!(found.document(KeyFile::AuthorizedKeys2).is_none() && found.objections.is_empty());
    assert_eq!(found.lock.unwrap().holder.as_deref(), Some("dead"));
    assert_eq!(found.staged.len(), 1);
    assert_eq!(world.fleet().tree(&account()), before);
}

#[test]
fn sweeping_takes_the_holders_own_things_alone() {
    let world = host(Some(FOREIGN));
    replacement_common::leave_stale_lock(&world, "dead");
    world.fleet().write_file(&account(), ".ssh/authorized_keys.toehold-deadline.77", "other", 0o600);
    assert_eq!(block_on(sweep(connect(&world).files(), ".", "deadline2")).unwrap(), [""; 0]);
    let swept = block_on(sweep(connect(&world).files(), ".", "dead")).unwrap();
    assert_eq!(swept.len(), 2);
    assert_eq!(litter(&world), ["authorized_keys.toehold-deadline.77"]);
    assert_eq!(file(&world, FILE).unwrap(), FOREIGN);
    assert_eq!(block_on(sweep(connect(&world).files(), ".", "not/a/holder")).unwrap(), [""; 0]);
}

#[test]
fn names_of_holders_are_checked() {
    use rand_chacha::rand_core::SeedableRng as _;
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
    for bad in ["", "a/b", "a.b", "a b", "a\n", "ä", &"x".repeat(65)] {
        assert!(Plan::new(&mut rng, ".", bad).is_err(), "{bad:?}");
    }
    assert!(Plan::new(&mut rng, ".", &"0123456789abcdef".repeat(4)).is_ok());
}

#[test]
fn what_was_staged_has_to_read_back_as_it_was_written() {
    type Spoil = fn(&World, &str);
    let spoils: [Spoil; 5] = [
        |w, path| w.fleet().write_file(&account(), path, "half", 0o640),
        |w, path| w.fleet().set_mode(&account(), path, 0o644),
        |w, path| w.fleet().set_mode(&account(), path, 0o4640),
        |w, path| w.fleet().set_owner(&account(), path, 0),
        |w, path| w.fleet().make_link(&account(), path, "authorized_keys"),
    ];
    for spoil in spoils {
        let world = host(Some(FOREIGN));
        let mut stepper = Stepper::new(&world, plan("session", 1), add("a"));
        let staged = loop {
            if let Action::Sync(path) = stepper.machine.action() {
                break path.to_owned();
            }
            assert!(stepper.step());
        };
        assert!(stepper.step());
        spoil(&world, &staged);
        let error = stepper.finish().unwrap_err();
        assert!(matches!(error, ReplaceError::StagedDiffers { .. } | ReplaceError::WrongOwner { .. }), "{error}");
        assert!(error.to_string().contains(&staged), "{error}");
        assert_eq!(file(&world, FILE).unwrap(), FOREIGN);
        assert_eq!(litter(&world), [""; 0]);
    }
}

#[test]
fn the_fence_stands_in_the_name_of_what_is_staged() {
    let world = host(Some(FOREIGN));
    let mut stepper = Stepper::new(&world, plan("session", 1).fence(77), add("a"));
    let names = loop {
        assert!(stepper.step());
        if litter(&world).len() == 2 {
            break litter(&world);
        }
    };
    assert!(
        names.iter().any(|name| name.starts_with("authorized_keys.toehold-session.") && name.ends_with(".fence-77")),
        "{names:?}"
    );
    assert!(stepper.finish().unwrap().changed());
}
