//! Bars on what criterion measures.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::Measured;
use crate::workspace::Metadata;
use crate::{Result, process};

/// A temporary key ready to paste, against ed25519-dalek's generation and ssh-key's encoding alone.
///
/// The ratio is the bench's own: it measures both sides in turns, which criterion cannot, and prints it as
/// `ratio temporary_key/floor = 1.234 …`.
pub(super) fn temporary_key(_: &Metadata) -> Result<Measured> {
    const LABEL: &str = "ratio temporary_key/floor = ";
    let printed = process::text(&mut bench("temporary_key"))?;
    print!("{printed}");
    let ratio = printed.lines().find_map(|line| line.strip_prefix(LABEL)?.split_whitespace().next());
    let ratio = ratio.ok_or_else(|| format!("the bench did not print \"{LABEL}…\""))?.parse()?;
    Ok(Measured::new("temporary-key", ratio, 1.2, "ratio", "against generation and encoding alone, in turns".to_owned()))
}

/// A file of 10,000 lines parsed, edited and written.
pub(super) fn authorized_keys(metadata: &Metadata) -> Result<Measured> {
    process::run(&mut bench("authorized_keys"))?;
    let took = nanoseconds(metadata, "authorized_keys/parse_edit_write_10000")?;
    Ok(Measured::new("authorized-keys", took / 1e6, 10.0, "ms", "10,000 lines parsed, edited and written".to_owned()))
}

/// What a join costs the gateway, by ratios that the bench measures in turns and prints.
pub(super) fn join() -> Result<Vec<Measured>> {
    let printed = process::text(&mut bench_of("toehold-joinproto", "join"))?;
    print!("{printed}");
    let bar = |name, label: &str, bar, detail: &str| -> Result<Measured> {
        let label = format!("ratio {label} = ");
        let ratio = printed.lines().find_map(|line| line.strip_prefix(&label)?.split_whitespace().next());
        let ratio = ratio.ok_or_else(|| format!("the bench did not print \"{label}…\""))?.parse()?;
        Ok(Measured::new(name, ratio, bar, "ratio", detail.to_owned()))
    };
    Ok(vec![
        bar("join-v3", "join_v3/primitives", 1.25, "the gateway's part against its primitives, in turns")?,
        bar("join-v2", "join_v2/primitives", 1.25, "the gateway's part against its primitives, in turns")?,
        bar("join-stranger", "stranger_v3_of_100000_tokens/one", 1.1, "a stranger beside 100,000 tokens, against beside one")?,
    ])
}

/// A list of 10,000 machines verified and matched on a node, and one matcher evaluated with its facts known.
pub(super) fn spec(metadata: &Metadata) -> Result<Vec<Measured>> {
    const FILTER: &str = "^(matcher/evaluate|ten_thousand_machines/verify_and_match_all_different)$";
    process::run(bench_of("toehold-specsign", "specsign").args(["--", FILTER]))?;
    let matched = nanoseconds(metadata, "ten_thousand_machines/verify_and_match_all_different")? / 1e6;
    let evaluated = nanoseconds(metadata, "matcher/evaluate")? / 1e3;
    let two = "identity('^web') && has_command('x'), with facts known".to_owned();
    Ok(vec![
        Measured::new("spec-verify-match", matched, 50.0, "ms", "10,000 machines, each with a matcher of its own".to_owned()),
        Measured::new("spec-matcher", evaluated, 2.0, "µs", two),
    ])
}

/// Runs a bench that prints `measured NAME VALUE BAR DETAIL` a line, and reads these names and their units out of it.
pub(super) fn measured(
    package: &str,
    bench: &str,
    environment: &[(&'static str, OsString)],
    names: &[(&'static str, &'static str)],
) -> Result<Vec<Measured>> {
    let printed = process::text(bench_of(package, bench).envs(environment.iter().cloned()))?;
    print!("{printed}");
    let mut all = Vec::new();
    for &(name, unit) in names {
        let label = format!("measured {name} ");
        let line = printed.lines().find_map(|line| line.strip_prefix(&label)).ok_or(format!("the bench measured no {name}"))?;
        let mut words = line.splitn(3, ' ');
        let mut number = || -> Result<f64> { Ok(words.next().unwrap_or_default().parse()?) };
        let (value, bar) = (number()?, number()?);
        all.push(Measured::new(name, value, bar, unit, words.next().unwrap_or_default().to_owned()));
    }
    Ok(all)
}

fn bench(name: &str) -> Command {
    bench_of("toehold-keygen", name)
}

fn bench_of(package: &str, name: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["bench", "--locked", "--package", package, "--bench", name]);
    cargo
}

/// `estimates.json` of criterion's last run.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

fn nanoseconds(metadata: &Metadata, id: &str) -> Result<f64> {
    let file = metadata.target_directory.join("criterion").join(Path::new(id)).join("new/estimates.json");
    let text = std::fs::read(&file).map_err(|error| format!("criterion left no {}: {error}", file.display()))?;
    Ok(serde_json::from_slice::<Estimates>(&text)?.median.point_estimate)
}
