//! What tells the line of a grant from any other line with the same key.

use crate::authorized_keys::KeyLine;

/// What the comment on the line of a time-limited grant begins with; the grant's id follows.
///
/// A key may stand in a file several times: for good, and for any number of grants. The comment says which line is whose.
pub const GRANT_COMMENT_PREFIX: &str = "toehold-grant:";

/// Whether the line is that of a grant. Whoever acts on "the lines with this key" leaves such a line alone: it is its grant's
/// to take away, and has its own end.
pub fn is_grant(line: &KeyLine<'_>) -> bool {
    line.comment().starts_with(GRANT_COMMENT_PREFIX.as_bytes())
}
