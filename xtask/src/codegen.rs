//! `cargo xtask codegen`: the Rust code for the gRPC services, made from `toehold/proto` and checked in. Nobody who builds the project
//! needs a protobuf compiler.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::workspace::root;
use crate::{Result, process};

const PROTOS: &str = "toehold/proto";
const GENERATED: &str = "toehold/src/adapters/grpc/generated";

/// Opni's messages pass as bytes: the join protocol's own crate reads them, more strictly than protobuf does.
const RAW: &str = "crate::adapters::grpc::raw::Raw";
const RAW_CODEC: &str = "crate::adapters::grpc::raw::RawCodec";
const RAW_PACKAGES: [&str; 2] = ["bootstrap", "bootstrap.v2"];
const RAW_MESSAGES: [&str; 4] =
    ["BootstrapJoinRequest", "BootstrapJoinResponse", "BootstrapAuthRequest", "BootstrapAuthResponse"];

/// Writes the code.
pub(crate) fn run() -> Result<()> {
    let directory = root().join(GENERATED);
    let made = generate()?;
    for stale in files(&directory)?.keys().filter(|name| !made.contains_key(*name)) {
        std::fs::remove_file(directory.join(stale))?;
    }
    for (name, text) in &made {
        std::fs::write(directory.join(name), text)?;
        println!("{GENERATED}/{name}");
    }
    Ok(())
}

/// Checks that the code is what would be written now.
pub(crate) fn check() -> Result<()> {
    let (made, kept) = (generate()?, files(&root().join(GENERATED))?);
    let stale: Vec<&str> =
        made.keys().chain(kept.keys()).filter(|name| made.get(*name) != kept.get(*name)).map(String::as_str).collect();
    if stale.is_empty() {
        println!("{} generated files are fresh", kept.len());
        return Ok(());
    }
    Err(format!("{GENERATED}: not what `cargo xtask codegen` makes: {}", stale.join(", ")).into())
}

/// The files by their names, with their text, formatted as the rest of the project.
fn generate() -> Result<BTreeMap<String, String>> {
    let directory = root().join("target/codegen").join(std::process::id().to_string());
    std::fs::create_dir_all(&directory)?;
    let made = generate_into(&directory);
    std::fs::remove_dir_all(&directory)?;
    made
}

fn generate_into(directory: &Path) -> Result<BTreeMap<String, String>> {
    let protos = root().join(PROTOS);
    let mut packages: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(&protos)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        packages.extend(name.strip_suffix(".proto").map(str::to_owned));
    }
    packages.sort();
    for package in &packages {
        let descriptors =
            protox::compile([format!("{package}.proto")], [&protos]).map_err(|error| format!("{package}: {error}"))?;
        let mut builder = tonic_prost_build::configure().build_transport(false).out_dir(directory);
        if RAW_PACKAGES.contains(&package.as_str()) {
            builder = builder.codec_path(RAW_CODEC);
            for message in RAW_MESSAGES {
                builder = builder.extern_path(format!(".{package}.{message}"), RAW);
            }
        }
        builder.compile_fds(descriptors)?;
    }
    let paths: Vec<_> = packages.iter().map(|package| directory.join(format!("{package}.rs"))).collect();
    let config = root().join("rustfmt.toml");
    let mut rustfmt = Command::new(process::find("rustfmt").ok_or("rustfmt is not installed")?);
    process::output(rustfmt.args(["--edition", "2024", "--config-path"]).arg(config).args(&paths))?;
    let read = |package: &String| Ok((module(package), std::fs::read_to_string(directory.join(format!("{package}.rs")))?));
    packages.iter().map(read).collect()
}

/// A package's file: a module's name has no dots.
fn module(package: &str) -> String {
    package.replace('.', "_") + ".rs"
}

fn files(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path())?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_code_is_fresh() {
        super::check().unwrap();
    }
}
