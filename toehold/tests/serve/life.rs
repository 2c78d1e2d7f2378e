//! How the process begins, goes on where a task fails, and ends.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::serve_support::{Serve, arguments};
use crate::support::{Toehold, eventually};

#[test]
fn a_task_that_fails_is_told_and_stops_no_other() {
    let toehold = Toehold::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let serve = Serve::start(&toehold, &["--listen", &address]);
    serve.task_is("gateway", "failing");
    for task in ["sessions", "grants", "owed", "store-gc"] {
        serve.task_is(task, "running");
    }
    let told = serve.get("/readyz");
    assert_eq!(told.status, 503);
    let reasons: Vec<&str> = told.body.lines().filter(|line| line.contains(": ")).collect();
    assert!(matches!(reasons.as_slice(), [only] if only.starts_with("gateway: ") && only.contains(&address)), "{told:?}");
    assert_eq!(serve.get("/healthz").status, 200);
    assert!(serve.get("/").body.contains("not ready"));
    let metrics = serve.get("/metrics").body;
    assert!(metrics.contains("toehold_serve_ready 0") && metrics.contains("toehold_serve_task_running{task=\"grants\"} 1"));
    // Once what was in its way is gone, it goes on by itself.
    drop(taken);
    serve.task_is("gateway", "running");
    serve.is_ready();
    assert_eq!(serve.stop().code, 0);
}

/// A lease, a renewal, an admission in a file that nobody else sees would be none. Whoever starts it again has the store that is there then.
#[test]
fn where_the_store_is_moved_away_it_ends_with_words() {
    let toehold = Toehold::new();
    let serve = Serve::start(&toehold, &["--listen", "127.0.0.1:0"]);
    serve.is_ready();
    std::fs::rename(toehold.state().join("state.db"), toehold.state().join("away")).unwrap();
    let ended = serve.ends();
    let said = ended.events.last().unwrap();
    assert_eq!((ended.code, said["exit_code"].as_u64()), (1, Some(1)), "{ended:?}");
    assert!(said["error"].as_str().unwrap().contains("moved, removed or replaced"), "{said}");
}

#[test]
fn told_to_stop_it_ends_in_order_and_the_service_manager_hears_of_all_of_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let toehold = Toehold::new();
        let place = tempfile::tempdir().unwrap();
        let socket = place.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut command = toehold.command(arguments(&[]));
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "500000").env_remove("WATCHDOG_PID");
        let serve = Serve::begin(command);
        let heard = || {
            let mut bytes = [0; 1024];
            let count = manager.recv(&mut bytes).expect("the service manager hears nothing");
            String::from_utf8(bytes[..count].to_vec()).unwrap()
        };
        let until = |wanted: &str| while !heard().lines().any(|line| line == wanted) {};
        until("READY=1");
        assert_eq!(serve.get("/readyz").status, 200, "ready is said when it is");
        until("WATCHDOG=1");
        until("WATCHDOG=1");
        serve.signal(signal);
        until("STOPPING=1");
        let ended = serve.ends();
        assert_eq!(ended.code, 0);
        let last: Vec<&str> = ended.events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert!(last.ends_with(&["stopping", "stopped"]), "{last:?}");
    }
}

#[test]
fn where_the_identity_is_not_wanted_it_stays_locked() {
    let toehold = Toehold::bare();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a passphrase\n").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    toehold.run(["--passphrase-file", &path, "init", "--passphrase"]).ends(0);
    let refused = toehold.run(["serve", "--no-gateway"]).ends(1);
    assert!(refused.stderr.contains("--no-hosts"), "{}", refused.stderr);
    // N2: what it tells, and what it clears away, it does without.
    let serve = Serve::start(&toehold, &["--no-gateway", "--no-hosts"]);
    serve.is_ready();
    assert!(serve.get("/").body.contains("SHA256:"));
    assert_eq!(serve.stop().code, 0);
    let serve = Serve::start(&toehold, &["--no-gateway", "--passphrase-file", &path]);
    serve.task_is("sessions", "running");
}

#[test]
fn without_a_page_it_runs_all_the_same_and_what_cannot_be_meant_is_refused() {
    let toehold = Toehold::new();
    let mut child = toehold.command(["serve", "--no-gateway"]).stdout(Stdio::piped()).spawn().unwrap();
    let has_begun = || toehold.run(["--json", "store", "check"]).ends(0).json()["records"]["lease"].as_u64() == Some(4);
    eventually("it works", has_begun);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for wrong in [
        ["serve", "--http-anywhere", "--no-gateway"].as_slice(),
        ["serve", "--no-hosts", "--renew-every", "30d"].as_slice(),
        ["serve", "--kubeconfig", "x"].as_slice(),
    ] {
        toehold.run(wrong.iter().copied()).ends(2);
    }
    Toehold::bare().run(["serve"]).ends(1);
}
