//! The rules as whole tables: every state of a host over every login, and every phase of a fleet.
//!
//! They are kept in `vectors/host.txt` and `vectors/fleet.txt`; `TOEHOLD_RENEW=1` writes them anew, and the change is to be read.

use std::fmt::Write as _;
use std::path::Path;

use toehold_core::testing::sample_public_key;
use toehold_core::{OnUnreachable, RotationPhase, RotationPolicy, Timestamp};
use toehold_keygen::AuthorizedKeys;
use toehold_masterkey::fleet::View;
use toehold_masterkey::host::{Goal, HostMachine, Step};
use toehold_masterkey::observe::{Files, Observation};

fn hold(name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    if std::env::var_os("TOEHOLD_RENEW").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, table).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (number, (kept, now)) in (1..).zip(kept.lines().zip(table.lines())) {
        assert_eq!(kept, now, "line {number} of {name}");
    }
    assert_eq!(kept.lines().count(), table.lines().count(), "{name}");
}

#[test]
fn a_host_over_every_login() {
    let (new, old) = (sample_public_key("ssh-ed25519", "new"), sample_public_key("ssh-ed25519", "old"));
    let now = Timestamp::from_unix_seconds(1_795_395_600);
    let states = [("-", None), ("E", Some("20991201000000Z")), ("e", Some("20011201000000Z")), ("P", Some(""))];
    let line = |key, state: Option<&str>| match state {
        None => String::new(),
        Some("") => format!("{key}\n"),
        Some(end) => format!("expiry-time=\"{end}\" {key}\n"),
    };
    let mut table = String::from("goal expiry refused  old new over first again\n");
    for goal in [Goal::Prepare, Goal::Soften, Goal::Remove] {
        for (expiry, refused) in [(true, 0), (true, 1), (true, 2), (false, 0), (false, 1), (false, 2)] {
            for (old_name, old_state) in states {
                for (new_name, new_state) in states {
                    for over in [1, 0] {
                        let text = format!("{}{}", line(&old, old_state), line(&new, new_state));
                        let files = Files { first: AuthorizedKeys::parse(text.into_bytes()), second: None };
                        let seen = Observation::of(&files, &[new.clone(), old.clone()], now);
                        let mut machine = HostMachine::new(goal, 2, expiry, false);
                        for _ in 0..refused {
                            machine.refused(1 - over);
                        }
                        // On the first login nothing is proven; on the second, the lines that were there before it are.
                        let mut said = Vec::new();
                        for _ in 0..2 {
                            machine.logged_in(over, None);
                            match machine.step(&seen) {
                                Step::Write(change) => said.push(format!("{change:?}")),
                                Step::Leave => {
                                    let mut left = machine.clone();
                                    left.did(&seen, None, &seen);
                                    said.push(format!("{:?}", left.next()));
                                }
                            }
                            machine.did(&seen, None, &seen);
                        }
                        let over = if over == 0 { "new" } else { "old" };
                        writeln!(table, "{goal:?} {expiry} {refused}  {old_name} {new_name} {over}  {}", said.join("  "))
                            .unwrap();
                    }
                }
            }
        }
    }
    hold("host.txt", &table);
}

#[test]
fn a_fleet_in_every_phase() {
    let phases = [
        RotationPhase::Planned,
        RotationPhase::Installing,
        RotationPhase::Proving,
        RotationPhase::Switching,
        RotationPhase::Retiring,
        RotationPhase::Done,
        RotationPhase::RollingBack,
        RotationPhase::RolledBack,
    ];
    let mut table = String::from("phase on_unreachable grace over current held failed proven lacking  next\n");
    for phase in phases {
        for on_unreachable in [OnUnreachable::Abort, OnUnreachable::Defer] {
            for (grace, grace_over) in [(0, None), (60, None), (60, Some(false)), (60, Some(true))] {
                for (current_is_new, current_is_held) in [(false, false), (false, true), (true, false), (true, true)] {
                    for (failed, proven, lacking) in [(0, 0, 0), (0, 0, 2), (0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0)]
                    {
                        let policy = RotationPolicy {
                            on_unreachable,
                            grace,
                            canary: None,
                            wave: None,
                            max_failures: Some(1),
                            provisional_for: 600,
                        };
                        let view = View {
                            grace_over,
                            current_is_new,
                            current_is_held,
                            hosts: failed + proven + lacking,
                            failed,
                            proven,
                            to_prepare: lacking,
                            to_soften: lacking,
                            to_remove: lacking,
                            ..View::of(phase, &policy)
                        };
                        let over = grace_over.map_or("-".to_owned(), |over| over.to_string());
                        let current = if current_is_new { "new" } else { "old" };
                        writeln!(
                            table,
                            "{phase} {on_unreachable:?} {grace} {over} {current} {current_is_held} {failed} {proven} {lacking}  {:?}",
                            view.next()
                        )
                        .unwrap();
                    }
                }
            }
        }
    }
    hold("fleet.txt", &table);
}
