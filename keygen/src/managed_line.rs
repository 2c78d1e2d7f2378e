//! What the comment of a managed line says of where the line came from.

use crate::authorized_keys::KeyLine;

/// What begins the word in the comment of a master key's line that says which rotation wrote it; the number follows.
///
/// A store that was restored from a backup knows of fewer rotations than its hosts have seen, and this tells it.
pub const GENERATION_COMMENT_PREFIX: &str = "toehold-generation=";

/// The number of the rotation that wrote the line, as its comment says; `None` where it does not. Of several, the highest.
pub fn generation(line: &KeyLine<'_>) -> Option<u64> {
    let comment = str::from_utf8(line.comment()).ok()?;
    let numbers = comment.split_ascii_whitespace().filter_map(|word| word.strip_prefix(GENERATION_COMMENT_PREFIX)?.parse().ok());
    numbers.max()
}
