//! The install line as cloud-init user data.

use zeroize::Zeroizing;

use super::command::CommandLine;
use super::quote::quote;

/// Ends the here-document that feeds the line to the user's shell; no install line is this word.
const END: &str = "END-OF-TOEHOLD";

/// A `#cloud-config` whose `runcmd` feeds `line` to a `sh` of `user`. The line stands in a literal block of YAML and in a
/// quoted here-document, so that neither changes a byte of it, and the secret is in nobody's arguments. Debian, Ubuntu and
/// Alpine all have a `su` with `-s`.
pub(super) fn user_data(user: &str, line: &CommandLine) -> CommandLine {
    let user = quote(user);
    let before = format!("#cloud-config\nruncmd:\n  - |\n    su -s /bin/sh {user} <<'{END}'\n    ");
    let after = format!("\n    {END}\n");
    let mut text = Zeroizing::new(String::with_capacity(before.len() + line.expose().len() + after.len()));
    text.push_str(&before);
    text.push_str(line.expose());
    text.push_str(&after);
    CommandLine::new(text)
}
