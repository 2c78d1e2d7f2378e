//! The operator's side of a session: a person at a terminal, or a program that reads JSON.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use toehold_core::{Account, Fingerprint, Route, Timer as _};
use toehold_keygen::install::InstallCommand;
use toehold_session::{Installed, Operator, Progress, SessionRecord};

use super::via::Via;
use crate::adapters::file_lock::FileLock;
use crate::adapters::system_clock::SystemClock;
use crate::cli::{Output, Signals};

/// How the installation command gets to the host.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    /// The operator pastes it.
    Paste,
    /// A command of the operator's takes it on its standard input.
    Via(Via),
    /// As cloud-init user data, into this file or to standard output.
    CloudInit(Option<PathBuf>),
    /// There is none: the session was interrupted.
    Nothing,
}

/// Whose session it is that a display is about, for whoever chooses it.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject(Arc<Mutex<String>>);

impl Subject {
    /// The next session is that of this account.
    pub(super) fn set(&self, account: &Account) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = account.to_string();
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Shows progress and takes answers.
#[derive(Debug)]
pub(super) struct Console {
    output: Output,
    signals: Signals,
    state_directory: PathBuf,
    delivery: Delivery,
    bar: ProgressBar,
    account: Subject,
    /// Held while this process works on the session.
    lock: Option<FileLock>,
    last_step: &'static str,
    /// Why the last try to log in found nobody.
    unreachable: Option<String>,
}

impl Console {
    /// For one session at a time, with a spinner of its own.
    pub(super) fn new(output: Output, signals: Signals, state_directory: PathBuf, delivery: Delivery) -> Self {
        let hides = output.json || output.is_mute() || !std::io::stderr().is_terminal();
        let bar = if hides { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::quiet(output, signals, state_directory, delivery, bar)
    }

    /// The same with somebody else's bar.
    pub(super) fn quiet(
        output: Output,
        signals: Signals,
        state_directory: PathBuf,
        delivery: Delivery,
        bar: ProgressBar,
    ) -> Self {
        Self {
            output,
            signals,
            state_directory,
            delivery,
            bar,
            account: Subject::default(),
            lock: None,
            last_step: "",
            unreachable: None,
        }
    }

    /// Works on a session that is there already, whose lock is given.
    pub(super) fn resume(&mut self, lock: FileLock, account: &Account) {
        self.lock = Some(lock);
        self.account.set(account);
    }

    /// To tell it whose session comes next.
    pub(super) fn subject(&self) -> Subject {
        self.account.clone()
    }

    /// Ends the display.
    pub(super) fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.lock = None;
    }

    fn event(&self, event: &str, details: &serde_json::Value) {
        let mut line = json!({ "event": event, "account": self.account.to_string() });
        if let (Some(line), Some(details)) = (line.as_object_mut(), details.as_object()) {
            line.extend(details.clone());
        }
        self.output.document(&line);
    }

    fn note(&self, text: &str) {
        let text = crate::cli::printable(text);
        self.bar.suspend(|| drop(writeln!(anstream::stderr(), "{text}")));
    }

    fn show(&self, record: &SessionRecord, command: &InstallCommand<'_>) -> Result<(), String> {
        let line = command.command_line().map_err(|error| error.to_string())?;
        if self.output.json {
            self.event("command", &json!({ "session": record.id, "command": line.expose(), "expires_at": record.expires_at }));
            return Ok(());
        }
        self.bar.suspend(|| {
            self.output.text(format_args!(
                "Paste this line into a shell on {}, as {} (good once, until {}):\n",
                record.route.account.host(),
                record.route.account.user(),
                record.expires_at
            ));
            self.output.raw(line.expose());
            self.output.text("\n");
        });
        Ok(())
    }

    fn write_user_data(
        &self,
        record: &SessionRecord,
        command: &InstallCommand<'_>,
        file: Option<&PathBuf>,
    ) -> Result<(), String> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let data = command.cloud_init().map_err(|error| error.to_string())?;
        match file {
            None if self.output.json => {
                self.event(
                    "user_data",
                    &json!({ "session": record.id, "user_data": data.expose(), "expires_at": record.expires_at }),
                );
            }
            None => self.bar.suspend(|| self.output.raw(data.expose())),
            Some(path) => {
                let written = std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .and_then(|mut file| file.write_all(data.expose().as_bytes()).and_then(|()| file.sync_all()));
                written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
                self.event("user_data", &json!({ "session": record.id, "file": path, "expires_at": record.expires_at }));
                self.note(&format!("Wrote {}; it is good until {}.", path.display(), record.expires_at));
            }
        }
        Ok(())
    }
}

impl Operator for Console {
    fn opening(&mut self, record: &SessionRecord) -> Result<(), String> {
        self.account.set(&record.route.account);
        match FileLock::of_session(&self.state_directory, record.id) {
            Ok(Some(lock)) => {
                self.lock = Some(lock);
                Ok(())
            }
            Ok(None) => Err("another process works on a session of this name".to_owned()),
            Err(error) => Err(format!("no lock file in {}: {error}", self.state_directory.display())),
        }
    }

    async fn install(&mut self, record: &SessionRecord, command: &InstallCommand<'_>) -> Result<Installed, String> {
        match self.delivery.clone() {
            Delivery::Paste => self.show(record, command).map(|()| Installed::Shown),
            Delivery::Via(via) => {
                self.event("installing", &json!({ "session": record.id, "expires_at": record.expires_at }));
                self.bar.set_message(format!("{}: installing the temporary key", self.account));
                let line = command.script().map_err(|error| error.to_string())?;
                // A command that hangs must not outlive the key that it is about.
                let end = record.expires_at;
                let stop = async {
                    tokio::select! {
                        () = self.signals.wait() => "interrupted".to_owned(),
                        () = SystemClock.sleep_until(end) => "the command of --via had not ended when the key did".to_owned(),
                    }
                };
                via.run(&record.route.account, line.expose().as_bytes(), stop).await.map(|_| Installed::Ran)
            }
            Delivery::CloudInit(file) => self.write_user_data(record, command, file.as_ref()).map(|()| Installed::Shown),
            Delivery::Nothing => Err("the session is only being recovered".to_owned()),
        }
    }

    async fn is_right_host_key(&mut self, route: &Route, fingerprint: Fingerprint) -> bool {
        use tokio::io::{AsyncBufReadExt as _, BufReader};
        self.event("host_key", &json!({ "fingerprint": fingerprint }));
        // The spinner would write over the question.
        self.bar.disable_steady_tick();
        self.bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        self.bar.suspend(|| {
            drop(write!(
                anstream::stderr(),
                "{route} presents the host key {fingerprint}.\nIs that the right one? Compare it with ssh-keygen -lf on the host. [yes/no] "
            ));
            drop(anstream::stderr().flush());
        });
        let mut stdin = BufReader::new(tokio::io::stdin());
        let mut signals = self.signals.clone();
        loop {
            let mut answer = String::new();
            let read = tokio::select! {
                read = stdin.read_line(&mut answer) => read.unwrap_or(0),
                () = signals.wait() => 0,
            };
            match answer.trim() {
                "yes" | "y" => return true,
                "no" | "n" => return false,
                _ if read == 0 => return false,
                _ => self.note("Answer yes or no."),
            }
        }
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Step(step) => {
                match (&self.unreachable, step) {
                    (Some(why), "waiting for the command to be run") => {
                        self.bar.set_message(format!("{}: trying again: {why}", self.account));
                    }
                    (None, "waiting for the command to be run") => {
                        self.bar.set_message(format!("{}: waiting for the line to be run", self.account));
                    }
                    _ => self.bar.set_message(format!("{}: {step}", self.account)),
                }
                if step == "reading the record again" {
                    self.unreachable = None;
                }
                if step != self.last_step && !matches!(step, "reading the record again" | "waiting for the command to be run") {
                    tracing::info!(account = %self.account, step);
                    self.event("step", &json!({ "step": step }));
                }
                if matches!(step, "waiting for the command to be run" | "reading the record again") {
                    return;
                }
                self.last_step = step;
            }
            Progress::ClockError(seconds) if seconds.abs() >= 2 => {
                self.event("clock_error", &json!({ "seconds": seconds }));
                let way = if seconds > 0 { "ahead of" } else { "behind" };
                self.note(&format!("{}: the host's clock is {} s {way} ours", self.account, seconds.abs()));
            }
            Progress::ClockError(seconds) => self.event("clock_error", &json!({ "seconds": seconds })),
            Progress::Retrying(why) => {
                tracing::info!(account = %self.account, %why, "the host cannot be reached yet");
                self.event("retrying", &json!({ "why": why }));
                self.unreachable = Some(crate::cli::printable(&why));
            }
            Progress::Warning(text) => {
                self.event("warning", &json!({ "text": text }));
                self.note(&format!("{}: {text}", self.account));
            }
            _ => {}
        }
    }

    async fn wants_out(&mut self) {
        self.signals.wait().await;
    }

    fn is_leaving(&self) -> bool {
        self.signals.came()
    }
}
