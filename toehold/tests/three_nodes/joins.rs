//! Many machines compete for few one-time tokens at two gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use toehold_joinproto::line::JoinLine;
use toehold_joinproto::v3::{AgentIdentity, Joined};
use tokio::sync::Semaphore;

use crate::faults::{Fault, Weather, patience, until};
use crate::join_support::gateway::{Dial, Session, identity, join, line};
use crate::join_support::machine::uses_taken;
use crate::site::Site;
use crate::size::Size;

/// How many machines one gateway has at a time.
const AT_A_TIME: usize = 12;

/// What all machines know of how it goes.
#[derive(Debug, Default)]
struct Course {
    weather: Weather,
    decided: AtomicUsize,
    /// Of those at the right gateway.
    decided_right: AtomicUsize,
    /// Attempts that ended without a decision, and of those the ones that were begun and ended within the cut.
    undecided: AtomicUsize,
    in_vain: AtomicUsize,
}

/// A machine that wants to join, and where.
#[derive(Debug)]
struct Machine {
    identity: AgentIdentity,
    line: Arc<JoinLine>,
    token: usize,
    is_left: bool,
    dial: Dial,
}

pub fn under(site: &mut Site, fault: Fault) {
    let begun = Instant::now();
    site.ground.prepare(fault);
    let Size { tokens, joins, .. } = site.size;
    let Site { ground, operators: [_, ben], gateways, .. } = site;
    let addresses = gateways.each_ref().map(|(gateway, _)| gateway.address);
    let lines: Vec<Arc<JoinLine>> = (0..tokens).map(|_| Arc::new(line(&ben.toehold, addresses[1], &["--uses", "1"]))).collect();
    let is_parted = ground.halves.is_some();
    // Those who want one token come one after the other, half of them at each gateway, so that tokens are taken all the time.
    let machines = (0..joins).map(|number| Machine {
        identity: identity(),
        token: number * tokens / joins,
        line: Arc::clone(&lines[number * tokens / joins]),
        is_left: is_parted && number % 2 == 0,
        dial: Dial::to(addresses[number % 2]).from("0.0.0.0"),
    });
    let machines: Vec<Machine> = machines.collect();
    let of_right = machines.iter().filter(|machine| !machine.is_left).count();
    let course = Arc::new(Course::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let places = [AT_A_TIME; 2].map(|places| Arc::new(Semaphore::new(places)));
    let tasks: Vec<_> = machines
        .into_iter()
        .enumerate()
        .map(|(number, machine)| {
            let (course, places) = (Arc::clone(&course), Arc::clone(&places[number % 2]));
            let is_late = number * 2 >= joins;
            runtime.spawn(async move {
                // Half of them come when the fault is there.
                while is_late && !course.weather.has_struck() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let _place = places.acquire_owned().await;
                let joined = machine.is_decided(&course).await;
                (machine, joined)
            })
        })
        .collect();
    let decided = || course.decided.load(Ordering::SeqCst);
    until("the first machines are decided", || decided() * 3 >= joins);
    course.weather.strikes(ground, fault);
    match fault {
        Fault::Follower | Fault::Leader => {
            until("most machines are decided with a server away", || decided() * 3 >= joins * 2);
        }
        Fault::Cut => {
            until("the right half goes on", || course.decided_right.load(Ordering::SeqCst) == of_right);
            until("the left half tries", || course.in_vain.load(Ordering::SeqCst) > 0);
        }
    }
    course.weather.clears(ground);
    let mut winners: BTreeMap<usize, Vec<(Machine, Joined)>> = BTreeMap::new();
    for task in tasks {
        let (machine, joined) = runtime.block_on(task).unwrap();
        if let Some(joined) = joined {
            winners.entry(machine.token).or_default().push((machine, joined));
        }
    }
    println!(
        "{fault:?}: {} machines at two gateways in {:.1} s, {} attempts without a decision, {} of them within the cut",
        joins,
        begun.elapsed().as_secs_f64(),
        course.undecided.load(Ordering::SeqCst),
        course.in_vain.load(Ordering::SeqCst)
    );

    // One machine a token, and nobody else.
    let in_by_token: Vec<usize> = winners.values().map(Vec::len).collect();
    assert_eq!(in_by_token, vec![1; tokens]);
    let winners: Vec<(Machine, Joined)> = winners.into_values().flatten().collect();
    let ids: BTreeSet<String> = winners.iter().map(|(_, joined)| joined.id.to_string()).collect();
    assert_eq!(ids.len(), tokens);
    // Whoever is in is in at both gateways, now and when it joins once more.
    runtime.block_on(async {
        for (machine, joined) in &winners {
            for address in addresses {
                let dial = Dial::to(address).from("0.0.0.0");
                let connection = dial.connect_in_time().await;
                Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
            }
            let again = join(&machine.dial, &machine.line, &machine.identity).await.unwrap();
            assert_eq!(again.id, joined.id);
        }
    });
    for line in &lines {
        assert_eq!(uses_taken(&site.operators[1].toehold, line), 1);
    }
    let agents = site.agents();
    let listed: BTreeSet<String> = agents.iter().map(|agent| agent["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((agents.len(), &listed), (tokens, &ids));
    assert!(agents.iter().all(|agent| agent["state"] == "joined"), "{agents:?}");
    // What is on record of it; under a fault an event may be missing, and none is of somebody else.
    let told = site.operators[0].lists(&["--json", "audit", "ls", "--what", "agent.joined"], "entries");
    let told: BTreeSet<String> =
        told.as_array().unwrap().iter().map(|entry| entry["subject"].as_str().unwrap().to_owned()).collect();
    assert!(!told.is_empty() && told.is_subset(&ids), "{told:?}");
    let by_token: BTreeSet<&str> = agents.iter().map(|agent| agent["token"].as_str().unwrap()).collect();
    assert_eq!(by_token.len(), tokens, "each by a token of its own");
}

impl Machine {
    /// Joins, again and again, until it is in or hears that its token is used up.
    async fn is_decided(&self, course: &Course) -> Option<Joined> {
        let deadline = Instant::now() + patience();
        loop {
            let begun_in_cut = course.weather.is_cut();
            let outcome = join(&self.dial, &self.line, &self.identity).await;
            let is_cut_off = begun_in_cut && course.weather.is_cut() && self.is_left;
            let joined = match outcome {
                Ok(joined) => {
                    assert!(!is_cut_off, "{} is said to have joined, and the store knows nothing of it", joined.id);
                    Some(joined)
                }
                Err(error) if error.to_string().contains("used up") => None,
                Err(error) => {
                    course.undecided.fetch_add(1, Ordering::SeqCst);
                    course.in_vain.fetch_add(usize::from(is_cut_off), Ordering::SeqCst);
                    assert!(Instant::now() < deadline, "{error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            course.decided.fetch_add(1, Ordering::SeqCst);
            course.decided_right.fetch_add(usize::from(!self.is_left), Ordering::SeqCst);
            return joined;
        }
    }
}
