//! The archives of the original: what it accepts we unpack to the same files or refuse for a reason that stands here; what it
//! refuses for no good reason we take.

use std::path::PathBuf;

use crate::support::unpack_as;
use serde_json::Value;
use toehold_specsign::{Limits, Sha256Digest};

fn archive(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/choria/archives").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Refused by Choria for no good reason (or only because its own tool writes it otherwise), taken here.
const TAKEN_HERE: &[&str] = &[
    "no_directory_entries",
    "no_top_directory_entry",
    "good_dirs_without_slash",
    "checksum_upper_case",
    "verify_checksum_upper_case",
    "sums_binary_marker",
    "sums_one_letter_name",
    "sums_upper_case_hashes",
    "sums_name_with_space",
    "pax_global_first",
];

/// Accepted by Choria, refused here, and why.
const REFUSED_HERE: &[(&str, &str)] = &[
    ("old_type_nul", "of the old kind"),
    ("v7_no_magic", "old or unknown form"),
    ("star_magic", "something behind"),
    ("sparse", "pax header that is not taken"),
    ("sums_empty", "empty"),
    ("sums_only_blank_lines", "line 1"),
    ("sums_crlf", ""),
    ("sums_blank_lines", "line"),
    ("sums_one_space", "line"),
    ("sums_tab", "line"),
    ("sums_many_spaces", ""),
    ("sums_absolute_names", "absolute"),
    ("sums_dotdot_to_other_top", "not below the directory"),
    ("sums_file_twice_same", ""),
    ("sums_twice_second_wins", "twice"),
    ("two_top_directories", "not below the directory"),
    ("file_beside_top", "not below the directory"),
    ("name_absolute", "absolute"),
    ("name_double_slash", "empty component"),
    ("name_slash_dir", ""),
    ("name_single_dot_dir", ""),
    ("name_backslash", "backslash"),
    ("name_control_characters", "control character"),
    ("name_newline", "control character"),
    ("name_invalid_utf8", "UTF-8"),
    ("name_regular_with_slash", "ends with \"/\""),
    ("name_old_type_with_slash", "old kind"),
    ("name_case_differs", "other case"),
    ("name_depth_200", "too deep"),
    ("mode_file_type_bits", "bad mode"),
    ("mode_empty_field", "bad mode"),
    ("mode_all_bits", "bad mode"),
    ("name_reserved_tmp", "not below the directory"),
    ("duplicate_", "twice"),
    ("duplicate_case_only", "other case"),
    ("owner_other", "bad owner"),
    ("mtime_far", "bad time"),
    ("pax_uid_huge", "not taken"),
    ("pax_path_absolute", "absolute"),
    ("pax_path_empty", "not taken"),
    ("pax_path_twice", "twice"),
    ("pax_size_smaller", "two sizes"),
    ("pax_size_larger", "two sizes"),
    ("pax_unknown_vendor", "not taken"),
    ("pax_acl", "not taken"),
    ("pax_linkpath", "not taken"),
    ("pax_hdrcharset_binary", "not taken"),
    ("pax_empty", "empty extension"),
    ("pax_twice", "extension of an extension"),
    ("pax_then_end", "extension of nothing"),
    ("pax_key_with_equals", ""),
    ("pax_large_900k", "extension header"),
    ("gnu_long_name_then_pax_path", "extension of an extension"),
    ("gnu_long_link", "a long link"),
    ("gnu_long_name_twice", "extension of an extension"),
    ("gnu_long_name_then_end", "extension of nothing"),
    ("gnu_long_name_empty", "empty extension"),
    ("gnu_long_name_no_nul", "long name"),
    ("gnu_long_name_inner_nul", "long name"),
    ("size_base_256", "bad size"),
    ("size_with_spaces", "bad size"),
    ("size_empty", "bad size"),
    ("header_checksum_signed", "check sum"),
    ("header_garbage_after_end", "behind the end"),
    ("header_single_zero_block_end", "cut short"),
    ("header_no_end", "cut short"),
    ("entries_after_end", "behind the end"),
    ("only_top_directory_verify_empty_sums", "empty"),
    ("gzip_bomb", "unpacked bytes for each"),
    ("many_entries", "entries"),
    ("gzip_two_members", ""),
    ("gzip_two_archives", "behind its end"),
    ("gzip_empty_member_first", ""),
    ("gzip_trailing_garbage", "behind its end"),
    ("gzip_trailing_zeros", "behind its end"),
    ("gzip_truncated", "cut short"),
    ("gzip_crc_wrong", "CRC-32"),
    ("gzip_isize_wrong", "length is wrong"),
    ("gzip_encrypted_flag", "mean nothing"),
    ("gzip_reserved_flag", "mean nothing"),
];

#[test]
fn every_archive_ends_well() {
    let mut faults = Vec::new();
    let (mut same, mut unlisted, mut both_refuse, mut stricter, mut laxer) = (0, 0, 0, Vec::new(), Vec::new());
    for line in include_str!("../vectors/choria/archives.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = |member: &str| case[member].as_str().unwrap();
        let id = text("id");
        let bytes = archive(text("archive"));
        let digests = text("checksum").parse::<Sha256Digest>().ok().zip(text("verify_checksum").parse::<Sha256Digest>().ok());
        let Some((checksum, sums)) = digests else {
            assert_eq!(text("outcome"), "refused", "{id}");
            both_refuse += 1;
            continue;
        };
        let ours = [7, 4096, usize::MAX].map(|piece| {
            let (tree, end) = unpack_as("app", &bytes, checksum, sums, Limits::default(), piece);
            (tree.entries, end.map_err(|error| error.to_string()))
        });
        assert!(ours.windows(2).all(|two| two[0].1 == two[1].1), "{id}: the size of the pieces matters");
        let (tree, end) = &ours[0];
        match (text("outcome"), end) {
            ("refused", Err(error)) => {
                both_refuse += 1;
                if TAKEN_HERE.contains(&id) {
                    faults.push(format!("{id}: {error}"));
                }
            }
            // Many of the archives have a file too many for a closed list; it came out all the same.
            ("accepted", end)
                if end.as_ref().is_ok() || end.as_ref().is_err_and(|e| e.ends_with("is not listed in SHA256SUMS")) =>
            {
                let Some(theirs) = case["files"].as_object() else {
                    assert_eq!(id, "many_entries");
                    unlisted += 1;
                    continue;
                };
                let files: Vec<_> = tree.iter().filter_map(|(path, entry)| Some((path, entry.as_ref()?))).collect();
                assert_eq!(files.len(), theirs.len(), "{id}");
                for (path, (content, executable)) in files {
                    let mode = u32::from_str_radix(theirs[path][0].as_str().unwrap(), 8).unwrap();
                    assert_eq!(theirs[path][1], Sha256Digest::of(content).to_string(), "{id}: {path}");
                    assert_eq!(*executable, mode & 0o111 != 0, "{id}: {path}");
                }
                match end {
                    Ok(_) => same += 1,
                    Err(_) => unlisted += 1,
                }
            }
            ("accepted", Err(error)) => {
                let reasons: Vec<_> = REFUSED_HERE.iter().filter(|(flaw, _)| id.starts_with(flaw)).collect();
                if !reasons.iter().any(|(_, reason)| error.contains(reason)) {
                    faults.push(format!("{id}: {error}"));
                }
                stricter.push(id.to_owned());
            }
            _ => {
                if !TAKEN_HERE.contains(&id) {
                    faults.push(format!("{id}: taken, and Choria refuses it"));
                }
                laxer.push(id.to_owned());
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!(
        "{same} unpacked alike, {unlisted} with a file too many, {both_refuse} refused by both, {} by us alone, {} taken by us alone",
        stricter.len(),
        laxer.len()
    );
    assert_eq!(laxer.len(), TAKEN_HERE.len(), "{laxer:?}");
}
