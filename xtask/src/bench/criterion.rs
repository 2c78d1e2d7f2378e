//! Bars on what criterion measures.

use std::path::Path;

use serde::Deserialize;

use super::Measured;
use crate::workspace::Metadata;
use crate::{Result, process};

/// A temporary key ready to paste, against ed25519-dalek's generation and ssh-key's encoding alone.
pub(super) fn temporary_key(metadata: &Metadata) -> Result<Measured> {
    run("temporary_key")?;
    let ours = nanoseconds(metadata, "temporary_key/ready_to_paste")?;
    let floor = nanoseconds(metadata, "temporary_key/floor")?;
    let detail = format!("{:.1} µs against {:.1} µs", ours / 1e3, floor / 1e3);
    Ok(Measured::new("temporary-key", ours / floor, 1.2, "ratio", detail))
}

/// A file of 10,000 lines parsed, edited and written.
pub(super) fn authorized_keys(metadata: &Metadata) -> Result<Measured> {
    run("authorized_keys")?;
    let took = nanoseconds(metadata, "authorized_keys/parse_edit_write_10000")?;
    Ok(Measured::new("authorized-keys", took / 1e6, 10.0, "ms", "10,000 lines parsed, edited and written".to_owned()))
}

fn run(bench: &str) -> Result<()> {
    process::run(process::cargo().args(["bench", "--locked", "--package", "toehold-keygen", "--bench", bench]))
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
