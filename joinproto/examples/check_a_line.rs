//! Reads the line that a new machine was given from standard input, so that it is in no process list, and says what it holds. The
//! secret is not printed.
//!
//! `echo toehold-join-v3/gw.example.net:7443/…/sha256:… | cargo run -p toehold-joinproto --example check_a_line`

use std::io::BufRead as _;
use std::process::ExitCode;

use toehold_joinproto::line::{JoinLine, LineError};
use zeroize::Zeroizing;

fn main() -> ExitCode {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    if let Err(error) = std::io::stdin().lock().read_line(&mut text) {
        eprintln!("standard input cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    if text.is_empty() {
        println!("no line came on standard input");
        return ExitCode::SUCCESS;
    }
    let line: Result<JoinLine, LineError> = text.trim_end_matches('\n').parse();
    match line {
        Ok(line) => {
            println!("protocol {}, gateway {}, token {}", line.protocol, line.endpoint, line.token.id());
            for pin in &line.pins {
                println!("known by {pin}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
