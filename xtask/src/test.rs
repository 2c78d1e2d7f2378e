//! `cargo xtask test`: all that CI checks.

use crate::prerequisites::Part;
use crate::report::Report;
use crate::workspace::Metadata;
use crate::{
    Result, architecture, cli_document, codegen, features, fuzz, home_guard, hygiene, invariants, kubernetes, msrv, package,
    prerequisites, process, readme, test_cluster, test_targets,
};

/// The command line of the task.
#[derive(Debug)]
pub(crate) struct Options {
    without: Vec<Part>,
    only: Vec<String>,
    fuzz_seconds: u32,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { without: Vec::new(), only: Vec::new(), fuzz_seconds: 2 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--without" => {
                    for name in value()?.split(',') {
                        options.without.push(name.parse()?);
                    }
                }
                "--only" => options.only.extend(value()?.split(',').map(str::to_owned)),
                "--fuzz-seconds" => options.fuzz_seconds = value()?.parse().map_err(|_| "--fuzz-seconds takes a whole number")?,
                other => return Err(format!("test does not know {other}").into()),
            }
        }
        Ok(options)
    }
}

/// Runs every step and says at the end which ones failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    prerequisites::ensure(&options.without)?;
    let metadata = Metadata::load()?;
    let mut report = Report::new(options.only.clone());
    for part in &options.without {
        report.leave_out(format!("{part}: {}", part.loses()));
    }

    // It takes minutes the first time, and is needed near the end.
    let with_kubernetes = !options.without.contains(&Part::Kubernetes) && report.wants("kubernetes");
    let building = with_kubernetes.then(kubernetes::Building::begin);

    // What takes a second comes first.
    report.step("format", |_| {
        process::run(process::cargo().args(["fmt", "--all", "--check"]))?;
        process::run(process::cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
    });
    report.step("hygiene", hygiene::check);
    report.step("invariants", |_| invariants::check());
    if !options.without.contains(&Part::Fuzz) {
        // The fuzz targets come last; what only their lock file wants is said at once.
        report.step("lock", |_| fuzz::locked().map(drop));
    }
    report.step("architecture", |_| architecture::check(&metadata));
    report.step("codegen", |_| codegen::check());
    report.step("readme", |_| readme::check(&metadata));
    report.step("clippy", |_| {
        process::run(process::cargo().args([
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]))
    });
    report.step("features", |_| features::check(&metadata));
    report.step("test", |report| home_guard::untouched(|| test_targets::run(&metadata, &options.without, report)));
    report.step("cli", |_| cli_document::check(&metadata));
    report.step("examples", |_| examples(&metadata));
    report.step("benches", |_| benches(&metadata));
    report.step("doc", |_| {
        let mut cargo = process::cargo();
        cargo.args(["doc", "--locked", "--no-deps", "--workspace", "--all-features"]);
        process::run(cargo.env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("msrv", |_| msrv::check(&metadata));
    report.step("package", |_| package::check(&metadata));
    if let Some(building) = building {
        report.step("kubernetes", |_| home_guard::untouched(|| test_cluster::on_our_own(building, &metadata, &options.without)));
    }
    if !options.without.contains(&Part::Fuzz) {
        report.step("fuzz", |_| fuzz::run(options.fuzz_seconds));
    }
    report.finish()
}

/// Runs the examples that `cargo test` has built.
fn examples(metadata: &Metadata) -> Result<()> {
    for package in metadata.members() {
        for example in package.targets_of("example") {
            let program = metadata.target_directory.join("debug/examples").join(example);
            let mut example = std::process::Command::new(program);
            process::run(example.current_dir(crate::workspace::root()).stdin(std::process::Stdio::null()))?;
        }
    }
    Ok(())
}

/// Runs every measured function once, unmeasured.
fn benches(metadata: &Metadata) -> Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--locked", "--workspace", "--all-features", "--quiet"]);
    let mut any = false;
    for package in metadata.members() {
        for bench in package.targets_of("bench") {
            any = true;
            cargo.args(["--bench", bench]);
        }
    }
    if any { process::run(&mut cargo) } else { Ok(()) }
}
