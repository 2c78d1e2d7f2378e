//! `toehold serve`: all that an operations host does, in one process.

mod jobs;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use toehold_core::{Clock as _, Key, Store as _, StoreError};
use tokio::net::TcpListener;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::key_status;
use crate::adapters::system_clock::SystemClock;
use crate::cli::args::{Global, ServeHost};
use crate::cli::context::Context;
use crate::cli::{Exit, Failure, Output, Signals, chain, printable};
use crate::serve::audit_tail::AuditTail;
use crate::serve::board::{Board, Condition, TaskState};
use crate::serve::http::{self, Site};
use crate::serve::picture::Picture;
use crate::serve::{service_manager, snapshot};
use jobs::Jobs;

/// How often it is seen whether the store answers.
const LOOK: Duration = Duration::from_secs(2);
/// How long the store may take to answer that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the tasks may take to begin until the service manager is told that they have.
const BEGINNING: Duration = Duration::from_secs(30);
/// How long tasks may take to leave beyond what the gateway lets its calls have.
const LEAVING: Duration = Duration::from_secs(60);

/// Runs until it is told to stop.
///
/// # Errors
/// Where the state directory or the address cannot be used, or the identity not be unlocked; exit code 3 where a task did not end.
pub(super) async fn serve(global: &Global, options: ServeHost, output: Output, mut signals: Signals) -> Result<Exit, Failure> {
    let listener = match options.http {
        Some(address) => Some(listen(address, options.http_anywhere).await?),
        None => None,
    };
    let told_at = listener.as_ref().map(TcpListener::local_addr).transpose()?;
    // What is told comes out of the store as it is, and everybody on the network may be the one who asks: it opens no identity.
    let looker = Arc::new(Context::open_to_look(global, output.mute(), signals.clone()).await?);
    let (stop, stopping) = Signals::by_hand();
    let jobs = Jobs::new(global, &options, &looker, output, &stopping).await?;

    let board = Board::new(&jobs.names(), SystemClock.now(), move |task| tell(output, task));
    let site = Arc::new(Site {
        board: board.clone(),
        picture: picture(&looker),
        gateway: Mutex::new(None),
        cluster: Mutex::new(None),
        names: options.http_hosts.iter().map(|name| name.trim_end_matches('.').to_owned()).collect(),
        instance: jobs.instance().to_owned(),
    });
    output.document(&json!({
        "event": "serving",
        "http": told_at.map(|address| address.to_string()),
        "tasks": jobs.names(),
    }));
    if let Some(address) = told_at {
        output.text(format_args!("Status page, metrics and health: http://{address}/, /metrics, /healthz, /readyz"));
    }

    let mut beside = JoinSet::new();
    let (stop_telling, telling) = Signals::by_hand();
    if let Some(listener) = listener {
        beside.spawn(http::serve(listener, Arc::clone(&site), telling));
        let (looker, site) = (Arc::clone(&looker), Arc::clone(&site));
        beside.spawn(async move { site.picture.follow(looker.store()).await });
    }
    beside.spawn(look_at_store(Arc::clone(&looker), board.clone()));
    beside.spawn(look_whether_behind(Arc::clone(&looker)));
    let drain = options.gateway.drain;
    let mut tasks = JoinSet::new();
    jobs.start(options, &looker, &site, &mut tasks)?;
    beside.spawn(say_when_ready(board.clone()));

    let lost = alive_until(async {
        tokio::select! {
            () = signals.wait() => None,
            error = looker.store().until_moved() => Some(error),
        }
    })
    .await;
    if let Some(error) = &lost {
        // Whatever is done from now on would be on record nowhere; whoever starts it again has the store that is there then.
        tracing::error!("this ends: {}", chain(error));
    }
    stop.send_replace(true);
    output.document(&json!({ "event": "stopping" }));
    output.text("Stopping.");
    board.stopping();
    service_manager::stopping();
    let ended = alive_until(timeout(drain + LEAVING, async { while tasks.join_next().await.is_some() {} })).await;
    stop_telling.send_replace(true);
    beside.shutdown().await;
    if ended.is_err() {
        return Err(Failure::new(format!("{} tasks did not end in time and are cut off", tasks.len()))
            .hint("what they have begun is on record: see session ls, key status and grant ls")
            .partly());
    }
    if let Some(error) = lost {
        return Err(error.into());
    }
    output.document(&json!({ "event": "stopped" }));
    output.text("Stopped.");
    Ok(Exit::Done)
}

async fn listen(address: SocketAddr, anywhere: bool) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() && !anywhere {
        return Err(Failure::usage(format!("the status page has no login, and {address} is not on loopback"))
            .hint("listen on 127.0.0.1 or [::1]; or let everybody read it who reaches that address: add --http-anywhere"));
    }
    let failed = |error: io::Error| Failure::new(format!("listening on {address} failed: {error}"));
    TcpListener::bind(address).await.map_err(failed)
}

/// Tells that a task has come to another condition.
fn tell(output: Output, task: &TaskState) {
    let reason = match &task.condition {
        Condition::Standby { holder } => Some(format!("{holder} has the lease")),
        Condition::Failing { reason } => Some(reason.clone()),
        Condition::Running | Condition::Starting => None,
    };
    output.document(&json!({ "event": "task", "task": task.name, "state": task.condition.word(), "reason": reason }));
    let because = reason.map(|reason| format!(": {}", printable(&reason))).unwrap_or_default();
    output.text(format_args!("{} is {}{because}", task.name, task.condition.word()));
}

fn picture(looker: &Arc<Context>) -> Picture {
    let looker = Arc::clone(looker);
    let tail = Arc::new(AsyncMutex::new(AuditTail::default()));
    Picture::new(Box::new(move || {
        let (looker, tail) = (Arc::clone(&looker), Arc::clone(&tail));
        Box::pin(async move {
            let fleet = key_status::fleet_status(&looker).await.map_err(|failure| failure.message);
            let mut tail = tail.lock().await;
            snapshot::read(looker.store(), fleet, &mut tail).await.map_err(|error| chain(&error))
        })
    }))
}

/// Sees again and again whether the store is still what was seen of it. Apart from whether it answers, since one that seems to be behind is
/// looked at for longer than an answer may take.
async fn look_whether_behind(looker: Arc<Context>) {
    loop {
        if let Err(error) = looker.store().read_only_by_now().await {
            tracing::debug!("whether the store is behind is not known: {}", chain(&error));
        }
        sleep(LOOK).await;
    }
}

/// Sees again and again whether the store answers; where it does, tells what was seen of it.
async fn look_at_store(looker: Arc<Context>, board: Board) {
    loop {
        let asking = async {
            looker.store().get(&Key::new(["lease", "store"])?).await?;
            Ok::<_, StoreError>(looker.store().read_only())
        };
        let failing = match timeout(PATIENCE, asking).await {
            Ok(Ok(behind)) => behind,
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some("it does not answer".to_owned()),
        };
        board.store(failing);
        sleep(LOOK).await;
    }
}

/// Tells the service manager once no task is about to begin any more, or has been for too long.
async fn say_when_ready(board: Board) {
    let mut changes = board.changes();
    let begun = async {
        while board.tasks().iter().any(|task| task.condition == Condition::Starting) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    // One that cannot begin is told in the health and keeps none of the others from being of use.
    let _ = timeout(BEGINNING, begun).await;
    service_manager::ready();
}

/// Waits for this, and tells the service manager meanwhile that we are alive.
async fn alive_until<T>(waited_for: impl Future<Output = T>) -> T {
    let mut waited_for = std::pin::pin!(waited_for);
    let Some(beat) = service_manager::beat() else { return waited_for.await };
    let mut ticks = interval(beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            done = waited_for.as_mut() => return done,
            _ = ticks.tick() => service_manager::alive(),
        }
    }
}
