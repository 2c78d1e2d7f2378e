//! Archives that somebody made to hurt us: each is refused, and those that only look odd are taken.

use crate::hostile::{A, Hostile, Stream, headers, kinds, listing, lists, paths, sizes, streams, with};
use crate::support;
use crate::support::{
    Member, directory, file, finish_header, gzip, long_name, machine_archive, pax, special, sums_of, tar, unpack, unpack_as,
};
use toehold_specsign::{ArchiveError, Limits, Sha256Digest};

fn refused(what: &str, tar: &[u8], sums: Sha256Digest, reason: &str) {
    let error = unpack(&gzip(tar), sums, Limits::default(), 512).expect_err(what).to_string();
    assert!(error.contains(reason), "{what}: {error}");
}

fn all_refused(cases: &[Hostile]) {
    for Hostile { what, tar, sums, reason } in cases {
        refused(what, tar, *sums, reason);
    }
}

#[test]
fn what_is_good_is_taken() {
    let (tar, sums) = with(&[]);
    let (tree, unpacked) = unpack(&gzip(&tar), sums, Limits::default(), 1).unwrap();
    assert_eq!((unpacked.files, tree.entries.len()), (2, 3));
    assert_eq!(tree.entries["bin"], None);
    assert_eq!(tree.entries["bin/a"], Some((A.to_vec(), true)));
}

#[test]
fn paths_that_escape_or_have_two_readings() {
    all_refused(&paths());
}

#[test]
fn odd_names_that_are_only_names() {
    let files: &[(&str, &[u8])] = &[
        ("a..b", b"1"),
        ("...", b"2"),
        (".hidden", b"3"),
        ("x", b"4"),
        ("größe-日本", b"5"),
        ("with space", b"6"),
        ("-rf", b"7"),
    ];
    let (archive, sums) = machine_archive("app", files);
    let (tree, _) = unpack(&archive, sums, Limits::default(), 64).unwrap();
    assert_eq!(tree.entries.len(), files.len() + 1);
}

/// A list costs memory for each of its lines, before anybody knows that it is the right one.
#[test]
fn a_list_of_more_files_than_an_archive_may_have() {
    let lines: Vec<(String, Vec<u8>)> = (0..20).map(|number| (format!("f{number}"), b"x".to_vec())).collect();
    let files: Vec<(&str, &[u8])> = lines.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    let sums = sums_of(&files);
    let archive = gzip(&tar(&[directory("app/"), file("app/SHA256SUMS", &sums), file("app/f0", b"x")]));
    let limits = Limits { entries: 10, ..Limits::default() };
    for piece in [7, 100_000] {
        let error = unpack(&archive, Sha256Digest::of(&sums), limits, piece).unwrap_err().to_string();
        assert_eq!(error, "the archive is over the limit of 10 listed files");
    }
    // Neither those that are there nor those that are listed are too many, but none of them is of both.
    let sums = sums_of(&files[..6]);
    let mut members = vec![directory("app/")];
    members.extend((0..6).map(|number| file(&format!("app/g{number}"), b"x")));
    members.push(file("app/SHA256SUMS", &sums));
    let archive = gzip(&tar(&members));
    let error = unpack(&archive, Sha256Digest::of(&sums), limits, 64).unwrap_err().to_string();
    assert_eq!(error, "the archive is over the limit of 10 listed files");
    // With the list first as well: its six, itself, and the fourth of the others.
    members.rotate_right(1);
    members.swap(0, 1);
    members.push(file("app/never/reached", b""));
    let error = unpack(&gzip(&tar(&members)), Sha256Digest::of(&sums), limits, 64).unwrap_err().to_string();
    assert!(error.starts_with("the archive is over the limit of 10 entries"), "{error}");
}

#[test]
fn links_devices_and_other_kinds() {
    all_refused(&kinds());
}

/// Whoever has made the archive looks for a path, not for the third entry.
#[test]
fn what_is_refused_is_named_in_a_form_that_harms_no_terminal() {
    let told = |members: &[Member]| {
        let (tar, sums) = with(members);
        unpack(&gzip(&tar), sums, Limits::default(), 512).unwrap_err().to_string()
    };
    let link = told(&[special("app/lib/x", b'2', "/etc/passwd")]);
    assert_eq!(link, "entry 3 of the archive (app/lib/x): is a symbolic link; regular files and directories are taken");
    assert_eq!(told(&[file("other/x", A)]), "entry 3 of the archive (other/x): is not below the directory \"app\" but another");
    assert_eq!(told(&[file("app/bin/a", A)]), "entry 3 of the archive (app/bin/a): comes twice");
    let long = format!("app/{}", "x".repeat(250));
    assert!(told(&[long_name(&format!("{long}/../y")), file("app/x", A)]).contains(&format!("({}…)", &long[..199])));
    let control = told(&[file("app/\u{1b}[2J\n", A)]);
    assert!(control.contains("(app/\\u{1b}[2J\\n)") && !control.contains('\u{1b}'), "{control}");
    // Of what is no header nothing is known.
    let (mut tar, sums) = with(&[]);
    tar[0] ^= 1;
    let error = unpack(&gzip(&tar), sums, Limits::default(), 512).unwrap_err().to_string();
    assert!(error.starts_with("entry 1 of the archive: "), "{error}");
}

#[test]
fn sizes_that_say_two_things() {
    all_refused(&sizes());
}

#[test]
fn headers_that_follow_each_other_strangely() {
    all_refused(&headers());
    let sums = sums_of(&[("a", A)]);
    for (records, good) in
        [(&[("comment", &b"0123456789abcdef"[..])][..], true), (&[("path", b"app/y")], false), (&[("size", b"1")], false)]
    {
        let tar = tar(&[pax(b'g', records), directory("app/"), file("app/a", A), file("app/SHA256SUMS", &sums)]);
        assert_eq!(unpack(&gzip(&tar), Sha256Digest::of(&sums), Limits::default(), 512).is_ok(), good, "{records:?}");
    }
}

#[test]
fn damaged_headers_and_hidden_bytes() {
    let (good, sums) = with(&[]);
    let damaged = |at: usize, byte: u8| {
        let mut tar = good.clone();
        tar[at] = byte;
        let mut header: [u8; 512] = tar[..512].try_into().unwrap();
        finish_header(&mut header);
        tar[..512].copy_from_slice(&header);
        tar
    };
    refused(
        "check sum",
        &{
            let mut tar = good.clone();
            tar[0] = b'b';
            tar
        },
        sums,
        "check sum",
    );
    for (at, what, reason) in [
        (50, "bytes behind the name", "behind its name"),
        (505, "bytes behind the header", "behind its header"),
        (400, "bytes behind the prefix", "behind its name"),
        (257, "another magic", "old or unknown form"),
        (264, "another version", "old or unknown form"),
        (101, "a mode that is none", "bad mode"),
        (110, "an owner that is none", "bad owner"),
        (140, "a time that is none", "bad time"),
        (331, "a device that is none", "bad device"),
    ] {
        refused(what, &damaged(at, b'x'), sums, reason);
    }
    let mut tar = good.clone();
    tar[1024 + A.len()] = b'x';
    refused("bytes in the padding", &tar, sums, "padding");
    for end in [b'x', 0] {
        let mut tar = good.clone();
        tar.extend_from_slice(&[end; 100]);
        refused("something behind the end", &tar, sums, if end == 0 { "middle of a block" } else { "behind the end" });
    }
    let mut tar = good.clone();
    tar.extend_from_slice(&[0; 9216]);
    assert!(unpack(&gzip(&tar), sums, Limits::default(), 512).is_ok(), "a whole record");
    tar.extend_from_slice(&vec![0; 2 << 20]);
    refused("zeros without end", &tar, sums, "zeros behind the end");
    tar.truncate(good.len() - 1024);
    refused("no end", &tar, sums, "cut short");
    tar.extend_from_slice(&[0; 512]);
    tar.extend_from_slice(&good);
    refused("an end in the middle", &tar, sums, "follows a block of zeros");
}

#[test]
fn every_truncation_and_every_flipped_byte() {
    let (archive, sums) = machine_archive("app", &[("a", A), ("d/b", b"content")]);
    let checksum = Sha256Digest::of(&archive);
    for end in 0..archive.len() {
        let (_, cut) = unpack_as("app", &archive[..end], checksum, sums, Limits::default(), 64);
        assert!(matches!(cut, Err(ArchiveError::Checksum { .. })), "cut at {end}");
        // Even if the list named the truncated file, it is no archive.
        assert!(unpack(&archive[..end], sums, Limits::default(), 64).is_err(), "cut at {end}");
    }
    for at in 0..archive.len() {
        let mut flipped = archive.clone();
        flipped[at] ^= 0x40;
        assert!(unpack_as("app", &flipped, checksum, sums, Limits::default(), 64).1.is_err(), "flipped at {at}");
    }
    let mut longer = archive.clone();
    longer.push(0);
    assert!(unpack(&longer, sums, Limits::default(), 64).unwrap_err().to_string().contains("behind its end"));
    let two = [archive.clone(), archive.clone()].concat();
    assert!(unpack(&two, sums, Limits::default(), 64).unwrap_err().to_string().contains("behind its end"));
}

#[test]
fn a_wrong_check_sum_of_gzip() {
    let (archive, sums) = machine_archive("app", &[("a", A)]);
    for at in [1, 5] {
        let mut wrong = archive.clone();
        let at = wrong.len() - at;
        wrong[at] ^= 1;
        assert!(matches!(unpack(&wrong, sums, Limits::default(), 64), Err(ArchiveError::Gzip(_))));
    }
}

#[test]
fn streams_that_harm() {
    for Stream { what, archive, sums, reason } in streams() {
        for piece in [1000, archive.len().max(1)] {
            let error = unpack(&archive, sums, Limits::default(), piece).unwrap_err().to_string();
            assert!(error.contains(reason), "{what}: {error}");
        }
    }
}

#[test]
fn bombs_and_holes() {
    let mut bomb = file("app/zeros", &vec![0; 40 << 20]);
    let (tar, sums) = with(std::slice::from_ref(&bomb));
    refused("forty megabytes of zeros", &tar, sums, "for each fetched one");
    bomb.content.truncate(4 << 20);
    bomb.size = format!("{:011o}\0", 4 << 20).into_bytes();
    let (tar, sums) = listing(&[("bin/a", A), ("zeros", &bomb.content)], &[bomb.clone()]);
    assert!(unpack(&gzip(&tar), sums, Limits::default(), 4096).is_ok(), "zeros as such are no crime");
    let small = Limits { unpacked_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(unpack(&gzip(&tar), sums, small, 4096), Err(ArchiveError::TooMuch { what: "unpacked bytes", .. })));
    let small = Limits { archive_bytes: 100, ..Limits::default() };
    assert!(matches!(unpack(&gzip(&tar), sums, small, 64), Err(ArchiveError::TooMuch { what: "bytes", .. })));
    // A hole that takes 512 bytes in the archive: the sizes are said twice.
    let (tar, sums) =
        with(&[pax(b'x', &[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"1073741824")]), file("app/h", &[0; 512])]);
    refused("a hole", &tar, sums, "not taken");
}

#[test]
fn a_million_empty_files() {
    let mut tar = directory("app/").header().to_vec();
    for number in 0..1_000_000 {
        let header = file(&format!("app/{number}"), b"").header();
        tar.extend_from_slice(&header);
        // The limit is far below; a longer archive would only take the test longer.
        if number > 30_000 {
            break;
        }
    }
    let sums = Sha256Digest::of(b"");
    let error = unpack(&gzip(&tar), sums, Limits::default(), 4096).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMuch { what: "entries", limit: 20_000 }), "{error}");
    let long: Vec<Member> = (0..3000)
        .flat_map(|n| {
            let name = format!(
                "app/{n}/{}",
                "n".repeat(250).split_at(250).0.to_owned() + "/" + &"m".repeat(250) + "/" + &"o".repeat(250) + "/x"
            );
            [long_name(&name), file("app/x", b"")]
        })
        .collect();
    let error = unpack(&gzip(&support::tar(&long)), sums, Limits::default(), 4096).unwrap_err();
    assert!(matches!(error, ArchiveError::TooMuch { what: "bytes of paths", .. }), "{error}");
    let big = Limits::default();
    let (tar, sums) = with(&[pax(b'x', &[("comment", &vec![b'x'; 70_000])]), file("app/x", b"x")]);
    assert!(matches!(
        unpack(&gzip(&tar), sums, big, 4096),
        Err(ArchiveError::TooMuch { what: "bytes of an extension header", .. })
    ));
}

#[test]
fn modes_are_masked() {
    for (mode, executable) in [
        ("0000644", false),
        ("0000755", true),
        ("0004755", true),
        ("0002777", true),
        ("0001666", false),
        ("0000000", false),
        ("0000001", true),
    ] {
        let member = Member { mode: format!("{mode}\0").into_bytes(), ..file("app/x", b"x") };
        let (tar, sums) = listing(&[("bin/a", A), ("x", b"x")], &[member]);
        let (tree, _) = unpack(&gzip(&tar), sums, Limits::default(), 512).unwrap();
        assert_eq!(tree.entries["x"], Some((b"x".to_vec(), executable)), "{mode}: the sink knows two modes, and no other bit");
    }
    let member = Member { mode: b"0040755\0".to_vec(), ..file("app/x", b"x") };
    let (tar, sums) = with(&[member]);
    refused("a file whose mode says directory", &tar, sums, "bad mode");
}

#[test]
fn the_list_is_closed() {
    all_refused(&lists());
    let (tar, _) = with(&[]);
    assert!(matches!(
        unpack(&gzip(&tar), Sha256Digest::of(b"x"), Limits::default(), 512),
        Err(ArchiveError::SumsChecksum { .. })
    ));
    let without = support::tar(&[directory("app/"), file("app/a", A)]);
    assert!(matches!(unpack(&gzip(&without), Sha256Digest::of(b"x"), Limits::default(), 512), Err(ArchiveError::NoSums)));
    let (good, sums) = machine_archive("other", &[("a", A)]);
    assert!(unpack(&good, sums, Limits::default(), 512).unwrap_err().to_string().contains("not below"));
}

#[test]
fn a_sink_that_fails_ends_it() {
    let (archive, sums) = machine_archive("app", &[("a", A), ("d/b", b"content")]);
    for call in 1..100 {
        let mut tree = support::Tree::default();
        tree.fail_at = Some(call);
        let mut unpacker =
            toehold_specsign::Unpacker::new(&support::name("app"), Sha256Digest::of(&archive), sums, Limits::default());
        match unpacker.push(&archive, &mut tree) {
            Err(ArchiveError::Sink(_)) => {}
            Ok(()) if call > 10 => return,
            other => panic!("call {call}: {other:?}"),
        }
    }
    panic!("more calls than an archive of three files can need");
}
