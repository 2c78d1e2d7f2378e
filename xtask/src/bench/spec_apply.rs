//! `toehold spec apply`: an archive fetched, unpacked and verified, against `curl | tar xz` and `sha256sum -c`; its peak memory;
//! and a pass over many machines that are as they should be, against hashing their files. All by the program that people install.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::web::Web;
use super::{Measured, children_cpu, median, own_cpu, time};
use crate::workspace::Metadata;
use crate::{Result, dist, process};

/// Pairs that are measured, after one that is not.
const PAIRS: usize = 5;
/// The archive: so many files of so many bytes, 100 MB.
const FILES: usize = 5_000;
const FILE: usize = 20_000;
/// As many files as an archive may have, but for its directories and its list.
const MOST: usize = 19_900;
/// Machines that are as they should be.
const MACHINES: usize = 10_000;

/// Measures all of it.
pub(super) fn measure(metadata: &Metadata) -> Result<Vec<Measured>> {
    let program = dist::program(metadata)?;
    let directory = metadata.target_directory.join("bench/spec-apply");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir_all(&directory)?;
    let mut measured = archive(&Node { program: program.clone(), directory: directory.join("archive") })?;
    measured.push(at_the_limits(&Node { program: program.clone(), directory: directory.join("limits") })?);
    measured.push(unchanged(&Node { program, directory: directory.join("unchanged") })?);
    std::fs::remove_dir_all(&directory)?;
    Ok(measured)
}

struct Node {
    program: PathBuf,
    directory: PathBuf,
}

impl Node {
    fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Writes a list where the node reads it; without a signature, which is no part of what is measured.
    fn publish(&self, entries: &[serde_json::Value]) -> Result<()> {
        let list = self.directory.join("list.json");
        std::fs::write(&list, serde_json::to_vec(entries)?)?;
        let payload = process::text(Command::new("base64").arg("-w0").arg(&list))?;
        std::fs::write(self.directory.join("spec.json"), format!("{{\"machines\":\"{}\"}}", payload.trim_end()))?;
        Ok(())
    }

    fn apply(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["spec", "apply", "--allow-http", "--accept-unsigned", "--state-dir"]).arg(self.directory.join("state"));
        command.arg("--root").arg(self.root()).arg(self.directory.join("spec.json"));
        command.stdin(Stdio::null()).env_remove("http_proxy");
        command
    }
}

/// The sums of files below a directory, by their paths.
fn sums(directory: &Path) -> Result<BTreeMap<String, String>> {
    let mut find = Command::new("sh");
    find.current_dir(directory).args(["-c", "find . -type f -print0 | xargs -0 sha256sum"]);
    let listed = process::text(&mut find)?;
    let line = |line: &str| line.split_once("  ./").map(|(sum, path)| (path.to_owned(), sum.to_owned()));
    listed.lines().map(|text| line(text).ok_or_else(|| format!("sha256sum printed: {text}").into())).collect()
}

fn sum(file: &Path) -> Result<String> {
    let printed = process::text(Command::new("sha256sum").arg(file))?;
    Ok(printed.split(' ').next().unwrap_or_default().to_owned())
}

/// Content that shrinks to about a third, as text does.
fn content(number: usize, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(format!("{:06x} key = value of a setting\n", state & 0xff_ffff).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Lists and packs a machine's directory; the server that has it, and its entry in a list.
fn packed(node: &Node, machine: &Path) -> Result<(Web, serde_json::Value)> {
    let mut list = String::new();
    for (path, sum) in sums(machine)? {
        writeln!(list, "{sum}  {path}")?;
    }
    std::fs::write(machine.join("SHA256SUMS"), list)?;
    let packed = node.directory.join("bench.tgz");
    let mut tar = Command::new("tar");
    process::output(tar.arg("-C").arg(node.directory.join("source")).arg("-czf").arg(&packed).arg("bench"))?;
    let web = Web::start(&packed)?;
    let entry = serde_json::json!({
        "name": "bench", "source": web.url(), "verify": "SHA256SUMS",
        "verify_checksum": sum(&machine.join("SHA256SUMS"))?, "checksum": sum(&packed)?,
    });
    Ok((web, entry))
}

fn archive(node: &Node) -> Result<Vec<Measured>> {
    let machine = node.directory.join("source/bench");
    println!("packing {FILES} files of {FILE} bytes");
    for number in 0..FILES {
        let below = machine.join(format!("part{}", number / 100));
        std::fs::create_dir_all(&below)?;
        std::fs::write(below.join(format!("file{number}")), content(number, FILE))?;
    }
    let (web, entry) = packed(node, &machine)?;
    node.publish(&[entry])?;

    let (mut ours, mut plain, mut costs, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let into = node.directory.join("plain");
        anew(&into)?;
        let script = r#"curl -sS "$1" | tar -xz -C "$2" && cd "$2/bench" && sha256sum -c --quiet SHA256SUMS"#;
        let before = children_cpu()?;
        let floor = time(|| {
            let mut shell = Command::new("sh");
            process::output(shell.args(["-c", script, "sh", &web.url()]).arg(&into).env_remove("http_proxy")).map(drop)
        })?;
        let floor_cpu = children_cpu()? - before;
        anew(&node.root())?;
        let before = children_cpu()?;
        let mut peak = 0.0;
        let apply = time(|| {
            peak = peak_of(&mut node.apply())?;
            Ok(())
        })?;
        let cpu = children_cpu()? - before;
        println!(
            "pair {pair}: apply {apply:.2} s (CPU {cpu:.2} s, peak {peak:.1} MiB), curl, tar and sha256sum {floor:.2} s (CPU {floor_cpu:.2} s)"
        );
        if pair > 0 {
            ours.push(apply);
            plain.push(floor);
            costs.push(cpu);
            peaks.push(peak);
        }
    }
    let (ours, plain) = (median(ours)?, median(plain)?);
    let detail = format!("{ours:.2} s (CPU {:.2} s) against {plain:.2} s by curl, tar and sha256sum", median(costs)?);
    let most = peaks.into_iter().fold(0.0, f64::max);
    Ok(vec![
        Measured::new("spec-apply", ours / plain, 1.0, "ratio", detail),
        Measured::new("spec-apply-memory", most, 16.0, "MiB", format!("the most of {PAIRS} runs, 100 MB in {FILES} files")),
    ])
}

/// The most memory that an archive costs which has as many files as one may have, with paths as long as they may be together.
fn at_the_limits(node: &Node) -> Result<Measured> {
    println!("packing {MOST} executable files with long paths");
    let machine = node.directory.join("source/bench");
    for number in 0..MOST {
        let below = machine.join(format!("{}{}", "part".repeat(12), number / 1_000));
        if number % 1_000 == 0 {
            std::fs::create_dir_all(&below)?;
        }
        let file = below.join(format!("{number:0>44}"));
        std::fs::write(&file, number.to_string())?;
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let (_web, entry) = packed(node, &machine)?;
    node.publish(&[entry])?;
    let mut most = 0.0_f64;
    for _ in 0..2 {
        anew(&node.root())?;
        most = most.max(peak_of(&mut node.apply())?);
    }
    // And when it is looked at again.
    most = most.max(peak_of(&mut node.apply())?);
    println!("peak {most:.1} MiB");
    Ok(Measured::new("spec-apply-memory-limits", most, 16.0, "MiB", format!("{MOST} executable files with long paths")))
}

fn anew(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(std::fs::create_dir_all(directory)?)
}

/// Runs to the end; the most memory that it had, in MiB: `VmHWM` of proc(5), which only grows, as last seen.
fn peak_of(command: &mut Command) -> Result<f64> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let file = format!("/proc/{}/status", child.id());
    let mut peak = 0.0_f64;
    loop {
        let status = std::fs::read_to_string(&file).unwrap_or_default();
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        peak = peak.max(line.unwrap_or_default() / 1024.0);
        if child.try_wait()?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output()?;
    if output.status.success() { Ok(peak) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

/// Hashes all files below a directory, and does nothing else.
fn hash(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            hash(&entry.path())?;
        } else {
            std::hint::black_box(Sha256::digest(std::fs::read(entry.path())?));
        }
    }
    Ok(())
}

/// A pass over machines that are there and as they should be; the CPU that it takes beyond that of hashing their files.
fn unchanged(node: &Node) -> Result<Measured> {
    println!("laying out {MACHINES} machines");
    let name = |number: usize| format!("machine{number}");
    for number in 0..MACHINES {
        let directory = node.root().join(name(number));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("machine.yaml"), content(number, 1_000))?;
    }
    let files = sums(&node.root())?;
    for (path, sum) in &files {
        let machine = path.split('/').next().unwrap_or_default();
        let mut list = std::fs::File::create(node.root().join(machine).join("SHA256SUMS"))?;
        writeln!(list, "{sum}  machine.yaml")?;
    }
    let entries: Vec<serde_json::Value> = sums(&node.root())?
        .into_iter()
        .filter_map(|(path, sum)| {
            let machine = path.strip_suffix("/SHA256SUMS")?;
            // They are there already: no archive is ever fetched.
            Some(serde_json::json!({
                "name": machine, "source": "https://files.example.net/a.tgz", "verify": "SHA256SUMS",
                "verify_checksum": sum, "checksum": sum, "match": "has_directory('/')",
            }))
        })
        .collect();
    node.publish(&entries)?;
    // They lie in a root that remembers nothing.
    process::output(node.apply().arg("--begin-anew"))?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let before = own_cpu()?;
        hash(&node.root())?;
        let floor = own_cpu()? - before;
        let before = children_cpu()?;
        process::output(&mut node.apply())?;
        let cpu = children_cpu()? - before;
        println!("pair {pair}: a pass {:.0} ms of CPU, hashing the same files {:.0} ms", cpu * 1e3, floor * 1e3);
        if pair > 0 {
            ours.push(cpu * 1e3);
            floors.push(floor * 1e3);
        }
    }
    let (ours, floor) = (median(ours)?, median(floors)?);
    let detail = format!("{MACHINES} machines: {ours:.0} ms of CPU, {floor:.0} ms of it for hashing their files");
    Ok(Measured::new("spec-unchanged", (ours - floor).max(0.0), 100.0, "ms", detail))
}
