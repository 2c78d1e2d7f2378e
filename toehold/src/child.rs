//! Commands of the operator's: what they print, and that they end.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::task::JoinHandle;

/// The most that is kept of what a command prints, in bytes.
const MAX_OUTPUT: u64 = 64 * 1024;

/// The process group of a command that was started in one of its own.
#[derive(Debug)]
pub(crate) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// That of a child that leads one.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Ends whoever is left in it.
    pub(crate) fn end(&self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads what a command prints, to its end.
pub(crate) async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        drop((&mut stream).take(MAX_OUTPUT).read_to_end(&mut bytes).await);
        // What is over the limit is read all the same, or the command would block.
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was read when the command had ended. Whatever it left in the background may hold its output open.
pub(crate) async fn rest_of(mut reading: JoinHandle<String>) -> String {
    match tokio::time::timeout(Duration::from_secs(1), &mut reading).await {
        Ok(text) => text.unwrap_or_default(),
        Err(_) => {
            reading.abort();
            String::new()
        }
    }
}

/// The last lines of what a command that failed had to say, behind a colon.
pub(crate) fn last_words(printed: &str, complaints: &str) -> String {
    let words = if complaints.trim().is_empty() { printed } else { complaints };
    let mut last: Vec<&str> = words.trim().lines().rev().take(3).collect();
    last.reverse();
    let colon = if last.is_empty() { "" } else { ": " };
    format!("{colon}{}", last.join("; ").trim_end_matches('.'))
}
