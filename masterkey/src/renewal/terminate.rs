//! Ending a loop from elsewhere.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Ends a [`PeriodicalRenewal`](super::PeriodicalRenewal) gracefully. Clones end the same one.
#[derive(Clone, Debug, Default)]
pub struct Termination(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    over: bool,
    waiting: Vec<Waker>,
}

impl Termination {
    /// Not yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends it: a wait is cut short, a renewal that is under way is led to its end. From any thread, and as often as one likes.
    pub fn terminate(&self) {
        let waiting = {
            let mut state = self.state();
            state.over = true;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it was said.
    pub fn is_terminated(&self) -> bool {
        self.state().over
    }

    /// Ends once it was said.
    pub(super) async fn terminated(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if state.over {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                state.waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
