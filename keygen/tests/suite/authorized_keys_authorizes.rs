//! Who may log in by a document: what sshd(8) says, and what the simulated hosts say, which read files on their own.

use std::net::IpAddr;

use proptest::prelude::*;
use toehold_core::testing::{HostSettings, sample_public_key};
use toehold_core::{PublicKey, Timestamp};
use toehold_keygen::authorized_keys::{AuthorizedKeys, Login, Options, OptionsError};

/// 2026-11-23T01:00:00Z.
const NOW: i64 = 1_795_395_600;

fn login(utc_offset: i32, peer: Option<&str>) -> Login {
    let peer: Option<IpAddr> = peer.map(|peer| peer.parse().unwrap());
    Login { now: Timestamp::from_unix_seconds(NOW), utc_offset, peer }
}

fn ours() -> PublicKey {
    sample_public_key("ssh-ed25519", "ours")
}

/// The number of the line that admits our key, `{}` in `file`.
fn line_that_admits(file: &str, login: &Login) -> Option<usize> {
    let file = file.replace("{base64}", &ours().base64()).replace("{}", &ours().to_string());
    AuthorizedKeys::parse(file.into_bytes()).authorizes_login(&ours(), login).map(|authorized| authorized.line)
}

#[test]
fn the_first_line_that_admits_wins() {
    let here = login(0, Some("192.0.2.1"));
    for (file, line) in [
        ("", None),
        ("{}", Some(1)),
        ("{}\n{}", Some(1)),
        ("# {}\n\n \t{} comment\r\n", Some(3)),
        ("ssh-rsa {base64}\n{}", Some(2)),
        ("ssh-ed25519 {base64}=\n", None),
        ("ssh-ed25519 {base64}", Some(1)),
        ("cert-authority {}\nrestrict {}", Some(2)),
        ("principals=\"a\" {}", None),
        ("unknown {}\n", None),
        ("unknown {}\n{}", Some(2)),
        ("restrict,pty,no-user-rc {}", Some(1)),
        ("RESTRICT,No-Pty,,Command=\"x\", {}", Some(1)),
        ("no-restrict {}", None),
        ("no-cert-authority {}", None),
        ("command=\"a\",command=\"b\" {}", None),
        ("command=unquoted {}", None),
        ("command {}", None),
        ("command=\"a\"b {}", None),
        ("command=\"ends in \\\" {}", None),
        ("environment=\"A_1=b\",environment=\"A_1=c\" {}", Some(1)),
        ("environment=\"A-1=b\" {}", None),
        ("environment=\"A\" {}", None),
        ("permitopen=\"h:22\",permitopen=\"[::1]:*\",permitlisten=\"22\" {}", Some(1)),
        ("permitopen=\"22\" {}", None),
        ("permitopen=\"h:0\" {}", None),
        ("tunnel=\"any\" {}", Some(1)),
        ("tunnel=\"7\" {}", Some(1)),
        ("tunnel=\"x\" {}", None),
        ("from=\"192.0.2.0/24\" {}", Some(1)),
        ("from=\"192.0.2.0/24,!192.0.2.1\" {}", None),
        ("from=\"198.51.100.*\" {}\nfrom=\"192.0.2.*\" {}", Some(2)),
        ("{}\0", Some(1)),
        ("\0{}", None),
        ("x\0\n{}", Some(2)),
    ] {
        assert_eq!(line_that_admits(file, &here), line, "{file:?}");
    }
    assert_eq!(line_that_admits("from=\"*\" {}", &login(0, None)), None, "nobody knows where an unknown client is");
}

#[test]
fn o2_expiry_is_an_instant_that_the_line_itself_ends_at() {
    for (expiry, utc_offset, admitted) in [
        ("20261123010000Z", 0, true),
        ("20261123005959Z", 0, false),
        ("20261123005959Z", 7200, false),
        ("202611230100Z", -7200, true),
        ("20261124", 0, true),
        ("20261123", 0, false),
        ("20261123015959", 3600, false),
        ("20261123020000", 3600, true),
        ("20261122230000", -7200, true),
        ("20261122225959", -7200, false),
        ("", 0, false),
        ("never", 0, false),
        ("19700101Z", 0, false),
        // To sshd, whose numbers have no sign, this is far ahead.
        ("19691231Z", 0, true),
    ] {
        let file = format!("expiry-time=\"{expiry}\" {{}}");
        assert_eq!(line_that_admits(&file, &login(utc_offset, None)).is_some(), admitted, "{expiry} at {utc_offset}");
    }
    let earliest = "expiry-time=\"20270101Z\",expiry-time=\"20260101Z\" {}";
    assert_eq!(line_that_admits(earliest, &login(0, None)), None, "the earliest counts");
    assert_eq!(line_that_admits(&format!("{earliest}\n{{}}"), &login(0, None)), Some(2), "a plain copy still logs in (R9)");
}

#[test]
fn the_winning_line_says_what_may_be_done() {
    let file =
        format!("{}\nrestrict,command=\"say \\\"hi\\\"\",port-forwarding {}", sample_public_key("ssh-rsa", "other"), ours());
    let granted = AuthorizedKeys::parse(file.into_bytes()).authorizes(&ours(), Timestamp::from_unix_seconds(NOW)).unwrap();
    assert_eq!(granted.line, 2);
    assert_eq!(granted.options.to_string(), r#"restrict,command="say \"hi\"",port-forwarding"#);
    assert_eq!(granted.effect.command.unwrap(), br#"say "hi""#);
    assert!(granted.effect.port_forwarding && !granted.effect.pty && !granted.effect.agent_forwarding);
}

#[test]
fn what_sshd_refuses_is_named() {
    let error = |text: &str| text.parse::<Options>().unwrap().effect(0).unwrap_err();
    assert_eq!(error("pty,sparkle"), OptionsError::Unknown { option: "sparkle".to_owned() });
    assert_eq!(error("expiry-time=\"soon\""), OptionsError::BadValue { option: "expiry-time".to_owned() });
    assert_eq!(error("from=\"a\",from=\"b\""), OptionsError::Repeated { option: "from".to_owned() });
    assert_eq!(error("principals=\"a\"b"), OptionsError::BadValue { option: "principals".to_owned() });
}

fn option() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("restrict".to_owned()),
        Just("cert-authority".to_owned()),
        Just("NO-pty".to_owned()),
        Just("unheard-of".to_owned()),
        Just(String::new()),
        "[a-c\"\\\\ ]{1,4}",
        "[ -~]{0,6}".prop_map(|value| format!("command=\"{value}\"")),
        (NOW - 2..NOW + 3, any::<bool>()).prop_map(|(at, utc)| {
            let text = Timestamp::from_unix_seconds(at).strftime("%Y%m%d%H%M%S");
            format!("expiry-time=\"{text}{}\"", if utc { "Z" } else { "" })
        }),
        "(192\\.0\\.2\\.[0-9]{1,2}|!192\\.0\\.2\\.10|192\\.0\\.2\\.0/2[0-9]|\\*|[a-z]{1,3}|192\\.\\?\\.2\\.1\\*)(,\\*)?"
            .prop_map(|patterns| format!("from=\"{patterns}\"")),
    ]
}

fn file() -> impl Strategy<Value = String> {
    let line = (
        "[ \t]{0,2}#?",
        prop::collection::vec(option(), 0..4),
        "[ \t]{0,2}",
        prop_oneof![5 => Just("{}"), 1 => Just("ssh-rsa {base64}"), 1 => Just("ssh-ed25519 {base64}="), 1 => Just("{other}")],
        "( [ -~]{0,8})?\r?",
    );
    let line =
        line.prop_map(|(indent, options, blanks, key, comment)| format!("{indent}{}{blanks}{key}{comment}", options.join(",")));
    prop::collection::vec(line, 0..4).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_simulated_hosts_agree(file in file(), utc_offset in -2..3_i32) {
        let other = sample_public_key("ssh-ed25519", "other").to_string();
        let file = file.replace("{other}", &other).replace("{base64}", &ours().base64()).replace("{}", &ours().to_string());
        let settings = HostSettings { utc_offset: i64::from(utc_offset), ..HostSettings::default() };
        let theirs = settings.grants(file.as_bytes(), &ours(), Timestamp::from_unix_seconds(NOW));
        let here = login(utc_offset, Some(&settings.client_address));
        let ours = AuthorizedKeys::parse(file.into_bytes()).authorizes_login(&ours(), &here);
        prop_assert_eq!(ours.map(|authorized| authorized.effect.command), theirs.map(|grant| grant.forced_command));
    }
}
