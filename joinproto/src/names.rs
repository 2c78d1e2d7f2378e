//! Which names are well-formed, as Opni has them.

/// A client's id: 1 to 128 letters, digits, `-`, `_`, `.`, `(` and `)`, and not dots alone.
pub(crate) fn is_client_id(text: &str) -> bool {
    text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.()".contains(c)) && text.chars().any(|c| c != '.')
}

/// A friendly name: 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit.
pub(crate) fn is_friendly_name(text: &str) -> bool {
    is_name(text, 64, "-_.")
}

/// A label's name: up to 64 letters, digits, `-`, `_`, `.` and `/`, the first a letter or digit.
pub(crate) fn is_label_name(text: &str) -> bool {
    is_name(text, 64, "-_./")
}

/// A label's value: as a friendly name.
pub(crate) fn is_label_value(text: &str) -> bool {
    is_friendly_name(text)
}

fn is_name(text: &str, max: usize, others: &str) -> bool {
    text.len() <= max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}
