//! Whom the simulated sshd lets in, line by line. Every expectation is what OpenSSH 9.2 does unless a case says otherwise.

use toehold_core::testing::{ExpiryTime, Grant, HostSettings, sample_public_key};
use toehold_core::{PublicKey, Timestamp};

const NOW: &str = "2026-11-23T01:00:00Z";

fn key() -> PublicKey {
    sample_public_key("ssh-ed25519", "the key that asks")
}

fn grant(settings: &HostSettings, file: &[u8]) -> Option<Grant> {
    settings.grants(file, &key(), Timestamp::from_unix_seconds(1_795_395_600))
}

/// `{key}` in the text stands for the key that asks, `{other}` for another one.
fn file(text: &str) -> Vec<u8> {
    let other = sample_public_key("ssh-ed25519", "somebody else's");
    text.replace("{key}", &key().to_string()).replace("{other}", &other.to_string()).into_bytes()
}

fn lets_in(text: &str) -> bool {
    grant(&HostSettings::default(), &file(text)).is_some()
}

#[test]
fn the_time_that_the_cases_are_about() {
    assert_eq!(Timestamp::from_unix_seconds(1_795_395_600).to_string(), NOW);
}

#[test]
fn lines_are_found_as_sshd_finds_them() {
    for text in [
        "{key}",
        "{key}\n",
        "{key} with a comment\n",
        "{key}\r\n",
        "{key} comment\r\n",
        "  \t{key}\n",
        "# a comment\n\n\n{key}\n",
        "{other}\n{key}\n",
        "garbage\n\0\n{key}\n",
        "{key} comment\0{other}",
        "restrict {key}",
        "restrict \t {key} comment\n",
        "restrict,pty {key}",
        "RESTRICT,No-Pty {key}",
        "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-pty,no-user-rc {key}",
        "environment=\"A=b c\",permitopen=\"localhost:80\",permitlisten=\"8080\",tunnel=\"0\" {key}",
        "no-touch-required,verify-required {key}",
        // Nothing needs to stand between commas.
        "restrict, {key}",
        ",restrict {key}",
        "restrict,,pty {key}",
        ", {key}",
        "permitopen=\"[::1]:*\",permitopen=\"*:*\",permitlisten=\"*:80\",tunnel=\"any\" {key}",
        // A refusal by one line is not a refusal by all.
        "cert-authority {key}\n{key}\n",
        "expiry-time=\"20200101\" {key}\nunknown {key}\n{key}\n",
    ] {
        assert!(lets_in(text), "{text:?} lets nobody in");
    }
    let blob = key().base64();
    for text in [
        "",
        "{other}",
        "#{key}",
        "# {key}",
        "cert-authority {key}",
        "restrict,cert-authority {key}",
        "unknown {key}",
        "restrict,unknown {key}",
        "unknown=\"value\" {key}",
        "no-restrict {key}",
        "no-cert-authority {key}",
        "restrict=\"yes\" {key}",
        "restricted {key}",
        "command {key}",
        "command=ls {key}",
        "command=\"ls {key}",
        "command=\"ls\"x {key}",
        "command=\"a\",command=\"b\" {key}",
        "from=\"*\",from=\"*\" {key}",
        "principals=\"root\" {key}",
        "environment=\"A\" {key}",
        "environment=\"=x\" {key}",
        "environment=\"A b=x\" {key}",
        "permitopen=\"80\" {key}",
        "permitopen=\"host:1,other:2\" {key}",
        "permitopen=\"host:99999\" {key}",
        "permitlisten=\"\" {key}",
        "tunnel=\"x\" {key}",
        "restrict\0 {key}",
        "\0{key}",
        "{other} {key}",
        "{other}{key}",
    ] {
        assert!(!lets_in(text), "{text:?} lets the key in");
    }
    // Another name before the right blob, no name, broken base64, and a key cut short.
    for text in [
        format!("ssh-rsa {blob}"),
        blob.clone(),
        format!("ssh-ed25519 {}", &blob[..40]),
        format!("ssh-ed25519 {blob}="),
        format!("ssh-ed25519 *{blob}"),
        format!("ssh-ed25519  {}", &blob[4..]),
    ] {
        assert!(!lets_in(&text), "{text:?} lets the key in");
    }
    assert!(lets_in(&format!("ssh-ed25519 \t {blob}")), "any number of blanks between name and base64");
}

#[test]
fn other_bytes_do_not_hide_a_line() {
    let mut bytes = b"\xff\xfe\x80 not text\nssh-ed25519 \xc3\x28\n".to_vec();
    bytes.extend(file("command=\"\u{e9}\" {key} \u{e9}\n"));
    assert!(grant(&HostSettings::default(), &bytes).is_some());
    bytes.splice(0..0, b"\"".iter().copied());
    assert!(grant(&HostSettings::default(), &bytes).is_some(), "a quote is open until the end of its line only");
}

#[test]
fn quotes_and_escapes_in_values() {
    for (text, command) in [
        ("command=\"internal-sftp\" {key}", "internal-sftp"),
        ("command=\"echo \\\"a, b\\\"\",restrict {key}", "echo \"a, b\""),
        ("command=\"a\\\\b\" {key}", "a\\\\b"),
        ("command=\"ssh-ed25519 AAAA\" {key}", "ssh-ed25519 AAAA"),
        ("command=\"\" {key}", ""),
        ("Command=\"x\" {key}", "x"),
    ] {
        let found = grant(&HostSettings::default(), &file(text));
        let wanted = Grant { forced_command: Some(command.as_bytes().to_vec()), restricted: text.contains("restrict") };
        assert_eq!(found, Some(wanted), "{text}");
    }
}

#[test]
fn expiry_in_all_its_forms() {
    // The host's clock shows 01:00:00 UTC.
    for (utc_offset, expiry, valid) in [
        (0, "20261123010000Z", true), // The last second counts.
        (0, "20261123005959Z", false),
        (0, "20261123010001Z", true),
        (0, "20261123010000z", true),
        (0, "20261123010000UTC", true),
        (0, "20261123005959utc", false),
        (0, "202611230100Z", true),
        (0, "202611230059Z", false),
        (0, "20261123Z", false), // Midnight at its beginning.
        (0, "20261124Z", true),
        (0, "20261124", true),
        (0, "20261123", false),
        (0, "202611230100", true),
        (0, "202611230059", false),
        (0, "20261123010000", true),
        (0, "20261123005959", false),
        (3_600, "20261123020000", true), // Local time, an hour ahead of UTC.
        (3_600, "20261123015959", false),
        (3_600, "20261123010000Z", true), // UTC wherever the host is.
        (3_600, "20261123005959Z", false),
        (-18_000, "20261122200000", true),
        (-18_000, "20261122195959", false),
        (0, "20261122250000Z", false), // Malformed from here on.
        (0, "2026", false),
        (0, "", false),
        (0, "Z", false),
        (0, "never", false),
        (0, "2026112401", false),
        (0, "2026-11-24", false),
        (0, "20271301", false),
        (0, "20270132", false),
        (0, "20270001", false),
        (0, "202711242400", false),
        (0, "202711240060", false),
        (0, "20271124000062", false),
        (0, "20271124000061", true), // Leap seconds, as strptime(3) has them.
        (0, "+2027112", false),
        (0, "2027 1 4", true), // And blanks before a number.
        (0, "20271 04", false),
        (0, "2027  04", false),
        (0, "20271124Z ", false),
        (0, "20271124ZZ", false),
        (0, "99991231235959Z", true),
        (0, "19700101Z", false),
        (0, "20270231Z", true), // The third of March, as mktime(3) has it.
    ] {
        let settings = HostSettings { utc_offset, ..HostSettings::default() };
        let found = grant(&settings, &file(&format!("restrict,expiry-time=\"{expiry}\" {{key}}\n"))).is_some();
        assert_eq!(found, valid, "{expiry:?} at UTC{utc_offset:+}");
    }
    assert!(!lets_in("expiry-time=\"20300101Z\",expiry-time=\"20200101Z\" {key}"), "of two the earlier counts");
    assert!(!lets_in("expiry-time=\"20200101Z\",expiry-time=\"20300101Z\" {key}"), "of two the earlier counts");
}

#[test]
fn days_are_counted_through_leap_years() {
    for (expiry, instant) in [
        ("20240229000000Z", 1_709_164_800),
        ("20240301000000Z", 1_709_251_200),
        ("20250101000000Z", 1_735_689_600),
        ("21000228235959Z", 4_107_542_399),
        ("21000301000000Z", 4_107_542_400),
        ("20001231000000Z", 978_220_800),
    ] {
        let line = file(&format!("expiry-time=\"{expiry}\" {{key}}"));
        let at = |seconds| HostSettings::default().grants(&line, &key(), Timestamp::from_unix_seconds(seconds)).is_some();
        assert_eq!((at(instant), at(instant + 1)), (true, false), "{expiry}");
    }
}

#[test]
fn servers_that_know_less_of_expiry_refuse_the_line() {
    let cases = [("20270101Z", [false, false, true]), ("20270101", [false, true, true]), ("20200101", [false, false, false])];
    for (expiry, results) in cases {
        for (expiry_time, wanted) in
            [ExpiryTime::Unknown, ExpiryTime::LocalOnly, ExpiryTime::LocalAndUtc].into_iter().zip(results)
        {
            let settings = HostSettings { expiry_time, ..HostSettings::default() };
            let found = grant(&settings, &file(&format!("expiry-time=\"{expiry}\" {{key}}"))).is_some();
            assert_eq!(found, wanted, "{expiry} for {expiry_time:?}");
        }
    }
}

#[test]
fn where_a_login_may_come_from() {
    for (address, list, wanted) in [
        ("192.0.2.10", "192.0.2.10", true),
        ("192.0.2.10", "192.0.2.1", false),
        ("192.0.2.10", "192.0.2.0/24", true),
        ("192.0.2.10", "192.0.3.0/24,192.0.2.0/28", true),
        ("192.0.2.10", "10.0.0.0/8", false),
        ("192.0.2.10", "0.0.0.0/0", true),
        ("192.0.2.10", "192.0.2.*", true),
        ("192.0.2.10", "192.0.2.1?", true),
        ("192.0.2.10", "*.example.net", false),
        ("192.0.2.10", "!192.0.2.10,*", false),
        ("192.0.2.10", "*,!192.0.2.0/24", false),
        ("192.0.2.10", "!10.0.0.0/8", false),
        ("192.0.2.10", "192.0.2.10/24", false), // Bits behind the mask: not a network, so nobody.
        ("192.0.2.10", "192.0.2.0/33,192.0.2.10", false),
        ("192.0.2.10", "192.0.2.10,", false), // Nor is an empty entry anything.
        ("192.0.2.10", "no/network,192.0.2.10", true),
        ("192.0.2.10", "192.0.2.0/129,192.0.2.10", true),
        ("2001:db8::7", "2001:db8:0:0::7", true),
        ("2001:db8::7", "2001:db8::/32", true),
        ("2001:db8::7", "2001:DB8::7", true),
        ("2001:db8::7", "::/0", true),
        ("2001:db8::7", "0.0.0.0/0", false),
        ("192.0.2.10", "", false),
    ] {
        let settings = HostSettings { client_address: address.to_owned(), ..HostSettings::default() };
        let found = grant(&settings, &file(&format!("from=\"{list}\" {{key}}"))).is_some();
        assert_eq!(found, wanted, "{address} from {list:?}");
    }
}

#[test]
fn algorithms_and_revoked_keys_are_refused_whatever_the_file_says() {
    let refused = HostSettings { refused_algorithms: vec!["ssh-ed25519".to_owned()], ..HostSettings::default() };
    assert_eq!(grant(&refused, &file("{key}")), None);
    let revoked = HostSettings { revoked: vec![key().fingerprint()], ..HostSettings::default() };
    assert_eq!(grant(&revoked, &file("{key}")), None);
    let rsa = sample_public_key("ssh-rsa", "old");
    let line = format!("{rsa}\n");
    assert!(refused.grants(line.as_bytes(), &rsa, Timestamp::UNIX_EPOCH).is_some());
}

#[test]
fn sample_keys_have_the_form_of_their_algorithm() {
    for (algorithm, bytes) in [("ssh-ed25519", 51), ("ecdsa-sha2-nistp256", 104), ("ssh-rsa", 279)] {
        let key = sample_public_key(algorithm, "a");
        assert_eq!((key.algorithm(), key.blob().len()), (algorithm, bytes));
        assert_eq!(key, sample_public_key(algorithm, "a"));
        assert_ne!(key, sample_public_key(algorithm, "b"));
    }
}
