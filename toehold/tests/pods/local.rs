//! What a pod on this machine has.

use crate::gateway::Pods;

#[test]
fn a_pod_has_a_directory_of_its_own() {
    let pods = Pods::start();
    let done = pods.run("echo \"$TOEHOLD_POD\"; pwd; echo \"$HOME\"; ls -A").ends(0);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{done:?}");
    assert!(lines[0].starts_with("toehold-") && lines[1].contains(lines[0]) && lines[1] == lines[2], "{done:?}");
}
