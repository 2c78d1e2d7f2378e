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

#[test]
fn p5_pods_of_one_name_in_two_places_are_two() {
    let persistent = |toehold: crate::support::Toehold| {
        let config = crate::gateway::file_of(&toehold, "config.yaml");
        std::fs::write(&config, "pod: {mode: persistent, createMissingPods: true}\n").unwrap();
        Pods::at(toehold, &["--config", config.to_str().unwrap()])
    };
    let (one, other) = (persistent(Pods::prepared()), persistent(Pods::prepared()));
    let mut session = crate::gateway::Session::start(one.ssh("echo $$; exec sleep 600"));
    let number = session.number();
    other.run("true").ends(0);
    let name = other.list()[0]["name"].as_str().unwrap().to_owned();
    assert_eq!(one.list()[0]["name"], name.as_str());
    other.toehold.run(["pods", "rm", "--backend", "local", &name]).ends(0);
    assert!(crate::gateway::is_alive(number));
    drop(session);
}
