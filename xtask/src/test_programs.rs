//! Running the test programs that cargo built, several at a time.
//!
//! `cargo test` runs one program after another, and many of ours do little but wait for what they have stopped, delayed or killed. Here the
//! ones that took longest the last time begin first, and what a program prints is shown as a whole once it has ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::report::seconds;
use crate::workspace::{Metadata, root};
use crate::{Result, lock};

/// How many programs for each core: a good half of their time is waiting.
const FOR_EACH_CORE: usize = 2;
/// More at once would disturb each other: each has as many threads as the machine has cores.
const MOST_AT_ONCE: usize = 6;
/// What takes longest, the longest first, where nothing is known of an earlier run: begun last, each would be waited for alone.
const LONG: [&str; 8] = ["rotation", "kill", "hosts", "hosts_as_root", "suite", "three_nodes", "pods", "kill_rotation"];
/// How many of the slowest are named at the end.
const NAMED: usize = 8;

/// One program with tests in it.
#[derive(Debug)]
pub(crate) struct TestProgram {
    /// The target's name, as `cargo test --test` takes it.
    pub(crate) name: String,
    /// `test`, `lib`, `bin`.
    pub(crate) kind: String,
    executable: PathBuf,
    /// Where cargo would run it: the directory of its package.
    directory: PathBuf,
}

/// One line of cargo's `--message-format=json`: cargo's external-tools documentation, "Artifact messages".
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<MessageTarget>,
    profile: Option<MessageProfile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct MessageTarget {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct MessageProfile {
    test: bool,
}

/// Builds all test programs, and the examples with them.
pub(crate) fn build(cargo_test: &mut Command) -> Result<Vec<TestProgram>> {
    cargo_test.args(["--no-run", "--message-format=json-render-diagnostics"]);
    println!("$ cargo test --no-run");
    let output = cargo_test.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the tests were not built: cargo ended with {}", output.status).into());
    }
    let programs = String::from_utf8(output.stdout)?.lines().map(program).collect::<Result<Vec<_>>>()?;
    Ok(programs.into_iter().flatten().collect())
}

/// The test program that a message of cargo tells of, if it does.
fn program(line: &str) -> Result<Option<TestProgram>> {
    let message: Message = serde_json::from_str(line)?;
    let (Some(target), Some(profile), Some(executable)) = (message.target, message.profile, message.executable) else {
        return Ok(None);
    };
    if message.reason != "compiler-artifact" || !profile.test {
        return Ok(None);
    }
    let kind = target.kind.into_iter().next().ok_or("a target without a kind")?;
    let directory = message.manifest_path.parent().ok_or("a manifest without a directory")?.to_owned();
    Ok(Some(TestProgram { name: target.name, kind, executable, directory }))
}

/// How one program ended.
#[derive(Debug)]
struct Ended {
    title: String,
    took: Duration,
    error: Option<String>,
}

/// How test programs are run.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    /// What each is given.
    pub(crate) arguments: &'a [String],
    /// What each finds in its environment beside our own.
    pub(crate) environment: &'a [(&'static str, OsString)],
    /// How many run at a time, where not as many as the machine bears.
    pub(crate) at_once: Option<usize>,
}

/// Runs all of them; an error names those that failed.
pub(crate) fn run(mut programs: Vec<TestProgram>, way: &Way<'_>, metadata: &Metadata) -> Result<()> {
    let times_file = metadata.target_directory.join("test-times.json");
    let mut times = Times::load(&times_file);
    // The last one is taken first.
    programs.sort_by_key(|program| times.expected(program));
    let at_once = way.at_once.unwrap_or_else(fitting);
    println!("{} test programs, {at_once} at a time", programs.len());
    let waiting = Mutex::new(programs);
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(program) = take(&waiting) {
                    let one = run_one(&program, way);
                    lock(&ended).push(one);
                }
            });
        }
    });
    let mut ended = ended.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    ended.sort_by_key(|one| std::cmp::Reverse(one.took));
    for one in &ended {
        times.0.insert(one.title.clone(), one.took.as_secs_f64());
    }
    times.save(&times_file)?;
    println!("\nthe slowest of {} test programs:", ended.len());
    for one in ended.iter().take(NAMED) {
        println!("{:>9}  {}", seconds(one.took), one.title);
    }
    let failed: Vec<String> =
        ended.iter().filter_map(|one| one.error.as_ref().map(|error| format!("{}: {error}", one.title))).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("test programs that failed:\n  {}", failed.join("\n  ")).into()) }
}

/// How many things that mostly wait this machine bears at a time.
pub(crate) fn fitting() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores * FOR_EACH_CORE).clamp(2, MOST_AT_ONCE)
}

fn take(waiting: &Mutex<Vec<TestProgram>>) -> Option<TestProgram> {
    lock(waiting).pop()
}

fn run_one(program: &TestProgram, way: &Way<'_>) -> Ended {
    let start = Instant::now();
    let (printed, error) = match print_of(program, way) {
        Ok((printed, status)) => (printed, (!status.success()).then(|| format!("ended with {status}"))),
        Err(error) => (Vec::new(), Some(format!("could not be run: {error}"))),
    };
    let ended = Ended { title: program.title(), took: start.elapsed(), error };
    // One write, so that two programs' words do not mix.
    let mut text = format!("\n     Running {} ({})\n", ended.title, seconds(ended.took)).into_bytes();
    text.extend(printed);
    // A standard output that is gone is noticed by all who print after us.
    let _ = std::io::stdout().lock().write_all(&text);
    ended
}

/// All that a program printed, stdout and stderr in their order, and how it ended.
fn print_of(program: &TestProgram, way: &Way<'_>) -> std::io::Result<(Vec<u8>, std::process::ExitStatus)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = Command::new(&program.executable);
    command.args(way.arguments).current_dir(&program.directory).stdin(Stdio::null());
    // As cargo sets it for the tests that it runs.
    command.env("CARGO_MANIFEST_DIR", &program.directory);
    command.envs(way.environment.iter().cloned());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds both ends for writing; only when they are closed does the pipe end.
    drop(command);
    // A server that a failed test left behind holds the pipe open: the program's own end counts, not the pipe's.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            if sender.send(chunk.get(..count).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    let status = child.wait()?;
    let mut printed = Vec::new();
    while let Ok(chunk) = receiver.recv_timeout(Duration::from_millis(500)) {
        printed.extend(chunk);
    }
    Ok((printed, status))
}

impl TestProgram {
    fn title(&self) -> String {
        let package = self.directory.strip_prefix(root()).unwrap_or(&self.directory).display();
        if self.kind == "test" { format!("{package}/tests/{}", self.name) } else { format!("{package} ({})", self.kind) }
    }
}

/// How long each program took the last time, in seconds.
#[derive(Debug)]
struct Times(BTreeMap<String, f64>);

impl Times {
    /// A file that is not there or not ours to read only means that the order is not the best.
    fn load(path: &Path) -> Self {
        Self(std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    fn save(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, serde_json::to_vec(&self.0)?)?)
    }

    fn expected(&self, program: &TestProgram) -> Duration {
        let known = self.0.get(&program.title()).copied();
        let long = || match LONG.iter().rev().zip(60..).find(|(name, _)| **name == program.name) {
            Some((_, seconds)) => f64::from(seconds),
            None => 10.0,
        };
        Duration::try_from_secs_f64(known.unwrap_or_else(long)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_with_tests_is_a_program() {
        let line = r#"{"reason":"compiler-artifact","manifest_path":"/w/core/Cargo.toml","target":{"kind":["test"],"name":"ids"},
            "profile":{"test":true},"executable":"/w/target/debug/deps/ids-1"}"#;
        let program = program(line).unwrap().unwrap();
        assert_eq!((program.name.as_str(), program.kind.as_str()), ("ids", "test"));
        assert_eq!(program.directory, Path::new("/w/core"));
    }

    #[test]
    fn what_has_no_tests_is_none() {
        for line in [
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/core/Cargo.toml","target":{"kind":["lib"],"name":"core"},
               "profile":{"test":false},"executable":null}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/core/Cargo.toml","target":{"kind":["example"],"name":"e"},
               "profile":{"test":false},"executable":"/w/e"}"#,
        ] {
            assert!(program(line).unwrap().is_none(), "{line}");
        }
    }

    #[test]
    fn the_output_of_a_program_and_its_failure_are_both_told() {
        let shell = TestProgram {
            name: "sh".to_owned(),
            kind: "test".to_owned(),
            executable: PathBuf::from("/bin/sh"),
            directory: PathBuf::from("/"),
        };
        let script = ["-c".to_owned(), "echo $ONE; echo two >&2; exit 3".to_owned()];
        let way = Way { arguments: &script, environment: &[("ONE", "one".into())], at_once: None };
        let (printed, status) = print_of(&shell, &way).unwrap();
        assert_eq!((String::from_utf8(printed).unwrap().as_str(), status.code()), ("one\ntwo\n", Some(3)));
    }
}
