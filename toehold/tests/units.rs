//! The systemd units: that systemd reads them, that the program takes their command lines, and that they give away no more than they must.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a broken assumption is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser as _;
use toehold::cli::args::Cli;

/// Which unit each is checked as: a template needs a name.
fn units() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
    let mut units = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|kind| kind == "service" || kind == "timer") {
            units.insert(name.replace("@.", "@web."), std::fs::read_to_string(&path).unwrap());
        }
    }
    assert!(units.len() >= 5, "{units:?}");
    units
}

fn settings<'u>(unit: &'u str, name: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let mut lines = 0;
    for (name, unit) in units() {
        for line in settings(&unit, "ExecStart") {
            lines += 1;
            let words = shell_words::split(&line.replace("%i", "web")).unwrap();
            assert_eq!(words.first().map(String::as_str), Some("/usr/bin/toehold"), "{name}");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {line}: {error}");
            }
        }
    }
    assert_eq!(lines, 4);
}

#[test]
fn whatever_needs_no_root_has_none_and_keeps_its_state_to_itself() {
    for (name, unit) in units().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        for (setting, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("StateDirectoryMode", "0700"),
            ("UMask", "0077"),
        ] {
            assert_eq!(settings(&unit, setting), [value], "{name}: {setting}");
        }
        let is_of_root = name.starts_with("toehold-apply@");
        assert_eq!(settings(&unit, "User").is_empty(), is_of_root, "{name}");
        if !is_of_root {
            assert_eq!(settings(&unit, "CapabilityBoundingSet"), [""], "{name}");
        }
    }
}

/// As `systemd-analyze` says it, which needs no running systemd.
#[test]
fn systemd_reads_every_unit_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = Vec::new();
    for (name, unit) in units() {
        let path = directory.path().join(name);
        // It looks whether the program is there.
        std::fs::write(&path, unit.replace("/usr/bin/toehold", env!("CARGO_BIN_EXE_toehold"))).unwrap();
        paths.push(path);
    }
    let mut command = Command::new("systemd-analyze");
    let output = command.args(["verify", "--man=no"]).args(&paths).env("SYSTEMD_LOG_LEVEL", "warning").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let of_ours = said.lines().filter(|line| line.contains("toehold")).collect::<Vec<_>>();
    assert!(output.status.success() && of_ours.is_empty(), "{said}");
}

/// Its own measure, from 0 (nothing is exposed) to 10.
#[test]
fn systemd_finds_little_exposed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, unit) in units().into_iter().filter(|(name, _)| name.ends_with(".service")) {
        let path = directory.path().join(&name);
        std::fs::write(&path, unit).unwrap();
        let limit = if name.starts_with("toehold-apply@") { "50" } else { "20" };
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["security", "--offline=yes", "--no-pager", "--threshold", limit]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {}", said.lines().last().unwrap_or_default());
    }
}
