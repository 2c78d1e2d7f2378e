//! The start of something in a pod: with its environment, after the files that belong to the login.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::Msg;
use toehold_core::SecretBytes;
use toehold_podrun::Nonce;
use toehold_podrun::backend::{BackendError, ExecRequest, Output, PodBackend, ProcessInput, ProcessOutput};
use toehold_podrun::channel::{ChannelAction, ChannelEvent, Plan, plan, plan_without_shell};
use toehold_podrun::config::Mode;
use toehold_podrun::driver::PodReference;
use toehold_podrun::exec::Outcome;
use toehold_podrun::supervisor::{Epilogue, Launch, Preface, PrefaceState, ProcessNumber};
use tokio::sync::{Mutex, MutexGuard, OnceCell, mpsc};
use tokio::time::timeout;

use super::channel::{LastWord, Place, STDERR, follow, until_end};
use super::client::{Input, Job, Order};
use super::hub::SharedBackend;
use super::leash::Leash;
use crate::gateway::system_rng;

/// How long the pod's shell may take until the command runs.
const START: Duration = Duration::from_secs(30);
/// How long the pod may take to confirm that a command ends with its client.
const LEASHED: Duration = Duration::from_secs(10);
/// How much of files it writes in a second at least, in bytes.
const FILES_A_SECOND: usize = 32 * 1024;

/// What the channels of one pod share.
pub(super) struct Common<B: PodBackend> {
    /// Made when it is first needed.
    leash: OnceCell<Arc<Leash<B>>>,
    /// Whether the login's files are there. Held while they are being written: nothing else starts before.
    files: Mutex<bool>,
}

impl<B: PodBackend> Default for Common<B> {
    fn default() -> Self {
        Self { leash: OnceCell::new(), files: Mutex::default() }
    }
}

/// Starts what the job is about and follows it to its end; `None` where the client has gone.
pub(super) async fn run<B: SharedBackend, A: Send + Sync + 'static>(
    place: &Place<B, A>,
    job: &mut Job,
    pod: &PodReference,
    common: &Common<B>,
) -> Option<Outcome> {
    let leash = common.leash.get_or_init(|| async { Leash::of(&place.hub.backend, pod.clone()) }).await;
    let metadata = Arc::clone(&place.tenant.metadata);
    let Some(planned) = plan(&place.hub.settings, &job.start.wanted) else {
        return Some(Outcome::Failed("there is no such subsystem".to_owned()));
    };
    let stays = place.hub.settings.mode == Mode::Persistent;
    let mut split = None;
    let (arguments, or_sh) = match planned {
        // The login's files and variables come by the shell, whatever runs then; so does the end of what runs in a pod that stays.
        Plan::Direct(words) if metadata.needs_shell() || stays => {
            (split.insert(words).iter().map(|word| word.clone().into_bytes()).collect(), false)
        }
        Plan::Direct(words) => return direct(place, job, pod, words).await,
        Plan::Supervised { arguments, or_sh } => (arguments, or_sh),
    };
    match supervised(place, job, pod, common, leash, arguments, or_sh).await {
        Ran::Over(outcome) => outcome,
        Ran::NoShell if metadata.needs_shell() => {
            let words = "the image has no shell, and what belongs to the login cannot be put into the pod without one";
            Some(Outcome::Failed(words.to_owned()))
        }
        Ran::NoShell => {
            match split.map_or_else(|| plan_without_shell(&place.hub.settings, &job.start.wanted), |w| Ok(Plan::Direct(w))) {
                Ok(Plan::Direct(words)) => direct(place, job, pod, words).await,
                Ok(Plan::Supervised { .. }) => Some(Outcome::Failed("the image has no shell".to_owned())),
                Err(error) => Some(Outcome::Failed(error.to_string())),
            }
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
    follow(place, job, input, output, None, LastWord::default()).await
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
    common: &Common<B>,
    leash: &Arc<Leash<B>>,
    arguments: Vec<Vec<u8>>,
    or_sh: bool,
) -> Ran {
    let nonce = Nonce::generate(&mut system_rng());
    let mut launch = Launch::new(nonce, arguments);
    launch.or_sh = or_sh;
    let stays = place.hub.settings.mode == Mode::Persistent;
    launch.held = stays;
    let metadata = &place.tenant.metadata;
    let set = std::mem::take(&mut job.start.environment);
    let mut environment: BTreeMap<_, _> = set.into_iter().map(|(name, value)| (name, SecretBytes::new(value))).collect();
    environment.extend(metadata.environment());
    launch.environment = environment.into_iter().collect();
    let mut due: Option<MutexGuard<'_, bool>> = None;
    if metadata.has_files() {
        let written = tokio::select! {
            written = common.files.lock() => written,
            () = until_end(&mut job.orders) => return Ran::Over(None),
        };
        if !*written {
            launch.files = metadata.files();
            due = Some(written);
        }
    }
    let preamble = match launch.preamble() {
        Ok(preamble) => preamble,
        Err(error) => return Ran::Over(Some(Outcome::Failed(error.to_string()))),
    };
    let (mut input, mut output) = match place.hub.backend.exec(&request(pod, job, Launch::command())).await {
        Ok(streams) => streams,
        Err(error) => return Ran::Over(Some(not_started(&error))),
    };
    // Whoever sends input at once may send more than the command takes. Who does not has the command as the leader of its session, as ever.
    job.early = job.input.try_recv().ok();
    let sends = matches!(job.early, Some(Input::Bytes(..)));
    let mut last = LastWord::of((sends && input.loses_ends()).then(|| Epilogue::new(launch.nonce)));
    let mut preface = Preface::new(launch.nonce, preamble.len());
    let Job { write, orders, .. } = &mut *job;
    let began = tokio::select! {
        began = timeout(patience(&launch), begin(&mut input, &mut output, &launch, &mut preface, &preamble, &mut last, write)) => Some(began),
        () = until_end(orders) => None,
    };
    let Some(began) = began else {
        // One that is held has not begun. Another may be on its way: it is ended as soon as it has a number.
        if launch.held {
            tokio::spawn(timeout(START, give_up::<B>(input, output)));
        } else {
            tokio::spawn(timeout(START, end_when_begun(input, output, preface, Arc::clone(leash))));
        }
        return Ran::Over(None);
    };
    let (process, first) = match began {
        Ok(Began::Runs(process, first)) => (process, first),
        Ok(Began::Failed(Outcome::NotFound(_))) => return Ran::NoShell,
        Ok(Began::Failed(outcome)) => return Ran::Over(Some(outcome)),
        Err(_) => return Ran::Over(Some(Outcome::Failed("the pod's shell does not answer".to_owned()))),
    };
    if let Some(mut written) = due {
        *written = true;
    }
    if stays && let Err(over) = release(&mut input, leash, process, &mut job.orders).await {
        return Ran::Over(over);
    }
    started(place, job);
    if let Some(first) = first
        && job.write.data_bytes(first).await.is_err()
    {
        Arc::clone(leash).end(process);
        return Ran::Over(None);
    }
    let outcome = follow(place, job, input, output, Some((leash, process)), last).await;
    if stays {
        leash.unwatch(process).await;
    }
    Ran::Over(outcome)
}

/// Lets a start go that is held, once its process is sure to end with its client, whoever dies when.
async fn release<B: SharedBackend>(
    input: &mut B::Input,
    leash: &Arc<Leash<B>>,
    process: ProcessNumber,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) -> Result<(), Option<Outcome>> {
    let confirmed = tokio::select! {
        confirmed = timeout(LEASHED, leash.watch(process)) => confirmed.unwrap_or(false),
        () = until_end(orders) => {
            Arc::clone(leash).end(process);
            return Err(None);
        }
    };
    if !confirmed {
        Arc::clone(leash).end(process);
        return Err(Some(Outcome::Failed("the pod does not confirm that it would end with the connection".to_owned())));
    }
    // Where it cannot be written, the stream is over, and its output says so.
    let _ = input.write(Launch::GO).await;
    Ok(())
}

/// Ends a start that is held and has no number yet. Its input's end would do, but that of a terminal stays open when the stream is gone.
async fn give_up<B: SharedBackend>(mut input: B::Input, mut output: B::Output) {
    if input.write(Launch::NEVER).await.is_ok() {
        while !matches!(output.next().await, Output::Ended(_)) {}
    }
}

/// Ends what was begun for a client that has left since.
async fn end_when_begun<B: SharedBackend>(input: B::Input, mut output: B::Output, mut preface: Preface, leash: Arc<Leash<B>>) {
    // With its input a start that is not complete ends by itself.
    let mut input = input;
    let _ = input.close().await;
    loop {
        match output.next().await {
            Output::Stdout(piece) => match preface.receive(piece.as_ref()) {
                PrefaceState::Waiting => {}
                PrefaceState::Ready { process, .. } => return leash.end(process),
                PrefaceState::Failed(_) | PrefaceState::FileFailed(_) => return,
            },
            Output::Stderr(_) | Output::Closed => {}
            Output::Ended(_) => return,
        }
    }
}

fn patience(launch: &Launch) -> Duration {
    let bytes: usize = launch.files.iter().map(|file| file.content.len()).sum();
    START + Duration::from_secs((bytes / FILES_A_SECOND) as u64)
}

enum Began {
    Runs(ProcessNumber, Option<Bytes>),
    Failed(Outcome),
}

/// Hands the preamble over and waits for the supervisor's answer.
async fn begin<I: ProcessInput, O: ProcessOutput>(
    input: &mut I,
    output: &mut O,
    launch: &Launch,
    preface: &mut Preface,
    preamble: &SecretBytes,
    last: &mut LastWord,
    write: &ChannelWriteHalf<Msg>,
) -> Began
where
    O::Chunk: 'static,
{
    let tells = last.is_told();
    let writing = async {
        // Where it cannot be written, the process has ended, and its output says so.
        if tells {
            let _ = input.write(Launch::TELL_END).await;
        }
        let _ = input.write(preamble.expose()).await;
        std::future::pending::<Began>().await
    };
    let reading = async {
        loop {
            match output.next().await {
                Output::Stdout(piece) => match preface.receive(piece.as_ref()) {
                    PrefaceState::Waiting => {}
                    PrefaceState::Failed(reason) => return Began::Failed(Outcome::Failed(reason.to_owned())),
                    PrefaceState::FileFailed(file) => {
                        let path = launch.files.get(file).map_or("?", |file| file.path.as_str());
                        let words = format!("the file {path}, which belongs to the login, cannot be written in the pod");
                        return Began::Failed(Outcome::Failed(words));
                    }
                    PrefaceState::Ready { process, output_from } => {
                        let rest = piece.as_ref().get(output_from..).filter(|rest| !rest.is_empty());
                        return Began::Runs(process, rest.map(Bytes::copy_from_slice));
                    }
                },
                Output::Stderr(piece) => {
                    // A quick command's end may overtake its beginning, which is told elsewhere.
                    let own = last.take(piece);
                    if !own.is_empty() {
                        let _ = write.extended_data_bytes(STDERR, own).await;
                    }
                }
                Output::Closed => {}
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
