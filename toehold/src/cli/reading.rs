//! Reading the command line of this process.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use super::agent_args::Agent;
use super::args::{Cli, Command, Global, Spec};

/// The part of the grammar that a machine needs which is looked after. It reads these commands as the whole does; its texts are seen
/// by nobody.
#[derive(Debug, Parser)]
#[command(name = "toehold", disable_help_subcommand = true)]
struct OnNode {
    #[command(subcommand)]
    command: NodeCommand,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "one of it lives for a moment")]
enum NodeCommand {
    #[command(subcommand)]
    Agent(Agent),
    #[command(subcommand)]
    Spec(Spec),
}

impl From<OnNode> for Cli {
    fn from(OnNode { command, global }: OnNode) -> Self {
        let command = match command {
            NodeCommand::Agent(command) => Command::Agent(command),
            NodeCommand::Spec(command) => Command::Spec(command),
        };
        Self { command, global }
    }
}

/// Reads it. What the grammar of all commands takes, over half a megabyte, stays in memory for as long as the process lives: too much
/// for what runs on a small node. What is no command of a node, or is wrong, or asks for help, is read by the whole.
///
/// # Errors
/// What is wrong with it, or what it asks to be told.
pub fn read(arguments: impl IntoIterator<Item = OsString> + Clone) -> Result<Cli, clap::Error> {
    OnNode::try_parse_from(arguments.clone()).map(Cli::from).or_else(|_| Cli::try_parse_from(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_part_is_sound_and_has_each_of_its_commands_as_the_whole_has_it() {
        OnNode::command().debug_assert();
        let (mut part, mut whole) = (OnNode::command(), Cli::command());
        for name in ["agent", "spec"] {
            let told = |command: &mut clap::Command| {
                let below = command.find_subcommand_mut(name).unwrap();
                let names: Vec<String> = below.get_subcommands().map(|command| command.get_name().to_owned()).collect();
                names.iter().map(|name| below.find_subcommand_mut(name).unwrap().render_long_help().to_string()).collect()
            };
            let (of_part, of_whole): (Vec<String>, Vec<String>) = (told(&mut part), told(&mut whole));
            assert!(!of_part.is_empty());
            assert_eq!(of_part, of_whole, "{name}");
        }
    }

    #[test]
    fn each_line_is_read_as_by_the_whole_grammar() {
        let lines = [
            "toehold spec apply list.json --root /srv/machines --public-key \
             64031219d4922eed63a5f567303e98607c632139c01bc9fa4ca2514c2d9d30da --interval 1m",
            "toehold --json -vv spec apply --name web --root /srv/machines --gateway --purge-unknown",
            "toehold spec match true --state-dir /var/lib/toehold",
            "toehold agent ping",
            "toehold host ls --json",
            "toehold spec apply",
            "toehold spec",
            "toehold spec apply --help",
            "toehold agent nothing",
            "toehold --version",
            "toehold",
        ];
        for line in lines {
            let told = |read: Result<Cli, clap::Error>| read.map(|cli| format!("{cli:?}")).map_err(|error| error.to_string());
            assert_eq!(told(read(words(line))), told(Cli::try_parse_from(words(line))), "{line}");
        }
        assert!(OnNode::try_parse_from(words(lines[0])).is_ok());
    }
}
