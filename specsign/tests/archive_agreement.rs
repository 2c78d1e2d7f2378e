//! GNU tar and Python read every archive that we accept as we do; and we accept what they write.
//!
//! Needs: python.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers stop the test"
)]

#[path = "suite/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Member, Tree, digest, directory, file, gzip, long_name, pax, sums_of, tar, unpack_as};
use toehold_specsign::{ArchiveError, Limits, Sha256Digest};

/// Paths with the digest of the content, and whether it can be run; `None` for directories.
type Contents = BTreeMap<String, Option<(String, bool)>>;

fn ours(tree: &Tree) -> Contents {
    let of = |(content, executable): &(Vec<u8>, bool)| (digest(content).to_string(), *executable);
    tree.entries.iter().map(|(path, entry)| (path.clone(), entry.as_ref().map(of))).collect()
}

fn walk(root: &Path, path: &str, contents: &mut Contents) {
    for entry in std::fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            contents.insert(path.clone(), None);
            walk(root, &path, contents);
        } else {
            assert!(entry.file_type().unwrap().is_file(), "{path}");
            let executable = entry.metadata().unwrap().permissions().mode() & 0o111 != 0;
            contents.insert(path.clone(), Some((digest(&std::fs::read(entry.path()).unwrap()).to_string(), executable)));
        }
    }
}

fn gnu_tar(archive: &Path, directory: &Path) -> Contents {
    let done = Command::new("tar")
        .args(["--extract", "--gzip", "--no-same-owner", "--preserve-permissions", "--file"])
        .arg(archive)
        .current_dir(directory)
        .output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}: {}", archive.display(), String::from_utf8_lossy(&done.stderr));
    let mut contents = Contents::new();
    assert_eq!(std::fs::read_dir(directory).unwrap().count(), 1, "one top directory");
    walk(&directory.join("app"), "", &mut contents);
    contents
}

const PYTHON: &str = r"
import hashlib, json, sys, tarfile
seen = {}
with tarfile.open(sys.argv[1], 'r:gz', errorlevel=2) as archive:
    for member in archive:
        path = member.name[2:] if member.name.startswith('./') else member.name
        if path in ('.', 'app'):
            assert member.isdir()
            continue
        assert path.startswith('app/') and path not in seen and (member.isreg() or member.isdir()), path
        def content():
            return hashlib.sha256(archive.extractfile(member).read()).hexdigest()
        seen[path[4:]] = None if member.isdir() else (content(), member.mode & 0o111 != 0)
json.dump(seen, sys.stdout)
";

fn python(archive: &Path) -> Contents {
    let done = Command::new("python3").args(["-c", PYTHON]).arg(archive).output().unwrap();
    assert!(done.status.success(), "{}: {}", archive.display(), String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

fn agree(what: &str, bytes: &[u8], sums: Sha256Digest) {
    let (tree, end) = unpack_as("app", bytes, digest(bytes), sums, Limits::default(), 1000);
    // Whether the list is closed is no matter here: how the archive is read is.
    if let Err(error) = end {
        assert!(error.to_string().ends_with("is not listed in SHA256SUMS"), "{what}: {error}");
    }
    let ours = ours(&tree);
    let temporary = tempfile::tempdir().unwrap();
    let archive = temporary.path().join("archive.tgz");
    std::fs::write(&archive, bytes).unwrap();
    let directory = temporary.path().join("out");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(gnu_tar(&archive, &directory), ours, "{what}: GNU tar");
    // Python shows no directory that only a path implies.
    let files = |contents: &Contents| {
        contents.iter().filter(|(_, digest)| digest.is_some()).map(|(p, d)| (p.clone(), d.clone())).collect::<Contents>()
    };
    let theirs = python(&archive);
    assert_eq!(files(&theirs), files(&ours), "{what}: Python");
    assert!(theirs.keys().all(|path| ours.contains_key(path)), "{what}: Python");
}

#[test]
fn on_the_originals_archives_with_python() {
    let vectors = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/choria/archives");
    let mut agreed = 0;
    let mut all = 0;
    for entry in std::fs::read_dir(vectors).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // The list that belongs to it, whatever it is.
        let (tree, end) = unpack_as("app", &bytes, digest(&bytes), digest(b""), Limits::default(), 1000);
        all += 1;
        let Err(error) = end else { panic!("no list is empty") };
        let (ArchiveError::SumsChecksum { got: sums, .. }, Some(Some(_))) = (error, tree.entries.get("SHA256SUMS")) else {
            continue;
        };
        let (_, end) = unpack_as("app", &bytes, digest(&bytes), sums, Limits::default(), 1000);
        if end.is_ok() || end.is_err_and(|error| error.to_string().ends_with("is not listed in SHA256SUMS")) {
            agree(&path.display().to_string(), &bytes, sums);
            agreed += 1;
        }
    }
    println!("{agreed} of {all} archives are accepted, and read alike");
    assert!(all == 271 && agreed > 40, "{agreed} of {all}");
}

#[test]
fn on_what_they_write_themselves_with_python() {
    let files: Vec<(String, Vec<u8>)> = (0..40)
        .map(|number| {
            let name = match number % 5 {
                0 => format!("f{number}"),
                1 => format!("d{number}/e/f"),
                2 => format!("{}/{}", "n".repeat(90), "m".repeat(20 + number)),
                3 => format!("größe-{number}/日本"),
                _ => format!("with space {number}"),
            };
            (name, vec![u8::try_from(number).unwrap(); number * 97])
        })
        .collect();
    let temporary = tempfile::tempdir().unwrap();
    let app = temporary.path().join("app");
    let listed: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    for (name, content) in &files {
        std::fs::create_dir_all(app.join(name).parent().unwrap()).unwrap();
        std::fs::write(app.join(name), content).unwrap();
        let mode = if content.len() % 3 == 0 { 0o755 } else { 0o644 };
        std::fs::set_permissions(app.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let sums = sums_of(&listed);
    std::fs::write(app.join("SHA256SUMS"), &sums).unwrap();
    for (format, top) in [("gnu", "app"), ("pax", "app"), ("posix", "./app"), ("oldgnu", "app"), ("gnu", ".")] {
        let archive = temporary.path().join("app.tgz");
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", &format!("--format={format}"), "--exclude=./app.tgz", "--file"]).arg(&archive);
        assert!(tar.arg("--directory").arg(temporary.path()).arg(top).output().unwrap().status.success());
        agree(&format!("--format={format} {top}"), &std::fs::read(&archive).unwrap(), digest(&sums));
    }
    for format in ["GNU_FORMAT", "PAX_FORMAT", "USTAR_FORMAT"] {
        let archive = temporary.path().join("by_python.tgz");
        let program = format!(
            "import sys, tarfile\nwith tarfile.open(sys.argv[1], 'w:gz', format=tarfile.{format}) as archive: archive.add(sys.argv[2], 'app')"
        );
        let done = Command::new("python3").args(["-c", &program]).arg(&archive).arg(&app).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        agree(format, &std::fs::read(&archive).unwrap(), digest(&sums));
    }
}

#[test]
fn on_odd_archives_of_our_own_with_python() {
    let list = sums_of(&[("a", b"a")]);
    let end = || [file("app/a", b"a"), file("app/SHA256SUMS", &list)];
    for (what, members) in [
        ("a dot first", vec![directory("./"), directory("./app/")]),
        ("no directories", vec![]),
        ("directories after their files", vec![file("app/d/x", b"x"), directory("app/d/")]),
        ("a pax path", vec![pax(b'x', &[("path", "app/größe".as_bytes()), ("mtime", b"1.5")]), file("app/short", b"x")]),
        ("a pax size that is the header's", vec![pax(b'x', &[("size", b"1")]), file("app/x", b"x")]),
        ("attributes", vec![pax(b'x', &[("SCHILY.xattr.user.x", b"\x01\0\x02")]), file("app/x", b"x")]),
        ("a long name", vec![long_name(&format!("app/{}/x", "l".repeat(200))), file("app/l", b"x")]),
        ("a long name of a directory", vec![long_name(&format!("app/{}/", "l".repeat(200))), directory("app/l")]),
        (
            "modes",
            [("app/x", "0000610"), ("app/y", "0000601"), ("app/z", "0004755"), ("app/read", "0002640")]
                .map(|(name, mode)| Member { mode: format!("{mode}\0").into_bytes(), ..file(name, b"x") })
                .into(),
        ),
        ("a global comment", vec![pax(b'g', &[("comment", b"0123456789abcdef0123456789abcdef01234567")])]),
    ] {
        let members: Vec<_> = members.into_iter().chain(end()).collect();
        agree(what, &gzip(&tar(&members)), digest(&list));
    }
}
