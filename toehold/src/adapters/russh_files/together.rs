//! Several requests on their way at once, in the order in which somebody would have made them one by one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use toehold_core::{Change, FileError, Look, Seen};

use super::RusshFiles;

/// Keeps later work back until what has to be asked for before it is on its way.
///
/// Whoever waits for it is polled by the task that opens it, right after it: there is nobody to be woken.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicBool);

impl Gate {
    pub(super) fn open(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    async fn opened(&self) {
        std::future::poll_fn(|_| if self.is_open() { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// Lets a request be sent, and what is behind the gate right after it, and waits for its answer.
pub(super) async fn sending<T>(gate: &Gate, request: impl Future<Output = T>) -> T {
    let mut request = pin!(request);
    std::future::poll_fn(|context| {
        let answer = request.as_mut().poll(context);
        gate.open();
        answer
    })
    .await
}

/// Sends a request whose answer nobody needs.
pub(super) fn without_answer<T>(request: impl Future<Output = T>) {
    // The first poll sends it, and its answer is passed over.
    let _ = pin!(request).poll(&mut Context::from_waker(Waker::noop()));
}

/// What a look is waiting for, or what it has seen.
enum State<'a> {
    OnItsWay(Pin<Box<dyn Future<Output = Looked> + Send + 'a>>),
    Done(Looked),
}

/// What was seen.
struct Looked {
    seen: Seen,
    /// Whether later looks were sent before all that this one had to ask for was.
    overtaken: bool,
}

impl From<Seen> for Looked {
    fn from(seen: Seen) -> Self {
        Self { seen, overtaken: false }
    }
}

impl RusshFiles {
    /// Looks at everything at once. The server answers as if it had been asked one by one (draft-ietf-secsh-filexfer-02 §6.1);
    /// since a directory takes two requests, what follows it waits until the second is on its way.
    pub(super) async fn look_together(&self, looks: &[Look]) -> Vec<Seen> {
        let gates: Vec<Gate> = looks.iter().map(|_| Gate::default()).collect();
        let mut before: Option<&Gate> = None;
        let mut states = Vec::with_capacity(looks.len());
        for (look, gate) in looks.iter().zip(&gates) {
            let looking = self.look_behind(before, look, gate);
            states.push(State::OnItsWay(Box::pin(looking)));
            if matches!(look, Look::List(_)) {
                before = Some(gate);
            }
        }
        std::future::poll_fn(|context| {
            let mut waiting = false;
            // In their order, so that this is the order of their requests.
            for state in &mut states {
                if let State::OnItsWay(looking) = state {
                    match looking.as_mut().poll(context) {
                        Poll::Ready(looked) => *state = State::Done(looked),
                        Poll::Pending => waiting = true,
                    }
                }
            }
            if waiting { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        let mut all = Vec::with_capacity(looks.len());
        for state in states {
            let State::Done(looked) = state else { continue };
            all.push(looked.seen);
            if looked.overtaken {
                let rest = looks.get(all.len()..).unwrap_or_default();
                all.extend(Box::pin(self.look_together(rest)).await);
                break;
            }
        }
        all
    }

    async fn look_behind(&self, before: Option<&Gate>, look: &Look, gate: &Gate) -> Looked {
        if let Some(before) = before {
            before.opened().await;
        }
        match look {
            Look::RealPath(path) => Seen::RealPath(self.resolve(path).await).into(),
            Look::Stat(path) => Seen::Stat(self.look_at(path).await).into(),
            Look::Read { path, limit } => Seen::Read(self.read_file(path, *limit).await).into(),
            Look::Sync(path) => Seen::Sync(self.sync_file(path).await).into(),
            Look::List(path) => {
                let listed = self.list_directory(path, gate).await;
                // Nobody else opens it where the directory cannot be listed.
                gate.open();
                match listed {
                    Ok((names, overtaken)) => Looked { seen: Seen::List(Ok(names)), overtaken },
                    Err(error) => Seen::List(Err(error)).into(),
                }
            }
        }
    }

    /// Makes a change and looks right behind it, before its answer is there.
    pub(super) async fn change_together(&self, change: Change<'_>, looks: &[Look]) -> (Result<(), FileError>, Vec<Seen>) {
        let gate = Gate::default();
        let mut changing = pin!(async {
            match change {
                Change::Stage { path, content, mode } => self.stage_file(path, content, mode, &gate).await,
                Change::Rename { from, to } => self.rename_file(from, to, &gate).await,
            }
        });
        let mut looking = pin!(async {
            gate.opened().await;
            self.look_together(looks).await
        });
        let (mut changed, mut seen) = (None, None);
        std::future::poll_fn(|context| {
            if changed.is_none()
                && let Poll::Ready(result) = changing.as_mut().poll(context)
            {
                // Nobody has looked where it failed before it was on its way.
                if result.is_err() && !gate.is_open() {
                    return Poll::Ready((result, Vec::new()));
                }
                changed = Some(result);
                gate.open();
            }
            if seen.is_none()
                && let Poll::Ready(all) = looking.as_mut().poll(context)
            {
                seen = Some(all);
            }
            match (changed.take(), seen.take()) {
                (Some(result), Some(all)) => Poll::Ready((result, all)),
                (result, all) => {
                    (changed, seen) = (result, all);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Whether the connection was found lost.
pub(super) fn is_lost(seen: &Seen) -> bool {
    let (Seen::RealPath(Err(error))
    | Seen::Stat(Err(error))
    | Seen::Read(Err(error))
    | Seen::List(Err(error))
    | Seen::Sync(Err(error))) = seen
    else {
        return false;
    };
    error.is_lost()
}
