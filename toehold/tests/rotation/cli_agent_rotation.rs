//! A rotation by somebody whose master key is in an ssh-agent.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Done, Fleet, RealAgent, Toehold, eventually};

fn command<'a>(fleet: &Fleet, socket: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = fleet.toehold.command(arguments);
    command.env("SSH_AUTH_SOCK", socket).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run<'a>(fleet: &Fleet, socket: &Path, arguments: impl IntoIterator<Item = &'a str>) -> Done {
    Toehold::wait(command(fleet, socket, arguments).spawn().unwrap())
}

const ROTATE: [&str; 4] = ["--json", "--use-agent", "key", "rotate"];

#[test]
fn an_agent_that_does_not_answer_hides_nothing_of_the_rotation() {
    let fleet = Fleet::new(2);
    let agent = RealAgent::start();
    let socket = agent.socket();
    run(&fleet, &socket, ["key", "load"]).ends(0);
    drop(agent);
    let old = fleet.current();
    // It was to log in with the agent alone, so that it reached no host; the report names them all, and the agent besides.
    let rotated = run(&fleet, &socket, ROTATE.into_iter().chain(["--grace", "0s"])).ends(3);
    let told = rotated.json();
    assert_eq!((&told["event"], &told["owed"]), (&"rolled_back".into(), &2.into()), "{told}");
    assert_eq!(told["hosts"].as_array().unwrap().len(), 2, "{told}");
    assert!(told["agent"].as_str().unwrap().contains("ssh-agent"), "{told}");
    assert_eq!(fleet.lets_in(&old), [true, true]);
    // Nor does it hide what a settling comes to; without it all is well.
    let settled = run(&fleet, &socket, ["--json", "--use-agent", "key", "settle"]).ends(3).json();
    assert_eq!(settled["event"], "settled", "{settled}");
    fleet.toehold.run(["key", "settle"]).ends(0);
    fleet.is_settled(&fleet.all(), &[], "without the agent");
}

#[test]
fn the_agent_has_the_new_key_from_the_switch_on_and_the_old_one_to_the_end() {
    let fleet = Fleet::new(1);
    let agent = RealAgent::start();
    let socket = agent.socket();
    run(&fleet, &socket, ["key", "load"]).ends(0);
    let old = fleet.toehold.master_key();
    assert_eq!(agent.keys(), std::slice::from_ref(&old));
    // Killed while it waits for the end of the grace.
    let mut rotating = command(&fleet, &socket, ROTATE.into_iter().chain(["--grace", "1h"])).spawn().unwrap();
    eventually("the new key in the agent", || {
        assert!(rotating.try_wait().unwrap().is_none(), "the rotation has ended");
        agent.keys().len() == 2
    });
    rotating.kill().unwrap();
    Toehold::wait(rotating);
    let new = fleet.toehold.master_key();
    assert_ne!(new, old);
    let held = agent.keys();
    assert!(held.len() == 2 && held.contains(&old) && held.contains(&new), "{held:?}");
    // Whatever it finds in the middle of a rotation, it gets in.
    let checked = run(&fleet, &socket, ["--use-agent", "host", "check"]);
    assert!([0, 3].contains(&checked.code), "{} {}", checked.stdout, checked.stderr);
    // Back, and then to the end: each time it has the current key alone.
    run(&fleet, &socket, ROTATE.into_iter().chain(["--rollback", "--take-over"])).ends(0);
    assert_eq!(agent.keys(), [old]);
    run(&fleet, &socket, ROTATE.into_iter().chain(["--grace", "0s"])).ends(0);
    assert_eq!(agent.keys(), [fleet.toehold.master_key()]);
    run(&fleet, &socket, ["--use-agent", "host", "check"]).ends(0);
}
