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

    // The new key is there beside it; what is not done is to take the line away, and the rotation stands still and says why.
    let is_there = || String::from_utf8_lossy(&fs::read(ahead.authorized_keys()).unwrap()).contains(&line);
    let rotated = fleet.rotate(&["--grace", "0s"]).ends(3).json();
    assert_eq!(rotated["event"], "stopped", "{rotated}");
    assert!(rotated["error"].as_str().unwrap().contains("restored backup"), "{rotated}");
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
