//! Running other programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::Result;

/// Directories that hold server programs and are not on everybody's `PATH`.
const SERVER_DIRECTORIES: [&str; 7] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec"];

/// The cargo that runs this task, so that all steps use one toolchain.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::workspace::root());
    if let Some(directory) = crate::target::elsewhere() {
        command.env("CARGO_TARGET_DIR", directory);
    }
    // What `cargo run` tells this program about its own package would make its children's builds differ from the user's.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH")
        {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to the end with our own stdout and stderr; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = display(command);
    println!("$ {line}");
    let status = command.status().map_err(|error| format!("`{line}` could not be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` ended with {status}").into()) }
}

/// Runs to the end and gives what was printed; an exit status other than 0 is an error that holds stderr.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let line = display(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("`{line}` could not be started: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("`{line}` ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end()).into())
}

/// As [`output`], the printed text alone.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(output(command)?.stdout)?)
}

/// Where a program is: on `PATH`, or in one of the directories that servers live in.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SERVER_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

/// Our own number.
pub(crate) fn user_id() -> Result<u32> {
    Ok(text(Command::new("id").arg("-u"))?.trim().parse()?)
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn display(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, quoted(value?.to_str()?))));
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| quoted(&argument.to_string_lossy()));
    set.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
