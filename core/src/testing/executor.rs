//! Runs futures without a runtime.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end on this thread, which sleeps while there is nothing to do.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Runs a future until it ends, or until it waits for something and nobody has woken it: then `None`, and the future is
/// dropped, which is how a process that died looks to the rest of a simulated world.
///
/// Waking counts when it comes from within the future itself (its own tasks, an auto-advancing
/// [`ManualClock`](super::ManualClock)); another thread's comes too late. [`Process`] keeps a stalled future.
pub fn run_until_stalled<F: Future>(future: F) -> Option<F::Output> {
    poll_until_stalled(pin!(future))
}

fn poll_until_stalled<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut context = Context::from_waker(&waker);
    while flag.0.swap(false, Ordering::AcqRel) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
    }
    None
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A future that is run piece by piece: until it stalls, then the test changes the world, then on. Dropping it is the crash
/// of that process.
pub struct Process<'a, T>(Pin<Box<dyn Future<Output = T> + 'a>>);

impl<'a, T> Process<'a, T> {
    /// Starts nothing yet.
    pub fn new(future: impl Future<Output = T> + 'a) -> Self {
        Self(Box::pin(future))
    }

    /// Runs until the future has ended or waits for something; `None` for the latter. Not to be called again after its end.
    pub fn run(&mut self) -> Option<T> {
        poll_until_stalled(self.0.as_mut())
    }
}

impl<T> fmt::Debug for Process<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

/// Runs futures side by side and returns their outputs in the order in which they were given.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut slots: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(move |context| {
        let mut waiting = false;
        for (future, output) in &mut slots {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *output = Some(value),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting { Poll::Pending } else { Poll::Ready(slots.iter_mut().filter_map(|(_, output)| output.take()).collect()) }
    })
    .await
}

/// Lets everything else that is ready run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
