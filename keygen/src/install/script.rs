//! From the readable scripts beside this file to what is pasted, and the quoting of values.

/// What [`condense`] takes for a part that is not asked for begins with this and ends with [`END`].
const IF: &str = "#if ";
const END: &str = "#fi";

/// The script on one line: without comments, indentation and the blanks around operators; of the parts between `#if NAME`
/// and `#fi` only those whose name is in `parts`. The scripts are written for it: see the head of `install.sh`.
pub(super) fn condense(source: &str, parts: &[&str]) -> String {
    let mut line = String::with_capacity(source.len());
    let mut wanted = true;
    for text in source.lines().map(str::trim) {
        if let Some(part) = text.strip_prefix(IF) {
            wanted = parts.contains(&part);
        } else if text == END {
            wanted = true;
        } else if wanted && !text.is_empty() && !text.starts_with('#') {
            if !line.is_empty() && !line.ends_with([';', '|', '&']) {
                line.push(' ');
            }
            line.push_str(text);
        }
    }
    for operator in [";", "||", "&&", "|"] {
        line = line.replace(&format!(" {operator}"), operator).replace(&format!("{operator} "), operator);
    }
    for (long, short) in [("*) ", "*)"), ("() {", "(){"), ("\" >", "\">"), ("} >", "}>"), (") e \"", ")e \"")] {
        line = line.replace(long, short);
    }
    line
}

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
    fn comments_blanks_and_unwanted_parts_go() {
        let source = "# head\nset -u;\n#if a\nif x; then\n  y || z;\nfi;\n#fi\n#if b\nb;\n#fi\n{ c |\nd; } && e;\n";
        assert_eq!(condense(source, &["a"]), "set -u;if x;then y||z;fi;{ c|d;}&&e;");
        assert_eq!(condense(source, &["b"]), "set -u;b;{ c|d;}&&e;");
    }

    #[test]
    fn the_scripts_keep_the_rules_that_condensing_relies_on() {
        for source in [include_str!("install.sh"), include_str!("remove.sh")] {
            for line in source.lines().filter(|line| !line.trim_start().starts_with('#')) {
                assert!(!line.contains(['\'', '\t']), "{line}");
                assert!(line.is_ascii(), "{line}");
            }
        }
    }

    #[test]
    fn quoting_is_left_out_only_where_it_means_nothing() {
        assert_eq!(quote("/srv/home/a.b-c_d"), "/srv/home/a.b-c_d");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("~root"), "'~root'");
        assert_eq!(quote("it's $(x)"), r"'it'\''s $(x)'");
    }
}
