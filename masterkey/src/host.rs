//! One host's way from one master key to another, as a machine: by what its files hold as just read, and by which keys have
//! logged in, never by what a journal says or a clock shows.

use toehold_keygen::authorized_keys::Digest;

use crate::change::Change;
use crate::observe::{Observation, Presence};

/// The place of the key that the host is being led to.
pub const ARRIVING: usize = 0;
/// The place of the key that it is being led away from. Behind it come older keys, which a host that was deferred may have.
pub const LEAVING: usize = 1;

/// How many refusals in a row count as one.
const CONFIRMED: u8 = 2;

/// The most connections of one run over a host; a good one takes four. Past that something changes the files all the time.
const MOST_CONNECTIONS: u32 = 16;

/// How far a host is to be led.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "the phases of a fleet map to these")]
pub enum Goal {
    /// The arriving key is there without an end and has logged in.
    Prepare,
    /// All others have an end.
    Soften,
    /// All others are gone and were seen refused.
    Remove,
}

/// What is to be done next while there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to do them all")]
pub enum Next {
    /// Log in. Answer: [`HostMachine::logged_in`] or [`HostMachine::refused`]; anything else leaves the machine as it is.
    LogIn {
        /// With which key.
        with: usize,
        /// About which key the server is asked beforehand.
        query: Option<usize>,
    },
    /// There is nothing more to do.
    End(HostEnd),
}

/// What is to be done over a connection, on what its files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a driver has to do them all")]
pub enum Step {
    /// Make this change. Answer: [`HostMachine::did`], unless it is not known to have been made: then log in again.
    Write(Change),
    /// Close the connection; [`HostMachine::next`] says how it goes on once [`HostMachine::did`] was told what was read.
    Leave,
}

/// How a run over a host ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a caller has to judge them all")]
pub enum HostEnd {
    /// It is where it was to be led.
    Reached,
    /// It has the arriving key's line and does not take the key.
    Refused,
    /// It takes a key that is in none of its files.
    StillAccepted(usize),
    /// It takes none of the keys.
    LockedOut,
    /// It takes this key, which is in none of the files that we can see: its sshd reads other ones.
    ReadsOtherFiles(usize),
    /// No key that the store holds stands there without an end and logs in: nothing can be written safely.
    NoAnchor,
    /// It does not come to rest.
    NeverRests,
}

/// What is to be done on the way out of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    Write(Change),
    LogIn { with: usize, query: Option<usize> },
    End(HostEnd),
}

/// What is known of one key in this run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    /// Its lines without an end when the files were last read.
    lines: Vec<LineId>,
    /// Lines that were in the files when it logged in.
    proven: Vec<LineId>,
    /// Whether its private half cannot be used here, so that it is never logged in with.
    closed: bool,
    /// How often in a row it was refused since its lines last changed, up to [`CONFIRMED`].
    refusals: u8,
    /// Whether it was seen in the files, or has logged in.
    met: bool,
    /// Whether it was refused after it was seen to be gone.
    seen_gone: bool,
}

/// A [`Digest`] that can be hashed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct LineId(Digest);

/// One host's way. Feed it what came of each login and of what was read; it says what is next.
///
/// It holds no file and no clock. It can be dropped at any time; a new one comes to the same end by what it reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostMachine {
    goal: Goal,
    /// Whether the host's sshd knows `expiry-time` (R12), as it stands now.
    knows_expiry: bool,
    /// Whether it may: nobody has said otherwise, and it was not found out otherwise.
    may_know_expiry: bool,
    /// Whether the arriving key was refused while its line had an end that the host should read, and taken once it had none.
    refused_an_end: bool,
    /// Whether that is being found out.
    suspects_its_end: bool,
    /// Whether nobody else can have written to the host since the rotation began, so that what the first login reads is what
    /// the login was made with.
    fresh: bool,
    keys: Vec<Known>,
    connections: u32,
    /// Whether the arriving key's line was made permanent to see whether it is only the end that the host does not read.
    probed: bool,
    /// Whether the arriving key may have been proven there before this run.
    maybe_proven: bool,
    over: Option<usize>,
    wanted: Option<(usize, Option<usize>)>,
    end: Option<HostEnd>,
}

impl HostMachine {
    /// A run over a host with `keys` keys, the arriving and the leaving one first, of which nothing is known.
    ///
    /// `fresh` says that nobody else can have written to the host in this rotation: its journal begins with this run.
    pub fn new(goal: Goal, keys: usize, knows_expiry: bool, fresh: bool) -> Self {
        let keys = vec![Known::default(); keys.max(2)];
        Self {
            goal,
            knows_expiry,
            may_know_expiry: knows_expiry,
            refused_an_end: false,
            suspects_its_end: false,
            fresh,
            keys,
            connections: 0,
            probed: false,
            maybe_proven: false,
            over: None,
            wanted: None,
            end: None,
        }
    }

    /// The same host, where the arriving key may have been proven before this run, as past the barrier: a line of it without an end
    /// stays if the host refuses the key now, unless this run has made it so.
    #[must_use]
    pub fn maybe_proven_before(mut self) -> Self {
        self.maybe_proven = true;
        self
    }

    /// The same host, where a run that was cut off has made the arriving key's line permanent, and nobody knows of a login since:
    /// it is proven now, or goes (R3).
    #[must_use]
    pub fn probed_before(mut self) -> Self {
        self.probed = true;
        self
    }

    /// The same host on its next stretch, with what is known of it.
    #[must_use]
    pub fn toward(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self.restart();
        self
    }

    /// The same host on the way back: the keys that arrived and left change places.
    #[must_use]
    pub fn turned_back(mut self, goal: Goal) -> Self {
        self.keys.swap(ARRIVING, LEAVING);
        self.fresh = false;
        // What was tried with the one key says nothing of the other.
        self.probed = false;
        self.suspects_its_end = false;
        self.maybe_proven = true;
        self.toward(goal)
    }

    /// Tries once more after whatever ended the run.
    fn restart(&mut self) {
        self.connections = 0;
        self.over = None;
        self.wanted = None;
        self.end = None;
        for known in &mut self.keys {
            known.refusals = 0;
            known.seen_gone = false;
        }
    }

    /// The same host, where the private half of this key cannot be used: its lines are known for what they are, and nobody
    /// logs in with it.
    #[must_use]
    pub fn without_login(mut self, key: usize) -> Self {
        if let Some(known) = self.keys.get_mut(key) {
            known.closed = true;
        }
        self
    }

    /// How far it is to be led.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether the host's sshd is taken to know `expiry-time` at this visit.
    pub fn knows_expiry(&self) -> bool {
        self.knows_expiry
    }

    /// Whether an end can be written so that the host reads it (R12), as far as is known at this visit: its time zone may be
    /// clear at the next one. What this run has found out otherwise stands.
    pub fn reads_expiry(&mut self, reads: bool) {
        self.knows_expiry = self.may_know_expiry && reads;
    }

    /// Whether the host was seen to refuse a line because of its end, though by all that it says it reads one. Worth keeping:
    /// nothing else tells.
    pub fn has_refused_an_end(&self) -> bool {
        self.refused_an_end
    }

    /// The lines, by digest, that were in the files when a login with their key succeeded: what the [guard](crate::guard)
    /// goes by.
    pub fn proven(&self, seen: &Observation) -> Vec<Digest> {
        let before = self.keys.iter().flat_map(|known| known.proven.iter().map(|line| line.0));
        let now = self.over.into_iter().flat_map(|over| self.just_proven(over, seen));
        before.chain(now).collect()
    }

    /// Of the lines of the key that logged in, those that it logged in with: they were there before the login.
    fn just_proven(&self, over: usize, seen: &Observation) -> Vec<Digest> {
        let Some(known) = self.keys.get(over) else { return Vec::new() };
        let trusted = self.fresh && over != ARRIVING && self.connections == 1;
        let was_there = |line: &&Digest| trusted || known.lines.contains(&LineId(**line));
        seen.key(over).permanent.iter().filter(was_there).copied().collect()
    }

    fn is_proven(&self, key: usize, seen: &Observation) -> bool {
        let known = self.keys.get(key).map(|known| known.proven.as_slice()).unwrap_or_default();
        let now = if self.over == Some(key) { self.just_proven(key, seen) } else { Vec::new() };
        seen.key(key).permanent.iter().any(|line| known.contains(&LineId(*line)) || now.contains(line))
    }

    /// Whether nothing but a login with another key can come next: this one was refused, or cannot be used.
    fn is_passed_over(&self, key: usize) -> bool {
        self.keys.get(key).is_none_or(|known| known.closed || known.refusals > 0)
    }

    /// Whether the host does not take the key, as far as can be told. One refusal does not tell: a home directory that is away
    /// for a moment makes sshd refuse every key.
    fn is_refused(&self, key: usize) -> bool {
        self.keys.get(key).is_none_or(|known| known.closed || known.refusals >= CONFIRMED)
    }

    /// Whether the key was refused and is to be tried once more before anything follows from that. Whoever does so lets some
    /// time pass.
    pub fn is_in_doubt(&self, key: usize) -> bool {
        self.keys.get(key).is_some_and(|known| (1..CONFIRMED).contains(&known.refusals))
    }

    /// What is next while there is no connection.
    pub fn next(&self) -> Next {
        if let Some(end) = self.end {
            return Next::End(end);
        }
        if self.connections >= MOST_CONNECTIONS {
            return Next::End(HostEnd::NeverRests);
        }
        if let Some((with, query)) = self.wanted.filter(|(with, _)| !self.is_refused(*with)) {
            return Next::LogIn { with, query };
        }
        let first = if self.goal == Goal::Prepare { [LEAVING, ARRIVING] } else { [ARRIVING, LEAVING] };
        let ladder = first.into_iter().chain(2..self.keys.len());
        match ladder.into_iter().find(|key| !self.is_passed_over(*key)) {
            Some(with) => Next::LogIn { with, query: None },
            None => Next::End(HostEnd::LockedOut),
        }
    }

    /// The host itself has refused the key.
    pub fn refused(&mut self, key: usize) {
        self.connections += 1;
        self.over = None;
        self.wanted = self.wanted.filter(|(with, _)| *with != key);
        if let Some(known) = self.keys.get_mut(key) {
            known.refusals = known.refusals.saturating_add(1).min(CONFIRMED);
        }
    }

    /// A login has succeeded; `queried` is what the server said of the key that it was asked about.
    pub fn logged_in(&mut self, key: usize, queried: Option<(usize, bool)>) {
        self.connections += 1;
        self.over = Some(key);
        self.wanted = None;
        if let Some(known) = self.keys.get_mut(key) {
            known.met = true;
            known.refusals = 0;
        }
        self.refused_an_end |= self.probed && self.suspects_its_end && key == ARRIVING;
        self.probed &= key != ARRIVING;
        let Some((asked, accepted)) = queried else { return };
        if accepted {
            self.end = Some(HostEnd::StillAccepted(asked));
            return;
        }
        if let Some(known) = self.keys.get_mut(asked) {
            known.seen_gone = true;
        }
        self.wanted = self.unseen().map(|key| (ARRIVING, Some(key)));
        if self.wanted.is_none() {
            self.end = Some(HostEnd::Reached);
        }
    }

    /// Of the keys that are to be gone, one that was not yet seen refused.
    fn unseen(&self) -> Option<usize> {
        (LEAVING..self.keys.len())
            .find(|key| self.keys.get(*key).is_some_and(|known| (*key == LEAVING || known.met) && !known.seen_gone))
    }

    /// What to do over the connection, on what was just read.
    pub fn step(&self, seen: &Observation) -> Step {
        match self.judge(seen) {
            Verdict::Write(change) => Step::Write(change),
            Verdict::LogIn { .. } | Verdict::End(_) => Step::Leave,
        }
    }

    /// What was read, and changed or not, over the connection: `before` is what [`HostMachine::step`] was given, `after` what
    /// the files hold since.
    pub fn did(&mut self, before: &Observation, change: Option<Change>, after: &Observation) {
        if let Some(over) = self.over {
            let lines = self.just_proven(over, before);
            if let Some(known) = self.keys.get_mut(over) {
                known.proven = lines.into_iter().map(LineId).collect();
            }
        }
        let verdict = if change.is_none() { Some(self.judge(before)) } else { None };
        for (key, known) in self.keys.iter_mut().enumerate() {
            let lines: Vec<LineId> = after.key(key).permanent.iter().copied().map(LineId).collect();
            known.proven.retain(|line| lines.contains(line));
            known.lines = lines;
            known.met |= after.presence(key).is_there();
            known.seen_gone &= !after.presence(key).is_there();
        }
        if let Some(change) = change
            && let Some(known) = self.keys.get_mut(change.key())
        {
            known.refusals = 0;
            if change == Change::Promote && self.over != Some(ARRIVING) {
                // It refused a line that has not ended: it may not know what an end is.
                self.suspects_its_end = self.knows_expiry;
                (self.knows_expiry, self.may_know_expiry, self.probed) = (false, false, true);
            }
        }
        if change == Some(Change::Delete(ARRIVING)) {
            (self.over, self.end) = (None, Some(HostEnd::Refused));
            return;
        }
        // After a change the same rules say what is left to do; only another change has to wait for its own connection.
        match verdict.unwrap_or_else(|| self.judge(after)) {
            Verdict::End(end) => self.end = Some(end),
            Verdict::LogIn { with, query } => self.wanted = Some((with, query)),
            Verdict::Write(_) => self.wanted = self.over.map(|over| (over, None)),
        }
        self.over = None;
    }

    /// The host refuses the arriving key, whose line is not taken away all the same: somebody else relies on it.
    pub fn left_to_others(&mut self) {
        (self.over, self.end) = (None, Some(HostEnd::Refused));
    }

    /// The rules. `seen` is what the files hold; the key in `over` has logged in.
    fn judge(&self, seen: &Observation) -> Verdict {
        let Some(over) = self.over else { return Verdict::End(HostEnd::NeverRests) };
        if matches!(seen.presence(over), Presence::Absent | Presence::Unusable) {
            return Verdict::End(HostEnd::ReadsOtherFiles(over));
        }
        if over == ARRIVING { self.over_arriving(seen) } else { self.over_another(over, seen) }
    }

    fn over_another(&self, over: usize, seen: &Observation) -> Verdict {
        let log_in = |with| Verdict::LogIn { with, query: None };
        let arriving = seen.presence(ARRIVING);
        if arriving == Presence::Permanent && !self.is_refused(ARRIVING) {
            return log_in(ARRIVING);
        }
        if arriving == Presence::Permanent {
            // R3: a line that is not proven does not stay for good. Past the barrier it may have been proven before.
            let unproven = self.probed || self.goal == Goal::Prepare && !self.maybe_proven;
            return match seen.presence(over) {
                Presence::Permanent if unproven && !self.is_proven(over, seen) => log_in(over),
                Presence::Permanent if unproven => Verdict::Write(Change::Delete(ARRIVING)),
                _ => Verdict::End(HostEnd::Refused),
            };
        }
        if seen.presence(over) != Presence::Permanent {
            // Whatever is written now, nothing that stays would be known to log in.
            return if arriving == (Presence::Expiring { passed: false }) && !self.is_refused(ARRIVING) {
                log_in(ARRIVING)
            } else {
                self.another_anchor(over, seen)
            };
        }
        if !self.is_proven(over, seen) {
            return log_in(over);
        }
        match arriving {
            Presence::Absent | Presence::Unusable => Verdict::Write(Change::Add { provisional: self.knows_expiry }),
            Presence::Expiring { passed: true } if self.knows_expiry => Verdict::Write(Change::Extend),
            Presence::Expiring { .. } if self.is_refused(ARRIVING) || !self.knows_expiry => Verdict::Write(Change::Promote),
            _ => log_in(ARRIVING),
        }
    }

    fn over_arriving(&self, seen: &Observation) -> Verdict {
        let log_in = |with, query| Verdict::LogIn { with, query };
        if seen.presence(ARRIVING) != Presence::Permanent {
            let anchored = (LEAVING..seen.len()).any(|key| self.is_proven(key, seen));
            return if anchored { Verdict::Write(Change::Promote) } else { self.another_anchor(ARRIVING, seen) };
        }
        if self.goal == Goal::Prepare {
            return Verdict::End(HostEnd::Reached);
        }
        let softly = self.goal == Goal::Soften && self.knows_expiry;
        let to_go = |key: &usize| match seen.presence(*key) {
            Presence::Permanent => true,
            presence => !softly && presence.is_there(),
        };
        match (LEAVING..seen.len()).find(to_go) {
            Some(_) if !self.is_proven(ARRIVING, seen) => log_in(ARRIVING, None),
            Some(key) if softly => Verdict::Write(Change::Expire(key)),
            Some(key) => Verdict::Write(Change::Delete(key)),
            None if self.goal == Goal::Soften => Verdict::End(HostEnd::Reached),
            None => match self.unseen() {
                Some(key) => log_in(ARRIVING, Some(key)),
                None => Verdict::End(HostEnd::Reached),
            },
        }
    }

    /// Another key that stands there without an end and may prove it.
    fn another_anchor(&self, over: usize, seen: &Observation) -> Verdict {
        let can = |key: &usize| *key != over && seen.presence(*key) == Presence::Permanent && !self.is_refused(*key);
        match (LEAVING..seen.len()).find(can) {
            Some(with) => Verdict::LogIn { with, query: None },
            None => Verdict::End(HostEnd::NoAnchor),
        }
    }
}
