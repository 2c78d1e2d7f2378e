//! What goes wrong while the master key of a real fleet is renewed, and that it ends well every time.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::fleet::lines_of;
use crate::support::running::{QUICK, Running, arguments, publics};
use crate::support::server::write_private;
use crate::support::{Done, Fleet, RealSshd};
use toehold_core::{Identity, PublicKey};

fn rotate(fleet: &Fleet, more: &[&str]) -> Done {
    fleet.toehold.run(arguments(&[&["--grace", "0s"], more].concat()))
}

fn settle(fleet: &Fleet) -> Done {
    fleet.toehold.run([&["--json", "key", "settle"], QUICK.as_slice()].concat())
}

/// All hosts but these.
fn others(fleet: &Fleet, but: &[usize]) -> Vec<usize> {
    fleet.all().into_iter().filter(|number| !but.contains(number)).collect()
}

/// Takes the server of this host away; the place where it was stays known.
fn switch_off(fleet: &mut Fleet, number: usize) -> Off {
    let file = std::fs::read(fleet.hosts[number].authorized_keys()).unwrap();
    fleet.hosts[number].go_away();
    Off { number, file }
}

struct Off {
    number: usize,
    file: Vec<u8>,
}

impl Off {
    /// Nobody has written to it meanwhile, and it answers again.
    fn comes_back(self, fleet: &mut Fleet) {
        let host = &mut fleet.hosts[self.number];
        assert_eq!(std::fs::read(host.authorized_keys()).unwrap(), self.file, "written to while it was away");
        host.come_back();
    }
}

/// The whole of a rotation that aborts over these hosts: every other one is as it was, and no key of nobody's is left.
#[track_caller]
fn aborts_over(fleet: &Fleet, but: &[usize], old: &Identity, more: &[&str]) -> Done {
    let begun = std::time::Instant::now();
    let done = rotate(fleet, more);
    assert!(begun.elapsed().as_secs() < 60, "it took {:?}", begun.elapsed());
    assert_eq!(fleet.current().public_key(), old.public_key(), "{}", done.stdout);
    let here = others(fleet, but);
    fleet.is_settled(&here, &[], "rolled back");
    for number in here {
        let file = std::fs::read(fleet.hosts[number].authorized_keys()).unwrap();
        let text = String::from_utf8_lossy(&file).into_owned();
        let ours = text.lines().filter(|line| line.contains("toehold-master")).count();
        assert_eq!(ours, 1, "a key of nobody's is left:\n{text}");
    }
    done
}

#[test]
fn a_host_that_refuses_connections_aborts_without_an_orphan_key_however_often_it_is_tried() {
    let mut fleet = Fleet::new(4);
    let old = fleet.current();
    let off = switch_off(&mut fleet, 2);
    for _ in 0..3 {
        let done = aborts_over(&fleet, &[2], &old, &[]);
        assert!(matches!(done.code, 1 | 3), "{}", done.stderr);
        assert!(done.stderr.contains("defer") || done.stderr.contains("settle"), "{}", done.stderr);
    }
    off.comes_back(&mut fleet);
    settle(&fleet).ends(0);
    fleet.owes_nothing("after three failures");
    rotate(&fleet, &[]).ends(0);
    fleet.is_settled(&fleet.all(), &[&old], "once it is back");
    fleet.owes_nothing("once it is back");
}

#[test]
fn a_host_that_is_away_over_several_rotations_is_healed_when_it_comes_back() {
    let mut fleet = Fleet::new(3);
    let mut olds = vec![fleet.current()];
    let off = switch_off(&mut fleet, 1);
    for round in 0..3 {
        let done = rotate(&fleet, &["--on-unreachable", "defer"]).ends(3);
        assert!(done.stderr.contains("key settle"), "{}", done.stderr);
        fleet.is_settled(&[0, 2], &olds.iter().collect::<Vec<_>>(), "without the one that is away");
        // Its key stays sealed; those in between may go or stay.
        let held = publics(&fleet.held());
        assert!(held.contains(olds[0].public_key()), "round {round}: the only key of host 1 is gone");
        olds.push(fleet.current());
    }
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
    let row = &status["hosts"].as_array().unwrap().iter().find(|host| host["settled"] == false).unwrap().clone();
    assert_eq!(row["account"], fleet.hosts[1].account().to_string());
    let still = settle(&fleet).ends(3);
    assert_eq!(still.json()["owed"], 1);
    off.comes_back(&mut fleet);
    // It is found out, and healed over the key that it has.
    let check = fleet.toehold.run(["--json", "host", "check"]).ends(3).json();
    assert!(check.to_string().contains("refuses the current master key, and still takes"), "{check}");
    settle(&fleet).ends(0);
    let current = olds.pop().unwrap();
    assert_eq!(fleet.current().public_key(), current.public_key());
    fleet.is_settled(&fleet.all(), &olds.iter().collect::<Vec<_>>(), "healed");
    let mut all = publics(&olds);
    all.push(current.public_key().clone());
    fleet.foreign_lines_are_kept(&all);
    fleet.owes_nothing("healed");
}

#[test]
fn a_host_that_takes_the_connection_and_never_speaks() {
    let mut fleet = Fleet::new(3);
    let old = fleet.current();
    let off = switch_off(&mut fleet, 0);
    let silent = TcpListener::bind(("127.0.0.1", fleet.hosts[0].port())).unwrap();
    aborts_over(&fleet, &[0], &old, &[]);
    drop(silent);
    off.comes_back(&mut fleet);
    settle(&fleet).ends(0);
    fleet.owes_nothing("a silent host");
}

#[test]
fn a_host_that_drops_packets() {
    let mut fleet = Fleet::new(3);
    let old = fleet.current();
    let off = switch_off(&mut fleet, 0);
    // A listener whose queue is full takes no further connection.
    let address: std::net::SocketAddr = ([127, 0, 0, 1], fleet.hosts[0].port()).into();
    support::fleet::wait(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let _listener = socket.listen(1).unwrap();
        let mut queue = Vec::new();
        let patience = std::time::Duration::from_millis(300);
        while let Ok(connected) = tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await {
            queue.push(connected.unwrap());
        }
        // The other checks need runtimes of their own.
        std::thread::scope(|scope| {
            let checked = scope.spawn(|| aborts_over(&fleet, &[0], &old, &[]));
            checked.join().unwrap();
        });
    });
    off.comes_back(&mut fleet);
    settle(&fleet).ends(0);
    fleet.owes_nothing("a host that drops packets");
}

/// The host that is worked on last.
fn last(fleet: &Fleet) -> usize {
    fleet.all().into_iter().max_by_key(|number| fleet.hosts[*number].account()).unwrap()
}

/// Goes on with whatever is left of a rotation, until every host has the current key alone.
fn comes_to_an_end(fleet: &Fleet, old: &Identity, when: &str) {
    let resumed = fleet.toehold.run(arguments(&["--resume", "--take-over"]));
    assert!(resumed.code == 0 || resumed.stderr.contains("no rotation is open"), "{}", resumed.stderr);
    settle(fleet).ends(0);
    let gone: &[&Identity] = if fleet.current().public_key() == old.public_key() { &[] } else { &[old] };
    fleet.is_settled(&fleet.all(), gone, when);
    fleet.owes_nothing(when);
}

#[test]
fn a_host_that_hangs_with_both_keys_on_it_is_owed_by_name_and_healed() {
    let fleet = Fleet::new(4);
    let (old, hangs) = (fleet.current(), last(&fleet));
    let host = &fleet.hosts[hangs];
    let ours = || {
        let text = String::from_utf8_lossy(&std::fs::read(host.authorized_keys()).unwrap()).into_owned();
        text.lines().filter(|line| line.contains("toehold-master")).count()
    };
    let running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--concurrency", "1"]));
    // The moment is short: nothing sleeps in between.
    let begun = Instant::now();
    while ours() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(120), "the new line does not come");
        std::thread::yield_now();
    }
    host.suspend();
    // It has been written to, and it is not done.
    assert_eq!(ours(), 2, "it was done before it was stopped");
    let (code, said) = running.ends();
    assert_eq!(code, 3, "{said}");
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
    assert!(status.to_string().contains(&host.account().to_string()), "{status}");
    fleet.is_settled(&others(&fleet, &[hangs]), &[], "the others");
    assert_eq!(ours(), 2);
    host.resume();
    fleet.is_anchored(&[hangs], "it hung");
    comes_to_an_end(&fleet, &old, "it goes on");
}

#[test]
fn a_host_that_dies_between_the_phases_is_owed_by_name_and_healed() {
    let mut fleet = Fleet::new(4);
    let (old, dies) = (fleet.current(), last(&fleet));
    let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "15s"]));
    running.until(|event| event["event"] == "grace").unwrap();
    fleet.hosts[dies].go_away();
    // It has both keys, the old one with an end: what the rotation was to do there is half done.
    let keys = publics(&fleet.held());
    let lines = lines_of(&fleet.hosts[dies], &keys);
    let mut ends: Vec<bool> = lines.iter().map(|(_, ends)| *ends).collect();
    ends.sort_unstable();
    assert_eq!(ends, [false, true], "{lines:?}");
    let (code, said) = running.ends();
    assert_eq!(code, 3, "{said}");
    let account = fleet.hosts[dies].account().to_string();
    assert!(said.contains(&account), "{said}");
    let status = fleet.toehold.run(["--json", "key", "status"]).ends(3).json();
    assert!(status.to_string().contains(&account), "{status}");
    assert_ne!(fleet.current().public_key(), old.public_key(), "{said}");
    fleet.is_settled(&others(&fleet, &[dies]), &[&old], "the others");
    assert_eq!(lines_of(&fleet.hosts[dies], &keys), lines, "written to while it was away");
    fleet.hosts[dies].come_back();
    comes_to_an_end(&fleet, &old, "healed");
}

#[test]
fn more_hosts_than_file_descriptors() {
    let fleet = Fleet::new(60);
    let old = fleet.current();
    let mut command = std::process::Command::new("sh");
    let program = fleet.toehold.command(["--json", "key", "rotate", "--grace", "0s", "--concurrency", "16"]);
    command.args(["-c", "ulimit -n 48; exec \"$@\"", "sh"]).arg(program.get_program()).args(program.get_args());
    command.env("TOEHOLD_STATE_DIR", fleet.toehold.state()).env_remove("SSH_AUTH_SOCK");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fleet.is_settled(&fleet.all(), &[&old], "few descriptors");
    fleet.owes_nothing("few descriptors");
}

/// The new key is refused on this host, in one way or another: the others are as they were, and so is the host.
fn refuses_the_new_key(how: impl Fn(support::sshd::Builder) -> support::sshd::Builder + Sync, more: &[&str], words: &str) {
    let fleet = Fleet::with(3, |number, host| if number == 1 { how(host) } else { host });
    let old = fleet.current();
    let done = aborts_over(&fleet, &[], &old, more).ends(1);
    assert!(done.stdout.contains(words) || done.stderr.contains(words), "{}\n{}", done.stdout, done.stderr);
    fleet.owes_nothing("refused");

    // Deferred: the others go on, and the host keeps the key that it takes.
    let done = rotate(&fleet, &[more, &["--on-unreachable", "defer"]].concat()).ends(3);
    let new = fleet.current();
    fleet.is_settled(&[0, 2], &[&old], "deferred");
    let lines = lines_of(&fleet.hosts[1], &publics([&old, &new]));
    assert!(lines.contains(&(old.public_key().clone(), false)), "{lines:?}: {}", done.stdout);
    // R3: what no login has proven has an end, or is gone.
    assert!(!lines.contains(&(new.public_key().clone(), false)), "{lines:?}: {}", done.stdout);
    fleet.is_anchored(&[1], "deferred");
    fleet.foreign_lines_are_kept(&publics([&old, &new]));
}

#[test]
fn r3_a_host_whose_sshd_refuses_the_new_keys_type() {
    let only = |host: support::sshd::Builder| host.config("PubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256");
    refuses_the_new_key(only, &["--algorithm", "rsa-2048"], "refuses");
}

#[test]
fn a_host_whose_sshd_reads_another_file() {
    let fleet = Fleet::with(3, |_, host| host);
    let old = fleet.current();
    // It is another server's file that the record names: what is written there has no effect.
    let elsewhere = RealSshd::start();
    elsewhere.authorize(fleet.file(&format!("{} toehold-master\n", old.public_key())));
    support::store::change(&fleet.toehold, &format!("host/{}", fleet.hosts[1].account()), |record| {
        record["home"] = elsewhere.home().to_str().unwrap().into();
    });
    let before = std::fs::read(fleet.hosts[1].authorized_keys()).unwrap();
    let done = aborts_over(&fleet, &[], &old, &[]);
    assert!(matches!(done.code, 1 | 3), "{}", done.stderr);
    assert_eq!(std::fs::read(fleet.hosts[1].authorized_keys()).unwrap(), before);
    assert_eq!(fleet.lets_in(&old), [true; 3], "locked out");
}

#[test]
fn a_host_whose_sshd_has_the_new_key_revoked() {
    let directory = support::server::directory("revoked");
    let list = directory.path().join("revoked_keys");
    write_private(&list, "");
    let line = format!("RevokedKeys {}", list.display());
    let fleet = Fleet::with(3, |number, host| if number == 1 { host.config(&line) } else { host });
    let old = fleet.current();
    // That host does not speak before its sshd knows which key is revoked, however long that takes.
    fleet.hosts[1].suspend();
    let limits = ["--connect-timeout", "300s", "--login-timeout", "300s", "--request-timeout", "300s", "--timeout", "300s"];
    let rotating = [&["--json", "key", "rotate", "--grace", "0s", "--concurrency", "1"][..], &limits].concat();
    let mut running = Running::start(&fleet.toehold, &rotating);
    running.until(|event| event["event"] == "phase").unwrap();
    let status = fleet.toehold.run(["--json", "key", "status"]).json();
    let new: PublicKey = status["rotation"]["new"].as_str().expect("an open rotation").parse().unwrap();
    write_private(&list, format!("{new}\n"));
    fleet.hosts[1].resume();
    let (code, said) = running.ends();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("refuses the key"), "{said}");
    assert_eq!(fleet.current().public_key(), old.public_key());
    fleet.is_settled(&fleet.all(), &[], "revoked");
    for host in &fleet.hosts {
        assert_eq!(lines_of(host, &[old.public_key().clone(), new.clone()]), [(old.public_key().clone(), false)]);
    }
    fleet.foreign_lines_are_kept(&[old.public_key().clone(), new]);
    fleet.owes_nothing("revoked");
}

#[test]
fn from_another_place_only() {
    // The old line was put there by somebody with a `from=` that is changed so that no line of ours would work any more: the new
    // one carries it over, and is refused.
    let fleet = Fleet::new(3);
    let old = fleet.current();
    let host = &fleet.hosts[1];
    // The host takes the old key by another way: sshd's own list, which nobody of us writes.
    let only = |line: &str| fleet.file(line);
    host.authorize(only(&format!("from=\"127.0.0.1\" {} toehold-master\n", old.public_key())));
    rotate(&fleet, &[]).ends(0);
    fleet.is_settled(&fleet.all(), &[&old], "from= carried over");
    // A `from=` that lets nobody in: the host cannot be logged in to, which is no reason to touch it.
    let new = fleet.current();
    host.authorize(only(&format!("from=\"192.0.2.1\" {} toehold-master\n", new.public_key())));
    let before = std::fs::read(host.authorized_keys()).unwrap();
    let done = rotate(&fleet, &[]);
    assert!(matches!(done.code, 1 | 3), "{}", done.stdout);
    assert_eq!(std::fs::read(host.authorized_keys()).unwrap(), before);
    fleet.is_settled(&[0, 2], &[&old], "the others");
    assert_eq!(fleet.current().public_key(), new.public_key());
}

/// The old key gets in by a line that none of us writes, whatever the one in the file says; the new one has only that one's options.
#[test]
fn r3_a_host_that_refuses_the_new_key_for_the_from_of_its_line() {
    let directory = support::server::directory("from");
    let list = directory.path().join("keys");
    write_private(&list, "");
    let command = format!("AuthorizedKeysCommand /usr/bin/cat {}\nAuthorizedKeysCommandUser root", list.display());
    let fleet = Fleet::with(3, |number, host| if number == 1 { host.config(&command) } else { host });
    let (old, host) = (fleet.current(), &fleet.hosts[1]);
    write_private(&list, format!("{}\n", old.public_key()));
    host.authorize(fleet.file(&format!("from=\"192.0.2.1\" {} toehold-master\n", old.public_key())));
    for (choice, code) in [("abort", 1), ("defer", 3)] {
        let mut running = Running::start(&fleet.toehold, &arguments(&["--grace", "0s", "--on-unreachable", choice]));
        let account = host.account().to_string();
        // The host itself says no, with the line there.
        running.until(|event| event["event"] == "host_step" && event["account"] == account.as_str()).expect("a line is written");
        let failed = running.until(|event| event["event"] == "host_failed" && event["account"] == account.as_str());
        assert!(failed.unwrap()["reason"].as_str().unwrap().contains("has the line of"), "{choice}");
        let (ended, said) = running.ends();
        assert_eq!(ended, code, "{choice}: {said}");
        let new = fleet.current();
        let held = publics(&fleet.held());
        assert_eq!(lines_of(host, &held), [(old.public_key().clone(), false)], "{choice}: an unproven line stays");
        assert_eq!(fleet.lets_in(&old), [choice == "abort", true, choice == "abort"], "{choice}");
        assert_eq!(fleet.lets_in(&new), [true, choice == "abort", true], "{choice}");
        fleet.foreign_lines_are_kept(&held);
    }
}

#[test]
fn a_full_disk_on_a_host_leaves_it_as_it_was() {
    // The file itself lies on the small disk.
    let fleet = Fleet::with(3, |number, host| if number == 1 { host.small_ssh("64k") } else { host });
    let old = fleet.current();
    let host = &fleet.hosts[1];
    let ssh = host.seen_by_server(&host.home().join(".ssh"));
    write_private(&ssh.join("authorized_keys"), fleet.file(&format!("{} toehold-master\n", old.public_key())));
    // All that is left is taken.
    let mut filler = std::fs::File::create(ssh.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &[0; 512]).is_ok() {}
    let before = std::fs::read(ssh.join("authorized_keys")).unwrap();
    let done = rotate(&fleet, &[]);
    assert!(matches!(done.code, 1 | 3), "{}", done.stdout);
    assert_eq!(std::fs::read(ssh.join("authorized_keys")).unwrap(), before, "as it was");
    assert_eq!(fleet.lets_in(&old), [true; 3]);
    fleet.is_settled(&[0, 2], &[], "the others");
    drop(filler);
    std::fs::remove_file(ssh.join("filler")).unwrap();
    let settled = settle(&fleet);
    assert_eq!(settled.code, 0, "{} {}", settled.stdout, settled.stderr);
    rotate(&fleet, &[]).ends(0);
    assert_eq!(fleet.lets_in(&old), [false; 3]);
    assert_eq!(fleet.lets_in(&fleet.current()), [true; 3]);
}

#[test]
fn r6_a_retired_key_that_is_back_on_a_host_is_reported() {
    let fleet = Fleet::new(2);
    let old = fleet.current();
    let image = std::fs::read(fleet.hosts[1].authorized_keys()).unwrap();
    rotate(&fleet, &[]).ends(0);
    rotate(&fleet, &[]).ends(0);
    fleet.owes_nothing("two rotations");
    let line = format!("\n{} toehold-master\n", old.public_key());
    let mut file = std::fs::read(fleet.hosts[0].authorized_keys()).unwrap();
    file.extend_from_slice(line.as_bytes());
    fleet.hosts[0].authorize(file);
    let check = fleet.toehold.run(["--json", "host", "check"]).ends(3).json();
    assert!(check.to_string().contains("a retired master key"), "{check}");
    // A host from an old image takes none of the keys that are held; that is said, too.
    fleet.hosts[1].authorize(image);
    let check = fleet.toehold.run(["--json", "host", "check"]).ends(3).json();
    assert!(check.to_string().contains("master key refused"), "{check}");
}
