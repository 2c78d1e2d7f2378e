//! The quoting of values for a shell.

/// `value` as one word of a POSIX shell, literally: as it is where nothing in it means anything to a shell, else in single
/// quotes (XCU §2.2.2).
pub(super) fn quote(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._:@%+,-".contains(&b);
    if !value.is_empty() && value.bytes().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Whether a person can paste `value` as part of one line: no control character, for a terminal acts on them, and nothing
/// that some program takes for the end of a line or leaves out.
pub(super) fn pastable(value: &str) -> bool {
    !value.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_left_out_only_where_it_means_nothing() {
        assert_eq!(quote("/srv/home/a.b-c_d"), "/srv/home/a.b-c_d");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("~root"), "'~root'");
        assert_eq!(quote("it's $(x)"), r"'it'\''s $(x)'");
    }
}
