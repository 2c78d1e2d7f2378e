//! The `toehold` command.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use toehold::cli::{Failure, Output, Signals, read, usage};
use tracing_subscriber::EnvFilter;

/// Gives back to the system what connections leave behind that have closed, by threads of its own; glibc's keeps all of it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How much stack a thread may use, in bytes: a renewal that `serve` makes has a thread of its own, and without optimisation more than the usual
/// 2 MiB of stack. What is not used costs no memory.
const STACK: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    if let Some(exit) = toehold::adapters::local_pods::stage(std::env::args_os()) {
        return exit;
    }
    let arguments: Vec<_> = std::env::args_os().collect();
    let cli = match read(arguments.clone()) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::report(&error, arguments)),
    };
    let output = Output::new(cli.global.json);
    let default = match cli.global.verbose {
        0 => "warn,russh=error",
        1 => "info,russh=warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // Its debug lines hold all that an agent is asked to sign, and a list of machines can hold passwords.
    let filter = "russh::keys::agent=info".parse().map_or_else(|_| EnvFilter::new("warn"), |quiet| filter.add_directive(quiet));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.thread_stack_size(STACK);
    if !cli.works_on_many() {
        // Each thread has memory of its own.
        runtime.worker_threads(1);
    }
    let result = runtime.enable_all().build().map_err(Failure::from).and_then(|runtime| {
        let result = runtime.block_on(async {
            let signals = Signals::listen()?;
            toehold::commands::run(cli, output, signals).await
        });
        // A read from the terminal that nobody will answer any more must not hold the process.
        runtime.shutdown_background();
        result
    });
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.exit
        }
    };
    ExitCode::from(output.end(exit).code())
}
