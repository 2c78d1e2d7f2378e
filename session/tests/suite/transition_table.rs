//! The whole machine: every state, every kind of event.
//!
//! The table is kept in `vectors/transitions.txt`; see `vectors/README.md` for how to renew it.

use std::fmt::Write as _;

use crate::support::turns::{self, answers, describe, every_event, host_key, id, now};
use crate::support::{colleague, master_key};
use toehold_session::machine::{Action, Event, LoginFailure, Onboarding};
use toehold_session::{HostKeyCheck, Pace};

/// A way to a state: how the run begins, and what came of its actions.
struct Way {
    /// What sets it apart from other ways to a state of this name.
    what: &'static str,
    begin: Begin,
    events: Vec<Event>,
}

#[derive(Clone, Copy)]
enum Begin {
    Open,
    /// With what is secret sealed in the record.
    OpenSealed,
    Ask,
    AcceptNew,
    /// A session that was interrupted while it wrote; with its temporary key sealed or not.
    Recover {
        sealed: bool,
    },
    RecoverCancelled,
    RecoverActive,
}

impl Way {
    fn walk(&self) -> (Onboarding, Action) {
        let pace = Pace::default();
        let (mut machine, mut action) = match self.begin {
            Begin::Open => Onboarding::open(turns::record(HostKeyCheck::Proof), turns::secret(), pace),
            Begin::OpenSealed => Onboarding::open(turns::sealed(turns::record(HostKeyCheck::Proof)), turns::secret(), pace),
            Begin::Ask => Onboarding::open(turns::record(HostKeyCheck::Ask), turns::secret(), pace),
            Begin::AcceptNew => Onboarding::open(turns::record(HostKeyCheck::AcceptNew), turns::secret(), pace),
            Begin::Recover { sealed } => Onboarding::recover(turns::committing(), sealed.then(turns::secret), sealed, pace),
            Begin::RecoverCancelled => {
                let mut record = turns::committing();
                record.cancelled = true;
                Onboarding::recover(record, None, false, pace)
            }
            Begin::RecoverActive => Onboarding::recover(turns::record(HostKeyCheck::Proof), None, false, pace),
        };
        for event in &self.events {
            action = machine.handle(now(), event.clone()).unwrap();
        }
        (machine, action)
    }
}

fn ways() -> Vec<Way> {
    let taken = || Event::AccountTaken { adding: Vec::new(), managed: false, dead: Vec::new() };
    let added = || Event::LinesAdded { added: vec![master_key(), colleague()] };
    let shown = Event::CommandShown { ran: false };
    let logged_in = || Event::LoggedIn { host_key: host_key() };
    let failed = |lost| Event::FilesFailed { reason: "it failed".to_owned(), lost, busy: false };
    let refused = || Event::LoginFailed(LoginFailure::KeyRefused);
    let cleared = Event::Cleared { still_present: Vec::new(), found: true };
    // The good way, of which each state is a beginning.
    let good = vec![
        Event::Saved,
        taken(),
        shown.clone(),
        Event::Unchanged,
        logged_in(),
        Event::ProofRead(Some(turns::proof())),
        Event::Inspected { present: vec![turns::temporary_key()] },
        Event::Saved,
        added(),
        logged_in(),
        Event::Settled,
        cleared.clone(),
        Event::HostRecorded,
        Event::Saved,
    ];
    let upto = |count: usize| good[..count].to_vec();
    let and = |count: usize, more: Vec<Event>| [upto(count), more].concat();
    let mut ways: Vec<Way> = (0..=good.len()).map(|count| Way { what: "", begin: Begin::Open, events: upto(count) }).collect();
    let mut way = |what, begin, events| ways.push(Way { what, begin, events });
    way("", Begin::Open, and(4, vec![refused()]));
    way(
        "the command is said to have run",
        Begin::Open,
        [upto(2), vec![Event::CommandShown { ran: true }, Event::Unchanged]].concat(),
    );
    way("", Begin::Ask, and(5, vec![]));
    way("nothing is missing", Begin::AcceptNew, and(5, vec![]));
    way("removing the temporary key failed", Begin::Open, and(11, vec![failed(true)]));
    way("", Begin::Open, and(11, vec![failed(true), Event::Woke]));
    way("the account is somebody else's", Begin::Open, and(1, vec![Event::AccountHeld { by: id('b') }]));
    way("the command failed", Begin::Open, and(2, vec![Event::CommandFailed("it failed".to_owned())]));
    let judged = |content| [upto(5), vec![Event::ProofRead(content)]].concat();
    way("the proof was good", Begin::OpenSealed, judged(Some(turns::proof())));
    way("the proof was wrong", Begin::OpenSealed, judged(Some(vec![b'0'; 64])));
    way("undoing", Begin::OpenSealed, and(5, vec![failed(false), Event::ProofRead(Some(turns::proof()))]));
    way("over the temporary key, nothing was added", Begin::Open, and(5, vec![Event::ProofRead(None)]));
    way("over the temporary key, the host is the right one", Begin::Open, and(6, vec![failed(false)]));
    way("over the temporary key, lines were added", Begin::Open, and(9, vec![refused()]));
    way("the proof was not read yet", Begin::Open, and(5, vec![failed(false)]));
    way("lines were added", Begin::Open, and(9, vec![refused(), failed(true), Event::Woke, refused()]));
    for (what, begin) in [
        ("lines were being written", Begin::Recover { sealed: false }),
        ("lines were being written, the key is sealed", Begin::Recover { sealed: true }),
        ("cancelled", Begin::RecoverCancelled),
        ("nothing was written", Begin::RecoverActive),
    ] {
        way(what, begin, vec![]);
        way(what, begin, vec![Event::Saved]);
        way(what, begin, vec![Event::Saved, taken()]);
    }
    let sealed = Begin::Recover { sealed: true };
    let recover = |more: Vec<Event>| [vec![Event::Saved, taken()], more].concat();
    way("", Begin::Recover { sealed: false }, recover(vec![logged_in()]));
    way("", sealed, recover(vec![refused()]));
    way("to recover", Begin::Recover { sealed: false }, recover(vec![refused()]));
    way("cancelled, over the master key", Begin::RecoverCancelled, recover(vec![logged_in()]));
    way("cancelled, over the master key again", Begin::RecoverCancelled, recover(vec![logged_in(), failed(true), Event::Woke]));
    ways
}

fn table() -> String {
    let mut table = String::new();
    for way in ways() {
        let (machine, action) = way.walk();
        let what = if way.what.is_empty() { String::new() } else { format!(" ({})", way.what) };
        writeln!(table, "{}{what}: {}", machine.step(), describe(&action)).unwrap();
        for (name, event) in every_event(&turns::stored(&machine)) {
            let (mut machine, action) = way.walk();
            let before = format!("{machine:?}");
            match machine.handle(now(), event.clone()) {
                Ok(next) => {
                    assert!(answers(&action, &event), "{} takes {name}", way.walk().0.step());
                    writeln!(table, "    {name} -> {}: {}", machine.step(), describe(&next)).unwrap();
                }
                Err(error) => {
                    assert_eq!(format!("{machine:?}"), before, "{error}");
                    assert_eq!((error.state, error.event), (machine.step(), event.kind()));
                    assert!(!answers(&action, &event), "{error}");
                }
            }
        }
        table.push('\n');
    }
    table
}

#[test]
fn every_state_and_every_event() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/transitions.txt");
    let table = table();
    if std::env::var_os("TOEHOLD_RENEW_VECTORS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap();
    for (number, (kept, now)) in kept.lines().zip(table.lines()).enumerate() {
        assert_eq!(now, kept, "line {} of {path}", number + 1);
    }
    assert_eq!(table.lines().count(), kept.lines().count());
}

#[test]
fn every_state_is_in_the_table() {
    let source = include_str!("../../src/machine/state.rs");
    let names = source.split("pub(crate) fn name").nth(1).unwrap().split("pub(super) fn again").next().unwrap();
    let kept = table();
    for name in names.split("=> \"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(kept.lines().any(|line| !line.starts_with(' ') && line.starts_with(name)), "no way leads to \"{name}\"");
    }
}
