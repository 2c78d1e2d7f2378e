//! Lists of machines, and what signs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::cli::{Done, Toehold};

/// A key pair as the seed document prints it.
pub const PUBLIC: &str = "64031219d4922eed63a5f567303e98607c632139c01bc9fa4ca2514c2d9d30da";
pub const PRIVATE: &str = "d8bd4d6392af154e996a18a4ccd5f51931d8e861d42966a677d85fbb598b66d364031219d4922eed63a5f567303e98607c632139c01bc9fa4ca2514c2d9d30da";

/// A directory for documents, with a program that needs no state.
#[derive(Debug)]
pub struct Desk {
    pub toehold: Toehold,
    directory: TempDir,
}

impl Desk {
    pub fn new() -> Self {
        Self { toehold: Toehold::bare(), directory: crate::support::server::directory("desk") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The name of a file there, as an argument.
    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.at(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `toehold spec …` in that directory, with no key in the environment.
    pub fn spec(&self, arguments: &[&str]) -> Done {
        self.spec_with(arguments, &[], "")
    }

    /// The same with an environment and an input.
    pub fn spec_with(&self, arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Done {
        let file = self.write("standard-input", input);
        let all: Vec<&str> = ["spec"].into_iter().chain(arguments.iter().copied()).collect();
        let mut command = self.toehold.command(all);
        command.env_remove("KEY").envs(environment.iter().copied()).current_dir(self.directory.path());
        command.stdin(fs::File::open(file).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Toehold::wait(command.spawn().unwrap())
    }

    /// What the first of these commands prints, in a file.
    pub fn keep(&self, name: &str, arguments: &[&str]) -> String {
        let done = self.spec(arguments).ends(0);
        self.write(name, done.stdout)
    }
}

/// An entry of a list; `number` is its version.
pub fn entry(name: &str, number: u32, matcher: &str) -> String {
    let sum = |letter: char| format!("{}{number:08x}", letter.to_string().repeat(56));
    format!(
        "{{\"name\":\"{name}\",\"source\":\"https://files.example.net/{name}-{number}.tgz\",\"verify\":\"SHA256SUMS\",\
         \"verify_checksum\":\"{}\",\"checksum\":\"{}\",\"match\":{}}}",
        sum('a'),
        sum('b'),
        serde_json::to_string(matcher).unwrap()
    )
}

pub fn list(entries: &[String]) -> String {
    format!("[{}]", entries.join(","))
}

/// Whether `path` is for its owner alone.
pub fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode().trailing_zeros() >= 6
}
