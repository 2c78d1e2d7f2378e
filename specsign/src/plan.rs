//! What would change: a function of what is wanted, what is there and what is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use toehold_core::Timestamp;

use crate::admission::Freshness;
use crate::machine::MachineName;
use crate::state::{Noes, Placed, RootState};

/// How the words of a [`Verdict::Held`] end where a machine stays for no other reason than [`Settings::purge`].
pub const REMOVING_IS_OFF: &str = "removing is off";

/// Why something is not touched.
pub(crate) const NOT_PLACED_HERE: &str = "something of this name is there that was not placed here; move it away";

/// Why nothing is removed while something else is not as it should be.
pub(crate) const NOT_ALL_IN_PLACE: &str = "not everything that belongs here is in place";

/// How careful the reconciler is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether machines that do not belong here any more are removed (default: no).
    pub purge: bool,
    /// The largest share of the machines in place, in percent, that may be removed within the window (default 30). One may
    /// always be, unless it is the last.
    pub guard_percent: u8,
    /// The guard's window (default a day).
    pub window: Duration,
    /// On how many evaluations a matcher has to say no before its machine is removed (default 3).
    pub noes: u32,
    /// How far apart those have to be (default a minute).
    pub noes_apart: Duration,
    /// After how long a version that failed its health command is tried again (default an hour).
    pub retry_failed: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            purge: false,
            guard_percent: 30,
            window: Duration::from_secs(24 * 3600),
            noes: 3,
            noes_apart: Duration::from_secs(60),
            retry_failed: Duration::from_secs(3600),
        }
    }
}

/// What a matcher says about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever plans must think of each")]
pub enum Belongs {
    /// It belongs here.
    Yes,
    /// It does not.
    No,
    /// A fact could not be had.
    Unknown(String),
    /// The matcher is none.
    Invalid(String),
}

/// What is there of a machine that belongs here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "whoever plans must think of each")]
pub enum Presence {
    /// Nothing.
    Absent,
    /// The wanted version, whole.
    Intact,
    /// Something else.
    Drifted(String),
    /// It cannot be told.
    Unreadable(String),
}

/// A machine of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: MachineName,
    /// Its version.
    pub version: Placed,
    /// Whether it belongs here.
    pub belongs: Belongs,
    /// What is there; compared with the wanted version. For others than [`Belongs::Yes`] only [`Presence::Absent`] counts.
    pub presence: Presence,
}

/// All that a plan rests on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// What the root remembers.
    pub state: &'a RootState,
    /// The list.
    pub wanted: &'a [Wanted],
    /// Machines that we placed and that are gone from their places.
    pub gone: &'a BTreeSet<MachineName>,
    /// The present time.
    pub now: Timestamp,
    /// Whether the document still holds.
    pub freshness: Freshness,
    /// Whether the document says that large removals are meant.
    pub removals_meant: bool,
}

/// Why a machine is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeployReason {
    /// It was not there before.
    New,
    /// The list has another version.
    Changed,
    /// It is gone.
    Missing,
    /// It is not what was placed.
    Drifted(String),
}

impl fmt::Display for DeployReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Changed => f.write_str("another version"),
            Self::Missing => f.write_str("gone"),
            Self::Drifted(reason) => write!(f, "drifted: {reason}"),
        }
    }
}

/// Why a machine is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PurgeReason {
    /// Its matcher says no, again and again.
    NoMatch,
    /// The list does not have it.
    NotListed,
}

impl fmt::Display for PurgeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoMatch => "its matcher says no",
            Self::NotListed => "not listed",
        })
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver must do each")]
pub enum Action {
    /// What is there is the wanted version, though we did not place it: remember it as placed.
    Adopt(MachineName),
    /// Fetch it and put it into place.
    Deploy(MachineName, DeployReason),
    /// Remove it.
    Purge(MachineName, PurgeReason),
    /// It is gone already and not wanted: do not remember it any more.
    Forget(MachineName),
}

impl Action {
    /// On which machine.
    pub fn name(&self) -> &MachineName {
        match self {
            Self::Adopt(name) | Self::Deploy(name, _) | Self::Purge(name, _) | Self::Forget(name) => name,
        }
    }
}

/// How a machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// In place as wanted.
    Unchanged,
    /// To be put into place, or put into place.
    Deploy(DeployReason),
    /// In place without our doing.
    Adopt,
    /// To be removed, or removed.
    Purge(PurgeReason),
    /// It does not belong here.
    Skipped,
    /// It cannot be told whether it belongs here; nothing is done.
    Unknown(String),
    /// Something would be done and is not, for now.
    Held(String),
    /// Something is wrong.
    Error(String),
}

/// What is to be done, in order: nothing is removed before everything that belongs here is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The steps.
    pub actions: Vec<Action>,
    /// How each machine stands, of the list and of those in place.
    pub verdicts: BTreeMap<MachineName, Verdict>,
    /// How often matchers have said no, to be remembered.
    pub noes: BTreeMap<MachineName, Noes>,
    /// Since when the document holds no longer, where it does not: what is in place is held, and nothing new comes of it.
    pub stale_since: Option<Timestamp>,
}

/// Plans.
pub fn plan(situation: &Situation<'_>, settings: &Settings) -> Plan {
    let stale_since = if let Freshness::Stale { since } = situation.freshness { Some(since) } else { None };
    let mut plan = Plan { stale_since, ..Plan::default() };
    let mut candidates: Vec<(MachineName, PurgeReason)> = Vec::new();
    let mut forget = Vec::new();
    let stale = stale_since.is_some();
    let placed = &situation.state.placed;
    for wanted in situation.wanted {
        let name = &wanted.name;
        let verdict = match &wanted.belongs {
            Belongs::Yes => belongs(situation, settings, wanted, stale),
            Belongs::Unknown(reason) => Verdict::Unknown(reason.clone()),
            Belongs::Invalid(reason) => Verdict::Error(reason.clone()),
            Belongs::No if !placed.contains_key(name) => Verdict::Skipped,
            Belongs::No if situation.gone.contains(name) => {
                forget.push(name.clone());
                Verdict::Skipped
            }
            Belongs::No => {
                let noes = count(situation.state.noes.get(name), situation.now, settings.noes_apart);
                plan.noes.insert(name.clone(), noes);
                if noes.count >= settings.noes {
                    candidates.push((name.clone(), PurgeReason::NoMatch));
                    Verdict::Purge(PurgeReason::NoMatch)
                } else if settings.purge {
                    Verdict::Held(format!("its matcher said no {} of {} times", noes.count, settings.noes))
                } else {
                    // Nobody asked for a removal, the first time as little as the third.
                    Verdict::Held(format!("{}, but {REMOVING_IS_OFF}", PurgeReason::NoMatch))
                }
            }
        };
        match &verdict {
            Verdict::Deploy(reason) => plan.actions.push(Action::Deploy(name.clone(), reason.clone())),
            Verdict::Adopt => plan.actions.push(Action::Adopt(name.clone())),
            _ => {}
        }
        plan.verdicts.insert(name.clone(), verdict);
    }
    for name in placed.keys().filter(|name| !plan.verdicts.contains_key(*name)) {
        if situation.gone.contains(name) {
            forget.push(name.clone());
        } else {
            candidates.push((name.clone(), PurgeReason::NotListed));
        }
    }
    // What cannot be told, or not even be planned for, may be what came to replace the one that would go.
    let doubt = plan.verdicts.values().any(|verdict| matches!(verdict, Verdict::Unknown(_) | Verdict::Error(_)));
    let guard = guard(situation, settings, candidates.len(), stale)
        .and_then(|()| if doubt { Err(NOT_ALL_IN_PLACE.to_owned()) } else { Ok(()) });
    for (name, reason) in candidates {
        match &guard {
            Ok(()) => {
                plan.verdicts.insert(name.clone(), Verdict::Purge(reason));
                plan.actions.push(Action::Purge(name, reason));
            }
            Err(held) => _ = plan.verdicts.insert(name, Verdict::Held(format!("{reason}, but {held}"))),
        }
    }
    plan.actions.extend(forget.into_iter().map(Action::Forget));
    plan
}

fn belongs(situation: &Situation<'_>, settings: &Settings, wanted: &Wanted, stale: bool) -> Verdict {
    let placed = situation.state.placed.get(&wanted.name);
    let reason = match (placed, &wanted.presence) {
        (_, Presence::Unreadable(reason)) => return Verdict::Error(format!("it cannot be read: {reason}")),
        (None, Presence::Intact) => return Verdict::Adopt,
        (None, Presence::Drifted(_)) => {
            return Verdict::Error(NOT_PLACED_HERE.to_owned());
        }
        (None, Presence::Absent) => DeployReason::New,
        (Some(placed), _) if *placed != wanted.version => DeployReason::Changed,
        (Some(_), Presence::Intact) => return Verdict::Unchanged,
        (Some(_), Presence::Absent) => DeployReason::Missing,
        (Some(_), Presence::Drifted(reason)) => DeployReason::Drifted(reason.clone()),
    };
    // What is in place is mended on the word of a document that has expired; nothing new comes of it.
    if stale && matches!(reason, DeployReason::New | DeployReason::Changed) {
        return Verdict::Held(format!("{reason}, but the document has expired"));
    }
    if let Some(failed) = situation.state.failed.get(&wanted.name)
        && failed.archive == wanted.version.archive
        && let again = failed.at.saturating_add(settings.retry_failed)
        && situation.now < again
    {
        return Verdict::Error(format!(
            "this version failed its health command at {}; it is tried again after {again}",
            failed.at
        ));
    }
    Verdict::Deploy(reason)
}

fn count(before: Option<&Noes>, now: Timestamp, apart: Duration) -> Noes {
    match before {
        None => Noes { count: 1, last: now },
        Some(noes) if now.saturating_since(noes.last) >= apart => Noes { count: noes.count.saturating_add(1), last: now },
        Some(noes) => *noes,
    }
}

/// Removals within the window, from the ones remembered.
pub(crate) fn recent(removals: &[Timestamp], now: Timestamp, window: Duration) -> impl Iterator<Item = Timestamp> {
    removals.iter().copied().filter(move |at| now.saturating_since(*at) < window)
}

fn guard(situation: &Situation<'_>, settings: &Settings, removals: usize, stale: bool) -> Result<(), String> {
    if !settings.purge {
        return Err(REMOVING_IS_OFF.to_owned());
    }
    if stale {
        return Err("the document has expired".to_owned());
    }
    if situation.removals_meant || removals == 0 {
        return Ok(());
    }
    if situation.wanted.is_empty() {
        return Err("the list is empty, and the document does not say that this is meant".to_owned());
    }
    let before = recent(&situation.state.removals, situation.now, settings.window).count();
    let (all, gone) = (situation.state.placed.len() + before, removals + before);
    // Rounded down: 30 % of 9 are 2; but one, where any may go.
    let share = all.saturating_mul(usize::from(settings.guard_percent)) / 100;
    if gone <= share.max(usize::from(settings.guard_percent > 0)) && gone < all {
        return Ok(());
    }
    Err(format!("that would be {gone} of {all}, over the guard of {} %", settings.guard_percent))
}
