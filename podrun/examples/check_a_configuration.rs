//! Reads a configuration (YAML or JSON) from standard input and says what is wrong with it, or what it means.
//!
//! `cargo run -p toehold-podrun --example check_a_configuration < podrun.yaml`

use std::io::Read as _;
use std::process::ExitCode;

use toehold_podrun::config::{Config, ConfigError, MAX_CONFIG};

fn main() -> ExitCode {
    let mut text = String::new();
    let limit = u64::try_from(MAX_CONFIG).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = std::io::stdin().lock().take(limit).read_to_string(&mut text) {
        eprintln!("standard input cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    match Config::parse(&text).and_then(Config::validate) {
        Ok(settings) => {
            println!("pods in {} of {}, worked in: {}", settings.namespace, settings.cluster.server, settings.container);
            for warning in &settings.warnings {
                println!("mind: {warning}");
            }
            ExitCode::SUCCESS
        }
        Err(ConfigError::Faults(faults)) => {
            for fault in faults {
                eprintln!("{fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
