//! One thing that runs in a channel, from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use russh::server::Handle;
use russh::{ChannelId, Sig};
use serde_json::Value;
use toehold_core::{AuditEvent, Clock as _, Timestamp};
use toehold_podrun::backend::{Output, ProcessInput, ProcessOutput};
use toehold_podrun::channel::{ChannelAction, ChannelEvent, Wanted};
use toehold_podrun::driver::PodReference;
use toehold_podrun::exec::Outcome;
use toehold_podrun::kubernetes::Availability;
use toehold_podrun::supervisor::{Epilogue, ProcessNumber};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

use super::client::{Input, Job, Link, ORIGINAL_COMMAND, Order};
use super::hub::{Hub, SharedBackend};
use super::launching::{self, Common};
use super::leash::Leash;
use super::metrics::Counter;
use super::side::{Lease, PodState, Tenant};
use crate::adapters::system_clock::SystemClock;
use crate::on_record::{NotRecorded, Ticket};

/// How long is waited to learn what has become of a pod under whose process the ground gave way.
const EXPLANATION: Duration = Duration::from_secs(2);
/// For how long it is waited for where the pod has come to its limit.
const LIMIT_EXPLANATION: Duration = Duration::from_secs(15);
/// How much a node's clock may be behind ours.
const CLOCKS_APART: Duration = Duration::from_secs(5);
/// How long a client gets to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The standard error's number in SSH (RFC 4254 §5.2).
pub(super) const STDERR: u32 = 1;

/// What a job works with.
pub(super) struct Place<B: SharedBackend, A> {
    pub(super) hub: Arc<Hub<B, A>>,
    pub(super) link: Arc<Link>,
    pub(super) handle: Handle,
    pub(super) tenant: Tenant,
    /// The connection's pod; none where each channel has its own.
    pub(super) pod: Option<(watch::Receiver<PodState>, Arc<Common<B>>)>,
}

/// Runs a job to its end, and tells the client how it ended.
pub(super) async fn run<B: SharedBackend, A: Send + Sync + 'static>(place: Place<B, A>, mut job: Job) {
    let id = job.write.id();
    let number = job.number;
    // A pod of the channel's own is held until the client has been told.
    let (outcome, _held) = match job.refusal.take() {
        Some(words) => (Some(Outcome::Failed(words)), None),
        None => match place.hub.audit.submit(event(&place, &job)).await {
            Ok(ticket) => {
                place.hub.metrics.count(Counter::Started);
                work(&place, &mut job, ticket).await
            }
            Err(error) => (Some(unrecorded(&place, error)), None),
        },
    };
    let Some(outcome) = outcome else { return };
    let actions = place.link.channels().handle(number, ChannelEvent::Ended(outcome));
    // Whoever takes nothing any more is not waited for; the end is told all the same.
    for action in actions {
        match action {
            ChannelAction::WriteError(line) => {
                let _ = timeout(LAST_WORDS, job.write.extended_data_bytes(STDERR, format!("{line}\r\n"))).await;
            }
            action => tell(&place.handle, id, action).await,
        }
    }
}

/// Tells a client what belongs to the end of a channel.
pub(super) async fn tell(handle: &Handle, id: ChannelId, action: ChannelAction) {
    // Refused only where the connection is gone.
    let _ = match action {
        ChannelAction::WriteError(line) => handle.extended_data(id, STDERR, format!("{line}\r\n")).await.map_err(drop),
        ChannelAction::ExitStatus(status) => handle.exit_status_request(id, status).await,
        ChannelAction::ExitSignal(signal) => {
            let name = Sig::Custom(signal.name().to_owned());
            handle.exit_signal_request(id, name, false, String::new(), String::new()).await
        }
        ChannelAction::SendEof => handle.eof(id).await,
        ChannelAction::Close => handle.close(id).await,
        ChannelAction::Reply(_)
        | ChannelAction::Start(_)
        | ChannelAction::Resize(_)
        | ChannelAction::CloseInput
        | ChannelAction::SendSignal(_)
        | ChannelAction::EndProcess => Ok(()),
    };
}

/// Who runs what.
fn event<B: SharedBackend, A>(place: &Place<B, A>, job: &Job) -> AuditEvent {
    let (kind, what) = match &job.start.wanted {
        Wanted::Shell => ("shell", String::new()),
        Wanted::Command(line) => ("command", String::from_utf8_lossy(line).into_owned()),
        Wanted::Subsystem(name) => ("subsystem", name.clone()),
    };
    let who = &place.tenant.who;
    let event = AuditEvent::new(SystemClock.now(), "pods.started", who.principal.clone())
        .with("connection", place.tenant.connection.to_string())
        .with("channel", job.number.to_string())
        .with("user", who.user.clone())
        .with("address", who.address.clone())
        .with("kind", kind);
    // What was asked for where the key is bound to something else.
    let asked = job.start.environment.iter().find(|(name, _)| name.as_str() == ORIGINAL_COMMAND);
    let asked = asked.map(|(_, line)| String::from_utf8_lossy(line).into_owned()).unwrap_or_default();
    told(told(event, "what", &what), "asked", &asked)
}

/// However long it is, it is on record: an entry that is too large for the store would be none. What is cut says so, and how much there was.
fn told(event: AuditEvent, name: &str, text: &str) -> AuditEvent {
    if text.is_empty() {
        event
    } else if text.len() <= MAX_TOLD {
        event.with(name, text)
    } else {
        let digest = toehold_specsign::Sha256Digest::of(text.as_bytes());
        let end = text.floor_char_boundary(MAX_TOLD);
        event
            .with(name, format!("{}…", text.get(..end).unwrap_or_default()))
            .with(&format!("{name}_cut"), format!("{end} of {} bytes", text.len()))
            .with(&format!("{name}_sha256"), digest.to_string())
    }
}

/// How much of a command line is in the audit log, in bytes.
const MAX_TOLD: usize = 16 * 1024;

/// What is not on record does not run.
fn unrecorded<B: SharedBackend, A>(place: &Place<B, A>, error: NotRecorded) -> Outcome {
    place.hub.metrics.count(Counter::AuditFailed);
    Outcome::Failed(error.to_string())
}

/// The outcome; `None` where the client has gone.
async fn work<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
    ticket: Ticket,
) -> (Option<Outcome>, Option<Lease>) {
    let (mut state, held, common) = match &place.pod {
        Some((state, common)) => (state.clone(), None, Arc::clone(common)),
        None => {
            let tenant = Tenant { channel: Some(job.number), ..place.tenant.clone() };
            let held = Lease::take(&place.hub, tenant, Arc::clone(&place.link.intake));
            (held.state.clone(), Some(held), Arc::default())
        }
    };
    let pod = tokio::select! {
        state = state.wait_for(|state| !matches!(state, PodState::Pending)) => match state.as_deref() {
            Ok(PodState::Ready(pod)) => pod.clone(),
            Ok(PodState::Failed(trouble)) => return (Some(Outcome::Failed(trouble.words.clone())), held),
            Ok(PodState::Pending) | Err(_) => return (Some(Outcome::Failed("the gateway has lost the pod".to_owned())), held),
        },
        () = until_end(&mut job.orders) => return (None, held),
    };
    // By now it is there, unless the store was slower than the pod.
    let recorded = tokio::select! {
        recorded = place.hub.audit.done(ticket) => recorded,
        () = until_end(&mut job.orders) => return (None, held),
    };
    if let Err(error) = recorded {
        return (Some(unrecorded(place, error)), held);
    }
    let outcome = tokio::select! {
        outcome = launching::run(place, job, &pod, &common) => outcome,
        // The connection's pod is the connection's affair; this one is ours.
        words = failed(&mut state), if held.is_some() => Some(Outcome::Failed(words)),
    };
    let outcome = match outcome {
        Some(outcome) => Some(explained(place, &mut state, &pod, outcome).await),
        None => None,
    };
    (outcome, held)
}

/// Why the pod is no more, once it is.
pub(super) async fn failed(state: &mut watch::Receiver<PodState>) -> String {
    if let Ok(state) = state.wait_for(|state| matches!(state, PodState::Failed(_))).await
        && let PodState::Failed(trouble) = &*state
    {
        return trouble.words.clone();
    }
    std::future::pending().await
}

/// A process that was lost or killed may have gone with its pod: then what has ended the pod is why.
async fn explained<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    state: &mut watch::Receiver<PodState>,
    pod: &PodReference,
    outcome: Outcome,
) -> Outcome {
    // SIGKILL and SIGTERM, as a node sends them. One look tells whether it was somebody in the pod.
    if !matches!(outcome, Outcome::Failed(_) | Outcome::Unknown | Outcome::Exited(137 | 143)) {
        return outcome;
    }
    let patience = match place.hub.backend.get(&pod.namespace, &pod.name).await {
        Ok(Some(now)) if now.uid == pod.uid => match now.availability(&pod.container) {
            Availability::Failed(_) | Availability::Ended(_) => EXPLANATION,
            // Its node has killed what runs in it, and has yet to say why.
            _ if is_at_its_limit(&now.object, SystemClock.now()) => LIMIT_EXPLANATION,
            _ => return outcome,
        },
        Ok(_) => EXPLANATION,
        // What cannot be asked is not blamed.
        Err(_) => return outcome,
    };
    match timeout(patience, failed(state)).await {
        Ok(words) => Outcome::Failed(words),
        Err(_) => outcome,
    }
}

/// Whether a pod has run for as long as it may, by a clock that may not be its node's.
fn is_at_its_limit(pod: &Value, now: Timestamp) -> bool {
    let started = pod.pointer("/status/startTime").and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    let limit = pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_u64).map(Duration::from_secs);
    let (Some(started), Some(limit)) = (started, limit) else { return false };
    now.saturating_add(CLOCKS_APART) >= started.saturating_add(limit)
}

/// Ends when the client has gone.
pub(super) async fn until_end(orders: &mut mpsc::UnboundedReceiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::Signal(_)) => {}
            Some(Order::End) | None => return,
        }
    }
}

/// What the shell beside a command says at its end, where there is one.
#[derive(Default)]
pub(super) struct LastWord {
    epilogue: Option<Epilogue>,
    /// The exit code, once it was told.
    code: Option<u8>,
}

impl LastWord {
    pub(super) fn of(epilogue: Option<Epilogue>) -> Self {
        Self { epilogue, code: None }
    }

    /// Whether it is told at all.
    pub(super) fn is_told(&self) -> bool {
        self.epilogue.is_some()
    }

    /// What is the command's own of a piece of its stderr.
    pub(super) fn take(&mut self, piece: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        match &mut self.epilogue {
            Some(epilogue) if !epilogue.is_plain(piece.as_ref()) => {
                let mut own = Vec::new();
                let code = epilogue.receive(piece.as_ref(), &mut own);
                self.code = self.code.or(code);
                own.into()
            }
            _ => Bytes::from_owner(piece),
        }
    }

    /// What was kept back of the command's own, at the end.
    fn rest(&mut self) -> Vec<u8> {
        self.epilogue.as_mut().map(Epilogue::rest).unwrap_or_default()
    }

    /// How it ended. It may have told that, and the stream broken off since: then something of its output may be missing, which no success
    /// must hide.
    fn outcome(&self, outcome: Outcome) -> Outcome {
        match (outcome, self.code) {
            (Outcome::Unknown, Some(code @ 1..)) => Outcome::Exited(code),
            (outcome, _) => outcome,
        }
    }
}

/// Carries what goes in and out until the process has ended; `None` where the client has gone.
pub(super) async fn follow<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
    mut input: B::Input,
    mut output: B::Output,
    leash: Option<(&Arc<Leash<B>>, ProcessNumber)>,
    mut last: LastWord,
) -> Option<Outcome> {
    let intake = &place.link.intake;
    let Job { number, write, orders, input: queue, early, .. } = job;
    // After that the client is told nothing more in this channel but how it ended.
    let is_closed = AtomicBool::new(false);
    let told = Notify::new();
    if last.code.is_some() {
        told.notify_one();
    }
    let into = async {
        let mut is_over = false;
        loop {
            // A process that takes nothing more is no trouble: what comes is dropped, until its end is seen.
            let _ = tokio::select! {
                biased;
                () = told.notified(), if !is_over => {
                    is_over = true;
                    input.close().await.map(drop)
                }
                item = async { if early.is_some() { early.take() } else { queue.recv().await } } => match item {
                    None => break,
                    Some(_) if is_over => Ok(()),
                    Some(Input::Bytes(bytes, _waiting)) => input.write(&bytes).await,
                    Some(Input::Resize(size)) => input.resize(size).await,
                    Some(Input::End) => input.close().await.map(drop),
                },
            };
        }
        std::future::pending::<()>().await;
    };
    let out = async {
        loop {
            let sent = match output.next().await {
                Output::Stdout(piece) => {
                    intake.note(piece.as_ref().len());
                    write.data_bytes(Bytes::from_owner(piece)).await
                }
                Output::Stderr(piece) => {
                    intake.note(piece.as_ref().len());
                    let own = last.take(piece);
                    if last.code.is_some() {
                        told.notify_one();
                    }
                    if own.is_empty() { Ok(()) } else { write.extended_data_bytes(STDERR, own).await }
                }
                Output::Closed => {
                    is_closed.store(true, Ordering::Relaxed);
                    let actions = place.link.channels().handle(*number, ChannelEvent::OutputEnded);
                    for action in actions {
                        tell(&place.handle, write.id(), action).await;
                    }
                    Ok(())
                }
                Output::Ended(outcome) => {
                    let rest = last.rest();
                    if !rest.is_empty() && !is_closed.load(Ordering::Relaxed) {
                        let _ = write.extended_data_bytes(STDERR, rest).await;
                    }
                    return Some(last.outcome(outcome));
                }
            };
            if sent.is_err() {
                return None;
            }
        }
    };
    let ordered = async {
        let mut is_said = false;
        loop {
            match (orders.recv().await, leash) {
                (Some(Order::Signal(signal)), Some((leash, process))) => leash.signal(process, signal).await,
                // Once: whoever sends one sends more.
                (Some(Order::Signal(_)), None) if is_said || is_closed.load(Ordering::Relaxed) => {}
                (Some(Order::Signal(signal)), None) => {
                    is_said = true;
                    let line = format!(
                        "the signal {} cannot be sent: what runs without a shell in the pod gets none\r\n",
                        signal.name()
                    );
                    let _ = write.extended_data_bytes(STDERR, line).await;
                }
                (Some(Order::End) | None, _) => return,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = out => outcome,
        () = ordered => None,
        () = into => None,
    };
    if outcome.is_none()
        && let Some((leash, process)) = leash
    {
        Arc::clone(leash).end(process);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its node kills what runs in it a moment before it says that the limit is over.
    #[test]
    fn a_pod_that_has_run_for_as_long_as_it_may_is_at_its_limit() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod = |started: &str, limit: Option<u64>| serde_json::json!({"spec": {"activeDeadlineSeconds": limit}, "status": {"startTime": started}});
        for (pod, is_over) in [
            (pod("2026-01-01T00:00:30Z", Some(30)), true),
            (pod("2026-01-01T00:00:33Z", Some(30)), true),
            (pod("2026-01-01T00:00:50Z", Some(30)), false),
            (pod("2026-01-01T00:00:00Z", None), false),
            (pod("yesterday", Some(1)), false),
            (Value::Null, false),
        ] {
            assert_eq!(is_at_its_limit(&pod, now), is_over, "{pod}");
        }
    }

    #[test]
    fn what_is_on_record_of_a_long_line_says_that_it_is_cut_and_of_what() {
        let of = |text: &str| {
            told(AuditEvent::new(toehold_core::Timestamp::UNIX_EPOCH, "pods.started", "alice"), "what", text).details
        };
        let whole = "x".repeat(MAX_TOLD);
        assert_eq!(of(&whole), std::collections::BTreeMap::from([("what".to_owned(), whole)]));
        let long = format!("{}ä{}", "x".repeat(MAX_TOLD - 1), "y".repeat(20));
        let details = of(&long);
        assert_eq!(details["what"], format!("{}…", "x".repeat(MAX_TOLD - 1)), "no half of a character");
        assert_eq!(details["what_cut"], format!("{} of {} bytes", MAX_TOLD - 1, long.len()));
        assert_eq!(details["what_sha256"], toehold_specsign::Sha256Digest::of(long.as_bytes()).to_string());
    }

    #[test]
    fn a_broken_stream_is_no_success_whatever_was_told_before() {
        let nonce: toehold_podrun::Nonce = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let told = |code: u8| {
            let mut last = LastWord::of(Some(Epilogue::new(nonce)));
            assert_eq!(last.take(b"err".to_vec()), "err");
            assert!(last.take(format!("\u{1e}toehold {nonce} ended {code}\u{1e}").into_bytes()).is_empty());
            last
        };
        assert_eq!(told(0).outcome(Outcome::Unknown), Outcome::Unknown);
        assert_eq!(told(7).outcome(Outcome::Unknown), Outcome::Exited(7));
        assert_eq!(told(7).outcome(Outcome::Exited(0)), Outcome::Exited(0), "what the cluster says counts");
        assert_eq!(LastWord::default().outcome(Outcome::Unknown), Outcome::Unknown);
    }
}
