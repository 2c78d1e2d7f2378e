//! What a session needs of the person, or the program, that runs it.

use std::future::Future;

use toehold_core::{Fingerprint, Route, SecretBytes, SessionId};
use toehold_keygen::install::InstallCommand;

use crate::record::SessionRecord;

/// Something that happened, for a progress display. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// A step has begun; its name in words.
    Step(&'static str),
    /// How far the host's clock is ahead of ours, in seconds.
    ClockError(i64),
    /// The host could not be reached and will be tried again; why, in words.
    Retrying(String),
    /// Something went wrong that does not stop the session.
    Warning(String),
}

/// What became of the installation command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "made by implementers")]
pub enum Installed {
    /// It was shown; somebody will run it, or not.
    Shown,
    /// It ran on the host and reported success: a host that still refuses the key does so for a reason of its own.
    Ran,
}

/// The operator's side of a session.
pub trait Operator: Send {
    /// A session is about to begin: its record is written next. The place to note that this process works on it.
    ///
    /// # Errors
    /// Why it must not begin, in words.
    fn opening(&mut self, record: &SessionRecord) -> Result<(), String> {
        let _ = record;
        Ok(())
    }

    /// Shows the installation command, or runs it on the host; the session's record is in the store by then.
    ///
    /// To show it, return at once. To run it, return when it has ended; an error ends the session, and whatever the command
    /// left on the host is undone.
    ///
    /// The command holds the one-time secret of the proof. Do not log it.
    ///
    /// # Errors
    /// Why the command did not run, in words.
    fn install(
        &mut self,
        record: &SessionRecord,
        command: &InstallCommand<'_>,
    ) -> impl Future<Output = Result<Installed, String>> + Send;

    /// Whether the host behind `route` is the one with this host key. Asked only under
    /// [`HostKeyCheck::Ask`](crate::HostKeyCheck::Ask). `false` ends the session.
    fn is_right_host_key(&mut self, route: &Route, fingerprint: Fingerprint) -> impl Future<Output = bool> + Send;

    /// Takes note of progress.
    fn progress(&mut self, progress: Progress);

    /// Ends when the operator wants out, which is asked while the session waits; never ends otherwise.
    fn wants_out(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether the operator wants out, asked between steps.
    fn is_leaving(&self) -> bool;
}

/// Seals secrets for rest in a store.
pub trait Sealer: Send + Sync {
    /// Seals `secret` of this session; only [`Sealer::open`] with the same session brings it back.
    ///
    /// # Errors
    /// Why not, in words, without the secret.
    fn seal(&self, session: SessionId, secret: &SecretBytes) -> Result<String, String>;

    /// Opens what [`Sealer::seal`] made.
    ///
    /// # Errors
    /// Why not, in words.
    fn open(&self, session: SessionId, sealed: &str) -> Result<SecretBytes, String>;
}

/// Seals nothing: for sessions whose temporary key stays in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSealer;

impl Sealer for NoSealer {
    fn seal(&self, _: SessionId, _: &SecretBytes) -> Result<String, String> {
        Err("nothing is set up here to seal with".to_owned())
    }

    fn open(&self, _: SessionId, _: &str) -> Result<SecretBytes, String> {
        Err("nothing is set up here to open seals with".to_owned())
    }
}
