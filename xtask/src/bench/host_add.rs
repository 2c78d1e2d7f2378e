//! `toehold host add --via` against a real server, in at most the time of three plain logins and a fifth.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Measured, median, openssh::Server, time};
use crate::workspace::Metadata;
use crate::{Result, process};

/// Pairs that are measured, after one that is not.
const PAIRS: usize = 15;
/// The plain logins on the other side of the ratio.
const LOGINS: usize = 3;

/// Measures in pairs, A B A B, so that a machine that becomes slower or faster does so for both.
pub(super) fn measure(metadata: &Metadata) -> Result<Measured> {
    process::run(process::cargo().args(["build", "--locked", "--release", "--package", "toehold"]))?;
    let program = metadata.target_directory.join("release/toehold");
    let directory = metadata.target_directory.join("bench/host-add");
    let server = Server::start(&directory)?;
    let state = directory.join("state");
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        server.reset()?;
        if state.exists() {
            std::fs::remove_dir_all(&state)?;
        }
        process::output(toehold(&program, &state).arg("init"))?;
        let add = time(|| {
            let mut add = toehold(&program, &state);
            process::output(add.args(["host", "add", &server.account(), "--via", "sh", "--home"]).arg(server.home())).map(drop)
        })?;
        let logins = time(|| (0..LOGINS).try_for_each(|_| process::output(&mut server.plain_login()).map(drop)))?;
        println!("pair {pair}: host add {:.1} ms, {LOGINS} logins {:.1} ms", add * 1e3, logins * 1e3);
        if pair > 0 {
            ours.push(add);
            plain.push(logins);
        }
    }
    let (ours, plain) = (median(ours)?, median(plain)?);
    let detail =
        format!("{:.1} ms against {:.1} ms for {LOGINS} plain logins, medians of {PAIRS} pairs", ours * 1e3, plain * 1e3);
    Ok(Measured::new("host-add", ours / plain, 1.2, "ratio", detail))
}

fn toehold(program: &Path, state: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--state-dir").arg(state).stdin(Stdio::null());
    command
}
