//! `toehold spec keys`.

use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use serde_json::json;
use toehold_specsign::SigningKey;
use zeroize::Zeroizing;

use super::{fingerprint, signing, ssh_line};
use crate::cli::args::{Global, KeyRequest};
use crate::cli::{Exit, Failure, Output};
use crate::private::write_new;

/// Makes a key pair, or shows the public half of one.
///
/// # Errors
/// Where a file cannot be read or written.
pub(super) fn keys(global: &Global, request: &KeyRequest, output: Output) -> Result<Exit, Failure> {
    if let Some(path) = &request.show {
        let key = signing::key_in(global, path)?.verifying_key();
        output.document(&json!({ "public_key": key, "ssh": ssh_line(&key)?, "fingerprint": fingerprint(&key)? }));
        output.text(format_args!(" Public Key: {key}"));
        output.text(format_args!("For OpenSSH: {}", ssh_line(&key)?));
        return Ok(Exit::Done);
    }
    let key = SigningKey::generate(&mut UnwrapErr(SysRng));
    let public = key.verifying_key();
    match &request.output {
        Some(path) => {
            let text = Zeroizing::new(format!("{}\n", key.to_hex().as_str()));
            if !write_new(path, text.as_bytes())? {
                return Err(Failure::new(format!("{} is there already, and was not touched", path.display())));
            }
            output.document(&json!({ "public_key": public, "file": path }));
            output.text(format_args!(" Public Key: {public}"));
            output.text(format_args!("Private Key: in {}", path.display()));
        }
        None => {
            output.document(&json!({ "public_key": public, "private_key": key.to_hex().as_str() }));
            output.text(format_args!(" Public Key: {public}"));
            output.text(format_args!("Private Key: {}", key.to_hex().as_str()));
        }
    }
    Ok(Exit::Done)
}
