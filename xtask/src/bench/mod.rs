//! `cargo xtask bench`: the measured bars, each a ratio or a time of one run, with a verdict.

mod criterion;
mod gateway;
mod host_add;
mod key_rotate;
mod openssh;
mod pods;
mod pods_kubernetes;
mod proxy;
mod spec_apply;
mod store;
mod web;

use std::time::Instant;

use serde::Serialize;

use crate::workspace::Metadata;
use crate::{Result, prerequisites};

/// A bar and what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    name: &'static str,
    /// What is compared with the bar, in `unit`.
    value: f64,
    /// The highest value that holds.
    bar: f64,
    unit: &'static str,
    /// Whether the value is at most the bar.
    holds: bool,
    /// What was divided by what.
    detail: String,
}

impl Measured {
    fn new(name: &'static str, value: f64, bar: f64, unit: &'static str, detail: String) -> Self {
        Self { name, value, bar, unit, holds: value <= bar, detail }
    }
}

type Bench = fn(&Metadata) -> Result<Vec<Measured>>;

const BENCHES: [(&str, Bench); 13] = [
    ("temporary-key", |metadata| Ok(vec![criterion::temporary_key(metadata)?])),
    ("authorized-keys", |metadata| Ok(vec![criterion::authorized_keys(metadata)?])),
    ("host-add", |metadata| Ok(vec![host_add::measure(metadata)?])),
    ("gateway", |_| gateway::measure()),
    ("join", |_| criterion::join()),
    ("key-rotate", key_rotate::near),
    ("key-rotate-far", key_rotate::far),
    ("key-rotate-simulated", |_| key_rotate::simulated()),
    ("pods", pods::measure),
    ("pods-kubernetes", |_| pods_kubernetes::measure()),
    ("spec", criterion::spec),
    ("spec-apply", spec_apply::measure),
    ("store", |_| store::measure()),
];

/// Those that measure against real servers.
const WITH_OPENSSH: [&str; 5] = ["host-add", "key-rotate", "key-rotate-far", "pods", "pods-kubernetes"];

/// The command line of the task.
#[derive(Debug)]
pub(crate) struct Options {
    names: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        match arguments.iter().find(|argument| !BENCHES.iter().any(|(name, _)| name == argument)) {
            None => Ok(Self { names: arguments.to_vec() }),
            Some(unknown) => Err(format!("there is no bench {unknown}").into()),
        }
    }
}

/// Measures, prints the table and writes it as JSON beside what criterion wrote. A bar that does not hold is an error.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|wanted| wanted == name);
    if WITH_OPENSSH.into_iter().any(wanted) {
        prerequisites::ensure_openssh()?;
    }
    if wanted("store") {
        prerequisites::ensure_nats()?;
    }
    if wanted("pods-kubernetes") {
        prerequisites::ensure_kubernetes()?;
    }
    let metadata = Metadata::load()?;
    let mut all = Vec::new();
    for (name, bench) in BENCHES {
        if wanted(name) {
            println!("\n== {name}");
            all.extend(bench(&metadata)?);
        }
    }

    println!("\n{:<22} {:>9} {:>9}  {:<6} verdict", "bench", "measured", "bar", "unit");
    for measured in &all {
        let verdict = if measured.holds { "holds" } else { "MISSED" };
        println!(
            "{:<22} {:>9.3} {:>9.3}  {:<6} {verdict:<7} {}",
            measured.name, measured.value, measured.bar, measured.unit, measured.detail
        );
    }
    let file = metadata.target_directory.join("bench.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&all)?)?;
    println!("{}", file.display());
    let missed: Vec<&str> = all.iter().filter(|measured| !measured.holds).map(|measured| measured.name).collect();
    if missed.is_empty() { Ok(()) } else { Err(format!("missed: {}", missed.join(", ")).into()) }
}

/// The middle of the values; the upper one of two.
fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    values.get(middle).copied().ok_or_else(|| "nothing was measured".into())
}

/// Seconds that `action` takes.
fn time(action: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    action()?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds of CPU that our ended children have used, in steps of 10 ms: `cutime` and `cstime` of proc(5).
fn children_cpu() -> Result<f64> {
    cpu_at(13)
}

/// CPU seconds that this process itself has used.
fn own_cpu() -> Result<f64> {
    cpu_at(11)
}

/// User and system time, which stand in two fields of proc(5)'s `stat` one behind the other.
fn cpu_at(index: usize) -> Result<f64> {
    /// What proc(5) counts in.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may have blanks; fields are counted behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).ok_or("/proc/self/stat is too short")?.parse()?) };
    Ok((ticks(index)? + ticks(index + 1)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_of_a_child_is_counted_when_it_has_ended() {
        let before = children_cpu().unwrap();
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        assert!(children_cpu().unwrap() > before);
    }

    #[test]
    fn the_median_is_not_moved_by_an_outlier() {
        assert!((median(vec![3.0, 1.0, 1000.0]).unwrap() - 3.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_err());
    }

    #[test]
    fn a_value_at_the_bar_holds_and_one_above_does_not() {
        assert!(Measured::new("a", 1.2, 1.2, "ratio", String::new()).holds);
        assert!(!Measured::new("a", 1.21, 1.2, "ratio", String::new()).holds);
    }
}
