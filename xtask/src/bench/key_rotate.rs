//! `toehold key rotate` on 100 real servers: against plain logins by `ssh`, against Geofront, and over a long way.
//!
//! The simulated fleets of up to 10,000 hosts are in `toehold/benches/key_rotate.rs`, which prints what it measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::openssh::Server;
use super::proxy::{Proxy, RoundTrip};
use super::{Measured, children_cpu, criterion, median, time};
use crate::workspace::Metadata;
use crate::{Result, process};

const HOSTS: usize = 100;
/// Logins of one rotation to one host, without a grace.
const LOGINS: usize = 4;
/// How many `ssh` go at once.
const PARALLEL: usize = 16;
/// How many hosts the rotation works on at once: what is the default.
const CONCURRENCY: usize = 32;
/// The same over the long way, where all but the waiting costs next to nothing.
const FAR_CONCURRENCY: usize = HOSTS;
/// Pairs that are measured, after one that is not.
const PAIRS: usize = 3;
/// What Geofront 0.4.0 takes for a host, one after the other, in seconds: one login, nothing proven.
const GEOFRONT: f64 = 0.165;
/// The round trip that is added for the long way.
const LONG_WAY: Duration = Duration::from_millis(50);
/// How many hosts are logged in to one after the other over the long way; the time of all is taken from these.
const SAMPLE: usize = 10;

/// Hosts that are managed from a state directory of their own.
struct Managed {
    program: PathBuf,
    state: PathBuf,
}

/// The program, and a directory with so many servers.
fn prepare(metadata: &Metadata) -> Result<(PathBuf, PathBuf, Vec<Server>)> {
    process::run(process::cargo().args(["build", "--locked", "--release", "--package", "toehold"]))?;
    let program = metadata.target_directory.join("release/toehold");
    let directory = metadata.target_directory.join("bench/key-rotate");
    println!("starting {HOSTS} servers");
    let servers = Server::start_many(&directory, HOSTS)?;
    Ok((program, directory, servers))
}

/// Against plain logins by `ssh` and against Geofront, on the same machine.
pub(super) fn near(metadata: &Metadata) -> Result<Vec<Measured>> {
    let (program, directory, servers) = prepare(metadata)?;
    let near = Managed::bring_in(&program, directory.join("near"), &servers, &ports(&servers))?;
    let (mut ratios, mut walls, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let plain = time(|| plain_logins(&servers))?;
        let before = children_cpu()?;
        let wall = time(|| near.rotate(CONCURRENCY))?;
        let cost = (children_cpu()? - before) / count(HOSTS * LOGINS);
        println!(
            "pair {pair}: {LOGINS} x {HOSTS} plain logins {plain:.2} s, rotation {wall:.2} s, own CPU {:.2} ms a login",
            cost * 1e3
        );
        if pair > 0 {
            ratios.push(wall / plain);
            walls.push(wall);
            costs.push(cost * 1e3);
        }
    }
    let wall = median(walls)?;
    let a_host = wall / count(HOSTS);
    Ok(vec![
        Measured::new(
            "key-rotate",
            median(ratios)?,
            1.0,
            "ratio",
            format!("{HOSTS} hosts against {LOGINS} logins each by {PARALLEL} parallel ssh; {wall:.2} s"),
        ),
        Measured::new("key-rotate-cpu", median(costs)?, 8.0, "ms", format!("own CPU a login, {LOGINS} logins a host")),
        Measured::new(
            "key-rotate-peer",
            a_host / GEOFRONT,
            1.0,
            "ratio",
            format!("{:.1} ms a host against Geofront's {:.0} ms", a_host * 1e3, GEOFRONT * 1e3),
        ),
    ])
}

/// Over a long way, against logins by `ssh` in series: Geofront logs in once and has its files to read and write besides.
pub(super) fn far(metadata: &Metadata) -> Result<Vec<Measured>> {
    let (program, directory, servers) = prepare(metadata)?;
    let round_trip = RoundTrip::default();
    let proxies = servers.iter().map(|server| Proxy::start(server.port(), &round_trip)).collect::<Result<Vec<_>>>()?;
    let through: Vec<u16> = proxies.iter().map(Proxy::port).collect();
    let far = Managed::bring_in(&program, directory.join("far"), &servers, &through)?;
    round_trip.set(LONG_WAY);
    let one_by_one = time(|| {
        servers
            .iter()
            .zip(&through)
            .take(SAMPLE)
            .try_for_each(|(server, port)| process::output(&mut server.curve25519_login(*port)).map(drop))
    })?;
    let serial = one_by_one / count(SAMPLE) * count(HOSTS);
    let by_default = time(|| far.rotate(CONCURRENCY))?;
    println!("{by_default:.1} s at concurrency {CONCURRENCY}: {:.3} of the logins in series", by_default / serial);
    let wall = time(|| far.rotate(FAR_CONCURRENCY))?;
    Ok(vec![Measured::new(
        "key-rotate-far",
        wall / serial,
        0.2,
        "ratio",
        format!(
            "{wall:.1} s at {} ms round trip and concurrency {FAR_CONCURRENCY} ({by_default:.1} s at {CONCURRENCY}) against {serial:.1} s for one login a host in series \
             ({SAMPLE} measured)",
            LONG_WAY.as_millis()
        ),
    )])
}

/// What the simulated fleets are held to, by the bench's own words: `measured NAME VALUE BAR UNIT DETAIL…`.
pub(super) fn simulated() -> Result<Vec<Measured>> {
    const NAMES: [(&str, &str); 4] = [
        ("key-rotate-10000", "ratio"),
        ("key-rotate-memory", "KiB"),
        ("key-rotate-linear", "ratio"),
        ("key-rotate-open", "ratio"),
    ];
    criterion::measured("toehold", "key_rotate", &[], &NAMES)
}

impl Managed {
    /// Brings the servers in under these ports, with the real command.
    fn bring_in(program: &Path, state: PathBuf, servers: &[Server], ports: &[u16]) -> Result<Self> {
        println!("bringing in {} hosts", servers.len());
        let managed = Self { program: program.to_owned(), state };
        process::output(managed.toehold().arg("init"))?;
        in_parallel(servers.len(), 4, |number| {
            let (Some(server), Some(port)) = (servers.get(number), ports.get(number)) else { return Ok(()) };
            let account = server.account_at(*port);
            let mut add = managed.toehold();
            add.args(["host", "add", &account, "--host-key", server.host_key()?.as_str(), "--via", "sh", "--home"]);
            process::output(add.arg(server.home())).map(drop)
        })?;
        Ok(managed)
    }

    fn rotate(&self, concurrency: usize) -> Result<()> {
        let mut rotate = self.toehold();
        rotate.args(["--json", "key", "rotate", "--grace", "0s", "--concurrency", &concurrency.to_string()]);
        process::output(&mut rotate).map(drop)
    }

    fn toehold(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state-dir").arg(&self.state).stdin(Stdio::null());
        command
    }
}

/// As many logins as a rotation makes, by as many `ssh` at once as the floor in the comparison.
fn plain_logins(servers: &[Server]) -> Result<()> {
    in_parallel(servers.len() * LOGINS, PARALLEL, |number| match servers.get(number % servers.len()) {
        Some(server) => process::output(&mut server.curve25519_login(server.port())).map(drop),
        None => Ok(()),
    })
}

/// Does this for each number below `count`, so many at a time; the first error ends it.
fn in_parallel(count: usize, at_a_time: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(());
        }
        if let Err(error) = work(number) {
            next.store(count, Ordering::Relaxed);
            return Err(error);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_a_time).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a worker panicked".into())))
    })
}

fn ports(servers: &[Server]) -> Vec<u16> {
    servers.iter().map(Server::port).collect()
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_worked_on_once_and_an_error_is_handed_on() {
        let seen = std::sync::Mutex::new(Vec::new());
        in_parallel(20, 3, |number| {
            seen.lock().unwrap().push(number);
            Ok(())
        })
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        assert!(in_parallel(20, 3, |number| if number == 5 { Err("five".into()) } else { Ok(()) }).is_err());
    }
}
