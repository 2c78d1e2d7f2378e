//! N3 on a real host: a store that was restored from a backup is behind it, and takes nothing away.

use std::fs;

use crate::support::Fleet;

#[test]
fn n3_neither_a_rotation_nor_a_removal_takes_a_line_of_a_later_rotation() {
    let fleet = Fleet::new(2);
    let ahead = &fleet.hosts[1];
    let line = format!("{} toehold-master toehold-generation=7\n", fleet.toehold.master_key());
    let file = fleet.file(&line);
    ahead.authorize(&file);
    let current = fleet.current();

    // It is found out at the first look: nothing is written there, and the others go back.
    let is_there = || fs::read(ahead.authorized_keys()).unwrap() == file;
    let rotated = fleet.rotate(&["--grace", "0s"]).ends(3).json();
    assert_eq!(rotated["event"], "rolled_back", "{rotated}");
    assert!(rotated["error"].as_str().unwrap().contains("restored backup"), "{rotated}");
    assert!(is_there());
    assert_eq!(fleet.lets_in(&current), [true, true]);
    // Left behind, it keeps what it has.
    let rotated = fleet.rotate(&["--grace", "0s", "--on-unreachable", "defer"]).ends(3).json();
    assert_eq!((&rotated["event"], &rotated["owed"]), (&"done".into(), &1.into()), "{rotated}");
    assert!(is_there());
    assert_eq!(fleet.lets_in(&current), [false, true]);

    let account = ahead.account().to_string();
    let removed = fleet.toehold.run(["--json", "host", "rm", &account]).ends(1).json();
    assert!(removed["error"].as_str().unwrap().contains("restored backup"), "{removed}");
    assert!(is_there());
    // It is managed as before, and not half given up.
    let shown = fleet.toehold.run(["--json", "host", "show", &account]).ends(0).json();
    assert!(shown["removing"].is_null() || shown["removing"] == false, "{shown}");
    assert_eq!(fleet.lets_in(&current), [false, true]);
}
