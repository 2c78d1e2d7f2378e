//! SIGINT, SIGTERM and SIGHUP: the operator wants out, or has gone.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether SIGINT, SIGTERM or SIGHUP has come. What is under way is finished or undone then; a second signal changes nothing.
#[derive(Clone, Debug)]
pub struct Signals {
    came: watch::Receiver<bool>,
}

impl Signals {
    /// Listens from now on, within a tokio runtime.
    ///
    /// # Errors
    /// Where the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let (sender, came) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                // Nothing has begun while a passphrase is being asked for, and the reader cannot be woken.
                if super::context::leave_prompt() {
                    std::process::exit(1);
                }
                if sender.send(true).is_err() {
                    return;
                }
            }
        });
        Ok(Self { came })
    }

    /// Signals that come when whoever holds the sender says so, and from nowhere else.
    pub fn by_hand() -> (watch::Sender<bool>, Self) {
        let (sender, came) = watch::channel(false);
        (sender, Self { came })
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        *self.came.borrow()
    }

    /// Ends when one comes, or has come.
    pub async fn wait(&mut self) {
        if self.came.wait_for(|came| *came).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
