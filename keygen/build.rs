//! Condenses the scripts that are pasted on hosts, so that no line has to wait for it.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

#[path = "src/install/condense.rs"]
mod condense;

use condense::condense;

/// Stands in the scripts for the account's user, whose home directory the shell then looks up.
const USER: &str = "USER";

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["src/install/condense.rs", "src/install/install.sh", "src/install/remove.sh"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let (install, remove) = (fs::read_to_string("src/install/install.sh")?, fs::read_to_string("src/install/remove.sh")?);
    let mut code = String::from("pub(super) fn install(expiry: ExpiryForm, files: bool, told: bool) -> [&'static str; 2] {\n");
    code += "match (expiry, files, told) {\n";
    for (form, parts) in [("Detect", ["detect", "told"].as_slice()), ("None", &["none", "told"]), ("Utc", &["known"])] {
        for (files, told) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut parts = parts.to_vec();
            parts.extend(files.then_some("files"));
            code += &format!("(ExpiryForm::{form}, {files}, {told}) => {:?},\n", split(&install, parts, told));
        }
    }
    code += "}\n}\n\npub(super) fn remove(told: bool) -> [&'static str; 2] {\n";
    code += &format!("if told {{ {:?} }} else {{ {:?} }}\n}}\n", split(&remove, vec![], true), split(&remove, vec![], false));
    fs::write(Path::new(&env::var("OUT_DIR")?).join("scripts.rs"), code)?;
    Ok(())
}

/// The condensed script around [`USER`], which it has unless the home directory is `told`.
fn split(source: &str, mut parts: Vec<&str>, told: bool) -> [String; 2] {
    parts.extend((!told).then_some("passwd"));
    let script = condense(source, &parts);
    let (before, after) = script.split_once(USER).unwrap_or((&script, ""));
    [before.to_owned(), after.to_owned()]
}
