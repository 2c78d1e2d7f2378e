//! Temporary keys: their life, and the line that sshd ends by itself.

use std::net::IpAddr;
use std::time::Duration;

use crate::keys_common::rng;
use toehold_core::{SessionId, Timestamp};
use toehold_keygen::authorized_keys::{AuthorizedKeys, ExpiryTime, Line, Login, Options};
use toehold_keygen::{
    DEFAULT_LIFETIME, FromPatterns, FromPatternsError, MAX_LIFETIME, MIN_LIFETIME, TemporaryKeyError, TemporaryKeyPair,
};

const NOW: &str = "2026-11-23T01:00:00Z";

fn key(lifetime: Duration) -> Result<TemporaryKeyPair, TemporaryKeyError> {
    TemporaryKeyPair::generate(&mut rng(31), SessionId::generate(&mut rng(32)), NOW.parse().unwrap(), lifetime)
}

#[test]
fn a_life_is_from_a_minute_to_a_day() {
    for lifetime in [MIN_LIFETIME, DEFAULT_LIFETIME, MAX_LIFETIME, MAX_LIFETIME + Duration::from_millis(999)] {
        let key = key(lifetime).unwrap();
        assert_eq!(key.expires_at().saturating_since(key.created_at()), Duration::from_secs(lifetime.as_secs()));
    }
    for asked in [Duration::ZERO, Duration::from_millis(59_999), MAX_LIFETIME + Duration::from_secs(1), Duration::MAX] {
        assert_eq!(key(asked).unwrap_err(), TemporaryKeyError::Lifetime { asked });
    }
    let error = key(Duration::from_secs(30)).unwrap_err();
    assert_eq!(error.to_string(), "a temporary key cannot live for 30 s: from 60 to 86400 s");
}

#[test]
fn it_ends_by_our_clock_at_its_second() {
    let key = key(DEFAULT_LIFETIME).unwrap();
    assert!(!key.is_expired(key.created_at()));
    assert!(!key.is_expired(key.expires_at().saturating_sub(Duration::from_secs(1))));
    assert!(key.is_expired(key.expires_at()));
}

#[test]
fn o6_the_line_allows_sftp_alone_and_names_the_session() {
    let key = key(DEFAULT_LIFETIME).unwrap();
    let from: FromPatterns = "192.0.2.0/24,10.0.0.7".parse().unwrap();
    let expected = format!(
        r#"restrict,command="internal-sftp",expiry-time="20261123013000Z" {} toehold-temporary:{}"#,
        key.public_key(),
        key.session()
    );
    assert_eq!(key.authorized_keys_line(None), expected);
    assert_eq!(key.authorized_keys_line(Some(&from)), expected.replacen("Z\" ", "Z\",from=\"192.0.2.0/24,10.0.0.7\" ", 1));

    // The same as the document's own writer makes of it.
    let options = Options::new().restrict().command("internal-sftp").unwrap().expiry_time(&ExpiryTime::utc(key.expires_at()));
    for (line, options) in [
        (key.authorized_keys_line(None), options.clone()),
        (key.authorized_keys_line(Some(&from)), options.from(from.as_str()).unwrap()),
    ] {
        let written = Line::new(options, key.public_key().clone(), &key.comment()).unwrap();
        assert_eq!(line.as_bytes(), written.to_bytes());
    }
}

#[test]
fn o2_the_line_admits_its_key_until_its_end() {
    let key = key(DEFAULT_LIFETIME).unwrap();
    let document = |from: Option<&str>| {
        let from = from.map(|from| from.parse().unwrap());
        AuthorizedKeys::parse(key.authorized_keys_line(from.as_ref()).into_bytes())
    };
    let after = key.expires_at().saturating_add(Duration::from_secs(1));
    assert!(document(None).authorizes(key.public_key(), key.created_at()).is_some());
    assert!(document(None).authorizes(key.public_key(), after).is_none());

    let from = document(Some("192.0.2.0/24,!192.0.2.9"));
    let admits = |peer: &str, now: Timestamp| {
        let peer: IpAddr = peer.parse().unwrap();
        from.authorizes_login(key.public_key(), &Login { now, utc_offset: 0, peer: Some(peer) }).is_some()
    };
    assert!(admits("192.0.2.1", key.created_at()));
    assert!(!admits("192.0.2.9", key.created_at()));
    assert!(!admits("198.51.100.1", key.created_at()));
    assert!(!admits("192.0.2.1", after));
}

#[test]
fn sources_are_what_sshd_would_match() {
    for good in [
        "192.0.2.1",
        "192.0.2.0/24",
        "0.0.0.0/0",
        "192.0.2.1/32",
        "2001:db8::/32",
        "::/0",
        "::1/128",
        "::1",
        "*.example.net",
        "host-?.example.net,!host-1.example.net",
        "192.0.2.*",
        "fe80::1%eth0",
    ] {
        assert_eq!(good.parse::<FromPatterns>().unwrap().to_string(), good);
    }
    for bad in ["", ",", "a,", "a b", "a\"b", "a\nb", "a\\b", "a;b", "$(a)", "!", "a,!", "ä", "a\0", "192.0.2.0/+8"] {
        assert!(matches!(bad.parse::<FromPatterns>().unwrap_err(), FromPatternsError::Pattern(_)), "{bad:?}");
    }
    for bad in
        ["192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/", "2001:db8::1/32", "::/129", "example.net/24", "a/b/c", "10.0.0.0/8/8"]
    {
        assert!(matches!(bad.parse::<FromPatterns>().unwrap_err(), FromPatternsError::Block(_)), "{bad:?}");
    }
    assert_eq!("!192.0.2.1,!10.0.0.0/8".parse::<FromPatterns>(), Err(FromPatternsError::OnlyNegated));
    assert_eq!("a".repeat(1025).parse::<FromPatterns>(), Err(FromPatternsError::TooLong { got: 1025 }));
}
