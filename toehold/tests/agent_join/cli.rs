//! `agent join`, `agent ping` and `agents` against `gateway serve`, as processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use crate::join_support::gateway::{Gateway, line};
use crate::join_support::machine::{Machine, agents, uses_taken};
use crate::support::server::write_private;
use crate::support::store;
use crate::support::{Toehold, eventually};
use toehold::adapters::system_clock::SystemClock;
use toehold_core::Clock as _;
use toehold_joinproto::line::JoinLine;

/// All files of a machine, by name.
fn files(machine: &Machine) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(machine.directory()).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn a_machine_joins_and_pings_and_joining_again_changes_nothing() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &["--role", "edge", "--label", "site=berlin"]);
    let machine = Machine::new();
    assert_eq!(machine.ping().ends(1).json()["exit_code"], 1);

    let joined = machine.join(&line).ends(0).json();
    assert_eq!((joined["already"].as_bool(), joined["role"].as_str()), (Some(false), Some("edge")), "{joined}");
    let listed = agents(&operator);
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["id"], &listed[0]["state"]), (&joined["id"], &"joined".into()));
    assert_eq!(listed[0]["labels"]["site"], "berlin");
    for (name, content) in files(&machine) {
        let mode = fs::metadata(machine.file(&name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{name}");
        assert!(!content.is_empty(), "{name}");
    }
    assert_eq!(files(&machine).keys().collect::<Vec<_>>(), ["agent.json", "identity", "keyring.json"]);
    assert_eq!(fs::metadata(machine.directory()).unwrap().mode() & 0o7777, 0o700);

    let pong = machine.ping().ends(0).json();
    assert_eq!((&pong["id"], &pong["role"], &pong["labels"]["site"]), (&joined["id"], &"edge".into(), &"berlin".into()));
    assert_eq!(pong["gateway_pin"], gateway.announced["pins"][0]);

    // Again, and without a gateway at that: nothing is asked and nothing changes.
    let before = files(&machine);
    gateway.kill();
    let again = machine.join(&line).ends(0).json();
    assert_eq!((&again["already"], &again["id"]), (&true.into(), &joined["id"]));
    assert_eq!(files(&machine), before);
}

#[test]
fn j1_the_identity_is_durable_before_the_first_message_and_a_retry_is_the_same_admission() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &[]);
    let address = gateway.address.to_string();
    gateway.kill();
    let machine = Machine::new();
    let failed = machine.join(&line).ends(1);
    assert!(failed.stderr.contains("cannot be reached"), "{}", failed.stderr);
    // Nothing was sent, and yet the machine is somebody already.
    let identity = fs::read(machine.file("identity")).unwrap();
    assert!(!machine.file("keyring.json").exists());

    let gateway = Gateway::start_at(&operator, &address, &[]);
    let joined = machine.join(&line).ends(0).json();
    assert_eq!(fs::read(machine.file("identity")).unwrap(), identity);
    // Its keys lost, the same machine joins with the same one-time token once more, with fresh keys.
    let keyring = fs::read(machine.file("keyring.json")).unwrap();
    fs::remove_file(machine.file("keyring.json")).unwrap();
    let again = machine.join(&line).ends(0).json();
    assert_eq!((&again["id"], &again["already"]), (&joined["id"], &false.into()));
    assert_ne!(fs::read(machine.file("keyring.json")).unwrap(), keyring);
    assert_eq!((uses_taken(&operator, &line), agents(&operator).len()), (1, 1));
    // Nobody else does.
    let refused = Machine::new().join(&line).ends(1);
    assert!(refused.stderr.contains("this token has been used up"), "{}", refused.stderr);
    machine.ping().ends(0);
    drop(gateway);
}

#[test]
fn j2_an_agent_that_was_removed_stays_so_until_a_new_token_is_made() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let first = line(&operator, gateway.address, &["--uses", "2"]);
    let machine = Machine::new();
    let id = machine.join(&first).ends(0).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(operator.run(["--json", "agents", "show", &id]).ends(0).json()["state"], "joined");
    operator.run(["--json", "agents", "rm", &id]).ends(0);
    assert!(agents(&operator).is_empty());
    assert_eq!(operator.run(["--json", "agents", "show", &id]).ends(0).json()["state"], "removed");

    let unknown = machine.ping().ends(1);
    assert!(unknown.stderr.contains("does not know this machine"), "{}", unknown.stderr);
    let refused = machine.join_with(&first, &["--rejoin"]).ends(1);
    assert!(refused.stderr.contains("this agent was removed"), "{}", refused.stderr);
    assert!(agents(&operator).is_empty());

    after_the_removal(&operator, &id);
    let second = line(&operator, gateway.address, &[]);
    let other = machine.join(&second).ends(1);
    assert!(other.stderr.contains("has joined") && other.stderr.contains("--rejoin"), "{}", other.stderr);
    assert_eq!(machine.join_with(&second, &["--rejoin"]).ends(0).json()["id"], id.as_str());
    machine.ping().ends(0);
    operator.run(["agents", "rm", "nobody"]).ends(1);
    operator.run(["agents", "show", "a/b"]).ends(1);
}

/// Waits until a token is known to be later than a removal: the store counts whole seconds.
fn after_the_removal(operator: &Toehold, id: &str) {
    let removed = operator.run(["--json", "agents", "show", id]).ends(0).json()["since"].clone();
    eventually("the next second", || removed != SystemClock.now().to_string().as_str());
}

#[test]
fn j4_what_an_agent_said_that_was_removed_does_not_stand_for_the_next_of_its_id() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let join = || {
        let line = line(&operator, gateway.address, &["--opni"]);
        let present = JoinLine { pins: vec![line.pins[0]], ..line };
        let machine = Machine::new();
        machine.join_once_signed(&present, &["--client-id", "web1"]);
        machine
    };
    join().ping().ends(0);
    operator.run(["agents", "rm", "web1"]).ends(0);
    after_the_removal(&operator, "web1");
    // The next one knows the present key alone, until it has come back and said otherwise.
    let machine = join();
    let waits = operator.run(["--json", "gateway", "renew-key"]).ends(3).json();
    assert_eq!(waits["missing"], serde_json::json!(["web1"]));
    machine.ping().ends(0);
    let renewed = operator.run(["--json", "gateway", "renew-key"]).ends(0).json();
    eventually("the gateway presents its new key", || machine.ping().ends(0).json()["gateway_pin"] == renewed["pins"][0]);
    // What is noted goes with the agent.
    operator.run(["agents", "rm", "web1"]).ends(0);
    let noted = || store::keys(&operator).contains(&"agentpins/web1".to_owned());
    assert!(noted());
    drop(gateway);
    let _gateway = Gateway::start(&operator, &[]);
    eventually("what was noted is swept", || !noted());
}

#[test]
fn j4_the_next_keys_pin_is_saved_and_the_agent_follows_the_gateway_to_it() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &[]);
    let machine = Machine::new();
    machine.join(&line).ends(0);
    let pins: Vec<String> = machine.keyring().unwrap().pinned_keys.concat().iter().map(ToString::to_string).collect();
    assert_eq!(pins, gateway.announced["pins"].as_array().unwrap().iter().map(|pin| pin.as_str().unwrap()).collect::<Vec<_>>());
    // The agent has said so with its confirmation; the gateway that is at work switches.
    let renewed = operator.run(["--json", "gateway", "renew-key"]).ends(0).json();
    let mut pong = serde_json::Value::Null;
    eventually("the gateway presents its new key", || {
        pong = machine.ping().ends(0).json();
        pong["gateway_pin"] == pins[1].as_str()
    });
    let renewed: Vec<&str> = renewed["pins"].as_array().unwrap().iter().map(|pin| pin.as_str().unwrap()).collect();
    let kept: Vec<String> = machine.keyring().unwrap().pinned_keys.concat().iter().map(ToString::to_string).collect();
    assert_eq!(kept, renewed, "{pong}");
    // Which it has said too; twice without a word from it in between is refused.
    operator.run(["gateway", "renew-key"]).ends(0);
    operator.run(["gateway", "renew-key"]).ends(3);
    machine.ping().ends(0);
    drop(gateway);
}

#[test]
fn a_join_elsewhere_that_is_half_done_keeps_no_machine_from_its_gateway() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let machine = Machine::new();
    let joined = machine.join(&line(&operator, gateway.address, &[])).ends(0).json();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let elsewhere = line(&operator, nobody, &["--opni"]);
    machine.join_with(&elsewhere, &["--rejoin"]).ends(1);
    // As where its answer had come, and the machine died before it authenticated there.
    assert!(machine.file("join.json").exists());
    fs::copy(machine.file("keyring.json"), machine.file("keyring.unconfirmed.json")).unwrap();
    let pong = machine.ping().ends(0).json();
    assert_eq!((&pong["id"], &pong["half_joined"]), (&joined["id"], &nobody.to_string().into()));
    let told = machine.0.run(["agent", "ping"]).ends(0);
    assert!(told.stdout.contains(&nobody.to_string()) && told.stdout.contains("has begun and not ended"), "{}", told.stdout);
    // What is half done is left to the join that it is of.
    assert!(machine.file("join.json").exists() && machine.file("keyring.unconfirmed.json").exists());
    // Which stays half done as long as nobody answers there.
    let again = machine.join_with(&elsewhere, &["--rejoin"]).ends(3);
    assert!(again.stderr.contains("run the same command again"), "{}", again.stderr);
    let silent = std::net::TcpListener::bind(nobody).unwrap();
    let interrupted = machine.joining(&elsewhere, &["--rejoin"]);
    let (_held, _) = silent.accept().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&interrupted), rustix::process::Signal::INT).unwrap();
    let interrupted = Toehold::wait(interrupted).ends(3);
    assert!(interrupted.stderr.contains("run the same command again"), "{}", interrupted.stderr);
}

#[test]
fn a_gateway_in_trouble_after_the_proof_has_not_said_no() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    for more in [&["--ttl", "2h"][..], &["--opni"]] {
        let line = line(&operator, gateway.address, more);
        let place = format!("token/{}/00000", line.token.id());
        let mut database = store::open(&operator);
        let transaction = database.transaction().unwrap();
        store::insert(&transaction, &place, &serde_json::json!({ "v": 1, "readable_from": 1, "held": "nobody" }));
        transaction.commit().unwrap();
        let machine = Machine::new();
        let failed = machine.join(&line).ends(3);
        assert!(failed.stderr.contains("does not answer"), "{more:?}: {}", failed.stderr);
        assert!(failed.stderr.contains("run the same command again"), "{more:?}: {}", failed.stderr);
        database.execute("DELETE FROM entry WHERE key = ?1", [&place]).unwrap();
        machine.join(&line).ends(0);
        assert_eq!(uses_taken(&operator, &line), 1);
        machine.ping().ends(0);
        // A no is one: nothing is half done.
        let refused = Machine::new().join(&line).ends(1);
        assert!(!refused.stderr.contains("run the same command again"), "{more:?}: {}", refused.stderr);
    }
}

#[test]
fn j5_a_line_is_read_from_everywhere_and_falls_back_to_nothing() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &["--uses", "9"]);
    let text = line.expose();

    let machine = Machine::new();
    machine.0.run(["agent", "join", &text]).ends(0);

    let machine = Machine::new();
    let file = machine.0.state().with_file_name("line");
    write_private(&file, format!("{}\r\nnot this\n", *text));
    machine.0.run(["agent", "join", "--file", file.to_str().unwrap()]).ends(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let loose = Machine::new().0.run(["agent", "join", "--file", file.to_str().unwrap()]).ends(1);
    assert!(loose.stderr.contains("can be used by others"), "{}", loose.stderr);

    let (endpoint, token) = (line.endpoint.to_string(), line.token.expose_text());
    let pin = line.pins[0].to_string();
    Machine::new().0.run(["agent", "join", "--endpoint", &endpoint, "--token", &token, "--pin", &pin]).ends(0);

    // The gateway speaks v2 too, and the token is v3's: neither side makes one of the other.
    let parts = ["agent", "join", "--endpoint", &endpoint, "--token", &token, "--pin", &pin, "--opni", "v2"];
    let machine = Machine::new();
    let refused = machine.0.run(parts).ends(1);
    assert!(refused.stderr.contains("refused") || refused.stderr.contains("no valid signature"), "{}", refused.stderr);
    assert!(!machine.file("keyring.json").exists());

    for (arguments, what) in [
        (vec!["agent", "join"], "required"),
        (vec!["agent", "join", "nonsense"], "a line to join with is"),
        (vec!["agent", "join", "--endpoint", &endpoint], "--token"),
        (vec!["agent", "join", "--endpoint", &endpoint, "--token", "x.y", "--pin", &pin], "a token is"),
        (vec!["agent", "join", "--endpoint", &endpoint, "--token", &token], "no pin"),
        (vec!["agent", "join", &text, "--client-id", "x"], "--client-id belongs to another version"),
        (vec!["agent", "join", &text, "--trust", "dangerous-insecure"], "--trust belongs to another version"),
        (vec!["agent", "join", &text, "--local"], "cannot be used with"),
    ] {
        let machine = Machine::new();
        let wrong = machine.0.run(arguments.clone()).ends(2);
        assert!(wrong.stderr.contains(what), "{what}: {}", wrong.stderr);
        // A line that is not understood is not repeated either.
        assert!(!wrong.stderr.contains("x.y") && !wrong.stderr.contains(token.as_str()), "{}", wrong.stderr);
        assert!(!machine.directory().exists(), "{arguments:?}");
    }
}

#[test]
fn a_keyring_that_is_a_link_somebody_elses_or_damaged_is_refused() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    let line = line(&operator, gateway.address, &["--uses", "9"]);
    let joined = || {
        let machine = Machine::new();
        machine.join(&line).ends(0);
        machine
    };
    let refused = |machine: &Machine, what: &str| {
        for done in [machine.ping(), machine.join_with(&line, &["--rejoin"])] {
            assert!(done.code == 1 || done.code == 3, "{what}: {}", done.stdout);
            assert!(done.stderr.contains(what), "{what}: {}", done.stderr);
        }
    };
    let machine = joined();
    let elsewhere = machine.0.state().join("elsewhere");
    fs::rename(machine.file("keyring.json"), &elsewhere).unwrap();
    symlink(&elsewhere, machine.file("keyring.json")).unwrap();
    let content = fs::read(&elsewhere).unwrap();
    refused(&machine, "is not a regular file");
    assert_eq!(fs::read(&elsewhere).unwrap(), content);

    let machine = joined();
    fs::set_permissions(machine.file("keyring.json"), fs::Permissions::from_mode(0o640)).unwrap();
    refused(&machine, "can be used by others");

    let machine = joined();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(machine.file("keyring.json"), Some(65_534), None).unwrap();
        refused(&machine, "belongs to user id 65534");
    }

    // What Opni reads all the same: null items, keys of a wrong length.
    for damaged in [r#"{"sharedKeys":[null]}"#, r#"{"sharedKeys":[{"clientKey":"AAAA","serverKey":"AAAA"}]}"#, "{} "] {
        let machine = joined();
        write_private(&machine.file("keyring.json"), damaged);
        let done = machine.ping().ends(1);
        assert!(done.stderr.contains("is damaged") || done.stderr.contains("has not joined"), "{damaged}: {}", done.stderr);
    }
    // A keyring without keys is one that was lost: the line brings new ones.
    let machine = joined();
    write_private(&machine.file("keyring.json"), "{}");
    assert_eq!(machine.join(&line).ends(0).json()["already"], false);
    machine.ping().ends(0);
    let machine = joined();
    fs::set_permissions(machine.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    refused(&machine, "can be used by others");
}

#[test]
fn secrets_are_in_no_log_and_no_output() {
    let operator = Toehold::new();
    let gateway = Gateway::start(&operator, &[]);
    for opni in [&["--uses", "2"][..], &["--opni"][..]] {
        let line = line(&operator, gateway.address, opni);
        let machine = Machine::new();
        let text = line.expose();
        let mut said = String::new();
        for arguments in [vec!["-vv", "agent", "join", &text], vec!["-vv", "agent", "ping"], vec!["-vv", "agent", "join", &text]]
        {
            let mut command = machine.0.command(arguments.iter().copied());
            let output = command.env("RUST_LOG", "trace").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            said.push_str(&String::from_utf8_lossy(&output.stdout));
            said.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        assert!(said.len() > 1000, "nothing was logged");
        let text = line.token.expose_text();
        let secret = text.split('.').nth(1).unwrap();
        assert!(!said.contains(secret), "the token's secret");
        let document: serde_json::Value = serde_json::from_slice(&fs::read(machine.file("keyring.json")).unwrap()).unwrap();
        for name in ["clientKey", "serverKey"] {
            let key = document["sharedKeys"][0][name].as_str().unwrap();
            assert!(!said.contains(key), "{name}");
        }
        if let Ok(identity) = fs::read_to_string(machine.file("identity")) {
            assert!(!said.contains(identity.trim().rsplit('/').next().unwrap()), "the identity");
        }
    }
}
