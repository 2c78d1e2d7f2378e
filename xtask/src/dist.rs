//! The archive that people install, the same bytes for the same source.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::workspace::{Metadata, root};
use crate::{Result, process};

/// What needs no library of the system's.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// Where it was loaded has to be added to each of its 31,000 pointers when it starts: they are told in 9 KiB, in place of 743 that
/// every process would read through. For musl alone, since not every glibc knows them.
const RELATIVE: &str = "-Clink-arg=-Wl,-z,pack-relative-relocs";
/// How it is compiled: the workspace's manifest says it.
const PROFILE: &str = "dist";

/// The shells that completions are made for, with the names that their packages look for.
const SHELLS: [(&str, &str); 5] = [
    ("bash", "toehold.bash"),
    ("elvish", "toehold.elv"),
    ("fish", "toehold.fish"),
    ("powershell", "_toehold.ps1"),
    ("zsh", "_toehold"),
];

/// Where the systemd units are.
const UNITS: &str = "toehold/units";

/// Files that are taken as they are.
const DOCUMENTS: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// For this machine's own libraries.
    dynamic: bool,
    /// What was built already, instead of a build.
    binary: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--dynamic" => options.dynamic = true,
                "--binary" => options.binary = Some(arguments.next().ok_or("--binary wants a file")?.into()),
                other => return Err(format!("dist takes --dynamic and --binary FILE; got {other}").into()),
            }
        }
        Ok(options)
    }
}

/// The program that people install, built here.
pub(crate) fn program(metadata: &Metadata) -> Result<PathBuf> {
    ensure_static()?;
    build(metadata, TARGET)
}

/// Makes it, and tries what is in it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let metadata = Metadata::of_manifest(&root().join("Cargo.toml"))?;
    let version =
        metadata.members().find(|package| package.name == "toehold").ok_or("there is no package toehold")?.version.clone();
    let target = if options.dynamic { host_target()? } else { TARGET.to_owned() };
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None if options.dynamic => build(&metadata, &target)?,
        None => program(&metadata)?,
    };
    let directory = metadata.target_directory.join("dist");
    let stem = format!("toehold-{version}-{target}");
    let tree = directory.join(&stem);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    lay_out(&tree, &binary, |program, arguments| Ok(process::output(Command::new(program).args(arguments))?.stdout))?;
    let archive = directory.join(format!("{stem}.tar.gz"));
    let (first, again) = (pack(&directory, &stem)?, pack(&directory, &stem)?);
    if first != again {
        return Err("two archives of one tree differ".into());
    }
    fs::write(&archive, &first)?;
    let sum = format!("{}  {stem}.tar.gz\n", hex(&first));
    fs::write(directory.join(format!("{stem}.tar.gz.sha256")), &sum)?;
    try_out(&directory, &archive, &stem, options.dynamic)?;
    println!("{}: {} bytes\n{}", archive.display(), first.len(), sum.trim_end());
    Ok(())
}

/// The target and the C compiler that a static binary wants; installed where that is ours to do.
fn ensure_static() -> Result<()> {
    process::run(Command::new("rustup").args(["target", "add", TARGET]))?;
    if process::find("musl-gcc").is_none() {
        return Err("musl-gcc is missing: Debian package musl-tools; or, for this machine's libraries: --dynamic".into());
    }
    Ok(())
}

fn host_target() -> Result<String> {
    let told = process::text(Command::new("rustc").arg("-vV"))?;
    let line = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.ok_or("rustc does not say what it builds for")?.to_owned())
}

/// Builds the program; paths of this machine are no part of it.
fn build(metadata: &Metadata, target: &str) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"))).ok_or("HOME is not set")?;
    let remaps = [(root(), "/toehold"), (home.as_path(), "/cargo")];
    let mut flags: Vec<String> = remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    if target == TARGET {
        flags.push(RELATIVE.to_owned());
    }
    let mut cargo = process::cargo();
    cargo.args(["build", "--locked", "--profile", PROFILE, "--package", "toehold", "--bin", "toehold", "--target", target]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // The C parts as well: SQLite, ring, jemalloc.
    let maps: Vec<String> = remaps.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display())).collect();
    cargo.env("CFLAGS", maps.join(" ")).env("SOURCE_DATE_EPOCH", epoch()?);
    process::run(&mut cargo)?;
    Ok(metadata.target_directory.join(target).join(PROFILE).join("toehold"))
}

/// When the source was committed last: the time of everything in the archive.
fn epoch() -> Result<String> {
    let told = process::text(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root()))?;
    Ok(told.trim().to_owned())
}

/// Everything in its place. `tells` runs the program that is in it, with these arguments, and gives what it prints.
fn lay_out(tree: &Path, binary: &Path, tells: impl Fn(&Path, &[&OsStr]) -> Result<Vec<u8>>) -> Result<()> {
    for below in ["bin", "completions", "man/man1", "systemd"] {
        fs::create_dir_all(tree.join(below))?;
    }
    let program = tree.join("bin/toehold");
    fs::copy(binary, &program)?;
    for (shell, name) in SHELLS {
        let script = tells(&program, &["completions".as_ref(), shell.as_ref()])?;
        fs::write(tree.join("completions").join(name), script)?;
    }
    tells(&program, &["manual".as_ref(), tree.join("man/man1").as_os_str()])?;
    let units = root().join(UNITS);
    for unit in files_below(&units)? {
        let place = tree.join("systemd").join(unit.strip_prefix(&units)?);
        fs::create_dir_all(place.parent().ok_or("a unit has no directory")?)?;
        fs::copy(&unit, place)?;
    }
    for document in DOCUMENTS {
        fs::copy(root().join(document), tree.join(document))?;
    }
    let mut sums = String::new();
    let mut paths = files_below(tree)?;
    paths.sort();
    for path in &paths {
        let below = path.strip_prefix(tree)?;
        let mode = if below.starts_with("bin") { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        sums.push_str(&format!("{}  {}\n", hex(&fs::read(path)?), below.display()));
    }
    let list = tree.join("SHA256SUMS");
    fs::write(&list, sums)?;
    fs::set_permissions(&list, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// The tree as an archive: names in order, one time, nobody's user, no mark of the packer's.
fn pack(directory: &Path, stem: &str) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--format=ustar",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u+rwX,go+rX,go-w",
    ]);
    tar.arg(format!("--mtime=@{}", epoch()?)).args(["--use-compress-program=gzip -n -9", "--directory"]).arg(directory).arg(stem);
    Ok(process::output(&mut tar)?.stdout)
}

/// Unpacks it as whoever installs it does, checks its sums, and runs the binary where there is nothing else.
fn try_out(directory: &Path, archive: &Path, stem: &str, dynamic: bool) -> Result<()> {
    let place = directory.join("try");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::create_dir_all(&place)?;
    process::output(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&place))?;
    let unpacked = place.join(stem);
    process::output(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&unpacked))?;
    let mut command = if dynamic {
        Command::new(unpacked.join("bin/toehold"))
    } else {
        // A root directory that has the binary and nothing besides. In a user namespace, so that nobody has to be root for it.
        let empty = place.join("empty");
        fs::create_dir_all(&empty)?;
        fs::copy(unpacked.join("bin/toehold"), empty.join("toehold"))?;
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--root"]).arg(&empty).arg("/toehold");
        command
    };
    let told = process::text(command.arg("--version").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()))?;
    if !told.starts_with("toehold ") {
        return Err(format!("the binary in the archive says: {told}").into());
    }
    println!("{}{}", told, if dynamic { "" } else { "in a directory with nothing else in it" });
    fs::remove_dir_all(&place)?;
    Ok(())
}

/// Every file below a directory.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_of_a_tree_does_not_depend_on_when_and_by_whom_it_was_laid_out() {
        let archive = |order: [&str; 3], age: u64| {
            let directory = tempfile::tempdir().unwrap();
            for name in order {
                fs::create_dir_all(directory.path().join("tree/below")).unwrap();
                let path = directory.path().join("tree").join(name);
                fs::write(&path, name).unwrap();
                let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(age);
                fs::File::options().write(true).open(&path).unwrap().set_modified(when).unwrap();
            }
            pack(directory.path(), "tree").unwrap()
        };
        assert_eq!(archive(["a", "below/b", "c"], 1_000), archive(["c", "below/b", "a"], 2_000));
    }

    /// The paths that the table in `docs/README.md` names; those of directories end with a `/`.
    fn documented() -> Vec<String> {
        let text = fs::read_to_string(root().join("docs/README.md")).unwrap();
        let (_, section) = text.split_once("\n## The archive\n").unwrap();
        let rows = section.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
        let cells = rows.map(|row| row.split('|').nth(1).unwrap());
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
    }

    /// The program's own part is played by the test: what it tells when it is built is its own tests' to see.
    #[test]
    fn the_archive_holds_what_the_documents_say_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (binary, tree) = (directory.path().join("built"), directory.path().join("tree"));
        fs::write(&binary, "program").unwrap();
        lay_out(&tree, &binary, |program, arguments| {
            assert_eq!(program, tree.join("bin/toehold"));
            let [what, how] = arguments else { panic!("{arguments:?}") };
            match what.to_str().unwrap() {
                "completions" => return Ok(how.as_encoded_bytes().to_vec()),
                "manual" => fs::write(Path::new(how).join("toehold.1"), "page").unwrap(),
                other => panic!("{other}"),
            }
            Ok(Vec::new())
        })
        .unwrap();
        let below = |top: &Path| -> Vec<String> {
            let mut paths: Vec<String> = files_below(top)
                .unwrap()
                .iter()
                .map(|path| path.strip_prefix(top).unwrap().to_str().unwrap().to_owned())
                .collect();
            paths.sort();
            paths
        };
        let mut expected: Vec<String> = ["bin/toehold", "man/man1/toehold.1", "SHA256SUMS"].map(str::to_owned).to_vec();
        expected.extend(["bash", "elv", "fish"].map(|kind| format!("completions/toehold.{kind}")));
        expected.extend(["completions/_toehold", "completions/_toehold.ps1"].map(str::to_owned));
        expected.extend(["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"].map(str::to_owned));
        expected.extend(below(&root().join(UNITS)).iter().map(|unit| format!("systemd/{unit}")));
        expected.sort();
        let found = below(&tree);
        assert_eq!(found, expected);
        for unit in ["toehold-serve.service", "toehold.sysusers", "shared-store/toehold-serve.service.d/shared-store.conf"] {
            assert!(found.contains(&format!("systemd/{unit}")), "{unit}: {found:?}");
        }
        // What the documents name is there, and what is there they name.
        let documented = documented();
        let names = |told: &String, path: &String| if told.ends_with('/') { path.starts_with(told) } else { path == told };
        for told in &documented {
            assert!(found.iter().any(|path| names(told, path)), "{told} is not in the archive");
        }
        for path in &found {
            assert!(documented.iter().any(|told| names(told, path)), "docs/README.md says nothing of {path}");
        }
        // Each is what it is called, as whoever unpacks it may have it.
        assert_eq!(fs::read_to_string(tree.join("completions/_toehold")).unwrap(), "zsh");
        assert_eq!(fs::read_to_string(tree.join("bin/toehold")).unwrap(), "program");
        for path in &found {
            let mode = fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if path == "bin/toehold" { 0o755 } else { 0o644 }, "{path}");
        }
        let sums = fs::read_to_string(tree.join("SHA256SUMS")).unwrap();
        let summed: Vec<&str> = sums.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        let all_else: Vec<&String> = found.iter().filter(|path| *path != "SHA256SUMS").collect();
        assert_eq!(summed, all_else);
        assert!(sums.contains(&format!("{}  bin/toehold\n", hex(b"program"))), "{sums}");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(Options::parse(&[]).unwrap(), Options::default());
        assert!(Options::parse(&["--binary".to_owned()]).is_err());
        assert!(Options::parse(&["--static".to_owned()]).is_err());
    }
}
