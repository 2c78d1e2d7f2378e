//! The operator's side in tests: pastes the command on the simulated host, as the script in it would work there.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use sha2::{Digest as _, Sha256};
use toehold_core::testing::{MemoryStore, SimulatedFleet};
use toehold_core::{Account, Clock as _, Fingerprint, PublicKey, Route, Stored, Timestamp};
use toehold_keygen::install::{InstallCommand, proof_file_name};
use toehold_session::{Installed, Operator, Progress, SessionRecord};

use super::{Lab, holds};

/// What becomes of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paste {
    /// It is pasted as soon as it is shown.
    AtOnce,
    /// It is shown, and nobody pastes it.
    Never,
    /// It is run on the host.
    Ran,
    /// It is said to have been run, and was not.
    SaidToHaveRun,
    /// It could not be run.
    FailedBefore,
    /// It was run and then said to have failed.
    FailedAfter,
}

/// What the operator has seen and done.
#[derive(Debug, Default)]
pub struct Seen {
    pub command: Option<Command>,
    pub progress: Vec<Progress>,
    pub asked: Vec<Fingerprint>,
    pub opened: Vec<SessionRecord>,
}

/// A command that was shown.
#[derive(Clone, Debug)]
pub struct Command {
    pub line: String,
    pub record: SessionRecord,
}

#[derive(Clone, Debug)]
pub struct Hands {
    /// On which host it is pasted.
    pub account: Account,
    pub paste: Paste,
    /// The answer to whether the host key is right.
    pub answer: bool,
    /// What somebody does to the host right after the paste.
    pub after: fn(&SimulatedFleet, &Account, &SessionRecord),
    fleet: SimulatedFleet,
    memory: MemoryStore,
    now: toehold_core::testing::ManualClock,
    seen: Arc<Mutex<Seen>>,
    leaving: Arc<Mutex<bool>>,
}

impl Hands {
    pub fn new(lab: &Lab, paste: Paste) -> Self {
        Self {
            account: lab.account.clone(),
            paste,
            answer: true,
            after: |_, _, _| {},
            fleet: lab.world.fleet().clone(),
            memory: lab.world.memory().clone(),
            now: lab.world.clock().clone(),
            seen: Arc::default(),
            leaving: Arc::default(),
        }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// The operator presses Ctrl-C.
    pub fn leave(&self) {
        *self.leaving.lock().unwrap() = true;
    }

    /// Pastes the command that was shown on `account`'s host.
    pub fn paste_on(&self, account: &Account) {
        let command = self.seen().command.clone().expect("a command was shown");
        paste(&self.fleet, account, &command, self.now.now());
    }

    /// Pastes the command where it belongs, if it was shown.
    pub fn paste_late(&self) {
        if self.seen().command.is_some() {
            self.paste_on(&self.account);
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        let warning = |progress: &Progress| match progress {
            Progress::Warning(text) => Some(text.clone()),
            _ => None,
        };
        self.seen().progress.iter().filter_map(warning).collect()
    }

    pub fn clock_errors(&self) -> Vec<i64> {
        let error = |progress: &Progress| match progress {
            Progress::ClockError(seconds) => Some(*seconds),
            _ => None,
        };
        self.seen().progress.iter().filter_map(error).collect()
    }
}

impl Operator for Hands {
    fn opening(&mut self, record: &SessionRecord) -> Result<(), String> {
        self.seen().opened.push(record.clone());
        Ok(())
    }

    async fn install(&mut self, record: &SessionRecord, command: &InstallCommand<'_>) -> Result<Installed, String> {
        // journal_first: whoever sees the command finds its session on record, and the account claimed by it.
        let stored: Vec<SessionRecord> = {
            let entries = self.memory.entries();
            let sessions = entries.iter().filter(|entry| entry.key.as_str() == format!("session/{}", record.id));
            sessions.map(|entry| Stored::decode(entry).unwrap().body).collect()
        };
        assert!(stored.iter().any(|stored| stored.temporary_key == record.temporary_key), "shown before it is on record");
        let claimed = format!("claim/{}", record.route.account);
        assert!(self.memory.entries().iter().any(|entry| entry.key.as_str() == claimed), "shown before the account is claimed");

        let line = command.command_line().unwrap().expose().to_owned();
        self.seen().command = Some(Command { line, record: record.clone() });
        match self.paste {
            Paste::Never => Ok(Installed::Shown),
            Paste::SaidToHaveRun => Ok(Installed::Ran),
            Paste::FailedBefore => Err("the command could not be run".to_owned()),
            Paste::AtOnce | Paste::Ran | Paste::FailedAfter => {
                self.paste_on(&self.account);
                (self.after)(&self.fleet, &self.account, record);
                match self.paste {
                    Paste::AtOnce => Ok(Installed::Shown),
                    Paste::Ran => Ok(Installed::Ran),
                    _ => Err("the connection of the command was lost".to_owned()),
                }
            }
        }
    }

    async fn is_right_host_key(&mut self, _: &Route, fingerprint: Fingerprint) -> bool {
        self.seen().asked.push(fingerprint);
        self.answer
    }

    fn progress(&mut self, progress: Progress) {
        self.seen().progress.push(progress);
    }

    async fn wants_out(&mut self) {
        let leaving = Arc::clone(&self.leaving);
        poll_fn(move |_| if *leaving.lock().unwrap() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn is_leaving(&self) -> bool {
        *self.leaving.lock().unwrap()
    }
}

/// The command's secret.
pub fn secret(line: &str) -> &str {
    line.strip_prefix(" echo ").unwrap().split('|').next().unwrap()
}

/// What the script in the command does on a host whose home and files are in order.
pub fn paste(fleet: &SimulatedFleet, account: &Account, command: &Command, now: Timestamp) {
    let record = &command.record;
    let mut skew = 0;
    fleet.configure(account, |settings| skew = settings.clock_skew);
    if now.unix_seconds() + skew >= record.expires_at.unix_seconds() {
        // "this line ended at …, make a new one"
        return;
    }
    let home = record.home.as_deref().unwrap_or(".");
    let at = |name: &str| if home == "." { format!(".ssh{name}") } else { format!("{home}/.ssh{name}") };
    let file = at("/authorized_keys");
    let content = fleet.file(account, &file).map(|file| file.content);
    let mut proof: Vec<String> = fleet.host_keys(account).iter().map(|key| tag(secret(&command.line), key)).collect();
    if fleet.file(account, &at("")).is_none() {
        fleet.make_directory(account, &at(""), 0o700);
        proof.push("new:.ssh".to_owned());
    }
    if content.is_none() {
        proof.push("new:authorized_keys".to_owned());
    }
    let mut content = content.unwrap_or_default();
    if content.last().is_some_and(|last| *last != b'\n') {
        proof.push("new:newline".to_owned());
        content.push(b'\n');
    }
    let proof_path = at(&format!("/{}", proof_file_name(record.id)));
    if fleet.file(account, &proof_path).is_none() {
        fleet.write_file(account, &proof_path, format!("{}\n", proof.join("\n")), 0o600);
    }
    if !holds(&content, &record.temporary_key) {
        let expiry = if record.without_expiry {
            String::new()
        } else {
            format!(",expiry-time=\"{}\"", record.expires_at.strftime("%Y%m%d%H%M%SZ"))
        };
        let line =
            format!("restrict,command=\"internal-sftp\"{expiry} {} toehold-temporary:{}\n", record.temporary_key, record.id);
        content.extend_from_slice(line.as_bytes());
        let mode = fleet.file(account, &file).map_or(0o600, |file| file.mode);
        fleet.write_file(account, &file, content, mode);
    }
}

/// The tag of a host key under the secret, as the script computes it.
pub fn tag(secret: &str, host_key: &PublicKey) -> String {
    let hex = |text: String| super::hex(Sha256::digest(text.as_bytes()).iter().copied());
    let digest = hex(format!("{}\n", host_key.base64()));
    let inner = hex(format!("{secret}i\n{digest}\n"));
    hex(format!("{secret}o\n{inner}\n"))
}
