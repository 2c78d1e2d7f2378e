//! Notifications, byte for byte as Choria's watchers send them.

use serde_json::Value;
use toehold_core::Timestamp;
use toehold_specsign::{Format, MachineName, Notification, Notifier, Outcome};

#[test]
fn every_event_is_the_same_byte_for_byte() {
    let (mut events, mut others) = (0, 0);
    for line in include_str!("../vectors/choria/events.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = |member: &str| case[member].as_str().unwrap();
        let theirs: Value = serde_json::from_str(text("json")).unwrap();
        let data = &theirs["data"];
        let of = |value: &Value| value.as_str().unwrap().to_owned();
        let format = if text("watcher") == "machines" { Format::Machines } else { Format::Plugins };
        let outcome = [Outcome::Unknown, Outcome::Skipped, Outcome::Error, Outcome::Updated, Outcome::Unchanged]
            .into_iter()
            .find(|outcome| outcome.to_string() == text("state"))
            .unwrap();
        assert_eq!(outcome.is_news(), case["notified_at_once"].as_bool().unwrap());
        let names = data[format.member()].as_array().unwrap().iter().map(|name| name.as_str().unwrap().parse());
        let Ok(names) = names.collect::<Result<Vec<MachineName>, _>>() else {
            // Choria takes any text for a name; these are no machines of ours.
            assert!(text("json").contains("a\\u0026b"), "{}", text("id"));
            others += 1;
            continue;
        };
        let notifier = Notifier {
            identity: of(&data["identity"]),
            machine_id: of(&data["id"]),
            version: of(&data["version"]),
            machine: of(&data["machine"]),
            watcher: of(&data["name"]),
        };
        let notification = Notification {
            notifier: &notifier,
            format,
            id: theirs["id"].as_str().unwrap(),
            time: Timestamp::from_unix_seconds(data["timestamp"].as_i64().unwrap()),
            names: &names,
            outcome,
            run_time: data["previous_run_time"].as_u64().unwrap(),
        };
        assert_eq!(notification.to_json().unwrap(), text("json"), "{}", text("id"));
        assert_eq!(notification.to_string(), text("text"), "{}", text("id"));
        events += 1;
    }
    assert_eq!((events, others), (74, 6));
}
