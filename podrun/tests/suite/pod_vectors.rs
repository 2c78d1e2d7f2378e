//! Whole recorded lives of pods, and what each state means for somebody who waits.

use crate::support::vectors::{lines, text};
use serde_json::Value;
use toehold_podrun::kubernetes::{Availability, PodSnapshot};
use toehold_podrun::supervisor::escape_pod_argument;

fn kind(availability: &Availability) -> String {
    match availability {
        Availability::Pending => "pending".to_owned(),
        Availability::Ready => "ready".to_owned(),
        Availability::Doubtful(trouble) => format!("doubtful {}", trouble.reason),
        Availability::Failed(trouble) => format!("failed {}", trouble.reason),
        Availability::Ended(trouble) => format!("ended {}", trouble.reason),
    }
}

/// The states that a pod went through, without repetitions.
fn life(name: &str) -> Vec<String> {
    let all = lines(include_str!("../vectors/kubernetes/pods.jsonl"));
    let pod = all.iter().find(|pod| text(pod, "/name") == name).unwrap_or_else(|| panic!("{name}"));
    let mut states: Vec<String> = Vec::new();
    for event in pod["events"].as_array().unwrap() {
        let snapshot = PodSnapshot::from_object(event["object"].clone()).unwrap();
        let state = kind(&snapshot.availability("main"));
        if states.last() != Some(&state) {
            states.push(state);
        }
    }
    states
}

#[test]
fn every_recorded_life_is_understood() {
    for (name, states) in [
        ("exit_0", vec!["pending", "ready", "ended Completed"]),
        ("exit_42", vec!["pending", "ready", "ended Error"]),
        ("killed_by_signal", vec!["pending", "ready", "ended Error"]),
        ("command_not_found", vec!["pending", "failed StartError"]),
        ("command_not_found_restart", vec!["pending", "failed RunContainerError", "failed CrashLoopBackOff"]),
        ("out_of_memory", vec!["pending", "ready", "ended OOMKilled"]),
        ("active_deadline", vec!["pending", "ready", "ended PodFailed", "ended DeadlineExceeded"]),
        ("image_pull_backoff", vec!["pending", "doubtful ErrImagePull", "failed ImagePullBackOff"]),
        ("image_never_pull", vec!["pending", "failed ErrImageNeverPull"]),
        ("image_name_invalid", vec!["pending", "failed InvalidImageName"]),
        ("config_missing", vec!["pending", "failed CreateContainerConfigError"]),
        ("volume_missing", vec!["pending"]),
        ("unschedulable_selector", vec!["pending", "doubtful Unschedulable"]),
        ("unschedulable_memory", vec!["pending", "doubtful Unschedulable"]),
        ("init_container_fails", vec!["pending", "failed Error"]),
        ("readiness_probe", vec!["pending", "ready"]),
        ("delete_term_handled", vec!["pending", "ready", "ended Deleted"]),
        ("delete_now", vec!["pending", "ready", "ended Deleted"]),
        ("delete_pending", vec!["pending", "doubtful Unschedulable", "ended Deleted"]),
    ] {
        assert_eq!(life(name), states, "{name}");
    }
}

#[test]
fn the_words_say_what_is_wrong() {
    let all = lines(include_str!("../vectors/kubernetes/pods.jsonl"));
    let mut found = Vec::new();
    for pod in &all {
        for event in pod["events"].as_array().unwrap() {
            let snapshot = PodSnapshot::from_object(event["object"].clone()).unwrap();
            if let Availability::Doubtful(trouble) | Availability::Failed(trouble) | Availability::Ended(trouble) =
                snapshot.availability("main")
            {
                assert!(!trouble.words.is_empty() && !trouble.words.chars().any(char::is_control), "{}", trouble.words);
                found.push(trouble.words);
            }
        }
    }
    for part in [
        "the image cannot be pulled: Back-off pulling image \"localhost:1/absent:1\"",
        "no node can take the pod: 0/1 nodes are available",
        "the pod has used up its memory and was killed",
        "the pod has reached its time limit",
        "the container cannot be made: configmap \"absent\" not found",
    ] {
        assert!(found.iter().any(|words| words.starts_with(part)), "{part}");
    }
}

#[test]
fn p6_dollar_signs_reach_a_pods_command_as_they_are() {
    let all = lines(include_str!("../vectors/kubernetes/pods.jsonl"));
    let pod = all.iter().find(|pod| text(pod, "/name") == "dollar_signs").unwrap();
    let sent = text(pod, "/containers/0/command/2");
    let last = pod["events"].as_array().unwrap().last().unwrap();
    let came = text(last, "/object/status/containerStatuses/0/state/terminated/message");
    // What the kubelet made of the recorded text: `$$` is `$`, `$(NAME)` the value, anything else as it is.
    let kubelet = |text: &str| text.replace("$$", "\u{0}").replace("$(NAME)", "value").replace('\u{0}', "$");
    assert_eq!(came, "$ $$ value $(NAME) $(ABSENT) $NAME\n");
    assert!(kubelet(sent).starts_with("echo '$' '$$' 'value' '$(NAME)' '$(ABSENT)' '$NAME'"), "{}", kubelet(sent));
    // Escaped, every text comes through the same unchanged.
    for text in [sent, "$", "$$", "$(NAME)", "$$(NAME)", "$(", "a$b$$$c", ""] {
        assert_eq!(kubelet(&escape_pod_argument(text)), text);
    }
}

#[test]
fn a_pod_whose_other_container_has_ended_can_be_worked_in() {
    let object: Value = serde_json::json!({
        "metadata": { "name": "a", "uid": "u", "resourceVersion": "1" },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [
                { "name": "side", "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } },
                { "name": "main", "state": { "running": {} } },
            ],
        },
    });
    let pod = PodSnapshot::from_object(object).unwrap();
    assert_eq!(pod.availability("main"), Availability::Ready);
    assert_eq!(kind(&pod.availability("side")), "ended Completed");
}
