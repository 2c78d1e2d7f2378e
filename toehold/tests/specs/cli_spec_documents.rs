//! `toehold spec keys`, `pack` and `verify`: Choria's documents both ways, and envelopes around them.

use std::fs;

use crate::spec_support::spec::{Desk, PRIVATE, PUBLIC, entry, is_private, list};
use serde_json::Value;

fn example() -> Value {
    serde_json::from_str(include_str!("../vectors/spec/seed-example.json")).unwrap()
}

fn machines(desk: &Desk) -> String {
    desk.write("machines.json", list(&[entry("facts", 1, "identity('^web')")]))
}

#[test]
fn keys_are_printed_as_the_original_prints_them_and_sign() {
    let desk = Desk::new();
    let printed = desk.spec(&["keys"]).ends(0).stdout;
    let (public, private) = printed.trim_end().split_once('\n').unwrap();
    let public = public.strip_prefix(" Public Key: ").unwrap();
    let private = private.strip_prefix("Private Key: ").unwrap();
    assert_eq!((public.len(), private.len()), (64, 128));
    assert!(private.ends_with(public));
    let document = desk.keep("spec.json", &["pack", &machines(&desk), private]);
    desk.spec(&["verify", &document, public]).ends(0);
    let other = desk.spec(&["keys", "--json"]).ends(0).json();
    assert_ne!(other["public_key"], public);

    let file = desk.at("key");
    let kept = desk.spec(&["keys", "--output", &file]).ends(0).stdout;
    assert!(is_private(&desk.path("key")) && !kept.contains(desk.read("key").trim_end()), "{kept}");
    let refused = desk.spec(&["keys", "--output", &file]).ends(1);
    assert!(refused.stderr.contains("was not touched"), "{}", refused.stderr);
    let shown = desk.spec(&["keys", "--show", &file, "--json"]).ends(0).json();
    assert!(kept.contains(shown["public_key"].as_str().unwrap()));
    assert!(shown["ssh"].as_str().unwrap().starts_with("ssh-ed25519 "));
    // A bare name, as in the README, is in the directory that one is in.
    let bare = desk.spec(&["keys", "--output", "release.key", "--json"]).ends(0).json();
    assert!(is_private(&desk.path("release.key")) && bare["public_key"].is_string(), "{bare}");
}

#[test]
fn the_seeds_own_example_is_packed_to_the_same_bytes_and_verified() {
    let desk = Desk::new();
    let example = example();
    let specification = serde_json::to_string(&example["specification"]).unwrap();
    let document = desk.write("spec.json", &specification);
    let verified = desk.spec(&["verify", &document, PUBLIC]).ends(0).stdout;
    assert!(verified.contains(PUBLIC) && verified.contains("There is no envelope"), "{verified}");
    let told = desk.spec(&["verify", &document, PUBLIC, "--json"]).ends(0).json();
    assert_eq!((&told["envelope"], &told["machines"]), (&Value::Null, &Value::from(1)));
    // What was packed is in there, and packs to the same.
    let payload = example["specification"]["machines"].as_str().unwrap();
    let base64 =
        std::process::Command::new("base64").arg("-d").stdin(fs::File::open(desk.write("b64", payload)).unwrap()).output();
    let machines = desk.write("machines.json", base64.unwrap().stdout);
    for (arguments, environment) in [
        (vec!["pack", machines.as_str(), PRIVATE], vec![]),
        (vec!["pack", machines.as_str()], vec![("KEY", PRIVATE)]),
        (vec!["pack", machines.as_str(), PRIVATE], vec![("KEY", "nonsense")]),
    ] {
        let packed = desk.spec_with(&arguments, &environment, "").ends(0);
        assert_eq!(packed.stdout, format!("{specification}\n"));
        assert_eq!(packed.stderr, "");
    }
    let file = desk.write("key", format!("{PRIVATE}\n"));
    assert_eq!(desk.spec(&["pack", &machines, &file]).ends(0).stdout, format!("{specification}\n"));
}

#[test]
fn whoever_does_not_sign_is_warned_unless_that_is_meant() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let done = desk.spec(&["pack", &machines]).ends(0);
    assert!(done.stderr.contains("nobody signs this"), "{}", done.stderr);
    assert_eq!(desk.spec(&["pack", &machines, "--force"]).ends(0).stderr, "");
    assert!(!done.stdout.contains("signature"));
    let document = desk.write("spec.json", done.stdout);
    let refused = desk.spec(&["verify", &document, PUBLIC]).ends(1);
    assert!(refused.stderr.contains("not signed") || refused.stderr.contains("no signature"), "{}", refused.stderr);
}

#[test]
fn keys_that_are_none_are_refused_without_being_repeated() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let short = &PRIVATE[..126];
    // Halves that do not belong together: signing would give the key away.
    let mixed = format!("{}{}", &PRIVATE[..64], "00".repeat(32));
    for key in [short, "", "x", &mixed, PUBLIC] {
        let done = desk.spec(&["pack", &machines, key]);
        if key.is_empty() {
            assert!(done.ends(0).stderr.contains("nobody signs"));
            continue;
        }
        let refused = done.ends(1);
        assert!(!refused.stderr.contains(&PRIVATE[..32]), "{}", refused.stderr);
    }
    // A public key of small order verifies forgeries.
    let document = desk.keep("spec.json", &["pack", &machines, PRIVATE]);
    for key in ["00".repeat(32), format!("01{}", "00".repeat(31)), "ff".repeat(32), "zz".repeat(32), PUBLIC[..62].to_owned()] {
        desk.spec(&["verify", &document, &key]).ends(1);
    }
    let help = desk.spec_with(&["pack", "--help"], &[("KEY", PRIVATE)], "").ends(0).stdout;
    assert!(!help.contains(&PRIVATE[..32]), "the key is not in the help");
}

#[test]
fn what_no_node_could_use_is_not_packed_unless_that_is_meant() {
    let desk = Desk::new();
    for (what, content) in [
        ("null", "null".to_owned()),
        ("a null in it", "[null]".to_owned()),
        ("no list", "{}".to_owned()),
        ("a name that climbs", list(&[entry("../x", 1, "true")])),
        ("the same twice", list(&[entry("a", 1, "true"), entry("a", 2, "true")])),
        ("a matcher that is none", list(&[entry("a", 1, "identity('")])),
        ("a doubled member", "[{\"name\":\"a\",\"name\":\"b\"}]".to_owned()),
        ("a password in the source", list(&[entry("a", 1, "true")]).replace("https://", "https://user:hunter2@")),
    ] {
        let file = desk.write("machines.json", content);
        let refused = desk.spec(&["pack", &file, PRIVATE]).ends(1);
        assert!(refused.stderr.contains("no node could use this list"), "{what}: {}", refused.stderr);
        assert!(refused.stdout.is_empty() && !refused.stderr.contains("hunter2"), "{what}: {}", refused.stderr);
        let document = desk.keep("spec.json", &["pack", &file, PRIVATE, "--unchecked"]);
        if what != "a matcher that is none" {
            let told = desk.spec(&["verify", &document, PUBLIC, "--json"]).ends(3).json();
            assert!(told["fault"].is_string(), "{what}: its signature is good, and no node could use it");
        }
    }
    let misspelt = desk.write("machines.json", list(&[entry("a", 1, "true").replace("\"match\"", "\"matcher\"")]));
    let warned = desk.spec(&["pack", &misspelt, PRIVATE]).ends(0).stderr;
    let words =
        "a: the member \"matcher\" means nothing to a node; is \"match\" meant, without which a machine belongs on every node?";
    assert!(warned.contains(words), "{warned}");
    // Not every node takes these.
    for (source, option) in [("http://", "--allow-http"), ("file:///", "--allow-file")] {
        let entries = [entry("a", 1, "true").replace("https://", source), entry("b", 1, "true")];
        let file = desk.write("machines.json", list(&entries));
        let warned = desk.spec(&["pack", &file, PRIVATE]).ends(0).stderr;
        assert!(warned.contains("the source of a is") && warned.contains(option), "{warned}");
    }
}

/// Signed documents are for everybody; only passwords are not.
#[test]
fn a_document_in_a_file_has_the_mode_of_other_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let desk = Desk::new();
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    let pack = |machines: &str, name: &str, umask: &str| {
        let mut command = desk.toehold.command(["spec", "pack", machines, PRIVATE, "-o", &desk.at(name)]);
        command.env_remove("KEY");
        // The program is the one that would be started; the shell sets the umask before it becomes that.
        let mut within = std::process::Command::new("sh");
        within.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        assert!(within.stdout(std::process::Stdio::null()).status().unwrap().success());
    };
    let open = machines(&desk);
    pack(&open, "fleet.json", "022");
    pack(&open, "closed.json", "077");
    assert_eq!((mode("fleet.json"), mode("closed.json")), (0o644, 0o600));
    // Whoever has given it another mode has meant that.
    fs::set_permissions(desk.path("fleet.json"), fs::Permissions::from_mode(0o640)).unwrap();
    pack(&open, "fleet.json", "022");
    assert_eq!(mode("fleet.json"), 0o640);
    let secret = entry("a", 1, "true").replace("\"verify\"", "\"username\":\"u\",\"password\":\"hunter2\",\"verify\"");
    let secret = desk.write("secret.json", list(&[secret]));
    pack(&secret, "secret-fleet.json", "022");
    assert_eq!(mode("secret-fleet.json"), 0o600);
}

fn enveloped<'a>(machines: &'a str, serial: &'a str) -> Vec<&'a str> {
    vec!["pack", machines, PRIVATE, "--name", "fleet", "--serial", serial, "--expires", "7d"]
}

#[test]
fn s1_an_envelope_says_name_serial_end_and_the_next_keys() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let document = desk.keep("spec.json", &enveloped(&machines, "4"));
    let told = desk.spec(&["verify", &document, PUBLIC, "--json"]).ends(0).json();
    let envelope = &told["envelope"];
    assert_eq!((&envelope["name"], &envelope["serial"], &told["state"]), (&"fleet".into(), &4.into(), &"holds".into()));
    assert_eq!(envelope["next"]["keys"][0], PUBLIC);
    assert_eq!(told["plain_signer"], PUBLIC, "Choria's readers verify it too");
    let text = desk.spec(&["verify", &document, PUBLIC]).ends(0).stdout;
    assert!(text.contains("serial 4") && text.contains("until"), "{text}");
    // Everything but the envelope is what Choria packs.
    let plain = desk.spec(&["pack", &machines, PRIVATE]).ends(0).stdout;
    assert!(desk.read("spec.json").starts_with(plain.trim_end().trim_end_matches('}')));
    let only = desk.keep("only.json", &[&enveloped(&machines, "4")[..], &["--envelope-only"]].concat());
    let signature_of_the_list = |name: &str| serde_json::from_str::<Value>(&desk.read(name)).unwrap()["signature"].clone();
    assert!(signature_of_the_list("spec.json").as_str().is_some_and(|signature| !signature.is_empty()));
    assert!(signature_of_the_list("only.json").as_str().is_none_or(str::is_empty), "the envelope alone is signed");
    assert_eq!(desk.spec(&["verify", &only, PUBLIC, "--json"]).ends(0).json()["plain_signer"], Value::Null);
    // Another key, a changed list, a changed statement.
    let (_, other) = pair(&desk);
    desk.spec(&["verify", &document, &other]).ends(1);
    let changed = desk.write("changed.json", desk.read("spec.json").replacen("W3sibmFtZSI6", "W3sgbmFtZSI6", 1));
    let refused = desk.spec(&["verify", &changed, PUBLIC]).ends(1);
    assert!(refused.stderr.contains("another list"), "{}", refused.stderr);
}

fn pair(desk: &Desk) -> (String, String) {
    let pair = desk.spec(&["keys", "--json"]).ends(0).json();
    (pair["private_key"].as_str().unwrap().to_owned(), pair["public_key"].as_str().unwrap().to_owned())
}

#[test]
fn s3_a_document_that_does_not_hold_now_is_told() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let base = ["pack", &machines, PRIVATE, "--name", "fleet", "--serial", "1"];
    let early = [&base[..], &["--not-before", "2999-01-01T00:00:00Z", "--expires", "2999-01-02T00:00:00Z"]].concat();
    let early = desk.keep("early.json", &early);
    assert_eq!(desk.spec(&["verify", &early, PUBLIC, "--json"]).ends(3).json()["state"], "not_yet");
    for (more, why) in [
        (vec!["--expires", "2020-01-01T00:00:00Z"], "in the past"),
        (vec!["--expires", "0s"], "in the past"),
        (vec!["--expires", "1h", "--not-before", "2h"], "before it holds"),
        (vec![], "has an end"),
        (vec!["--expires", "tomorrow"], "neither a time"),
    ] {
        let refused = desk.spec(&[&base[..], &more].concat()).ends(2);
        assert!(refused.stderr.contains(why), "{more:?}: {}", refused.stderr);
    }
    for (more, why) in [
        (vec!["--name", "fleet", "--expires", "7d"], "has a serial"),
        (vec!["--expires", "7d"], "has a name"),
        (vec!["--name", "../x", "--serial", "1", "--expires", "7d"], "no machine's name"),
        (vec!["--name", "fleet", "--serial", "0", "--expires", "7d"], "0"),
    ] {
        let refused = desk.spec(&[&["pack", machines.as_str(), PRIVATE][..], &more].concat()).ends(2);
        assert!(refused.stderr.contains(why), "{more:?}: {}", refused.stderr);
    }
}

#[test]
fn s3_versions_follow_each_other_and_carry_the_changes_of_keys() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let (second_private, second) = pair(&desk);
    let first = desk.keep("1.json", &enveloped(&machines, "1"));
    // The second version hands over: both have to sign it.
    let hand_over = ["pack", &machines, PRIVATE, "--after", &first, "--expires", "7d", "--next-key", &second];
    let alone = desk.spec(&hand_over).ends(3);
    assert!(alone.stderr.contains("signed by 0 of the 1"), "the new key has not signed: {}", alone.stderr);
    let half = desk.write("half.json", alone.stdout);
    // What is signed by the old key alone is refused by every node, and is told so here as well.
    let told = desk.spec(&["verify", &half, PUBLIC, "--json"]).ends(3).json();
    assert!(told["fault"].as_str().unwrap().contains("hands over to keys of which 0 signed it"), "{told}");
    let followed = desk.spec(&["pack", &machines, &second_private, "--after", &half, "--expires", "7d"]).ends(3);
    assert!(followed.stderr.contains("no node could use it: serial 2 hands over"), "{}", followed.stderr);
    let followed = desk.write("followed.json", followed.stdout);
    assert!(desk.spec(&["verify", &followed, &second]).ends(3).stdout.contains("serial 2 hands over"), "nor what follows it");
    let full = desk.keep("2.json", &["pack", "--add-signature", &half, &second_private]);
    let told = desk.spec(&["verify", &full, PUBLIC, &second, "--threshold", "2", "--json"]).ends(0).json();
    assert_eq!((&told["envelope"]["serial"], &told["envelope"]["next"]["keys"][0]), (&2.into(), &second.as_str().into()));
    let twice = desk.spec(&["pack", "--add-signature", &full, &second_private]).ends(1);
    assert!(twice.stderr.contains("has signed it already"), "{}", twice.stderr);
    // The third is the new key's; the old one is told that it does not suffice.
    let third = ["pack", &machines, &second_private, "--after", &full, "--expires", "7d"];
    let third = desk.keep("3.json", &third);
    let document: Value = serde_json::from_str(&desk.read("3.json")).unwrap();
    assert_eq!(document["envelope"]["key_changes"].as_array().unwrap().len(), 2);
    desk.spec(&["verify", &third, &second]).ends(0);
    desk.spec(&["verify", &third, PUBLIC]).ends(1);
    let old = desk.spec(&["pack", &machines, PRIVATE, "--after", &full, "--expires", "7d"]).ends(3);
    assert_eq!(old.stderr.matches("signed by 0 of the 1").count(), 1, "{}", old.stderr);
    let back = desk.spec(&["pack", &machines, PRIVATE, "--after", &full, "--serial", "2", "--expires", "7d"]).ends(2);
    assert!(back.stderr.contains("not above 2"), "{}", back.stderr);
    // Where two of the version before have to sign, the new one's and one of them are not enough.
    let (third_private, third) = pair(&desk);
    let two = ["--next-key", PUBLIC, "--next-key", &second, "--next-threshold", "2"];
    let two = desk.write("two.json", desk.spec(&[&enveloped(&machines, "1")[..], &two].concat()).ends(3).stdout);
    let two = desk.keep("both.json", &["pack", "--add-signature", &two, &second_private]);
    let after = ["pack", &machines, &third_private, "--after", &two, "--expires", "7d", "--next-key", &third];
    let given = desk.write("given.json", desk.spec(&after).ends(3).stdout);
    let added = desk.spec(&["pack", "--add-signature", &given, PRIVATE]).ends(3);
    assert!(added.stderr.contains("signed by 1 of the 2"), "{}", added.stderr);
    let added = desk.write("added.json", added.stdout);
    desk.spec(&["pack", "--add-signature", &added, &second_private]).ends(0);
    // After the highest serial that there is comes none.
    let last = desk.keep("last.json", &enveloped(&machines, &u64::MAX.to_string()));
    let beyond = desk.spec(&["pack", &machines, PRIVATE, "--after", &last, "--expires", "7d"]).ends(1);
    assert!(beyond.stderr.contains("none can follow it"), "{}", beyond.stderr);
}

#[test]
fn a_threshold_counts_distinct_keys() {
    let desk = Desk::new();
    let machines = machines(&desk);
    let (other_private, other) = pair(&desk);
    let file = desk.write("other.key", &other_private);
    let undecided = desk.spec(&[&enveloped(&machines, "1")[..], &["--ssh-key", &file]].concat()).ends(2);
    assert!(undecided.stderr.contains("how many of 2 keys"), "{}", undecided.stderr);
    let both = [
        &enveloped(&machines, "1")[..],
        &["--ssh-key", &file, "--next-key", PUBLIC, "--next-key", &other, "--next-threshold", "2"],
    ];
    let document = desk.keep("spec.json", &both.concat());
    desk.spec(&["verify", &document, PUBLIC, &other, "--threshold", "2"]).ends(0);
    desk.spec(&["verify", &document, PUBLIC, PUBLIC, "--threshold", "2"]).ends(2);
    let (_, third) = pair(&desk);
    let refused = desk.spec(&["verify", &document, PUBLIC, &third, "--threshold", "2"]).ends(1);
    assert!(refused.stderr.contains("signed by 1 of the named keys, and 2"), "{}", refused.stderr);
    // A plain document has room for one signature.
    let plain = desk.keep("plain.json", &["pack", &machines, PRIVATE]);
    let refused = desk.spec(&["verify", &plain, PUBLIC, &other, "--threshold", "2"]).ends(1);
    assert!(refused.stderr.contains("one signature"), "{}", refused.stderr);
    desk.spec(&["pack", "--add-signature", &plain, &other_private]).ends(1);
}

#[test]
fn documents_come_from_pipes_and_go_into_files_whole() {
    let desk = Desk::new();
    let list = list(&[entry("facts", 1, "true")]);
    let out = desk.at("out.json");
    let done = desk.spec_with(&["pack", "-", PRIVATE, "--output", &out, "--json"], &[], &list).ends(0);
    assert_eq!((done.json()["file"].as_str(), done.json()["signers"][0].as_str()), (Some(out.as_str()), Some(PUBLIC)));
    desk.spec_with(&["verify", "-", PUBLIC], &[], &desk.read("out.json")).ends(0);
    // A later one takes its place.
    desk.spec(&["pack", &machines(&desk), PRIVATE, "--output", &out]).ends(0);
    desk.spec(&["verify", &out, PUBLIC]).ends(0);
    let left: Vec<_> = fs::read_dir(desk.path("").as_path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".new-")), "{left:?}");
    for input in ["", "{}", "[]", "{\"machines\":\"!\"}", "{\"machines\":\"\",\"MACHINES\":\"\"}"] {
        desk.spec_with(&["verify", "-", PUBLIC], &[], input).ends(1);
    }
}

/// What Choria's `mms` says to its arguments we say to the same ones, but where ours mean more.
#[test]
fn arguments_are_taken_and_refused_as_mms_does() {
    const KEY: &str = "dcfaee36439d8062d4c0bd08cc81a8c943e80b65575751233adcc671e1727abc154e6bb26ec8c8cea29bcf041b489df83e7730bcdfbea79bd3e07bac3a05cb3d";
    let desk = Desk::new();
    desk.write("machines.json", r#"[{"name":"a","source":"s","checksum":"c","verify_checksum":"v"}]"#);
    fs::create_dir(desk.path("dir")).unwrap();
    desk.keep("spec.json", &["pack", "machines.json", KEY, "--unchecked"]);
    desk.keep("unsigned.json", &["pack", "machines.json", "--force", "--unchecked"]);
    let (mut cases, mut ours) = (0, Vec::new());
    for line in include_str!("../vectors/spec/cli.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        let mut arguments: Vec<&str> = case["arguments"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        // Its list is one that no node could use, at which it does not look.
        if arguments.first() == Some(&"pack") {
            arguments.push("--unchecked");
        }
        let environment: Vec<(&str, &str)> = case["environment"]
            .as_object()
            .iter()
            .flat_map(|variables| variables.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())))
            .collect();
        let done = desk.spec_with(&arguments, &environment, "");
        // A good signature over such a list is told, and that no node could use it.
        let taken = done.code == 0 || arguments.first() == Some(&"verify") && done.code == 3;
        if taken == (case["exit"] == 0) {
            cases += 1;
            if taken && arguments.first() == Some(&"pack") && !arguments.contains(&"--help") {
                assert_eq!(done.stdout, case["stdout"].as_str().unwrap(), "{id}");
            }
        } else {
            ours.push(id.to_owned());
        }
    }
    // Without a command it is a mistake; `-` is standard input; a warning that is wanted needs no option.
    assert_eq!(ours, ["cli_none", "cli_pack_stdin_dash", "cli_pack_no_force"]);
    assert_eq!(cases, 22);
}
