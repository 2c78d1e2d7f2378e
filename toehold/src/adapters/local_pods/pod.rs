//! One running pod: its first process, and what was started in it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use toehold_podrun::Uid;
use toehold_podrun::exec::TerminalSize;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

use super::first_process::{FIRST, OURSELVES};
use super::processes::Process;
use super::streams::{Ending, LocalInput, LocalOutput, Streams};
use super::wire::{self, Answer, Order};
use super::{FIRST_PROCESS, HOME, MARK, UID_MARK};

/// How long the first process may take to say that it is there.
const START: Duration = Duration::from_secs(10);

/// How long it may take to end with all that is below it.
const END: Duration = Duration::from_secs(5);

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: Uid,
    home: PathBuf,
    user: String,
    /// A second descriptor of the connection, to send on and to shut down.
    orders: Blocking,
    answers: UnixStream,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Ending>>>,
    standing: watch::Sender<Standing>,
    is_deleted: AtomicBool,
}

/// How it stands with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its first process takes orders.
    Running,
    /// It is being ended, since its time is over.
    Overdue,
    /// It is being ended.
    Ending,
    /// There is nothing left of it.
    Gone,
}

/// The first process of a pod as another process of ours has noted it.
pub(super) fn first_process(directory: &Path) -> Option<Process> {
    let text = fs::read_to_string(directory.join(FIRST_PROCESS)).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let process = Process::of(pid.parse().ok()?)?;
    (process.started == started.parse::<u64>().ok()?).then_some(process)
}

impl Pod {
    pub(super) async fn start(name: &str, uid: &Uid, directory: &Path) -> io::Result<(Self, Child)> {
        let (ours, theirs) = wire::pair()?;
        let first = Command::new(OURSELVES)
            .arg0(FIRST)
            .env_clear()
            .env(MARK, name)
            .env(UID_MARK, uid.as_str())
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Not to be reached by what is typed where the gateway runs.
            .process_group(0)
            .spawn()?;
        let noted = first.id().and_then(|pid| Process::of(i32::try_from(pid).ok()?));
        if let Some(first) = noted {
            fs::write(directory.join(FIRST_PROCESS), format!("{} {}\n", first.pid, first.started))?;
        }
        let orders = Blocking::from(ours);
        let answers = orders.try_clone()?;
        answers.set_nonblocking(true)?;
        let pod = Self {
            name: name.to_owned(),
            uid: uid.clone(),
            home: directory.join(HOME),
            user: user_name(),
            orders,
            answers: UnixStream::from_std(answers)?,
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            standing: watch::Sender::new(Standing::Running),
            is_deleted: AtomicBool::new(false),
        };
        match tokio::time::timeout(START, pod.answer()).await {
            Ok(Some(Answer::Ready)) => Ok((pod, first)),
            _ => Err(io::Error::other("it does not answer")),
        }
    }

    /// The next thing that the first process says; `None` at its end.
    async fn answer(&self) -> Option<Answer> {
        loop {
            self.answers.readable().await.ok()?;
            let mut text = vec![0; 4096];
            match self.answers.try_read(&mut text) {
                Ok(0) => return None,
                Ok(got) => return serde_json::from_slice(text.get(..got)?).ok(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Ending>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on what the first process says until it has ended; whether it has ended all that was below it.
    pub(super) async fn follow(&self, first: &mut Child) -> bool {
        while let Some(answer) = self.answer().await {
            let (number, ending) = match answer {
                Answer::Ready => continue,
                Answer::Ended { number, code } => (number, Ok(code)),
                Answer::Failed { number, reason } => (number, Err(reason)),
            };
            if let Some(waiting) = self.waiting().remove(&number) {
                // Nobody may be waiting any more.
                let _ = waiting.send(ending);
            }
        }
        self.end();
        let mut ended = tokio::time::timeout(END, first.wait()).await;
        if ended.is_err() {
            // Somebody in the pod has stopped it, or it does not get through; what it leaves is cleared away without it.
            drop(first.start_kill());
            ended = Ok(first.wait().await);
        }
        if let Ok(Err(error)) = &ended {
            tracing::error!("the end of the first process of pod {} was not seen: {error}", self.name);
        }
        // Whoever waits sees that there is nobody to tell.
        self.waiting().clear();
        matches!(ended, Ok(Ok(status)) if status.success())
    }

    /// Ends all of it; when that is done, [`Pod::standing`] says so.
    pub(super) fn end(&self) {
        self.end_as(Standing::Ending);
    }

    /// Ends all of it, and what it holds is to go as well.
    pub(super) fn delete(&self) {
        self.is_deleted.store(true, Ordering::Release);
        self.end();
    }

    /// Whether what it holds is to go with it.
    pub(super) fn is_deleted(&self) -> bool {
        self.is_deleted.load(Ordering::Acquire)
    }

    /// Ends all of it when its time is over.
    pub(super) async fn end_after(&self, time: Duration) {
        let mut standing = self.standing();
        // Whatever has ended it before has done so for another reason.
        if tokio::time::timeout(time, standing.wait_for(|standing| *standing > Standing::Overdue)).await.is_err() {
            self.end_as(Standing::Overdue);
        }
    }

    /// Why is there to be read before anything has ended. The first reason stays.
    fn end_as(&self, why: Standing) {
        self.standing.send_if_modified(|standing| {
            *standing == Standing::Running && {
                *standing = why;
                true
            }
        });
        // It has ended already where this is refused.
        let _ = self.orders.shutdown(std::net::Shutdown::Both);
    }

    pub(super) fn is_gone(&self) {
        self.standing.send_replace(Standing::Gone);
    }

    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    pub(super) fn exec(&self, arguments: &[String], terminal: Option<TerminalSize>) -> io::Result<(LocalInput, LocalOutput)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (ending, ended) = oneshot::channel();
        let streams = Streams::open(terminal, ended)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let environment = [
            ("HOME", text(&self.home)),
            ("LOGNAME", self.user.clone()),
            ("PATH", SEARCH_PATH.to_owned()),
            ("SHELL", "/bin/sh".to_owned()),
            (MARK, self.name.clone()),
            (UID_MARK, self.uid.to_string()),
            ("USER", self.user.clone()),
        ];
        let order = Order {
            number,
            arguments: arguments.to_vec(),
            directory: self.home.clone(),
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        };
        self.waiting().insert(number, ending);
        let descriptors: Vec<BorrowedFd<'_>> = streams.for_process.iter().map(OwnedFd::as_fd).collect();
        wire::send(self.orders.as_fd(), &order, &descriptors).inspect_err(|_| {
            self.waiting().remove(&number);
        })?;
        Ok((streams.input, streams.output))
    }
}

/// Who this process runs as, by `/etc/passwd`.
fn user_name() -> String {
    let us = rustix::process::geteuid().as_raw().to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut accounts = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let own = accounts.find(|fields| fields.get(2) == Some(&us.as_str()));
    own.and_then(|fields| fields.first().map(|name| (*name).to_owned())).unwrap_or(us)
}
