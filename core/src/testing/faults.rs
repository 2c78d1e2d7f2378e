//! What goes wrong, and when: every call that a process makes to its store or to a host is numbered, and can be made to
//! fail or to be the last one.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex};

use super::{lock, yield_now};

/// When a process dies in relation to what its last call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The call has no effect.
    Before,
    /// The call has its effect, and the process dies before it hears of it.
    After,
    /// The request is on its way: it has its effect only when
    /// [`SimulatedFleet::deliver_late`](super::SimulatedFleet::deliver_late) is called. For calls to a host's files; others
    /// have no effect, as with [`Moment::Before`].
    Late,
}

/// A way in which a call goes wrong. Which of them a call can have, [`CallKind::faults`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// Store: a conflict for nothing; nothing is written.
    Conflict,
    /// Files: permission denied. Clusters: forbidden.
    Denied,
    /// Never an answer, and no effect. Later calls are well; tests that use it rely on the caller's own time limits.
    Hang,
    /// Logging in: the host does not take the key this time.
    KeyRefused,
    /// The connection is lost after the operation took place.
    LostAfter,
    /// The connection is lost before the operation takes place.
    LostBefore,
    /// Files: the server fails, as with a full disk. `stage` leaves half of the content behind.
    ServerError,
    /// Connecting: the connector gives up waiting.
    TimedOut,
    /// Store: fails after the write took place.
    UnavailableAfter,
    /// Store: fails before anything took place.
    UnavailableBefore,
    /// Connecting: no connection. Clusters: the API server answers that it is not available; nothing took place.
    Unreachable,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "each is named for the method of Store, Watch, Connector, HostSession, HostFiles or of a cluster's API"
)]
pub enum CallKind {
    StoreGet,
    StorePut,
    StoreDelete,
    StoreList,
    StoreWatch,
    WatchChanged,
    LogIn,
    WouldAccept,
    Close,
    RealPath,
    Stat,
    Read,
    Stage,
    Sync,
    Rename,
    Remove,
    RemoveDirectory,
    List,
    ClusterChange,
    ClusterCreate,
    ClusterDelete,
    ClusterRead,
}

impl CallKind {
    /// All ways in which such a call can go wrong.
    pub fn faults(self) -> &'static [Fault] {
        use Fault::{
            Conflict, Denied, Hang, KeyRefused, LostAfter, LostBefore, ServerError, TimedOut, UnavailableAfter,
            UnavailableBefore, Unreachable,
        };
        match self {
            Self::StoreGet | Self::StoreList | Self::StoreWatch | Self::WatchChanged => &[UnavailableBefore, Hang],
            Self::StorePut | Self::StoreDelete => &[UnavailableBefore, UnavailableAfter, Conflict, Hang],
            Self::LogIn => &[Unreachable, TimedOut, KeyRefused, LostBefore, LostAfter, Hang],
            Self::WouldAccept => &[Unreachable, TimedOut, LostBefore, Hang],
            Self::Close => &[Hang],
            Self::RealPath | Self::Stat | Self::Read | Self::List => &[LostBefore, ServerError, Denied, Hang],
            Self::Stage | Self::Sync | Self::Rename | Self::Remove | Self::RemoveDirectory => {
                &[LostBefore, LostAfter, ServerError, Denied, Hang]
            }
            Self::ClusterRead => &[LostBefore, Unreachable, Hang],
            Self::ClusterChange | Self::ClusterCreate | Self::ClusterDelete => {
                &[LostBefore, LostAfter, Unreachable, Denied, Hang]
            }
        }
    }

    /// Whether such a call changes a store's or a host's state, so that dying before and after it differ.
    pub fn has_effect(self) -> bool {
        matches!(
            self,
            Self::StorePut
                | Self::StoreDelete
                | Self::LogIn
                | Self::Stage
                | Self::Rename
                | Self::Remove
                | Self::RemoveDirectory
                | Self::ClusterChange
                | Self::ClusterCreate
                | Self::ClusterDelete
        )
    }
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 0.
    pub number: usize,
    /// What it asked for.
    pub kind: CallKind,
    /// Of whom and about what: a key, an account and a path.
    pub subject: String,
    /// How it was made to fail.
    pub fault: Option<Fault>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}: {:?} {}", self.number, self.kind, self.subject)?;
        match self.fault {
            Some(fault) => write!(f, " ({fault:?})"),
            None => Ok(()),
        }
    }
}

/// The plan of what goes wrong for one process, and the record of its calls. Clones share both.
///
/// Calls are numbered from 0 in the order in which they are made, over all stores, timers and fleets that share this plan.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    log: Vec<Call>,
    crash: Option<(usize, Moment)>,
    crashed: bool,
    failures: BTreeMap<usize, Fault>,
    take_turns: bool,
}

/// How a call that was begun is to go on, for those who simulate another part of the world.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// How it goes wrong, if it does.
    pub fault: Option<Fault>,
    /// Whether it has its effect only later, when the process is dead ([`Moment::Late`]).
    pub late: bool,
    last: bool,
}

impl Faults {
    /// Nothing goes wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Call `number` is the last one: its future and those of all later calls and sleeps never end. Dropping the process's
    /// future then completes the crash.
    pub fn crash_at(&self, number: usize, moment: Moment) {
        lock(&self.0).crash = Some((number, moment));
    }

    /// Call `number` goes wrong. A fault that this kind of call does not have is passed over; [`Call::fault`] tells.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        lock(&self.0).failures.insert(number, fault);
    }

    /// Whether every call lets other futures run first, so that processes that are run side by side take turns call by call.
    pub fn take_turns(&self, on: bool) {
        lock(&self.0).take_turns = on;
    }

    /// How many calls were made so far.
    pub fn calls(&self) -> usize {
        lock(&self.0).log.len()
    }

    /// The calls made so far.
    pub fn log(&self) -> Vec<Call> {
        lock(&self.0).log.clone()
    }

    /// Call `number` in words, for the message of a failed assertion.
    pub fn describe(&self, number: usize) -> String {
        lock(&self.0).log.get(number).map_or_else(|| format!("call {number}: not made"), Call::to_string)
    }

    /// Whether the planned crash has happened.
    pub fn crashed(&self) -> bool {
        lock(&self.0).crashed
    }

    /// Whether a planned failure has happened.
    pub fn failed(&self) -> bool {
        lock(&self.0).log.iter().any(|call| call.fault.is_some())
    }

    /// Begins a call of a simulated part of the world: to be awaited before it has any effect. Does not come back where the process
    /// has died before, or where the call is to hang.
    pub async fn begin(&self, kind: CallKind, subject: impl FnOnce() -> String + Send) -> Step {
        let take_turns = lock(&self.0).take_turns;
        if take_turns {
            yield_now().await;
        }
        match self.admit(kind, subject) {
            Some(step) => step,
            None => pending().await,
        }
    }

    fn admit(&self, kind: CallKind, subject: impl FnOnce() -> String) -> Option<Step> {
        let mut plan = lock(&self.0);
        if plan.crashed {
            return None;
        }
        let number = plan.log.len();
        let fault = plan.failures.get(&number).copied().filter(|fault| kind.faults().contains(fault));
        plan.log.push(Call { number, kind, subject: subject(), fault });
        let moment = plan.crash.filter(|(at, _)| *at == number).map(|(_, moment)| moment);
        let step = Step { fault, late: moment == Some(Moment::Late), last: moment.is_some() };
        plan.crashed = step.last;
        (moment != Some(Moment::Before) && fault != Some(Fault::Hang)).then_some(step)
    }

    /// Ends a call that [`Faults::begin`] began: to be awaited after its effect and before its answer. Does not come back where the
    /// process dies with this call.
    pub async fn end(&self, step: Step) {
        if step.last {
            pending::<()>().await;
        }
    }
}
