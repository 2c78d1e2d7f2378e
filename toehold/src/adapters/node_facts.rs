//! This node, as matchers see it: its name, its files, its commands.
//!
//! Only "there is none" is a no. Whatever else the system answers, and a file system that does not answer, is an error.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use toehold_specsign::{FactError, Facts};

/// How long a file system may take to say whether something is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many questions may wait for an answer at once: each keeps a thread that cannot be ended.
const MAX_STALLED: usize = 4;

/// Where Linux keeps the name of the host (of the UTS namespace that we are in).
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Facts about the node that this process runs on.
#[derive(Debug)]
pub struct NodeFacts {
    identity: Result<String, FactError>,
    path: Option<OsString>,
    asked: Mutex<Asked>,
    /// [`Question::answer`], and [`PATIENCE`].
    answer: fn(Question) -> Result<bool, String>,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Asked {
    worker: Option<Worker>,
    /// Held by each thread that asks, until it ends.
    threads: Arc<()>,
}

/// A thread that asks the system, so that only it waits for a file system that does not answer.
#[derive(Debug)]
struct Worker {
    questions: Sender<Question>,
    answers: Receiver<Result<bool, String>>,
}

#[derive(Debug)]
enum Question {
    File(PathBuf),
    Directory(PathBuf),
    Command { name: String, path: Option<OsString> },
}

impl NodeFacts {
    /// Facts under this name, or under the host's own.
    pub fn new(identity: Option<String>) -> Self {
        let identity = identity.map_or_else(host_name, Ok);
        let path = std::env::var_os("PATH");
        Self { identity, path, asked: Mutex::default(), answer: Question::answer, patience: PATIENCE }
    }

    fn ask(&self, question: Question) -> Result<bool, FactError> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled = || FactError(format!("a file system did not answer within {} s", self.patience.as_secs()));
        let worker = match asked.worker.take() {
            Some(worker) => worker,
            None if Arc::strong_count(&asked.threads) > MAX_STALLED => return Err(stalled()),
            None => Worker::start(self.answer, Arc::clone(&asked.threads))
                .map_err(|error| FactError(format!("no thread could be started: {error}")))?,
        };
        if worker.questions.send(question).is_err() {
            return Err(FactError("the thread that asks has ended".to_owned()));
        }
        match worker.answers.recv_timeout(self.patience) {
            Ok(answer) => {
                asked.worker = Some(worker);
                answer.map_err(FactError)
            }
            // The thread ends when it gets its answer after all.
            Err(RecvTimeoutError::Timeout) => Err(stalled()),
            Err(RecvTimeoutError::Disconnected) => Err(FactError("the thread that asks has ended".to_owned())),
        }
    }
}

impl Worker {
    fn start(find: fn(Question) -> Result<bool, String>, alive: Arc<()>) -> io::Result<Self> {
        let (questions, to_answer) = channel::<Question>();
        let (answer, answers) = channel();
        std::thread::Builder::new().name("facts".to_owned()).stack_size(128 * 1024).spawn(move || {
            // Counted as long as the thread lives.
            let alive = alive;
            while let Ok(question) = to_answer.recv() {
                if answer.send(find(question)).is_err() {
                    break;
                }
            }
            drop(alive);
        })?;
        Ok(Self { questions, answers })
    }
}

impl Question {
    fn answer(self) -> Result<bool, String> {
        match self {
            Self::File(path) => kind(&path).map(|kind| kind.is_some_and(|kind| kind.is_file())),
            Self::Directory(path) => kind(&path).map(|kind| kind.is_some_and(|kind| kind.is_dir())),
            Self::Command { name, path } if name.contains('/') => {
                drop(path);
                is_program(Path::new(&name))
            }
            Self::Command { name, path } => on_path(&name, path),
        }
    }
}

/// What is at a path, links followed; `None` where nothing is.
fn kind(path: &Path) -> Result<Option<std::fs::FileType>, String> {
    if !path.is_absolute() {
        return Err(format!("{} is not absolute, so that it depends on where this process was started", path.display()));
    }
    match path.metadata() {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(format!("whether {} is there cannot be told: {error}", path.display())),
    }
}

/// Whether this can be started as a program: a path, or a name that is looked for in `PATH`.
///
/// # Errors
/// Why that cannot be told.
pub(super) fn is_command(name: &str) -> Result<bool, String> {
    if name.contains('/') {
        return is_program(&std::path::absolute(name).map_err(|error| error.to_string())?);
    }
    on_path(name, std::env::var_os("PATH"))
}

fn is_program(path: &Path) -> Result<bool, String> {
    match kind(path)? {
        Some(kind) if kind.is_dir() || kind.is_fifo() || kind.is_socket() => Ok(false),
        Some(_) => match accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::ACCESS) => Ok(false),
            Err(error) => Err(format!("whether {} can be run cannot be told: {error}", path.display())),
        },
        None => Ok(false),
    }
}

fn on_path(name: &str, path: Option<OsString>) -> Result<bool, String> {
    let Some(path) = path else { return Err("there is no search path (PATH)".to_owned()) };
    if name.is_empty() {
        return Ok(false);
    }
    // A place that cannot be looked into matters only where no other has the command.
    let mut doubt = None;
    for directory in std::env::split_paths(&path).filter(|directory| directory.is_absolute()) {
        match is_program(&directory.join(name)) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(reason) => doubt = Some(reason),
        }
    }
    doubt.map_or(Ok(false), Err)
}

fn host_name() -> Result<String, FactError> {
    let name = std::fs::read_to_string(HOST_NAME).map_err(|error| FactError(format!("{HOST_NAME}: {error}")))?;
    match name.trim_end() {
        "" | "(none)" => Err(FactError("this host has no name; give it one (--identity)".to_owned())),
        name => Ok(name.to_owned()),
    }
}

impl Facts for NodeFacts {
    fn identity(&self) -> Result<&str, FactError> {
        self.identity.as_deref().map_err(Clone::clone)
    }

    fn has_file(&self, path: &str) -> Result<bool, FactError> {
        self.ask(Question::File(path.into()))
    }

    fn has_directory(&self, path: &str) -> Result<bool, FactError> {
        self.ask(Question::Directory(path.into()))
    }

    fn has_command(&self, name: &str) -> Result<bool, FactError> {
        self.ask(Question::Command { name: name.to_owned(), path: self.path.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
    use std::time::Instant;

    use toehold_specsign::{Answer, Matcher};

    use super::*;

    fn with_path(path: &str) -> NodeFacts {
        NodeFacts { path: Some(path.into()), ..NodeFacts::new(Some("web1".to_owned())) }
    }

    #[test]
    fn only_what_is_proven_absent_is_a_no() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("file"), "").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        symlink("file", at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let facts = NodeFacts::new(Some("web1".to_owned()));
        assert_eq!(facts.identity(), Ok("web1"));
        assert_eq!(facts.has_file(&at("file")), Ok(true));
        assert_eq!(facts.has_file(&at("link")), Ok(true));
        assert_eq!(facts.has_file(&at("dir")), Ok(false));
        assert_eq!(facts.has_file(&at("none")), Ok(false));
        assert_eq!(facts.has_file(&at("file/below")), Ok(false));
        assert_eq!(facts.has_directory(&at("dir")), Ok(true));
        assert_eq!(facts.has_directory(&at("file")), Ok(false));
        for doubtful in [at("loop"), "relative".to_owned(), String::new(), format!("/{}", "x".repeat(300)), "/a\0b".to_owned()] {
            assert!(facts.has_file(&doubtful).is_err(), "{doubtful}");
            assert!(facts.has_directory(&doubtful).is_err(), "{doubtful}");
        }
    }

    #[test]
    fn a_command_is_a_program_on_the_search_path() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        for (name, mode) in [("run", 0o755), ("read", 0o644)] {
            std::fs::write(at(name), "").unwrap();
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::create_dir(at("dir")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let facts = with_path(&format!("{}::relative", directory.path().display()));
        assert_eq!(facts.has_command("run"), Ok(true));
        assert_eq!(facts.has_command(&at("run")), Ok(true));
        for none in ["read", "dir", "none", "", "."] {
            assert_eq!(facts.has_command(none), Ok(false), "{none}");
        }
        let doubtful = with_path(&format!("{}:{}", at("loop"), directory.path().display()));
        assert_eq!(doubtful.has_command("run"), Ok(true));
        assert!(doubtful.has_command("none").is_err(), "one place could not be looked into");
        let without = NodeFacts { path: None, ..NodeFacts::new(None) };
        assert!(without.has_command("run").is_err());
    }

    /// A pipe that nobody writes to stands for a file system that does not answer; each question waits until somebody does.
    fn waits(question: Question) -> Result<bool, String> {
        match question {
            Question::File(path) if path.ends_with("stalled") => {
                std::fs::read(path).map(|_| true).map_err(|error| error.to_string())
            }
            other => other.answer(),
        }
    }

    fn threads(facts: &NodeFacts) -> usize {
        Arc::strong_count(&facts.asked.lock().unwrap().threads) - 1
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_neither_yes_nor_no() {
        const SHORT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_secs(60);
        let directory = tempfile::tempdir().unwrap();
        let (pipe, other) = (directory.path().join("stalled"), directory.path().to_str().unwrap());
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let pipe = pipe.to_str().unwrap();
        let mut facts = NodeFacts { answer: waits, ..NodeFacts::new(Some("web1".to_owned())) };
        // Others are still asked about, by a thread that does not wait.
        for stalled in 1..MAX_STALLED {
            facts.patience = SHORT;
            let error = facts.has_file(pipe).unwrap_err();
            assert!(error.0.contains("did not answer within"), "{error:?}");
            facts.patience = LONG;
            assert_eq!((facts.has_directory(other), threads(&facts)), (Ok(true), stalled + 1));
        }
        facts.patience = SHORT;
        facts.has_file(pipe).unwrap_err();
        // Too many threads wait: nothing is asked any more, nobody waits, and nothing is known, whatever the question.
        facts.patience = LONG;
        let begun = Instant::now();
        let unknown = [facts.has_file(pipe), facts.has_file(pipe), facts.has_directory(other), facts.has_command("sh")];
        for answer in unknown {
            assert!(answer.unwrap_err().0.contains("did not answer within"));
        }
        for text in [format!("has_file('{pipe}')"), format!("!has_file('{pipe}')")] {
            let answer = Matcher::compile(&text).unwrap().evaluate(&facts);
            assert!(matches!(answer, Ok(Answer::Unknown(_))), "{text}: {answer:?}");
        }
        assert!(begun.elapsed() < LONG / 2);
        assert_eq!(threads(&facts), MAX_STALLED);
        // Those that get their answer after all end, and it goes on.
        while threads(&facts) > 0 {
            assert!(begun.elapsed() < LONG, "{} threads", threads(&facts));
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            drop(std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(pipe));
            std::thread::yield_now();
        }
        assert_eq!((facts.has_directory(other), threads(&facts)), (Ok(true), 1));
    }
}
