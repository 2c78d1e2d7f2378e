//! From the readable scripts beside this file to what is pasted. `build.rs` runs it: here it is compiled for its tests alone.

/// What [`condense`] takes for a part that is not asked for begins with this and ends with [`END`].
const IF: &str = "#if ";
const END: &str = "#fi";

/// The script on one line: without comments, indentation and the blanks around operators; of the parts between `#if NAME`
/// and `#fi` only those whose name is in `parts`. The scripts are written for it: see the head of `install.sh`.
pub(crate) fn condense(source: &str, parts: &[&str]) -> String {
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
}
