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

/// Seen with sshd 9.2: the end of file goes out when both are closed, though the process lives.
#[test]
fn a_process_that_closes_its_output_and_lives_on_is_told_as_sshd_tells_it() {
    let pods = Pods::start();
    let told = |line: &str| {
        let done = crate::support::Done::of(pods.ssh_with(&["-vv", "-o", "LogLevel=DEBUG2"], line).output().unwrap()).ends(3);
        let place = |what: &str| done.stderr.find(what).unwrap_or_else(|| panic!("{line}: no {what}: {}", done.stderr));
        (place("rcvd eof") < place("rtype exit-status"), done)
    };
    assert!(told("echo said; exec >&- 2>&-; sleep 2; exit 3").0);
    let (is_early, done) = told("exec >&-; sleep 1; echo later >&2; exit 3");
    assert!(!is_early && done.stderr.contains("later"), "one of them was open");
    // Clients that stop reading there would miss the status.
    for line in ["exit 3", "exec >&- 2>&-; exit 3"] {
        assert!(!told(line).0, "{line}");
    }
    // What it is given still reaches it.
    let mut child = pods.ssh("exec >&- 2>&-; sleep 1; read word; exit $word");
    let mut child = child.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"7\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
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
