//! Hosts are brought in by both operators at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::faults::{Fault, Weather, is_fair, patience, until};
use crate::site::{Person, Site};
use crate::support::RealSshd;

/// How many hosts one operator brings in at a time.
const AT_A_TIME: usize = 2;

pub fn under(site: &mut Site, fault: Fault) {
    let begun = Instant::now();
    let Site { ground, operators, hosts, .. } = site;
    ground.prepare(fault);
    let weather = Weather::default();
    let (hosts, weather) = (&hosts[..], &weather);
    // How many hosts are managed, how many attempts have failed, and how many of them were begun and given up within the cut.
    let (managed, failed, in_vain) = &(AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (number, operator) in operators.iter().enumerate() {
            // Every other host is this operator's.
            let own: Vec<&RealSshd> = hosts.iter().skip(number).step_by(2).collect();
            let next = Arc::new(AtomicUsize::new(0));
            for _ in 0..AT_A_TIME {
                let (own, next) = (own.clone(), Arc::clone(&next));
                scope.spawn(move || {
                    while let Some(host) = own.get(next.fetch_add(1, Ordering::SeqCst)) {
                        // The last one is brought in when the fault is there.
                        if std::ptr::eq(*host, own[own.len() - 1]) {
                            until("the fault comes", || weather.has_struck());
                        }
                        bring_in(operator, host, weather, |is_cut_off| {
                            failed.fetch_add(1, Ordering::SeqCst);
                            in_vain.fetch_add(usize::from(is_cut_off), Ordering::SeqCst);
                        });
                        managed.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        }
        let count = hosts.len();
        until("the first hosts are managed", || managed.load(Ordering::SeqCst) * 3 >= count);
        weather.strikes(ground, fault);
        match fault {
            Fault::Follower | Fault::Leader => {
                until("most hosts are managed with a server away", || managed.load(Ordering::SeqCst) * 3 >= count * 2);
            }
            Fault::Cut => {
                // Those of the right half go on; those of the left do not.
                until("the right half goes on", || hosts.iter().skip(1).step_by(2).all(is_managed));
                until("the left half tries", || in_vain.load(Ordering::SeqCst) > 0);
            }
        }
        weather.clears(ground);
    });
    println!(
        "{fault:?}: {} hosts brought in in {:.1} s, {} attempts failed, {} of them within the cut",
        hosts.len(),
        begun.elapsed().as_secs_f64(),
        failed.load(Ordering::SeqCst),
        in_vain.load(Ordering::SeqCst)
    );
    site.is_managed(&[]);
}

/// As its file shows it.
fn is_managed(host: &RealSshd) -> bool {
    let file = std::fs::read(host.authorized_keys()).unwrap_or_default();
    let text = String::from_utf8_lossy(&file);
    text.contains("toehold-master") && !text.contains("toehold-temporary")
}

/// Brings in one host, again and again until it is managed; what failed is led on first, as the program says.
fn bring_in(operator: &Person, host: &RealSshd, weather: &Weather, failed: impl Fn(bool)) {
    let deadline = Instant::now() + patience();
    let (account, home, file) = (host.account().to_string(), host.home(), host.host_key_file(0));
    let (home, file) = (home.to_str().unwrap(), file.to_str().unwrap());
    let add = ["--json", "host", "add", &account, "--home", home, "--host-key-file", file, "--via", "sh"];
    loop {
        let begun_in_cut = weather.is_cut();
        let done = operator.run(add);
        let is_cut_off = begun_in_cut && weather.is_cut() && operator.is_on_the_left();
        is_fair(&done);
        assert!(!(is_cut_off && done.code == 0), "a host is said to be managed that the store knows nothing of: {}", done.stdout);
        if done.code == 0 {
            return;
        }
        println!("{account} at first: {}", done.said());
        failed(is_cut_off);
        assert!(Instant::now() < deadline, "{account}: {} {}", done.stdout, done.stderr);
        if weather.is_cut() && operator.is_on_the_left() && !is_cut_off {
            // Begun before the cut: now one that knows nothing else.
            continue;
        }
        if operator.is_on_the_left() {
            until("the network is whole", || !weather.is_cut());
        }
        operator.recovers(&account);
    }
}

impl Person {
    /// Whether there is a left half, and he is in it.
    pub fn is_on_the_left(&self) -> bool {
        self.network.here == "10.77.2.1"
    }

    /// Leads on what is open of this account. Where the store cannot be reached, it is for a later time.
    fn recovers(&self, account: &str) {
        is_fair(&self.run(["--json", "session", "recover"]));
        let listed = self.run(["--json", "session", "ls"]);
        is_fair(&listed);
        if listed.code != 0 {
            return;
        }
        for session in listed.json()["sessions"].as_array().unwrap() {
            // Whoever names it takes it up.
            if session["route"]["account"] == account || session["account"] == account {
                is_fair(&self.run(["--json", "session", "recover", session["id"].as_str().unwrap()]));
            }
        }
    }
}
