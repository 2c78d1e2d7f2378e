//! Plans over any situation: nothing is removed that was not placed, nor on anything but a proven no or a list without it, nor
//! on the word of a document that has expired, nor past the guard; and whatever belongs here comes first.
#![no_main]

use std::collections::BTreeSet;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use toehold_core::Timestamp;
use toehold_specsign::plan::{Action, Belongs, Presence, Situation, Wanted, plan};
use toehold_specsign::{Freshness, MachineName, Noes, Placed, RootState, Settings, Sha256Digest};

fn name(number: u8) -> MachineName {
    format!("m{number}").parse().expect("a name")
}

fn version(number: u8) -> Placed {
    Placed { archive: Sha256Digest([number; 32]), sums: Sha256Digest([number; 32]) }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut next = || bytes.next().unwrap_or_default();
    let now = Timestamp::from_unix_seconds(1_795_395_600);
    let back = |minutes: u8| now.saturating_sub(Duration::from_secs(u64::from(minutes) * 900));
    let mut state = RootState::default();
    let (flags, machines) = (next(), next() % 12);
    let settings =
        Settings { purge: flags & 1 != 0, guard_percent: next() % 101, noes: u32::from(next() % 4), ..Settings::default() };
    let mut gone = BTreeSet::new();
    let mut wanted = Vec::new();
    for number in 0..machines {
        let bits = next();
        if bits & 1 != 0 {
            state.placed.insert(name(number), version(bits >> 7));
        }
        if bits & 2 != 0 {
            state.noes.insert(name(number), Noes { count: u32::from(next() % 5), last: back(next()) });
        }
        if bits & 4 != 0 {
            gone.insert(name(number));
        }
        if bits & 8 != 0 {
            let belongs = match next() % 4 {
                0 => Belongs::Yes,
                1 => Belongs::No,
                2 => Belongs::Unknown(String::new()),
                _ => Belongs::Invalid(String::new()),
            };
            let presence = match next() % 4 {
                0 => Presence::Absent,
                1 => Presence::Intact,
                2 => Presence::Drifted(String::new()),
                _ => Presence::Unreadable(String::new()),
            };
            wanted.push(Wanted { name: name(number), version: version(0), belongs, presence });
        }
    }
    state.removals = (0..next() % 6).map(|_| back(next())).collect();
    let freshness = if flags & 2 != 0 { Freshness::Stale { since: now } } else { Freshness::Fresh };
    let removals_meant = flags & 4 != 0;
    let situation = Situation { state: &state, wanted: &wanted, gone: &gone, now, freshness, removals_meant };
    let plan = plan(&situation, &settings);

    let mut removals = 0;
    let mut seen = BTreeSet::new();
    for action in &plan.actions {
        let (Action::Adopt(name) | Action::Deploy(name, _) | Action::Purge(name, _) | Action::Forget(name)) = action;
        assert!(seen.insert(name.clone()), "one action a machine");
        let listed = wanted.iter().find(|wanted| wanted.name == *name);
        match action {
            Action::Adopt(_) | Action::Deploy(..) => {
                assert_eq!(listed.map(|wanted| &wanted.belongs), Some(&Belongs::Yes));
                assert_eq!(removals, 0, "what belongs here comes first");
            }
            Action::Purge(..) => {
                removals += 1;
                assert!(settings.purge && freshness == Freshness::Fresh && state.placed.contains_key(name));
                assert!(listed.is_none_or(|wanted| wanted.belongs == Belongs::No), "only a proven no");
                if listed.is_some() {
                    assert!(plan.noes.get(name).is_some_and(|noes| noes.count >= settings.noes));
                }
            }
            Action::Forget(_) => assert!(gone.contains(name)),
        }
    }
    if removals > 0 && !removals_meant {
        let window = state.removals.iter().filter(|at| now.saturating_since(**at) < settings.window).count();
        let (all, lost) = (state.placed.len() + window, removals + window);
        assert!(!wanted.is_empty() && lost < all);
        assert!(lost <= 1.max(all * usize::from(settings.guard_percent) / 100));
    }
    assert!(plan.noes.keys().all(|name| state.placed.contains_key(name)));
});
