//! SIGKILL at random moments of `agent join`, and of the gateway while a machine joins; the same command again completes.
//!
//! `TOEHOLD_KILLS` says how often for each (12 where it is not set), `TOEHOLD_SEED` repeats a run.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{Machine, agents, uses_taken};
use crate::join_support::relay::Relay;
use crate::support::Toehold;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use toehold_joinproto::line::JoinLine;

fn kills() -> usize {
    std::env::var("TOEHOLD_KILLS").map_or(12, |text| text.parse().expect("TOEHOLD_KILLS is a number"))
}

fn seeded() -> ChaCha20Rng {
    let seed = std::env::var("TOEHOLD_SEED").map_or_else(
        |_| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
        |text| text.parse().expect("TOEHOLD_SEED is a number"),
    );
    println!("TOEHOLD_SEED={seed} TOEHOLD_KILLS={}", kills());
    ChaCha20Rng::seed_from_u64(seed)
}

fn moment(rng: &mut ChaCha20Rng, longest: Duration) -> Duration {
    longest.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
}

/// What must hold at any moment on the machine.
fn check_always(operator: &Toehold, machine: &Machine, when: &str) {
    if machine.keyring().is_some() {
        // Only once the gateway has said Done, which it does not before it has the agent.
        let known = fs::read(machine.file("agent.json")).or_else(|_| fs::read(machine.file("join.json"))).unwrap();
        let known: serde_json::Value = serde_json::from_slice(&known).unwrap();
        let is_there = agents(operator).iter().any(|agent| agent["id"] == known["id"] && agent["state"] == "joined");
        assert!(is_there, "{when}: it has a keyring that the gateway knows nothing of");
    }
    if machine.file("join.json").exists() {
        assert!(machine.file("identity").exists(), "{when}: it has begun without a durable identity");
    }
}

/// The same command once more: it completes, and nothing is left of what was cut short.
fn completes(operator: &Toehold, machine: &Machine, line: &JoinLine, when: &str) {
    let joined = machine.join(line);
    assert_eq!(joined.code, 0, "{when}: {}", joined.stderr);
    let id = joined.json()["id"].clone();
    assert_eq!(machine.ping().ends(0).json()["id"], id, "{when}");
    assert_eq!(uses_taken(operator, line), 1, "{when}");
    let mut left: Vec<_> =
        fs::read_dir(machine.directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["agent.json", "identity", "keyring.json"], "{when}");
    assert_eq!(agents(operator).iter().filter(|agent| agent["id"] == id).count(), 1, "{when}");
}

#[test]
fn j1_never_bricked_an_agent_killed_at_any_moment_completes_the_same_admission() {
    let mut rng = seeded();
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let (mut killed, mut longest) = (0, Duration::ZERO);
    let mut trial = 0;
    while killed < kills() {
        trial += 1;
        assert!(trial < 4 * kills() + 10, "the moments are off: only {killed} of {trial} were killed");
        let line = line(&operator, gateway.address, &[]);
        let machine = Machine::new();
        let begun = Instant::now();
        let mut child = machine.joining(&line, &[]);
        let after = moment(&mut rng, longest);
        if !longest.is_zero() {
            // The moment is what this test is about; nothing is waited for.
            std::thread::sleep(after.saturating_sub(begun.elapsed()));
            let _ = child.kill();
        }
        let done = Toehold::wait(child);
        longest = longest.max(begun.elapsed());
        killed += usize::from(done.code == -1);
        let when = format!("trial {trial}, SIGKILL after {after:?} of {longest:?}");
        if machine.directory().exists() {
            check_always(&operator, &machine, &when);
        }
        completes(&operator, &machine, &line, &when);
    }
}

#[test]
fn j1_never_bricked_a_gateway_killed_at_any_moment_of_a_join_leaves_it_completable() {
    let mut rng = seeded();
    let operator = Toehold::new();
    let mut gateway = Gateway::start(&operator, &[]);
    // A name that stays while gateways come and go.
    let relay = Relay::start(gateway.address);
    let (mut failed, mut longest) = (0, Duration::ZERO);
    let mut trial = 0;
    while failed < kills() {
        trial += 1;
        assert!(trial < 4 * kills() + 10, "the moments are off: only {failed} of {trial} failed");
        let line = line(&operator, relay.address(), &[]);
        let machine = Machine::new();
        let begun = Instant::now();
        let child = machine.joining(&line, &[]);
        let after = moment(&mut rng, longest);
        if longest.is_zero() {
            Toehold::wait(child).ends(0);
            longest = begun.elapsed();
            completes_again(&machine, &line);
            continue;
        }
        std::thread::sleep(after.saturating_sub(begun.elapsed()));
        gateway.kill();
        let done = Toehold::wait(child);
        let when = format!("trial {trial}, the gateway killed after {after:?} of {longest:?}");
        assert!(matches!(done.code, 0 | 1 | 3), "{when}: {}", done.stderr);
        failed += usize::from(done.code != 0);
        check_always(&operator, &machine, &when);
        gateway = Gateway::start(&operator, &[]);
        relay.lead_to(gateway.address);
        completes(&operator, &machine, &line, &when);
    }
}

fn completes_again(machine: &Machine, line: &JoinLine) {
    assert_eq!(machine.join(line).ends(0).json()["already"], true);
}
