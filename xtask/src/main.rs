//! The project's own tasks, run as `cargo xtask TASK`: everything that a contributor or CI runs.

mod architecture;
mod bench;
mod chaos;
mod cli_document;
mod codegen;
mod dist;
mod features;
mod fuzz;
mod home_guard;
mod hygiene;
mod invariants;
mod kubernetes;
mod msrv;
mod package;
mod prerequisites;
mod process;
mod readme;
mod report;
mod target;
mod test;
mod test_cluster;
mod test_programs;
mod test_targets;
mod workspace;

use std::process::ExitCode;

/// What a task ends with; the error is a sentence for the person who ran it.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What a thread that panicked has left is as good as before: each holds it for one step.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const USAGE: &str = "\
cargo xtask test [--without PART]... [--only STEP]... [--fuzz-seconds N]
    All that CI checks. Parts that can be left out: acl, browser, dropbear, fuzz, kubernetes, nats, openssh, python, root,
    shells, strace, systemd.
    --only runs the named steps alone (a step's name as the table at the end prints it).
    --fuzz-seconds is for each fuzz target (default 2).

cargo xtask test-cluster
    The tests that need a Kubernetes cluster, on that of KUBECONFIG, which may be any: they make namespaces and pods of their own
    there. `test` runs them on a cluster that it starts. Those that stop and kill the cluster's own processes need
    TOEHOLD_TEST_CLUSTER too. Images, where not our own: TOEHOLD_TEST_IMAGE (busybox), TOEHOLD_TEST_IMAGE_TOOLS (bash, sftp-server,
    rsync, git), TOEHOLD_TEST_IMAGE_NOSHELL (sleep, cat and no shell).

cargo xtask kubernetes up|down|kubectl ARGS...
    A real Kubernetes on this machine, in the background until `down`; kubectl for it. Wants root, and Go to build it the first time.

cargo xtask bench [NAME]...
    The measured bars: temporary-key, authorized-keys, gateway, host-add, join, key-rotate, key-rotate-far,
    key-rotate-simulated, pods, pods-kubernetes, spec, spec-apply, store
    (all of them by default). pods-kubernetes starts a cluster.

cargo xtask chaos [--minutes N] [--kills N] [--of NAME]...
    SIGKILL at random moments of `host add`, `agent join`, `key rotate` and `spec apply`, then what leads it on, then every invariant
    read off the real files; gateways, leaders of `serve`, writers of the embedded store, imports and servers of the shared store that
    are killed or held up; connections that are cut, and backups that are put in a store's place; 1,000 connections to `pods serve` at
    once, 50 of whose pods fail; and of three servers with a shared store one is killed, or cut off, under 100 onboardings, a rotation by
    two operators and 1,000 joins at two gateways (wants root, for networks of its own): for N minutes (default 10), in rounds of N kills
    each (default 50), of all of them or of those that are named. NAME is one of gateway, host-add, join, key-rotate, operators, pods,
    pods-kubernetes, serve, spec-apply, ssh, store-embedded, store-shared, three-nodes. pods-kubernetes, which is run where it is named
    alone, starts a cluster: 1,000 connections there, 150 at a time, and a gateway killed under 150.

cargo xtask codegen
    Renews the Rust code of the gRPC services from toehold/proto.

cargo xtask dist [--dynamic] [--binary FILE]
    The archive that people install, in target/dist: a binary that needs no library of the system's, completions, manual pages,
    systemd units, licences and SHA256SUMS. Two runs give the same bytes. It is tried where there is nothing but the binary.
    Wants the target x86_64-unknown-linux-musl and a C compiler for it (rustup, Debian package musl-tools); --dynamic does
    without. --binary takes one that was built already.

cargo xtask invariants
    Which tests carry which invariant of docs/invariants.md.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, rest) = match arguments.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let outcome = match task {
        "test" => test::Options::parse(rest).map(|options| test::run(&options)),
        "test-cluster" if rest.is_empty() => Ok(test_cluster::run()),
        "kubernetes" => kubernetes::Options::parse(rest).map(|options| kubernetes::run(&options)),
        "bench" => bench::Options::parse(rest).map(|options| bench::run(&options)),
        "chaos" => chaos::Options::parse(rest).map(|options| chaos::run(&options)),
        "dist" => dist::Options::parse(rest).map(|options| dist::run(&options)),
        "codegen" if rest.is_empty() => Ok(codegen::run()),
        "invariants" if rest.is_empty() => Ok(invariants::print()),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("there is no task like this: {other} {}", rest.join(" ")).into()),
    };
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}
