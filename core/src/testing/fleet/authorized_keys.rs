//! Who may log in, as OpenSSH's sshd reads it out of an `authorized_keys` file (`auth2-pubkeyfile.c`, `auth-options.c`,
//! `sshkey_read`, `parse_absolute_time`).

use base64ct::{Base64, Encoding as _};

use super::address::matches_from;
use super::settings::{ExpiryTime, HostSettings};
use crate::public_key::PublicKey;

/// What the line that grants a login says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// `command="…"`: the only command that is run.
    pub forced_command: Option<Vec<u8>>,
    /// `restrict`: no terminal and no forwarding.
    pub restricted: bool,
}

/// The first line that lets `key` in. Every line with that key is tried: a refusal by one is not a refusal by all.
pub(super) fn find(settings: &HostSettings, file: &[u8], key: &PublicKey, now: i64) -> Option<Grant> {
    file.split(|byte| *byte == b'\n').find_map(|line| read_line(settings, line, key, now))
}

fn read_line(settings: &HostSettings, line: &[u8], key: &PublicKey, now: i64) -> Option<Grant> {
    // sshd works on C strings.
    let line = line.split(|byte| *byte == 0).next()?;
    let line = skip_blanks(line);
    if line.is_empty() || line.starts_with(b"#") {
        return None;
    }
    if let Some(found) = read_key(line) {
        return (found == key.blob()).then(Grant::default);
    }
    let end = end_of_options(line)?;
    let (options, rest) = line.split_at_checked(end)?;
    let found = read_key(skip_blanks(rest))?;
    let options = Options::parse(settings, options)?;
    let granted = found == key.blob() && !options.cert_authority && options.authorise(settings, now);
    granted.then_some(Grant { forced_command: options.command, restricted: options.restricted })
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(*byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

fn split_field(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| is_blank(*byte)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

/// The key blob of `type base64 …`, where the two agree.
fn read_key(text: &[u8]) -> Option<Vec<u8>> {
    let (name, rest) = split_field(text);
    let (base64, _) = split_field(skip_blanks(rest));
    // The decoder passes over white space, such as the carriage return of a file from Windows.
    let base64: Vec<u8> = base64.iter().copied().filter(|b| !b.is_ascii_whitespace() && *b != 0x0b).collect();
    let blob = Base64::decode_vec(std::str::from_utf8(&base64).ok()?).ok()?;
    let key = PublicKey::from_blob(&blob).ok()?;
    (key.algorithm().as_bytes() == name).then_some(blob)
}

/// `sshkey_advance_past_options`: the first blank outside quotes.
fn end_of_options(text: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if !quoted && is_blank(byte) {
            return Some(at);
        }
        if byte == b'\\' && text.get(at + 1) == Some(&b'"') {
            at += 1;
        } else if byte == b'"' {
            quoted = !quoted;
        }
        at += 1;
    }
    (!quoted).then_some(at)
}

#[derive(Debug, Default)]
struct Options {
    cert_authority: bool,
    restricted: bool,
    command: Option<Vec<u8>>,
    from: Option<Vec<u8>>,
    principals: bool,
    expires: Option<i64>,
}

/// Options without a value; those marked may stand with `no-` before them.
const FLAGS: [(&str, bool); 9] = [
    ("restrict", false),
    ("cert-authority", false),
    ("port-forwarding", true),
    ("agent-forwarding", true),
    ("x11-forwarding", true),
    ("touch-required", true),
    ("verify-required", true),
    ("pty", true),
    ("user-rc", true),
];

/// Options with a value in quotes.
const VALUES: [&str; 8] = ["command", "principals", "from", "expiry-time", "environment", "permitopen", "permitlisten", "tunnel"];

impl Options {
    /// `sshauthopt_parse`; `None` for a list that sshd does not understand, which refuses the key.
    fn parse(settings: &HostSettings, mut text: &[u8]) -> Option<Self> {
        let mut options = Self::default();
        while !text.is_empty() {
            let flag = FLAGS.iter().find_map(|(name, negatable)| Some((*name, strip_flag(text, name, *negatable)?)));
            text = if let Some((name, rest)) = flag {
                options.cert_authority |= name == "cert-authority";
                options.restricted |= name == "restrict";
                rest
            } else if let Some((name, rest)) = VALUES.iter().find_map(|name| Some((*name, strip_name(text, name)?))) {
                let (value, rest) = dequote(rest)?;
                options.set(settings, name, value)?;
                rest
            } else {
                text
            };
            // What follows an option is a comma or a blank; nothing needs to stand between two commas or after the last.
            text = if text.is_empty() { text } else { text.strip_prefix(b",")? };
        }
        Some(options)
    }

    fn set(&mut self, settings: &HostSettings, name: &str, value: Vec<u8>) -> Option<()> {
        match name {
            "command" if self.command.is_none() => self.command = Some(value),
            "from" if self.from.is_none() => self.from = Some(value),
            "principals" if !self.principals => self.principals = true,
            "command" | "from" | "principals" => return None,
            "expiry-time" => {
                let time = match settings.expiry_time {
                    ExpiryTime::Unknown => None,
                    known => absolute_time(&value, settings.utc_offset, known == ExpiryTime::LocalAndUtc),
                }?;
                // Of several the earliest counts.
                self.expires = Some(self.expires.map_or(time, |other| other.min(time)));
            }
            "environment" => is_assignment(&value).then_some(())?,
            "permitopen" => is_permission(&value).then_some(())?,
            // A bare port stands for any address.
            "permitlisten" => (is_permission(&value) || is_port(&value)).then_some(())?,
            "tunnel" => is_tunnel(&value).then_some(())?,
            _ => {}
        }
        Some(())
    }

    /// `auth_authorise_keyopts`.
    fn authorise(&self, settings: &HostSettings, now: i64) -> bool {
        self.expires.is_none_or(|expires| expires >= now)
            && !self.principals
            && self.from.as_ref().is_none_or(|list| matches_from(&settings.client_address, &String::from_utf8_lossy(list)))
    }
}

/// `NAME=value`, whatever the value.
fn is_assignment(text: &[u8]) -> bool {
    let name = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    name.len() < text.len() && !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// `host:port`, with brackets around an IPv6 address, and `*` for any port. Names of services are not modelled.
fn is_permission(text: &[u8]) -> bool {
    let bracketed = text.strip_prefix(b"[").and_then(|rest| rest.get(rest.iter().position(|byte| *byte == b']')? + 1..));
    let after_host = bracketed.unwrap_or(text);
    let Some(delimiter) = after_host.iter().position(|byte| *byte == b':' || *byte == b'/') else { return false };
    after_host.get(delimiter + 1..).is_some_and(|port| port == b"*" || is_port(port))
}

fn is_port(text: &[u8]) -> bool {
    number(text).is_some_and(|port| (1..=65_535).contains(&port))
}

fn is_tunnel(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"any") || number(text).is_some()
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn strip_flag<'a>(text: &'a [u8], name: &str, negatable: bool) -> Option<&'a [u8]> {
    let positive = strip_ignoring_case(text, name.as_bytes());
    let rest = positive.or_else(|| {
        let text = strip_ignoring_case(text, b"no-").filter(|_| negatable)?;
        strip_ignoring_case(text, name.as_bytes())
    })?;
    (rest.is_empty() || rest.starts_with(b",")).then_some(rest)
}

/// `opt_match`: the name and its `=`.
fn strip_name<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    strip_ignoring_case(text, name.as_bytes())?.strip_prefix(b"=")
}

fn strip_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// `opt_dequote`: within quotes `\"` stands for `"`, and nothing else is special.
fn dequote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = text.strip_prefix(b"\"")?;
    let mut value = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b"\\\"") {
            value.push(b'"');
            rest = after;
            continue;
        }
        let (&byte, after) = rest.split_first()?;
        rest = after;
        if byte == b'"' {
            return Some((value, rest));
        }
        value.push(byte);
    }
}

/// `parse_absolute_time`: `YYYYMMDD[HHMM[SS]]`, with `Z` or `UTC` behind it for UTC where that is known.
fn absolute_time(text: &[u8], utc_offset: i64, knows_utc: bool) -> Option<i64> {
    let (digits, utc) = match text.len() {
        n if text.ends_with(b"Z") || text.ends_with(b"z") => (text.get(..n - 1)?, true),
        n if n > 3 && text.get(n - 3..)?.eq_ignore_ascii_case(b"UTC") => (text.get(..n - 3)?, true),
        _ => (text, false),
    };
    if (utc && !knows_utc) || !matches!(digits.len(), 8 | 12 | 14) {
        return None;
    }
    let field = |range: std::ops::Range<usize>, low: i64, high: i64| -> Option<i64> {
        let Some(part) = digits.get(range) else { return Some(0) };
        // As strptime(3) reads numbers, with blanks before them.
        let part = part.trim_ascii_start();
        if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let value = part.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
        (low..=high).contains(&value).then_some(value)
    };
    let (year, month, day) = (field(0..4, 0, 9999)?, field(4..6, 1, 12)?, field(6..8, 1, 31)?);
    let (hour, minute, second) = (field(8..10, 0, 23)?, field(10..12, 0, 59)?, field(12..14, 0, 61)?);
    let local = days_before(year, month) * 86_400 + (day - 1) * 86_400 + hour * 3_600 + minute * 60 + second;
    let time = if utc { local } else { local - utc_offset };
    // Zero stands for "none" inside sshd, which refuses it here.
    (time > 0).then_some(time)
}

/// Days from 1970-01-01 to the first of the month (Hinnant's `days_from_civil`).
fn days_before(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
