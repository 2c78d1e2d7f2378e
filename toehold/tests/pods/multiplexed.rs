//! Many channels over one connection.

use std::io::Read as _;
use std::process::Stdio;

use crate::gateway::Pods;
use crate::ground::POD_NAME;
use crate::support::Done;

#[test]
fn ten_channels_at_once_share_a_pod_and_each_ends_as_its_own_command() {
    let pods = Pods::with(&["--metrics", "127.0.0.1:0"]);
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let mut master =
        pods.ssh_with(&["-M", "-o", &socket], &format!("echo {POD_NAME}; cat")).stdin(Stdio::piped()).spawn().unwrap();
    let mut name = [0; 41];
    master.stdout.as_mut().unwrap().read_exact(&mut name).unwrap();
    let name = String::from_utf8(name.to_vec()).unwrap();
    for round in 0..3 {
        let channels: Vec<_> = (1..10)
            .map(|number| {
                let line = format!("echo {POD_NAME}; head -c 100000 /dev/zero | tr '\\0' {number}; exit {}", number + round);
                pods.ssh_with(&["-o", &socket], &line).spawn().unwrap()
            })
            .collect();
        for (number, channel) in (1..10).zip(channels) {
            let done = Done::of(channel.wait_with_output().unwrap()).ends(number + round);
            let content = done.stdout.strip_prefix(&format!("{name}\n").replace("\n\n", "\n")).unwrap();
            assert!(
                content.len() == 100_000
                    && content
                        .bytes()
                        .all(|byte| char::from(byte) == char::from_digit(u32::try_from(number).unwrap(), 10).unwrap())
            );
        }
    }
    assert_eq!(pods.list().len(), 1);
    assert_eq!(pods.counted("toehold_pods_processes_total"), 28);
    assert_eq!((pods.told("/healthz").0, pods.told("/readyz").0, pods.told("/other").0), (200, 200, 404));
    drop(master.stdin.take());
    assert!(master.wait().unwrap().success());
    pods.waits_until_empty();
    assert_eq!((pods.counted("toehold_pods_pods"), pods.counted("toehold_pods_open_connections")), (0, 0));
    assert_eq!(pods.counted("toehold_pods_panics_total"), 0);
}

#[test]
fn an_eleventh_channel_is_refused_and_the_others_go_on() {
    let pods = Pods::start();
    let socket = format!("ControlPath={}", pods.file("mux").display());
    let open = || {
        let mut child =
            pods.ssh_with(&["-o", &socket, "-o", "ControlMaster=auto"], "echo begun; cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut begun = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        child
    };
    let mut channels: Vec<_> = (0..10).map(|_| open()).collect();
    // Its own connection is what a client makes that is refused a channel.
    let refused = Done::of(pods.ssh_with(&["-o", &socket, "-o", "ProxyCommand=false"], "true").output().unwrap()).ends(255);
    assert!(refused.stderr.contains("open failed") || refused.stderr.contains("refused"), "{refused:?}");
    while let Some(mut child) = channels.pop() {
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
