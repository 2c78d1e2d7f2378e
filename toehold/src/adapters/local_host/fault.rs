//! What a host can be told to do wrong.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A way in which a [`LocalHost`](super::LocalHost) misbehaves. Requests are counted from 0, over all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It takes connections and never says a word on them.
    HangAtGreeting,
    /// It exchanges keys and goes no further.
    HangAfterKeyExchange,
    /// It does not answer a request to log in.
    HangInLogin,
    /// It accepts the login and the subsystem, and does not answer SFTP's greeting.
    HangAtSftpStart,
    /// It does not perform this SFTP request, nor any later one, and answers nothing.
    HangAtRequest(u64),
    /// It does not perform this SFTP request, nor any later one; the connection breaks.
    DropBeforeRequest(u64),
    /// It performs this SFTP request, and the connection breaks before the answer; later ones are not performed.
    DropAfterRequest(u64),
    /// It performs this SFTP request, and the connection breaks before the answer; later connections are served.
    DropOnceAfterRequest(u64),
    /// It performs this SFTP request once another fault, or none, is set, and not before.
    HoldRequest(u64),
}

/// The faults of one host.
#[derive(Debug, Default)]
pub(super) struct Faults {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    another_host_key: bool,
    requests: u64,
    held: bool,
}

/// What to do with an SFTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Serve,
    ServeAndDrop,
    Drop,
    Hang,
    /// Until another fault than this is set.
    Hold(Fault),
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, fault: Option<Fault>) {
        let mut state = self.state();
        state.fault = fault;
        state.requests = 0;
        state.held = false;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits until another fault is set, or none.
    pub(super) async fn change(&self, held: Fault) {
        loop {
            let changed = self.changed.notified();
            if !self.is(held) {
                return;
            }
            changed.await;
        }
    }

    /// Whether a request is being held.
    pub(super) fn is_holding(&self) -> bool {
        self.state().held
    }

    pub(super) fn show_another_host_key(&self, yes: bool) {
        self.state().another_host_key = yes;
    }

    pub(super) fn another_host_key(&self) -> bool {
        self.state().another_host_key
    }

    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    pub(super) fn is(&self, fault: Fault) -> bool {
        self.state().fault == Some(fault)
    }

    /// Counts a request.
    pub(super) fn turn(&self) -> Turn {
        let mut state = self.state();
        let number = state.requests;
        state.requests += 1;
        match state.fault {
            Some(Fault::HangAtRequest(from)) if number >= from => Turn::Hang,
            Some(Fault::DropBeforeRequest(from)) if number >= from => Turn::Drop,
            Some(Fault::DropAfterRequest(at) | Fault::DropOnceAfterRequest(at)) if number == at => Turn::ServeAndDrop,
            Some(Fault::DropAfterRequest(at)) if number > at => Turn::Drop,
            Some(Fault::HoldRequest(at)) if number == at => {
                state.held = true;
                Turn::Hold(Fault::HoldRequest(at))
            }
            _ => Turn::Serve,
        }
    }
}
