//! How the tasks are: what health, metrics and the status page tell.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use toehold_core::Timestamp;
use tokio::sync::watch;

use crate::cli::printable;

/// How many seconds go by until another turn of a task is news.
const NEWS: i64 = 60;

/// How a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Its first turn has not begun.
    Starting,
    /// It works, or waits for its next turn.
    Running,
    /// Another process has the lease.
    Standby {
        /// Which.
        holder: String,
    },
    /// Its last turn failed, or the store does not say who has the lease.
    Failing {
        /// Why, in words.
        reason: String,
    },
}

impl Condition {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Standby { .. } => "standby",
            Self::Failing { .. } => "failing",
        }
    }
}

/// A task and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskState {
    /// Its name.
    pub name: &'static str,
    /// How it is.
    pub condition: Condition,
    /// Since when it is that way.
    pub since: Timestamp,
    /// What its last turn has left to be done, in words.
    pub note: Option<String>,
    /// When a turn of it ended well the last time.
    pub ran_at: Option<Timestamp>,
    /// How many turns have ended well.
    pub turns: u64,
    /// How many have failed.
    pub failures: u64,
}

/// What all tasks write on and all who tell read off. Clones share it.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    told: Box<dyn Fn(&TaskState) + Send + Sync>,
}

struct State {
    tasks: Vec<TaskState>,
    /// Why the store does not answer.
    store: Option<String>,
    is_stopping: bool,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("tasks", &self.tasks()).finish_non_exhaustive()
    }
}

impl Board {
    /// For these tasks. `told` is called whenever one of them has come to another condition.
    pub fn new(names: &[&'static str], now: Timestamp, told: impl Fn(&TaskState) + Send + Sync + 'static) -> Self {
        let begun = |name: &&'static str| TaskState {
            name,
            condition: Condition::Starting,
            since: now,
            note: None,
            ran_at: None,
            turns: 0,
            failures: 0,
        };
        let state = State { tasks: names.iter().map(begun).collect(), store: None, is_stopping: false };
        Self(Arc::new(Shared { state: Mutex::new(state), changes: watch::Sender::new(0), told: Box::new(told) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Grows with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut TaskState)) {
        let mut state = self.state();
        let Some(task) = state.tasks.iter_mut().find(|task| task.name == name) else { return };
        let before = task.clone();
        change(task);
        let after = task.clone();
        drop(state);
        if after.condition != before.condition {
            (self.0.told)(&after);
        }
        // A task that takes a turn every few seconds is no news each time.
        let ran = |task: &TaskState| task.ran_at.map_or(0, Timestamp::unix_seconds) / NEWS;
        let is_news = after.condition != before.condition || after.note != before.note || ran(&after) != ran(&before);
        if is_news || after.failures != before.failures {
            self.changed();
        }
    }

    /// A task is this way now.
    pub fn set(&self, name: &str, condition: Condition, now: Timestamp) {
        self.update(name, |task| {
            if task.condition != condition {
                task.condition = condition;
                task.since = now;
            }
        });
    }

    /// A turn ended well, and has left this to be done.
    pub fn ran(&self, name: &str, note: Option<String>, now: Timestamp) {
        self.update(name, |task| {
            task.note = note;
            task.turns += 1;
            task.ran_at = Some(now);
        });
        self.set(name, Condition::Running, now);
    }

    /// A turn failed.
    pub fn failed(&self, name: &str, reason: String, now: Timestamp) {
        self.update(name, |task| task.failures += 1);
        self.set(name, Condition::Failing { reason }, now);
    }

    /// Whether the store answers; why not.
    pub fn store(&self, failing: Option<String>) {
        let mut state = self.state();
        let is_new = state.store != failing;
        state.store = failing;
        drop(state);
        if is_new {
            self.changed();
        }
    }

    /// The process is about to end.
    pub fn stopping(&self) {
        self.state().is_stopping = true;
        self.changed();
    }

    /// The tasks as they are.
    pub fn tasks(&self) -> Vec<TaskState> {
        self.state().tasks.clone()
    }

    /// Why the process is not ready; nothing where it is.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state();
        let mut reasons = Vec::new();
        if state.is_stopping {
            reasons.push("it is being stopped".to_owned());
        }
        reasons.extend(state.store.iter().map(|reason| format!("the store: {}", printable(reason))));
        for task in &state.tasks {
            match &task.condition {
                Condition::Starting => reasons.push(format!("{}: it is starting", task.name)),
                Condition::Failing { reason } => reasons.push(format!("{}: {}", task.name, printable(reason))),
                Condition::Running | Condition::Standby { .. } => {}
            }
        }
        reasons
    }

    /// Prometheus' text format.
    pub fn metrics(&self, is_ready: bool) -> String {
        let tasks = self.tasks();
        let mut text = format!(
            "# HELP toehold_serve_ready Whether the store answers and no task fails.\n# TYPE toehold_serve_ready gauge\n\
             toehold_serve_ready {}\n",
            u8::from(is_ready)
        );
        let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&TaskState) -> String| {
            // Writing to a text does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for task in &tasks {
                let _ = writeln!(text, "{name}{{task=\"{}\"}} {}", task.name, value(task));
            }
        };
        let gauge = |is_so: bool| u8::from(is_so).to_string();
        each("toehold_serve_task_running", "gauge", "Whether the task works or waits for its next turn.", &|task| {
            gauge(task.condition == Condition::Running)
        });
        each("toehold_serve_task_standby", "gauge", "Whether another process has the task's lease.", &|task| {
            gauge(matches!(task.condition, Condition::Standby { .. }))
        });
        each("toehold_serve_task_failing", "gauge", "Whether the task's last turn failed.", &|task| {
            gauge(matches!(task.condition, Condition::Failing { .. }))
        });
        each("toehold_serve_task_turns_total", "counter", "Turns of the task that ended well.", &|task| task.turns.to_string());
        each("toehold_serve_task_failures_total", "counter", "Turns of the task that failed.", &|task| task.failures.to_string());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn one_that_fails_is_named_and_the_others_are_not() {
        let board = Board::new(&["one", "two", "three"], NOW, |_| {});
        assert_eq!(board.reasons().len(), 3);
        board.ran("one", None, NOW);
        board.failed("two", "no\nway".to_owned(), NOW);
        board.set("three", Condition::Standby { holder: "other".to_owned() }, NOW);
        assert_eq!(board.reasons(), ["two: no\u{fffd}way"]);
        let text = board.metrics(false);
        assert!(text.contains("toehold_serve_task_failing{task=\"two\"} 1\n"), "{text}");
        assert!(text.contains("toehold_serve_task_standby{task=\"three\"} 1\n") && text.contains("_ready 0\n"), "{text}");
        board.ran("two", Some("something is owed".to_owned()), NOW);
        assert_eq!(board.reasons(), Vec::<String>::new());
        board.store(Some("gone".to_owned()));
        board.stopping();
        assert_eq!(board.reasons(), ["it is being stopped", "the store: gone"]);
    }

    #[test]
    fn a_change_of_condition_is_told_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let board = {
            let told = Arc::clone(&told);
            Board::new(&["one"], NOW, move |task| told.lock().unwrap().push(task.condition.word()))
        };
        board.ran("one", None, NOW);
        board.ran("one", None, NOW);
        board.failed("one", "why".to_owned(), NOW);
        board.failed("one", "why".to_owned(), NOW);
        assert_eq!(*told.lock().unwrap(), ["running", "failing"]);
    }
}
