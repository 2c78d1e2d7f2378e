//! Looking at the cluster with the program that everybody looks at it with.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::Cluster;

/// A kubectl command, made by [`kubectl`].
#[derive(Debug)]
pub struct Kubectl {
    command: Command,
    input: Vec<u8>,
}

/// `kubectl` with these arguments, on this cluster.
pub fn kubectl<'a>(cluster: &Cluster, arguments: impl IntoIterator<Item = &'a str>) -> Kubectl {
    let mut command = Command::new(std::env::var_os("TOEHOLD_TEST_KUBECTL").unwrap_or_else(|| "kubectl".into()));
    command.args(arguments).env("KUBECONFIG", &cluster.kubeconfig);
    Kubectl { command, input: Vec::new() }
}

impl Kubectl {
    /// What it reads from standard input, as for `apply -f -`.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it to the end, whatever that is.
    pub fn output(mut self) -> Output {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command.get_program()));
        // What it reads is shorter than a pipe is deep; one that does not read it says why at the end.
        let _ = child.stdin.take().unwrap().write_all(&self.input);
        child.wait_with_output().unwrap()
    }

    /// What it prints; it must succeed.
    #[track_caller]
    pub fn text(self) -> String {
        let shown = format!("{:?}", self.command);
        let output = self.output();
        assert!(output.status.success(), "{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it prints with `-o json`, which is added.
    #[track_caller]
    pub fn json(mut self) -> Value {
        self.command.args(["-o", "json"]);
        serde_json::from_str(&self.text()).unwrap()
    }
}
