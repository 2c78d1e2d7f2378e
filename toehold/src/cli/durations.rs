//! Times on the command line.

use std::ops::RangeInclusive;
use std::str::FromStr as _;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// `90s`, `30m`, `2h`, `1d`, or seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("\"{text}\" is not a time such as 90s, 30m or 2h");
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => MINUTE,
        "h" => HOUR,
        "d" => DAY,
        _ => return Err(bad()),
    };
    u64::from_str(number).ok().and_then(|n| n.checked_mul(factor)).map(Duration::from_secs).ok_or_else(bad)
}

/// One of so many seconds; `limits` says it in words.
pub(super) fn parse_within(text: &str, seconds: &RangeInclusive<u64>, limits: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if seconds.contains(&duration.as_secs()) { Ok(duration) } else { Err(format!("{text} is not {limits}")) }
}

/// How long a temporary key lives.
pub(super) fn parse_ttl(text: &str) -> Result<Duration, String> {
    parse_within(text, &(MINUTE..=DAY), "between 1m and 24h")
}

/// How long a line of the new key is good before it is proven; the way there and back has to fit in.
pub(super) fn parse_provisional(text: &str) -> Result<Duration, String> {
    parse_within(text, &(5..=DAY), "between 5s and 24h")
}

/// For how long the old key stays beside the new one: a year is as good as for ever.
pub(super) fn parse_grace(text: &str) -> Result<Duration, String> {
    parse_within(text, &(0..=366 * DAY), "up to 366d")
}

/// For how long an agent keeps a key, or a token is good. With 0 it would be over before anybody could use it.
pub(super) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    parse_within(text, &(1..=366 * DAY), "between 1s and 366d")
}

/// Time between two renewals.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    parse_within(text, &(MINUTE..=366 * DAY), "between 1m and 366d")
}

/// How long something is waited for.
pub(super) fn parse_limit(text: &str) -> Result<Duration, String> {
    parse_within(text, &(1..=HOUR), "between 1s and 1h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        assert_eq!(parse_ttl("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(parse_ttl("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "m", "30x", "59s", "25h", "99999999999999999999h", "-5m"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_limit("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_limit("1h"), Ok(Duration::from_secs(3_600)));
        for bad in ["0", "0s", "61m", "1.5s", "5 s"] {
            assert!(parse_limit(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_grace("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_grace("366d"), parse_lifetime("366d"));
        assert_eq!(parse_lifetime("1"), Ok(Duration::from_secs(1)));
        for bad in ["367d", "99999999999d", "31622401"] {
            assert!(parse_grace(bad).is_err() && parse_lifetime(bad).is_err(), "{bad}");
        }
        assert!(parse_lifetime("0s").is_err(), "it would be gone at once");
    }
}
