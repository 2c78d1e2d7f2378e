//! SIGKILL in the middle of joins.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::join_support::gateway::{Dial, Gateway, PATIENCE, Session, identity, join, join_with, line};
use crate::support::Toehold;

/// Several machines are past their Proof, some are past their Confirm, when the gateway dies; each completes the very same join at the next
/// one, and nobody else gets a use.
#[tokio::test]
async fn a_gateway_that_dies_in_the_middle_leaves_joins_that_the_same_machines_complete() {
    const MACHINES: usize = 6;
    let toehold = Toehold::new();
    let gateway = Gateway::start(&toehold, &[]);
    let address = gateway.address;
    let line = Arc::new(line(&toehold, address, &["--uses", &MACHINES.to_string()]));
    let (reached, mut all_reached) = mpsc::channel(MACHINES);
    let (dead, is_dead) = watch::channel(false);
    let mut machines = Vec::new();
    for number in 0..MACHINES {
        let (line, reached, mut is_dead) = (Arc::clone(&line), reached.clone(), is_dead.clone());
        let me = identity();
        machines.push(tokio::spawn(async move {
            let connection = Dial::to(address).connect_in_time().await;
            let outcome = join_with(&connection, &line, &me, || async {
                reached.send(()).await.unwrap();
                // The even ones have not confirmed when it is dead; the odd ones do so while it dies.
                if number % 2 == 0 {
                    is_dead.wait_for(|dead| *dead).await.unwrap();
                }
            });
            let _ = outcome.await;
            me
        }));
    }
    for _ in 0..MACHINES {
        timeout(PATIENCE, all_reached.recv()).await.expect("a machine got no Accept").unwrap();
    }
    gateway.kill();
    dead.send_replace(true);
    let mut identities = Vec::new();
    for machine in machines {
        identities.push(timeout(PATIENCE, machine).await.expect("a machine never heard of the end").unwrap());
    }

    let gateway = Gateway::start(&toehold, &[]);
    let dial = Dial::to(gateway.address);
    // All uses are held by those who came: a stranger to them gets none.
    let refused = join(&dial, &line, &identity()).await.unwrap_err();
    assert!(refused.to_string().contains("used up"), "{refused}");
    for me in &identities {
        let joined = join(&dial, &line, me).await.unwrap();
        let connection = dial.connect().await.unwrap();
        Session::open(&connection, &joined.id.to_string(), &joined.keyring.shared_keys[0]).await.unwrap();
    }
}
