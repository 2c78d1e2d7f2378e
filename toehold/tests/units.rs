//! The systemd units, and what stands beside them for a shared store: that systemd reads them, that the program takes their command lines,
//! and that they give away no more than they must.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken assumption is a failed test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use toehold::cli::args::{Cli, Command};

/// A unit with what is put beside it.
#[derive(Debug)]
struct Unit {
    text: String,
    beside: Option<String>,
}

/// Where the ones for a shared store are.
fn for_a_shared_store() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("units/shared-store")
}

/// Which unit each is checked as: a template needs a name.
fn units() -> BTreeMap<String, Unit> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
    let mut units = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|kind| kind == "service" || kind == "timer") {
            units.insert(name.replace("@.", "@web."), Unit { text: std::fs::read_to_string(&path).unwrap(), beside: None });
        }
    }
    assert!(units.len() >= 5, "{units:?}");
    units
}

/// Those of a shared store, with their drop-ins.
fn shared_units() -> BTreeMap<String, Unit> {
    let mut units = BTreeMap::new();
    let mut all = self::units();
    for entry in std::fs::read_dir(for_a_shared_store()).unwrap() {
        let directory = entry.unwrap().path();
        let name = directory.file_name().unwrap().to_str().unwrap().strip_suffix(".d").unwrap().to_owned();
        let mut unit = all.remove(&name).unwrap_or_else(|| panic!("{name}: there is no such unit"));
        unit.beside = Some(std::fs::read_to_string(directory.join("shared-store.conf")).unwrap());
        units.insert(name, unit);
    }
    assert_eq!(units.keys().collect::<Vec<_>>(), ["toehold-gateway.service", "toehold-pods.service", "toehold-serve.service"]);
    units
}

impl Unit {
    /// What a setting comes to, by its section: each line adds to it, and an empty one takes back what came before.
    fn settings(&self, section: &str, name: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for text in [Some(&self.text), self.beside.as_ref()].into_iter().flatten() {
            let mut is_in_section = false;
            for line in text.lines() {
                if let Some(begun) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                    is_in_section = begun == section;
                }
                match line.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
                    Some("") if is_in_section => values.clear(),
                    Some(value) if is_in_section => values.push(value),
                    _ => {}
                }
            }
        }
        values
    }

    /// The only value of a setting of the service.
    fn setting(&self, name: &str) -> &str {
        let settings = self.settings("Service", name);
        assert_eq!(settings.len(), 1, "{name}: {settings:?}");
        settings[0]
    }

    /// The words of each of its command lines.
    fn command_lines(&self) -> Vec<Vec<String>> {
        let lines = self.settings("Service", "ExecStart").into_iter();
        lines.map(|line| shell_words::split(&line.replace("%i", "web")).unwrap()).collect()
    }

    /// The directories that systemd makes for it.
    fn state_directories(&self) -> Vec<String> {
        let names = self.settings("Service", "StateDirectory").into_iter().flat_map(str::split_whitespace);
        names.map(|name| format!("/var/lib/{name}")).collect()
    }

    /// The last value of a variable of its environment.
    fn variable(&self, name: &str) -> Option<&str> {
        let variables = self.settings("Service", "Environment").into_iter();
        variables.filter_map(|variable| variable.strip_prefix(name)?.strip_prefix('=')).next_back()
    }

    /// Puts it where systemd finds it, with the program that was built.
    fn put_into(&self, directory: &Path, name: &str) -> PathBuf {
        let built = |text: &str| text.replace("/usr/bin/toehold", env!("CARGO_BIN_EXE_toehold"));
        let path = directory.join(name);
        std::fs::write(&path, built(&self.text)).unwrap();
        if let Some(beside) = &self.beside {
            let directory = directory.join(format!("{name}.d"));
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("shared-store.conf"), built(beside)).unwrap();
        }
        path
    }
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    let mut lines = 0;
    for (name, unit) in units().into_iter().chain(shared_units()) {
        for words in unit.command_lines() {
            lines += 1;
            assert_eq!(words.first().map(String::as_str), Some("/usr/bin/toehold"), "{name}");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {words:?}: {error}");
            }
        }
    }
    assert_eq!(lines, 4 + 3);
}

#[test]
fn whatever_needs_no_root_has_none_and_keeps_its_state_to_itself() {
    for (name, unit) in units().into_iter().chain(shared_units()).filter(|(name, _)| name.ends_with(".service")) {
        for (setting, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("PrivateTmp", "yes"),
            ("RestrictSUIDSGID", "yes"),
            ("StateDirectoryMode", "0700"),
            ("UMask", "0077"),
        ] {
            assert_eq!(unit.setting(setting), value, "{name}: {setting}");
        }
        let is_of_root = name.starts_with("toehold-apply@");
        assert_eq!(unit.settings("Service", "User").is_empty(), is_of_root, "{name}");
        if !is_of_root {
            assert!(unit.text.contains("\nCapabilityBoundingSet=\n"), "{name}");
            assert!(unit.settings("Service", "CapabilityBoundingSet").is_empty(), "{name}");
        }
        assert!(unit.state_directories().iter().any(|directory| Some(directory.as_str()) == unit.variable("TOEHOLD_STATE_DIR")));
    }
}

/// A store that is behind has to be taken by a person first: until then a gateway ends, and is started again however often that was.
#[test]
fn what_ends_with_an_error_is_started_again_without_an_end() {
    let services = units().into_iter().chain(shared_units()).filter(|(_, unit)| !unit.settings("Service", "Restart").is_empty());
    let mut names = Vec::new();
    for (name, unit) in services {
        assert_eq!((unit.setting("Restart"), unit.setting("RestartSec")), ("on-failure", "2"), "{name}");
        // Otherwise systemd gives up for good after five starts in ten seconds.
        assert_eq!(unit.settings("Unit", "StartLimitIntervalSec"), ["0"], "{name}");
        names.push(name);
    }
    assert_eq!(names.len(), 2 * 3, "{names:?}");
}

/// Of a shared store each is a member of its own: no two processes share a directory, and whoever strangers connect to reaches no operator's.
#[test]
fn n2_of_a_shared_store_each_has_a_directory_and_credentials_of_its_own() {
    let units = shared_units();
    let [gateway, pods, serve] = ["gateway", "pods", "serve"].map(|name| &units[&format!("toehold-{name}.service")]);
    let own = [gateway, pods, serve].map(|unit| unit.variable("TOEHOLD_STATE_DIR").unwrap());
    assert_eq!(own, ["/var/lib/toehold-gateway", "/var/lib/toehold-pods", "/var/lib/toehold"]);
    for (name, unit) in [("gateway", gateway), ("pods", pods)] {
        assert_eq!(unit.state_directories(), [unit.variable("TOEHOLD_STATE_DIR").unwrap()]);
        // The user is the same, so that the files' modes keep nobody out.
        let closed: Vec<&str> = unit.setting("InaccessiblePaths").split(' ').map(|path| path.trim_start_matches('-')).collect();
        let others: Vec<&str> = own.into_iter().filter(|path| !unit.state_directories().contains(&(*path).to_owned())).collect();
        for other in others {
            assert!(closed.contains(&other), "toehold-{name} reaches {other}: {closed:?}");
        }
    }
    // Its gateway works with the gateway's directory, which systemd makes for it.
    let words = &serve.command_lines()[0];
    let Command::Serve(options) = Cli::try_parse_from(words).unwrap().command else { panic!("{words:?}") };
    let directory = options.gateway_state_dir.unwrap().into_os_string().into_string().unwrap();
    assert_eq!(directory, own[0]);
    assert_eq!(serve.state_directories(), [own[2], &directory]);
    // Without a file there is no start: without a store it would be an embedded one.
    for (name, unit) in [("gateway", gateway), ("pods", pods), ("serve", serve)] {
        assert_eq!(unit.setting("EnvironmentFile"), format!("/etc/toehold/{name}.env"));
    }
}

/// As `systemd-analyze` says it, which needs no running systemd.
#[test]
fn systemd_reads_every_unit_without_a_word() {
    for units in [units(), shared_units()] {
        let directory = tempfile::Builder::new().prefix("toehold-units").tempdir().unwrap();
        let paths: Vec<PathBuf> = units.iter().map(|(name, unit)| unit.put_into(directory.path(), name)).collect();
        let mut command = std::process::Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).args(&paths).env("SYSTEMD_LOG_LEVEL", "warning").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let of_ours = said.lines().filter(|line| line.contains("toehold")).collect::<Vec<_>>();
        assert!(output.status.success() && of_ours.is_empty(), "{said}");
    }
}

/// Its own measure, from 0 (nothing is exposed) to 10.
#[test]
fn systemd_finds_little_exposed() {
    for units in [units(), shared_units()] {
        let directory = tempfile::tempdir().unwrap();
        for (name, unit) in units.iter().filter(|(name, _)| name.ends_with(".service")) {
            let path = unit.put_into(directory.path(), name);
            let limit = if name.starts_with("toehold-apply@") { "50" } else { "20" };
            let mut command = std::process::Command::new("systemd-analyze");
            let output =
                command.args(["security", "--offline=yes", "--no-pager", "--threshold", limit]).arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{name}: {}", said.lines().last().unwrap_or_default());
        }
    }
}
