//! One thing that runs in a channel, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{ChannelId, ChannelWriteHalf, Sig};
use toehold_core::{AuditEvent, Clock as _, SecretBytes};
use toehold_podrun::Nonce;
use toehold_podrun::backend::{BackendError, ExecRequest, Output, ProcessInput, ProcessOutput};
use toehold_podrun::channel::{ChannelAction, ChannelEvent, Plan, Wanted, plan, plan_without_shell};
use toehold_podrun::config::Mode;
use toehold_podrun::driver::PodReference;
use toehold_podrun::exec::Outcome;
use toehold_podrun::supervisor::{Launch, Preface, PrefaceState, ProcessNumber};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::client::{Input, Job, Link, Order};
use super::hub::{Hub, SharedBackend};
use super::leash::Leash;
use super::metrics::Counter;
use super::side::{Lease, PodState, Tenant};
use crate::adapters::system_clock::SystemClock;
use crate::gateway::system_rng;

/// How long the pod's shell may take until the command runs.
const START: Duration = Duration::from_secs(30);
/// How long a client gets to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// The standard error's number in SSH (RFC 4254 §5.2).
const STDERR: u32 = 1;

/// What a job works with.
pub(super) struct Place<B: SharedBackend, A> {
    pub(super) hub: Arc<Hub<B, A>>,
    pub(super) link: Arc<Link>,
    pub(super) handle: Handle,
    pub(super) tenant: Tenant,
    /// The connection's pod; none where each channel has its own.
    pub(super) pod: Option<(watch::Receiver<PodState>, LeashOfPod<B>)>,
}

/// The leash of the connection's pod, made when it is first needed.
pub(super) type LeashOfPod<B> = Arc<tokio::sync::OnceCell<Arc<Leash<B>>>>;

/// Runs a job to its end, and tells the client how it ended.
pub(super) async fn run<B: SharedBackend, A: Send + Sync + 'static>(place: Place<B, A>, mut job: Job) {
    let id = job.write.id();
    let number = job.number;
    place.hub.note(event(&place, &job)).await;
    place.hub.metrics.count(Counter::Started);
    // A pod of the channel's own is held until the client has been told.
    let (outcome, _held) = work(&place, &mut job).await;
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
    if what.is_empty() { event } else { event.with("what", what) }
}

/// The outcome; `None` where the client has gone, or the connection tells it.
async fn work<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
) -> (Option<Outcome>, Option<Lease>) {
    let (mut state, held, leash) = match &place.pod {
        Some((state, leash)) => (state.clone(), None, Arc::clone(leash)),
        None => {
            let tenant = Tenant { channel: Some(job.number), ..place.tenant.clone() };
            let held = Lease::take(&place.hub, tenant, Arc::clone(&place.link.intake));
            (held.state.clone(), Some(held), LeashOfPod::default())
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
    let leash = Arc::clone(leash.get_or_init(|| async { Leash::of(&place.hub.backend, pod.clone()) }).await);
    let Some(planned) = plan(&place.hub.settings, &job.start.wanted) else {
        return (Some(Outcome::Failed("there is no such subsystem".to_owned())), held);
    };
    let outcome = match planned {
        Plan::Direct(words) => direct(place, job, &pod, words).await,
        Plan::Supervised { arguments, or_sh } => match supervised(place, job, &pod, &leash, arguments, or_sh).await {
            Ran::Over(outcome) => outcome,
            Ran::NoShell => match plan_without_shell(&place.hub.settings, &job.start.wanted) {
                Ok(Plan::Direct(words)) => direct(place, job, &pod, words).await,
                Ok(Plan::Supervised { .. }) => Some(Outcome::Failed("the image has no shell".to_owned())),
                Err(error) => Some(Outcome::Failed(error.to_string())),
            },
        },
    };
    (outcome, held)
}

/// Ends when the client has gone.
async fn until_end(orders: &mut mpsc::UnboundedReceiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::Signal(_)) => {}
            Some(Order::End) | None => return,
        }
    }
}

fn request(pod: &PodReference, job: &Job, command: Vec<String>) -> ExecRequest {
    ExecRequest {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        container: pod.container.clone(),
        command: Some(command),
        terminal: job.start.terminal,
    }
}

/// What a refusal of the exec itself means for whoever waits.
fn not_started(error: &BackendError) -> Outcome {
    Outcome::Failed(error.words())
}

/// How a start went.
enum Ran {
    Over(Option<Outcome>),
    /// The image has no shell.
    NoShell,
}

/// Runs the words themselves, without a shell and so without environment and signals.
async fn direct<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
    pod: &PodReference,
    words: Vec<String>,
) -> Option<Outcome> {
    let (input, output) = match place.hub.backend.exec(&request(pod, job, words)).await {
        Ok(streams) => streams,
        Err(error) => return Some(not_started(&error)),
    };
    started(place, job);
    follow::<B>(job, input, output, None).await
}

/// The process runs: what the client wants of it meanwhile is done now.
fn started<B: SharedBackend, A>(place: &Place<B, A>, job: &Job) {
    for action in place.link.channels().handle(job.number, ChannelEvent::Started) {
        // The receiver is the job's own.
        let _ = match action {
            ChannelAction::Resize(size) => job.to_input.send(Input::Resize(size)),
            ChannelAction::CloseInput => job.to_input.send(Input::End),
            _ => Ok(()),
        };
    }
}

async fn supervised<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
    pod: &PodReference,
    leash: &Arc<Leash<B>>,
    arguments: Vec<Vec<u8>>,
    or_sh: bool,
) -> Ran {
    let nonce = Nonce::generate(&mut system_rng());
    let mut launch = Launch::new(nonce, arguments);
    launch.or_sh = or_sh;
    let environment = std::mem::take(&mut job.start.environment);
    launch.environment = environment.iter().map(|(name, value)| (name.clone(), SecretBytes::new(value.clone()))).collect();
    let preamble = match launch.preamble() {
        Ok(preamble) => preamble,
        Err(error) => return Ran::Over(Some(Outcome::Failed(error.to_string()))),
    };
    let (mut input, mut output) = match place.hub.backend.exec(&request(pod, job, Launch::command())).await {
        Ok(streams) => streams,
        Err(error) => return Ran::Over(Some(not_started(&error))),
    };
    let Job { write, orders, .. } = &mut *job;
    let began = tokio::select! {
        began = timeout(START, begin(&mut input, &mut output, nonce, &preamble, write)) => began,
        () = until_end(orders) => return Ran::Over(None),
    };
    let (process, first) = match began {
        Ok(Began::Runs(process, first)) => (process, first),
        Ok(Began::Failed(Outcome::NotFound(_))) => return Ran::NoShell,
        Ok(Began::Failed(outcome)) => return Ran::Over(Some(outcome)),
        Err(_) => return Ran::Over(Some(Outcome::Failed("the pod's shell does not answer".to_owned()))),
    };
    let stays = place.hub.settings.mode == Mode::Persistent;
    if stays {
        leash.watch(process).await;
    }
    started(place, job);
    if let Some(first) = first
        && job.write.data_bytes(first).await.is_err()
    {
        Arc::clone(leash).end(process);
        return Ran::Over(None);
    }
    let outcome = follow(job, input, output, Some((leash, process))).await;
    if stays {
        leash.unwatch(process).await;
    }
    Ran::Over(outcome)
}

enum Began {
    Runs(ProcessNumber, Option<Bytes>),
    Failed(Outcome),
}

/// Hands the preamble over and waits for the supervisor's answer.
async fn begin<I: ProcessInput, O: ProcessOutput>(
    input: &mut I,
    output: &mut O,
    nonce: Nonce,
    preamble: &SecretBytes,
    write: &ChannelWriteHalf<Msg>,
) -> Began {
    let mut preface = Preface::new(nonce, preamble.len());
    let writing = async {
        // Where it cannot be written, the process has ended, and its output says so.
        let _ = input.write(preamble.expose()).await;
        std::future::pending::<Began>().await
    };
    let reading = async {
        loop {
            match output.next().await {
                Output::Stdout(piece) => match preface.receive(piece.as_ref()) {
                    PrefaceState::Waiting => {}
                    PrefaceState::Failed(reason) => return Began::Failed(Outcome::Failed(reason.to_owned())),
                    PrefaceState::Ready { process, output_from } => {
                        let rest = piece.as_ref().get(output_from..).filter(|rest| !rest.is_empty());
                        return Began::Runs(process, rest.map(Bytes::copy_from_slice));
                    }
                },
                Output::Stderr(piece) => {
                    let _ = write.extended_data_bytes(STDERR, Bytes::copy_from_slice(piece.as_ref())).await;
                }
                Output::Ended(Outcome::Exited(_)) => {
                    return Began::Failed(Outcome::Failed("the pod's shell has ended before the command began".to_owned()));
                }
                Output::Ended(outcome) => return Began::Failed(outcome),
            }
        }
    };
    tokio::select! {
        began = reading => began,
        began = writing => began,
    }
}

/// Carries what goes in and out until the process has ended; `None` where the client has gone.
async fn follow<B: SharedBackend>(
    job: &mut Job,
    mut input: B::Input,
    mut output: B::Output,
    leash: Option<(&Arc<Leash<B>>, ProcessNumber)>,
) -> Option<Outcome> {
    let Job { write, orders, input: queue, .. } = job;
    let into = async {
        while let Some(item) = queue.recv().await {
            // A process that takes nothing more is no trouble: what comes is dropped, until its end is seen.
            let _ = match item {
                Input::Bytes(bytes, _waiting) => input.write(&bytes).await,
                Input::Resize(size) => input.resize(size).await,
                Input::End => input.close().await.map(drop),
            };
        }
        std::future::pending::<()>().await;
    };
    let out = async {
        loop {
            let sent = match output.next().await {
                Output::Stdout(piece) => write.data_bytes(Bytes::from_owner(piece)).await,
                Output::Stderr(piece) => write.extended_data_bytes(STDERR, Bytes::from_owner(piece)).await,
                Output::Ended(outcome) => return Some(outcome),
            };
            if sent.is_err() {
                return None;
            }
        }
    };
    let ordered = async {
        loop {
            match (orders.recv().await, leash) {
                (Some(Order::Signal(signal)), Some((leash, process))) => leash.signal(process, signal).await,
                (Some(Order::Signal(_)), None) => {}
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
