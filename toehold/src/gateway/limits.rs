//! How much one source, and all of them together, may ask for (J5).
//!
//! A source is an IPv4 address or the /64 of an IPv6 address. An agent that has authenticated counts among the agents from then on,
//! so that no flood of strangers closes the door on those who have joined; and each agent has its own share, so that none takes the
//! places of the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most sources that are told apart; beyond that all new ones share one place until others are forgotten.
const MAX_SOURCES: usize = 65_536;

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Connections of agents that have authenticated (default: 20,000).
    pub agents: usize,
    /// Connections of one agent, and its sessions on all of them (default: 8).
    pub sessions_per_agent: usize,
    /// Connections that have not (default: 1,024).
    pub strangers: usize,
    /// Those of one source (default: 256).
    pub strangers_per_source: usize,
    /// Handshakes of one source in a minute; as many may come at once (default: 1,200).
    pub handshakes_per_minute: u32,
    /// Calls of one source in a minute, and messages of one agent in all its sessions; as many may come at once (default: 2,400).
    pub calls_per_minute: u32,
    /// How long a connection may last on which nobody has authenticated, or has a session any more (default: 30 s).
    pub stranger_lifetime: Duration,
    /// How long the PROXY header and the TLS handshake may take (default: 10 s).
    pub handshake: Duration,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            agents: 20_000,
            sessions_per_agent: 8,
            strangers: 1_024,
            strangers_per_source: 256,
            handshakes_per_minute: 1_200,
            calls_per_minute: 2_400,
            stranger_lifetime: Duration::from_secs(30),
            handshake: Duration::from_secs(10),
        }
    }
}

/// What was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Too many agents are connected.
    #[error("too many agents are connected")]
    Agents,
    /// Too many handshakes of this source.
    #[error("too many handshakes of this source")]
    Handshakes,
    /// Too many connections or sessions of this agent.
    #[error("too many connections or sessions of this agent")]
    Sessions,
    /// Too many connections of this source.
    #[error("too many connections of this source")]
    Source,
    /// Too many connections of strangers.
    #[error("too many connections")]
    Strangers,
}

/// A source: what an address is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
    /// All that there was no place for.
    Others,
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => Self::V6(address.octets().first_chunk().copied().unwrap_or_default()),
        }
    }
}

/// What is left of an allowance that fills up again, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u64,
    at: Instant,
}

impl Allowance {
    fn full(per_minute: u32, now: Instant) -> Self {
        Self { left: u64::from(per_minute) * 1_000, at: now }
    }

    fn refill(&mut self, per_minute: u32, now: Instant) {
        let passed = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        let most = u64::from(per_minute) * 1_000;
        // A minute is 60,000 ms: `per_minute` whole ones, each a thousand thousandths.
        let gained = passed.saturating_mul(u64::from(per_minute)) / 60;
        if gained > 0 {
            self.left = self.left.saturating_add(gained).min(most);
            self.at = now;
        }
    }

    fn take(&mut self, many: u32, per_minute: u32, now: Instant) -> bool {
        self.refill(per_minute, now);
        match self.left.checked_sub(u64::from(many) * 1_000) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn is_full(mut self, per_minute: u32, now: Instant) -> bool {
        self.refill(per_minute, now);
        self.left >= u64::from(per_minute) * 1_000
    }
}

#[derive(Debug)]
struct Account {
    strangers: usize,
    handshakes: Allowance,
    calls: Allowance,
}

/// What one agent has open, and what is left of its messages once it has said something: it comes back to that.
#[derive(Debug, Default)]
struct Share {
    connections: usize,
    sessions: usize,
    messages: Option<Allowance>,
}

impl Share {
    fn has_nothing_open(&self) -> bool {
        self.connections == 0 && self.sessions == 0
    }
}

#[derive(Debug, Default)]
struct Book {
    strangers: usize,
    agents: usize,
    sources: HashMap<Source, Account>,
    /// Of the agents that are there, or have said much a moment ago.
    shares: HashMap<String, Share>,
}

impl Book {
    /// Changes an agent's share, and forgets one that has nothing open and has said nothing.
    fn share(&mut self, agent: &str, change: impl FnOnce(&mut Share)) {
        let Some(share) = self.shares.get_mut(agent) else { return };
        change(share);
        if share.has_nothing_open() && share.messages.is_none() {
            self.shares.remove(agent);
        }
    }
}

/// Keeps count.
#[derive(Clone, Debug)]
pub struct Limits {
    options: LimitOptions,
    book: Arc<Mutex<Book>>,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Of agents that have authenticated.
    pub agents: usize,
    /// Of everybody else.
    pub strangers: usize,
}

impl Limits {
    /// With nobody there.
    pub fn new(options: LimitOptions) -> Self {
        Self { options, book: Arc::default() }
    }

    /// How much of everything.
    pub fn options(&self) -> &LimitOptions {
        &self.options
    }

    /// How many there are.
    pub fn count(&self) -> Count {
        let book = self.book();
        Count { agents: book.agents, strangers: book.strangers }
    }

    /// Lets a connection in, of whom is not known yet.
    ///
    /// # Errors
    /// [`Refused::Strangers`].
    pub fn enter(&self) -> Result<Place, Refused> {
        let mut book = self.book();
        if book.strangers >= self.options.strangers {
            return Err(Refused::Strangers);
        }
        book.strangers += 1;
        Ok(Place { limits: self.clone(), source: None, agent: None })
    }

    /// Begins a session of an agent that has authenticated.
    ///
    /// # Errors
    /// [`Refused::Sessions`].
    pub fn session(&self, agent: &str) -> Result<SessionPlace, Refused> {
        let mut book = self.book();
        let share = book.shares.entry(agent.to_owned()).or_default();
        if share.sessions >= self.options.sessions_per_agent {
            return Err(Refused::Sessions);
        }
        share.sessions += 1;
        drop(book);
        Ok(SessionPlace { limits: self.clone(), agent: agent.to_owned() })
    }

    /// Takes a call out of a source's allowance; `false`: it has none left.
    pub fn call(&self, address: IpAddr, now: Instant) -> bool {
        let mut book = self.book();
        let (account, _) = self.account(&mut book, Source::of(address), now);
        account.calls.take(1, self.options.calls_per_minute, now)
    }

    fn account<'b>(&self, book: &'b mut Book, source: Source, now: Instant) -> (&'b mut Account, Source) {
        if book.sources.len() >= MAX_SOURCES && !book.sources.contains_key(&source) {
            self.forget(book, now);
        }
        let is_full = book.sources.len() >= MAX_SOURCES && !book.sources.contains_key(&source);
        let source = if is_full { Source::Others } else { source };
        let account = book.sources.entry(source).or_insert_with(|| Account {
            strangers: 0,
            handshakes: Allowance::full(self.options.handshakes_per_minute, now),
            calls: Allowance::full(self.options.calls_per_minute, now),
        });
        (account, source)
    }

    /// Forgets the sources and the agents of which nothing needs to be remembered.
    pub fn tidy(&self, now: Instant) {
        let mut book = self.book();
        self.forget(&mut book, now);
        let per_minute = self.options.calls_per_minute;
        book.shares.retain(|_, share| {
            share.messages = share.messages.filter(|messages| !messages.is_full(per_minute, now));
            !share.has_nothing_open() || share.messages.is_some()
        });
    }

    fn forget(&self, book: &mut Book, now: Instant) {
        let options = self.options;
        book.sources.retain(|_, account| {
            account.strangers > 0
                || !account.handshakes.is_full(options.handshakes_per_minute, now)
                || !account.calls.is_full(options.calls_per_minute, now)
        });
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    limits: Limits,
    source: Option<Source>,
    /// Who has authenticated on it first.
    agent: Option<String>,
}

/// A session's place; given back when it is dropped.
#[derive(Debug)]
pub struct SessionPlace {
    limits: Limits,
    agent: String,
}

impl SessionPlace {
    /// Takes a message out of the agent's allowance, which all its sessions have together; `weight`: for how many it stands. `false`: so
    /// much is not left.
    pub fn message(&self, weight: u32, now: Instant) -> bool {
        let per_minute = self.limits.options.calls_per_minute;
        let mut book = self.limits.book();
        let share = book.shares.entry(self.agent.clone()).or_default();
        let messages = share.messages.get_or_insert_with(|| Allowance::full(per_minute, now));
        messages.take(weight.min(per_minute), per_minute, now)
    }
}

impl Place {
    /// Says who it is, before the handshake.
    ///
    /// # Errors
    /// [`Refused::Source`], [`Refused::Handshakes`].
    pub fn identify(&mut self, address: IpAddr, now: Instant) -> Result<(), Refused> {
        let options = self.limits.options;
        let mut book = self.limits.book();
        let (account, source) = self.limits.account(&mut book, Source::of(address), now);
        if account.strangers >= options.strangers_per_source {
            return Err(Refused::Source);
        }
        if !account.handshakes.take(1, options.handshakes_per_minute, now) {
            return Err(Refused::Handshakes);
        }
        account.strangers += 1;
        drop(book);
        self.source = Some(source);
        Ok(())
    }

    /// Whose it is, once somebody has authenticated.
    pub fn agent(&self) -> Option<&str> {
        self.agent.as_deref()
    }

    /// It is this agent's, which has authenticated. It stays the first one's that did.
    ///
    /// # Errors
    /// [`Refused::Agents`], [`Refused::Sessions`].
    pub fn authenticated(&mut self, agent: &str) -> Result<(), Refused> {
        if self.agent.is_some() {
            return Ok(());
        }
        let options = self.limits.options;
        let mut book = self.limits.book();
        if book.agents >= options.agents {
            return Err(Refused::Agents);
        }
        let share = book.shares.entry(agent.to_owned()).or_default();
        // A share that is used up is not empty: none is left behind by a refusal.
        if share.connections >= options.sessions_per_agent {
            return Err(Refused::Sessions);
        }
        share.connections += 1;
        book.agents += 1;
        leave(&mut book, self.source.take());
        drop(book);
        self.agent = Some(agent.to_owned());
        Ok(())
    }
}

/// A stranger goes.
fn leave(book: &mut Book, source: Option<Source>) {
    book.strangers = book.strangers.saturating_sub(1);
    if let Some(account) = source.and_then(|source| book.sources.get_mut(&source)) {
        account.strangers = account.strangers.saturating_sub(1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut book = self.limits.book();
        if let Some(agent) = &self.agent {
            book.agents = book.agents.saturating_sub(1);
            book.share(agent, |share| share.connections = share.connections.saturating_sub(1));
        } else {
            leave(&mut book, self.source.take());
        }
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        self.limits.book().share(&self.agent, |share| share.sessions = share.sessions.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(LimitOptions {
            agents: 2,
            sessions_per_agent: 2,
            strangers: 5,
            strangers_per_source: 2,
            handshakes_per_minute: 3,
            calls_per_minute: 2,
            ..LimitOptions::default()
        })
    }

    fn enter(limits: &Limits, address: &str, now: Instant) -> Result<Place, Refused> {
        let mut place = limits.enter()?;
        place.identify(address.parse().unwrap(), now)?;
        Ok(place)
    }

    #[test]
    fn j5_a_source_is_an_address_or_a_64() {
        let (limits, now) = (limits(), Instant::now());
        let _held = [enter(&limits, "2001:db8::1", now).unwrap(), enter(&limits, "2001:db8::2", now).unwrap()];
        assert_eq!(enter(&limits, "2001:db8::3", now).unwrap_err(), Refused::Source);
        let _other = enter(&limits, "2001:db8:0:1::3", now).unwrap();
        let mapped = enter(&limits, "::ffff:192.0.2.1", now).unwrap();
        let _plain = enter(&limits, "192.0.2.1", now).unwrap();
        assert_eq!(enter(&limits, "192.0.2.9", now).unwrap_err(), Refused::Strangers);
        drop(mapped);
        assert_eq!(limits.count(), Count { agents: 0, strangers: 4 });
    }

    #[test]
    fn j5_handshakes_of_a_source_are_limited_and_come_back_with_time() {
        let (limits, now) = (limits(), Instant::now());
        for _ in 0..3 {
            enter(&limits, "192.0.2.1", now).unwrap();
        }
        assert_eq!(enter(&limits, "192.0.2.1", now).unwrap_err(), Refused::Handshakes);
        enter(&limits, "192.0.2.2", now).unwrap();
        enter(&limits, "192.0.2.1", now + Duration::from_secs(20)).unwrap();
        assert_eq!(enter(&limits, "192.0.2.1", now + Duration::from_secs(20)).unwrap_err(), Refused::Handshakes);
        assert_eq!(limits.count(), Count { agents: 0, strangers: 0 });
    }

    #[test]
    fn calls_of_a_source_are_limited() {
        let (limits, now) = (limits(), Instant::now());
        let address = "192.0.2.1".parse().unwrap();
        assert!(limits.call(address, now) && limits.call(address, now) && !limits.call(address, now));
        assert!(limits.call("192.0.2.2".parse().unwrap(), now));
        assert!(limits.call(address, now + Duration::from_secs(30)));
    }

    #[test]
    fn who_has_authenticated_is_no_stranger_any_more() {
        let (limits, now) = (limits(), Instant::now());
        let mut agents = Vec::new();
        for name in ["a", "b"] {
            let mut place = enter(&limits, "192.0.2.1", now).unwrap();
            place.authenticated(name).unwrap();
            place.authenticated(name).unwrap();
            agents.push(place);
        }
        assert_eq!(limits.count(), Count { agents: 2, strangers: 0 });
        let mut third = enter(&limits, "192.0.2.1", now).unwrap();
        assert_eq!(third.authenticated("c"), Err(Refused::Agents));
        drop(third);
        drop(agents);
        assert_eq!(limits.count(), Count { agents: 0, strangers: 0 });
    }

    #[test]
    fn an_agent_has_its_share_of_connections_and_sessions_and_no_more() {
        let (limits, now) =
            (Limits::new(LimitOptions { agents: 9, sessions_per_agent: 2, ..LimitOptions::default() }), Instant::now());
        let connect = |agent: &str| {
            let mut place = enter(&limits, "192.0.2.1", now).unwrap();
            place.authenticated(agent).map(|()| place)
        };
        let (first, second) = (connect("a").unwrap(), connect("a").unwrap());
        assert_eq!(connect("a").unwrap_err(), Refused::Sessions);
        let sessions = [limits.session("a").unwrap(), limits.session("a").unwrap()];
        assert_eq!(limits.session("a").unwrap_err(), Refused::Sessions);
        // Nobody else is kept out by that.
        let other = (connect("b").unwrap(), limits.session("b").unwrap());
        drop((first, sessions));
        let (third, session) = (connect("a").unwrap(), limits.session("a").unwrap());
        assert_eq!(limits.count(), Count { agents: 3, strangers: 0 });
        drop((second, third, session, other));
        assert!(limits.book().shares.is_empty());
        assert_eq!(limits.count(), Count { agents: 0, strangers: 0 });
    }

    #[test]
    fn messages_of_an_agent_are_limited_in_all_its_sessions_and_when_it_comes_back() {
        let (limits, now) = (Limits::new(LimitOptions { calls_per_minute: 12, ..LimitOptions::default() }), Instant::now());
        let (first, second) = (limits.session("a").unwrap(), limits.session("a").unwrap());
        assert!(first.message(10, now) && second.message(1, now) && first.message(1, now) && !second.message(1, now));
        // Nobody else has less of it, and one that is gone for a moment no more.
        assert!(limits.session("b").unwrap().message(12, now));
        drop((first, second));
        limits.tidy(now);
        let again = limits.session("a").unwrap();
        assert!(!again.message(1, now) && again.message(1, now + Duration::from_secs(5)));
        // What weighs more than all of it can be said at times.
        let minute = now + Duration::from_secs(65);
        assert!(again.message(100, minute) && !again.message(1, minute));
        drop(again);
        limits.tidy(minute);
        assert_eq!(limits.book().shares.keys().map(String::as_str).collect::<Vec<_>>(), ["a"]);
        limits.tidy(minute + Duration::from_secs(60));
        assert!(limits.book().shares.is_empty());
    }

    #[test]
    fn a_source_that_owes_nothing_is_forgotten() {
        let (limits, now) = (limits(), Instant::now());
        let held = enter(&limits, "192.0.2.1", now).unwrap();
        enter(&limits, "192.0.2.2", now).unwrap();
        limits.tidy(now + Duration::from_secs(60));
        assert_eq!(limits.book().sources.len(), 1);
        drop(held);
        limits.tidy(now + Duration::from_secs(60));
        assert_eq!(limits.book().sources.len(), 0);
    }
}
