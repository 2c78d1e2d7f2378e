//! Many at once.

use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::gateway::Pods;
use crate::ground::Ground;
use crate::support::Done;

/// Connections at once, of which every twentieth wants an image that cannot be pulled.
const MANY: usize = 60;

/// Pods that end at once and want next to nothing of the node.
fn small(image: Option<&str>) -> Value {
    let mut config = image.map_or_else(|| json!({}), Ground::image);
    config["pod"]["podSpec"]["terminationGracePeriodSeconds"] = json!(1);
    config["timeout"] = json!("5m");
    config
}

#[test]
fn many_connections_some_of_which_fail_leave_nothing_and_everybody_is_told_why() {
    let pods = Pods::configured(&small(None), &[]);
    let failing = pods.another(&small(Some("localhost:1/none")), &[]);
    let start = |number: usize| -> Child {
        let (pods, line) = if number.is_multiple_of(20) {
            (&failing, "true".to_owned())
        } else {
            (&pods, format!("cat; exit {}", number % 100))
        };
        let mut command = pods.ssh(&line);
        command.stdin(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<(usize, Child)> = (0..MANY).map(|number| (number, start(number))).collect();
    for (number, mut child) in children {
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), number.to_string().as_bytes()).unwrap_or_default();
        let done = Done::of(child.wait_with_output().unwrap());
        if number.is_multiple_of(20) {
            assert!(done.code == 255 && done.stderr.contains("the image cannot be pulled"), "{number}: {done:?}");
        } else {
            assert_eq!((done.code, done.stdout), (i32::try_from(number % 100).unwrap(), number.to_string()), "{}", done.stderr);
        }
    }
    pods.waits_until_empty();
    failing.waits_until_empty();
}
