//! A corpus of archives that somebody made to hurt us, each with the reason for which it is refused. Also what `toehold` is given that applies
//! a specification.

use toehold_specsign::Sha256Digest;

use super::support::{Member, directory, file, gzip, long_name, pax, special, sums_of, tar};

/// What is in `bin/a` of them all, which can be run.
pub(crate) const A: &[u8] = b"#!/bin/sh\necho a\n";

/// An archive of a machine with the name `app`, not compressed yet.
#[derive(Clone, Debug)]
pub(crate) struct Hostile {
    pub(crate) what: String,
    pub(crate) tar: Vec<u8>,
    /// The digest of its list.
    pub(crate) sums: Sha256Digest,
    /// A part of what is said of it.
    pub(crate) reason: &'static str,
}

/// One whose compression is part of the harm.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) what: &'static str,
    pub(crate) archive: Vec<u8>,
    pub(crate) sums: Sha256Digest,
    pub(crate) reason: &'static str,
}

impl Hostile {
    fn new(what: impl Into<String>, members: &[Member], reason: &'static str) -> Self {
        let (tar, sums) = with(members);
        Self { what: what.into(), tar, sums, reason }
    }
}

/// An archive whose list is right for `bin/a`, with these members between the file and the list.
pub(crate) fn with(members: &[Member]) -> (Vec<u8>, Sha256Digest) {
    listing(&[("bin/a", A)], members)
}

/// The same with a list of these.
pub(crate) fn listing(files: &[(&str, &[u8])], members: &[Member]) -> (Vec<u8>, Sha256Digest) {
    let sums = sums_of(files);
    let mut all = vec![directory("app/"), Member { mode: b"0000755\0".to_vec(), ..file("app/bin/a", A) }];
    all.extend_from_slice(members);
    all.push(file("app/SHA256SUMS", &sums));
    (tar(&all), Sha256Digest::of(&sums))
}

/// Paths that escape or have two readings.
pub(crate) fn paths() -> Vec<Hostile> {
    let mut cases = Vec::new();
    for (name, reason) in [
        ("../x", "\"..\""),
        ("app/../x", "\"..\""),
        ("app/..", "\"..\""),
        ("/etc/x", "absolute"),
        ("/app/x", "absolute"),
        ("app//x", "empty component"),
        ("app/./x", "\".\""),
        ("././app/x", "\".\""),
        ("app/a\\b", "backslash"),
        ("app/a\nb", "control"),
        ("app/a\u{7f}", "control"),
        ("other/x", "not below"),
        ("x", "not below"),
        ("App/x", "another spelling"),
        ("app/bin/A", "other case"),
        ("app/BIN/b", "other case"),
        ("app/bin/a", "twice"),
        ("app/bin/a/x", "below a file"),
        ("app/bin", "twice"),
        ("app", "late or again"),
        ("app/x/", "ends with"),
    ] {
        cases.push(Hostile::new(name, &[file(name, b"x")], reason));
    }
    for (name, reason) in
        [("app/bin/a/", "twice"), ("app/bin/a", "twice"), ("app/", "again"), ("./", "\".\""), ("..", "\"..\""), ("/", "")]
    {
        cases.push(Hostile::new(name, &[directory(name)], reason));
    }
    let long = "d/".repeat(70) + "x";
    cases.push(Hostile::new("depth", &[long_name(&format!("app/{long}")), file("app/d", b"x")], "too deep"));
    let long = "n".repeat(256);
    cases.push(Hostile::new("component", &[long_name(&format!("app/{long}")), file("app/n", b"x")], "255 bytes"));
    cases
}

/// Links, devices and other kinds.
pub(crate) fn kinds() -> Vec<Hostile> {
    let kinds = [b'\0', b'1', b'2', b'3', b'4', b'6', b'7', b'8', b'A', b'D', b'K', b'M', b'N', b'S', b'V', b'X', b'Z', 0xff];
    let mut cases: Vec<Hostile> = kinds
        .into_iter()
        .map(|kind| {
            let member = special("app/x", kind, "/etc/passwd");
            Hostile::new(format!("kind {kind}"), &[member], "regular files and directories are taken")
        })
        .collect();
    cases.push(Hostile::new("a target", &[special("app/x", b'0', "/etc/passwd")], "target of a link"));
    cases
}

/// Sizes and other values that say two things, in the header and in those of pax and GNU.
pub(crate) fn sizes() -> Vec<Hostile> {
    let sized = |size: &[u8]| Member { size: size.to_vec(), ..file("app/x", b"x") };
    let mut cases = Vec::new();
    for size in [
        &b"-0000000001\0"[..],
        b"\x80\0\0\0\0\0\0\0\0\0\0\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"            ",
        b"00000000009\0",
        b"1x         \0",
        b" 0000000001\0",
    ] {
        cases.push(Hostile::new(format!("{size:?}"), &[sized(size)], "bad size"));
    }
    for size in [b"777777777777", b"77777777777\0"] {
        cases.push(Hostile::new("larger than the archive", &[sized(size)], "cut short"));
    }
    for records in [
        &[("size", &b"2"[..])][..],
        &[("size", b"18446744073709551616")],
        &[("size", b"-1")],
        &[("size", b"")],
        &[("size", b"1"), ("size", b"1")],
        &[("path", b"app/y"), ("path", b"app/z")],
        &[("path", b"")],
        &[("path", b"app/y\0z")],
        &[("linkpath", b"/etc")],
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")],
        &[("GNU.sparse.size", b"1000000000")],
        &[("SCHILY.realsize", b"9")],
        &[("SCHILY.filetype", b"dir")],
        &[("hdrcharset", b"BINARY")],
        &[("mtime", b"now")],
        &[("Path", b"app/y")],
    ] {
        // What is said of each is another thing, but always of an entry.
        cases.push(Hostile::new(format!("{records:?}"), &[pax(b'x', records), file("app/x", b"x")], "of the archive"));
    }
    let mut broken = pax(b'x', &[("path", b"app/y")]);
    for content in
        [&b"99 path=app/y\n"[..], b"0 path=app/y\n", b"14 path=app/y", b"x path=app/y\n", b"15 path\n", b"014 path=app/\n"]
    {
        broken.content = content.to_vec();
        broken.size = format!("{:011o}\0", content.len()).into_bytes();
        cases.push(Hostile::new(format!("{content:?}"), &[broken.clone(), file("app/x", b"x")], "damaged pax header"));
    }
    cases
}

/// Headers that follow each other strangely.
pub(crate) fn headers() -> Vec<Hostile> {
    let x = || file("app/x", b"x");
    let mut cases = Vec::new();
    for (what, members, reason) in [
        (
            "two pax headers",
            vec![pax(b'x', &[("path", b"app/y")]), pax(b'x', &[("path", b"app/z")]), x()],
            "extension of an extension",
        ),
        ("long name and pax", vec![long_name("app/y"), pax(b'x', &[("path", b"app/z")]), x()], "extension of an extension"),
        ("a global path", vec![pax(b'g', &[("path", b"app/y")]), x()], "not the first entry"),
    ] {
        cases.push(Hostile::new(what, &members, reason));
    }
    let (mut archive, sums) = with(&[]);
    archive.truncate(archive.len() - 1024);
    archive.append(&mut tar(&[pax(b'x', &[("path", b"app/y")])]));
    cases.push(Hostile { what: "an extension at the end".to_owned(), tar: archive, sums, reason: "extension of nothing" });
    cases
}

/// Lists of check sums that are no list of what is there.
pub(crate) fn lists() -> Vec<Hostile> {
    type Listed<'a> = &'a [(&'a str, &'a [u8])];
    let files: Listed<'_> = &[("bin/a", A)];
    let cases = [
        ("a file too many", files, vec![file("app/x", b"x")], "x is not listed"),
        ("a file too few", &[("bin/a", A), ("x", b"x")][..], vec![], "x is listed"),
        ("another content", &[("bin/a", b"b")], vec![], "bin/a is not what"),
        ("a directory as a file", &[("bin/a", A), ("bin", b"")], vec![], "bin is listed"),
        ("nothing", &[], vec![], "empty"),
        ("the list itself", &[("bin/a", A), ("SHA256SUMS", b"")], vec![], "lists a file again, or the list itself"),
        ("a path that climbs", &[("bin/a", A), ("../x", b"x")], vec![], "\"..\""),
        ("an absolute path", &[("/bin/a", A)], vec![], "absolute"),
        ("twice", &[("bin/a", A), ("bin/a", A)], vec![], "listed twice"),
    ];
    let case = |(what, listed, members, reason): (&str, Listed<'_>, Vec<Member>, _)| {
        let (tar, sums) = listing(listed, &members);
        Hostile { what: what.to_owned(), tar, sums, reason }
    };
    cases.map(case).into()
}

/// What expands beyond measure, is damaged, is cut short, or has something behind it.
pub(crate) fn streams() -> Vec<Stream> {
    let (good, sums) = with(&[]);
    let good = gzip(&good);
    let (trailer, end) = (good.len() - 8, good.len());
    let changed = |at: usize| {
        let mut archive = good.clone();
        archive[at] ^= 1;
        archive
    };
    let zeros = &vec![0; 40 << 20];
    let (bomb, bomb_sums) = listing(&[("bin/a", A), ("zeros", zeros)], &[file("app/zeros", zeros)]);
    let (hole, hole_sums) = with(&[
        pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"1073741824")]),
        file("app/hole", &[0; 512]),
    ]);
    let (old_hole, old_hole_sums) = with(&[special("app/hole", b'S', "")]);
    let cut = "it is cut short";
    let of = |what, archive, reason| Stream { what, archive, sums, reason };
    vec![
        Stream { what: "a bomb", archive: gzip(&bomb), sums: bomb_sums, reason: "for each fetched one" },
        Stream { what: "a hole in the words of pax", archive: gzip(&hole), sums: hole_sums, reason: "not taken" },
        Stream {
            what: "a hole of GNU's",
            archive: gzip(&old_hole),
            sums: old_hole_sums,
            reason: "regular files and directories",
        },
        of("a wrong check sum", changed(trailer), "its check sum (CRC-32) is wrong"),
        of("a wrong length", changed(end - 4), "its length is wrong"),
        of("nothing", Vec::new(), cut),
        of("a head alone", good[..10].to_vec(), cut),
        of("the first half", good[..end / 2].to_vec(), cut),
        of("no trailer", good[..trailer].to_vec(), cut),
        of("all but a byte", good[..end - 1].to_vec(), cut),
        of("a byte behind the end", [&good[..], b"\0"].concat(), "behind its end"),
        of("itself again behind the end", [&good[..], &good[..]].concat(), "behind its end"),
        of("no gzip at all", with(&[]).0, "it is not gzip"),
    ]
}
