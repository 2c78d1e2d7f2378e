//! What is run for a shell, a command line and a subsystem: as `sshd` does, the whole line goes to the user's shell with `-c`.

use crate::config::Settings;

/// The shell where the operator has named none, and the image has it.
const DEFAULT_SHELL: &str = "/bin/bash";

/// Characters that mean something to a shell. A line with one of them cannot be run without one.
const SYNTAX: &str = "|&;<>()$`\\\"'*?[]#~=%!{}^\n\r\t\0";

/// What a client asked to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A command line (`exec`), any bytes.
    Command(Vec<u8>),
    /// The user's shell (`shell`).
    Shell,
    /// A subsystem by its name.
    Subsystem(String),
}

/// How it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// By the supervisor ([`Launch`](crate::supervisor::Launch)): program and arguments.
    Supervised {
        /// Program and arguments.
        arguments: Vec<Vec<u8>>,
        /// Whether `/bin/sh` may take the place of the program.
        or_sh: bool,
    },
    /// Without any shell, and so without environment, files and signals: the words of the exec themselves. They will stand in the
    /// cluster's audit log.
    Direct(Vec<String>),
}

/// Why a line cannot be run in an image without a shell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NeedsShell {
    /// There is something in it that only a shell understands.
    #[error("the image has no shell, and the command line needs one (it has \"{}\")", .0.escape_default())]
    Syntax(char),
    /// A shell was asked for.
    #[error("the image has no shell")]
    Interactive,
    /// The line is not UTF-8, or empty.
    #[error("the image has no shell, and the command line is not plain text")]
    NotText,
}

/// What is run in an image with a shell; `None` for a subsystem that is not configured.
pub fn plan(settings: &Settings, wanted: &Wanted) -> Option<Plan> {
    let or_sh = settings.shell_command.is_none();
    let default = [DEFAULT_SHELL.to_owned()];
    let shell = settings.shell_command.as_deref().unwrap_or(&default);
    let with_line = |line: &[u8]| {
        let program = shell.first().map_or(DEFAULT_SHELL, String::as_str);
        Plan::Supervised { arguments: vec![program.into(), b"-c".to_vec(), line.to_vec()], or_sh }
    };
    Some(match wanted {
        Wanted::Shell => Plan::Supervised { arguments: shell.iter().map(|word| word.clone().into_bytes()).collect(), or_sh },
        Wanted::Command(line) if settings.split_path_commands && line.starts_with(b"/") => {
            Plan::Direct(String::from_utf8_lossy(line).split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect())
        }
        Wanted::Command(line) => with_line(line),
        Wanted::Subsystem(name) => with_line(settings.subsystems.get(name)?.as_bytes()),
    })
}

/// What is run where the image turned out to have no shell: a line without shell syntax, split at blanks.
///
/// # Errors
/// [`NeedsShell`] where that would mean something else than a shell would have made of it.
pub fn plan_without_shell(settings: &Settings, wanted: &Wanted) -> Result<Plan, NeedsShell> {
    let line = match wanted {
        Wanted::Shell => return Err(NeedsShell::Interactive),
        Wanted::Command(line) => std::str::from_utf8(line).map_err(|_| NeedsShell::NotText)?,
        Wanted::Subsystem(name) => settings.subsystems.get(name).map(String::as_str).ok_or(NeedsShell::NotText)?,
    };
    if let Some(character) = line.chars().find(|c| SYNTAX.contains(*c) || c.is_control()) {
        return Err(NeedsShell::Syntax(character));
    }
    let words: Vec<String> = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.is_empty() { Err(NeedsShell::NotText) } else { Ok(Plan::Direct(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn settings(text: &str) -> Settings {
        Config::parse(text).unwrap().validate().unwrap()
    }

    fn supervised(words: &[&str], or_sh: bool) -> Plan {
        Plan::Supervised { arguments: words.iter().map(|word| word.as_bytes().to_vec()).collect(), or_sh }
    }

    #[test]
    fn the_whole_line_goes_to_the_shell() {
        let line = "/bin/echo a; /bin/echo b";
        let wanted = Wanted::Command(line.into());
        assert_eq!(plan(&settings("{}"), &wanted), Some(supervised(&["/bin/bash", "-c", line], true)));
        let own = settings(r#"{"pod": {"shellCommand": ["/bin/zsh", "-l"]}}"#);
        assert_eq!(plan(&own, &wanted), Some(supervised(&["/bin/zsh", "-c", line], false)));
        assert_eq!(plan(&own, &Wanted::Shell), Some(supervised(&["/bin/zsh", "-l"], false)));
        let seed = settings(r#"{"pod": {"splitPathCommands": true}}"#);
        let split = ["/bin/echo", "a;", "/bin/echo", "b"].map(str::to_owned).to_vec();
        assert_eq!(plan(&seed, &wanted), Some(Plan::Direct(split)), "the original's way, where it is wanted");
        assert_eq!(plan(&seed, &Wanted::Command("echo a".into())), Some(supervised(&["/bin/bash", "-c", "echo a"], true)));
    }

    #[test]
    fn a_subsystem_is_one_that_is_configured() {
        let sftp = "/usr/lib/openssh/sftp-server";
        assert_eq!(plan(&settings("{}"), &Wanted::Subsystem("sftp".into())), Some(supervised(&["/bin/bash", "-c", sftp], true)));
        assert_eq!(plan(&settings("{}"), &Wanted::Subsystem("netconf".into())), None);
    }

    #[test]
    fn without_a_shell_only_plain_lines_are_run() {
        let settings = settings("{}");
        let words = ["/app", "--serve", "80"].map(str::to_owned).to_vec();
        assert_eq!(plan_without_shell(&settings, &Wanted::Command("/app  --serve 80".into())), Ok(Plan::Direct(words)));
        for (line, character) in [("a; b", ';'), ("a $B", '$'), ("a 'b c'", '\''), ("A=1 b", '='), ("a\nb", '\n'), ("a *", '*')] {
            let refused = plan_without_shell(&settings, &Wanted::Command(line.into()));
            assert_eq!(refused, Err(NeedsShell::Syntax(character)));
        }
        assert_eq!(plan_without_shell(&settings, &Wanted::Shell), Err(NeedsShell::Interactive));
        assert_eq!(plan_without_shell(&settings, &Wanted::Command(vec![0xff])), Err(NeedsShell::NotText));
        assert_eq!(plan_without_shell(&settings, &Wanted::Command(b" ".to_vec())), Err(NeedsShell::NotText));
    }
}
