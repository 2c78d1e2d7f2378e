//! The value of the option `expiry-time`.

use std::fmt;
use std::str::FromStr;

use toehold_core::Timestamp;

const DAY: i64 = 86_400;

/// A point in time as `expiry-time` names it (sshd(8)): `YYYYMMDD[HHMM[SS]]`, with `Z` or `UTC` behind it for UTC.
///
/// Without `Z` it is local time where sshd runs; with it, sshd of OpenSSH 9.1 or newer is needed: older ones refuse the
/// whole line. A key may be used until and including that second.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExpiryTime {
    text: String,
    /// Seconds since 1970 as if the text were UTC.
    seconds: i64,
    utc: bool,
}

/// A text that OpenSSH does not read as a time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a time as expiry-time wants it: YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, with Z behind it for UTC")]
pub struct ExpiryTimeError(String);

impl ExpiryTime {
    /// `YYYYMMDDHHMMSSZ`: the same instant whatever the host's time zone. For sshd of OpenSSH 9.1 and newer.
    pub fn utc(at: Timestamp) -> Self {
        Self { text: at.strftime("%Y%m%d%H%M%SZ"), seconds: at.unix_seconds(), utc: true }
    }

    /// `YYYYMMDDHHMMSS` in the local time of a host that is `utc_offset` seconds ahead of UTC (east is positive) and in
    /// standard time: sshd before 9.1 knows nothing else, and reads it an hour late under summer time.
    pub fn local(at: Timestamp, utc_offset: i32) -> Self {
        let civil = Timestamp::from_unix_seconds(at.unix_seconds().saturating_add(i64::from(utc_offset)));
        Self { text: civil.strftime("%Y%m%d%H%M%S"), seconds: civil.unix_seconds(), utc: false }
    }

    /// Whether it names UTC by itself.
    pub fn is_utc(&self) -> bool {
        self.utc
    }

    /// The instant, on a host that is `utc_offset` seconds ahead of UTC; the offset does not matter where this is in UTC.
    pub fn instant(&self, utc_offset: i32) -> Timestamp {
        let offset = if self.utc { 0 } else { i64::from(utc_offset) };
        Timestamp::from_unix_seconds(self.seconds.saturating_sub(offset))
    }

    /// The text as it stands between the quotes.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for ExpiryTime {
    type Err = ExpiryTimeError;

    /// Reads what OpenSSH reads. As there, a day that its month does not have (up to the 31st) runs over into the next
    /// month, and seconds run to 61.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ExpiryTimeError(text.to_owned());
        let (digits, utc) = match text.as_bytes() {
            [digits @ .., b'Z' | b'z'] => (digits, true),
            [digits @ .., u, t, c] if [u, t, c].into_iter().map(u8::to_ascii_uppercase).eq(*b"UTC") => (digits, true),
            digits => (digits, false),
        };
        if !matches!(digits.len(), 8 | 12 | 14) || !digits.iter().all(u8::is_ascii_digit) {
            return Err(error());
        }
        let number = |from: usize, to: usize| {
            digits.get(from..to).unwrap_or_default().iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        };
        let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
        let (hour, minute, second) = (number(8, 10), number(10, 12), number(12, 14));
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 61 {
            return Err(error());
        }
        let seconds = days_before(year, month) * DAY + (day - 1) * DAY + hour * 3600 + minute * 60 + second;
        Ok(Self { text: text.to_owned(), seconds, utc })
    }
}

/// Days from 1970-01-01 to the first of `month` in the Gregorian calendar.
fn days_before(year: i64, month: i64) -> i64 {
    // Years begin in March here, so that the leap day is the last of them.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 - 719_468
}

impl fmt::Display for ExpiryTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_sshd_8() {
        // GNU date -u -d … +%s
        for (text, seconds) in [
            ("20261123Z", 1_795_392_000),
            ("202611230100Z", 1_795_395_600),
            ("20261123010000Z", 1_795_395_600),
            ("20261123010000z", 1_795_395_600),
            ("20261123010000utc", 1_795_395_600),
            ("20240229235960Z", 1_709_251_200),
            ("20230231Z", 1_677_801_600),
            ("19691231235959Z", -1),
        ] {
            let time: ExpiryTime = text.parse().unwrap();
            assert_eq!(time.instant(7200).unix_seconds(), seconds, "{text}");
            assert_eq!(time.to_string(), text);
        }
        let local: ExpiryTime = "20261123010000".parse().unwrap();
        assert!(!local.is_utc());
        assert_eq!(local.instant(3600).unix_seconds(), 1_795_392_000);
    }

    #[test]
    fn what_openssh_refuses() {
        for text in [
            "",
            "Z",
            "UTC",
            "2026",
            "2026112",
            "202611230",
            "20261323Z",
            "20261100Z",
            "20261132Z",
            "202611232400Z",
            "202611230060Z",
            "20261123005962Z",
            "20261123010000ZZ",
            "20261123T0100Z",
            "2026-11-23",
            "20261123010000+0100",
            " 20261123",
            "２０２６１１２３",
        ] {
            assert!(text.parse::<ExpiryTime>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_written_and_read_back(seconds in any::<i64>(), offset in -86_400..86_400_i32) {
            let at = Timestamp::from_unix_seconds(seconds);
            let utc = ExpiryTime::utc(at);
            prop_assert_eq!(utc.as_str().parse(), Ok(utc.clone()));
            prop_assert_eq!(utc.instant(offset), at);
            let at = Timestamp::from_unix_seconds(seconds.rem_euclid(200_000_000_000));
            let local = ExpiryTime::local(at, offset);
            prop_assert_eq!(local.as_str().parse(), Ok(local.clone()));
            prop_assert_eq!(local.instant(offset), at);
        }
    }
}
