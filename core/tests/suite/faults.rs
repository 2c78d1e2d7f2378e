//! Processes that fail and die at any of their calls.

use std::collections::BTreeSet;
use std::time::Duration;

use toehold_core::testing::{
    CallKind, Fault, Moment, TreeEntry, World, join_all, run_until_stalled, sample_identity, sample_public_key,
};
use toehold_core::{
    Account, Clock as _, ConnectError, Connector as _, Entry, Expect, FileError, HostFiles as _, HostKeyPolicy, HostSession as _,
    Key, Login, PublicKey, Revision, Route, Store as _, StoreError, Timer as _, Watch as _,
};

fn web() -> Account {
    "deploy@web1".parse().unwrap()
}

fn mine() -> PublicKey {
    sample_public_key("ssh-ed25519", "mine")
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn world() -> World {
    let world = World::new();
    world.fleet().add_host(&web());
    world.fleet().append_line(&web(), mine().to_string());
    world.fleet().make_directory(&web(), "empty", 0o700);
    world
}

#[derive(Debug)]
enum Failure {
    Store(StoreError),
    Connect(ConnectError),
    File(FileError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Every kind of call once.
async fn everything(world: &World) -> Result<(), Failure> {
    let (store, route, identity) = (world.store(), Route::direct(web()), sample_identity(&mine()));
    let mut watch = store.watch(&key("session")).await?;
    let revision = store.put(&key("session/1"), b"open", Expect::Absent).await?;
    watch.changed().await?;
    store.get(&key("session/1")).await?;
    store.list(&key("session")).await?;
    world.timer().sleep_until(world.clock().now().saturating_add(Duration::from_mins(1))).await;
    world.fleet().would_accept(&route, &mine(), &HostKeyPolicy::CallerDecides).await?;
    let login = Login { route: &route, identity: &identity, host_key: &HostKeyPolicy::CallerDecides, query: None };
    let mut session = world.fleet().log_in(&login).await?;
    let files = session.files();
    files.real_path(".").await?;
    files.stage("staged", b"0123456789", 0o600).await?;
    files.stat("staged").await?;
    files.sync("staged").await?;
    files.rename("staged", "renamed").await?;
    files.read("renamed", 100).await?;
    files.list(".").await?;
    files.remove("renamed").await?;
    files.remove_directory("empty").await?;
    session.close().await;
    store.delete(&key("session/1"), revision).await?;
    Ok(())
}

type State = (Vec<Entry>, Vec<TreeEntry>, usize);

fn state(world: &World) -> State {
    (world.memory().entries(), world.fleet().tree(&web()), world.fleet().logins(&web()).len())
}

/// The states of the world before each call of a good run, and at its end.
fn states() -> Vec<State> {
    let calls = good_run().faults().calls();
    (0..=calls)
        .map(|number| {
            let world = world();
            world.faults().crash_at(number, Moment::Before);
            world.run(everything(&world));
            state(&world)
        })
        .collect()
}

fn good_run() -> World {
    let world = world();
    world.run(everything(&world)).unwrap().unwrap();
    world
}

#[test]
fn calls_are_numbered_and_named() {
    let world = good_run();
    let log = world.faults().log();
    let kinds: BTreeSet<CallKind> = log.iter().map(|call| call.kind).collect();
    assert_eq!(kinds.len(), 18, "every kind of call is made");
    assert_eq!(log.len(), world.faults().calls());
    assert!(log.iter().enumerate().all(|(index, call)| call.number == index && call.fault.is_none()));
    assert_eq!(world.faults().describe(1), "call 1: StorePut session/1");
    let rename = log.iter().find(|call| call.kind == CallKind::Rename).unwrap();
    assert_eq!(rename.to_string(), format!("call {}: Rename deploy@web1 staged to renamed", rename.number));
    assert_eq!(world.faults().describe(99), "call 99: not made");
    assert!(!world.faults().crashed() && !world.faults().failed());
}

#[test]
fn a_crash_before_a_call_and_one_after_it_differ_by_its_effect() {
    let (log, states) = (good_run().faults().log(), states());
    for call in &log {
        for (moment, reached) in [(Moment::Before, call.number), (Moment::After, call.number + 1)] {
            let world = world();
            world.faults().crash_at(call.number, moment);
            assert!(world.run(everything(&world)).is_none(), "{call}");
            assert!(world.faults().crashed());
            assert_eq!(world.faults().calls(), call.number + 1, "{call}: it is the last one");
            assert_eq!(state(&world), states[reached], "{moment:?} {call}");
        }
        let changes = states[call.number] != states[call.number + 1];
        assert_eq!(changes, call.kind.has_effect(), "{call}");
    }
}

#[test]
fn a_dead_process_does_nothing_more_and_the_next_one_is_well() {
    let world = world();
    world.faults().crash_at(0, Moment::After);
    assert!(world.run(everything(&world)).is_none());
    let start = world.clock().now();
    assert!(run_until_stalled(world.store().get(&key("a"))).is_none());
    assert!(run_until_stalled(world.timer().sleep_until(start)).is_none(), "not even sleep");
    assert_eq!((world.clock().now(), world.faults().calls()), (start, 1));

    let next = world.restart();
    next.run(everything(&next)).unwrap().unwrap();
    assert_eq!(next.faults().calls(), good_run().faults().calls());
    assert_eq!(world.faults().calls(), 1);
    assert_eq!(state(&next), state(&world), "it is the same world");
}

#[test]
fn every_failure_is_told_as_such_and_has_the_effect_that_it_names() {
    let (log, states) = (good_run().faults().log(), states());
    for call in &log {
        for fault in call.kind.faults() {
            let world = world();
            world.faults().fail_at(call.number, *fault);
            let outcome = world.run(everything(&world));
            let what = format!("{fault:?} at {call}: {outcome:?}");
            assert_eq!(world.faults().log()[call.number].fault, Some(*fault), "{what}");
            assert!(world.faults().failed() && !world.faults().crashed());
            let told = match (fault, &outcome) {
                (Fault::Hang, None) => true,
                (Fault::Hang, _) | (_, None | Some(Ok(()))) => false,
                (Fault::Conflict, Some(Err(Failure::Store(error)))) => matches!(error, StoreError::Conflict { .. }),
                (_, Some(Err(Failure::Store(error)))) => matches!(error, StoreError::Unavailable { .. }),
                (_, Some(Err(Failure::Connect(error)))) => match fault {
                    Fault::Unreachable => matches!(error, ConnectError::Unreachable { .. }),
                    Fault::TimedOut => matches!(error, ConnectError::TimedOut { .. }),
                    Fault::KeyRefused => matches!(error, ConnectError::KeyRefused { .. }),
                    _ => matches!(error, ConnectError::Broken { .. }),
                },
                (_, Some(Err(Failure::File(error)))) => match fault {
                    Fault::Denied => matches!(error, FileError::Denied { .. }),
                    Fault::ServerError => matches!(error, FileError::Failed { .. }),
                    _ => error.is_lost(),
                },
            };
            assert!(told, "{what}");
            let took_place = matches!(fault, Fault::LostAfter | Fault::UnavailableAfter);
            let mut now = state(&world);
            if *fault == Fault::ServerError && call.kind == CallKind::Stage {
                let left = now.1.iter().position(|entry| entry.path.ends_with("/staged")).unwrap();
                assert_eq!(now.1.remove(left).content, b"01234", "a full disk leaves a part");
            }
            assert_eq!(now, states[call.number + usize::from(took_place)], "{what}");
        }
    }
}

#[test]
fn a_fault_that_a_call_cannot_have_is_passed_over() {
    let world = world();
    world.faults().fail_at(0, Fault::KeyRefused);
    world.run(everything(&world)).unwrap().unwrap();
    assert!(!world.faults().failed());
}

#[test]
fn a_lost_connection_stays_lost() {
    let world = world();
    let login_number = good_run().faults().log().iter().position(|call| call.kind == CallKind::LogIn).unwrap();
    assert!(login_number > 0);
    world.run(async {
        let (route, identity) = (Route::direct(web()), sample_identity(&mine()));
        let login = Login { route: &route, identity: &identity, host_key: &HostKeyPolicy::CallerDecides, query: None };
        world.faults().fail_at(1, Fault::LostBefore);
        let mut session = world.fleet().log_in(&login).await.unwrap();
        assert!(session.files().stat(".").await.unwrap_err().is_lost());
        assert!(session.files().stat(".").await.unwrap_err().is_lost());
        let mut another = world.fleet().log_in(&login).await.unwrap();
        assert!(another.files().stat(".").await.unwrap().is_some());
    });
}

#[test]
fn what_a_dead_process_sent_can_arrive_late() {
    let world = world();
    let rename = good_run().faults().log().into_iter().find(|call| call.kind == CallKind::Rename).unwrap();
    world.faults().crash_at(rename.number, Moment::Late);
    assert!(world.run(everything(&world)).is_none());
    assert!(world.fleet().file(&web(), "staged").is_some());

    // Somebody takes over in the meantime and puts a file of their own there.
    world.fleet().write_file(&web(), "renamed", "theirs", 0o600);
    assert_eq!(world.fleet().deliver_late(), 1);
    assert_eq!(world.fleet().file(&web(), "renamed").unwrap().content, b"0123456789", "this is what fencing has to prevent");
    assert_eq!(world.fleet().deliver_late(), 0);

    // Had the staged file been swept, the rename would have failed.
    let world = self::world();
    world.faults().crash_at(rename.number, Moment::Late);
    world.run(everything(&world));
    world.fleet().remove_path(&web(), "staged");
    world.fleet().deliver_late();
    assert!(world.fleet().file(&web(), "renamed").is_none());
}

#[test]
fn a_late_store_write_or_login_has_no_effect_at_all() {
    for call in good_run().faults().log().iter().filter(|call| call.kind < CallKind::RealPath) {
        let late = world();
        late.faults().crash_at(call.number, Moment::Late);
        assert!(late.run(everything(&late)).is_none());
        assert_eq!(late.fleet().deliver_late(), 0);
        let before = world();
        before.faults().crash_at(call.number, Moment::Before);
        before.run(everything(&before));
        assert_eq!(state(&late), state(&before), "{call}");
    }
}

#[test]
fn processes_that_take_turns_meet_at_every_call() {
    let world = World::new();
    let other = world.restart();
    let place = key("lease/a");
    let claim = async |world: &World, name: &str| -> Result<Revision, StoreError> {
        // Look first, write then: what an attentive colleague does, and what a conditional write has to catch.
        assert!(world.store().get(&place).await?.is_none());
        world.store().put(&place, name.as_bytes(), Expect::Absent).await
    };
    world.faults().take_turns(true);
    other.faults().take_turns(true);
    let results = world.run(join_all([claim(&world, "one"), claim(&other, "two")])).unwrap();
    assert!(results[0].is_ok(), "{results:?}");
    assert!(matches!(results[1], Err(StoreError::Conflict { .. })), "{results:?}");
}
