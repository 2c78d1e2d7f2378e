//! One session channel (RFC 4254 §6): what was set up, what runs, how it ends.

use std::collections::BTreeMap;

use super::command::Wanted;
use crate::exec::{Outcome, TerminalSize};
use crate::kubernetes::cleaned;
use crate::signal::Signal;
use crate::supervisor::{EnvironmentName, MAX_ENVIRONMENT};

/// How many variables a channel may set.
pub const MAX_VARIABLES: usize = 256;

/// The longest command line, in bytes: what Linux takes as one argument.
pub const MAX_COMMAND: usize = 128 * 1024 - 1;

/// How much of one that is too long is shown, in bytes.
const MAX_SHOWN: usize = 60;

/// All names and values together that a client may set, in bytes: room is kept for `TERM`.
pub const MAX_SET: usize = MAX_ENVIRONMENT - 512;

/// A terminal that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// What `TERM` is to be.
    pub kind: String,
    /// Its size.
    pub size: TerminalSize,
}

/// What a client asks of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelRequest {
    /// `env` (§6.4).
    Environment {
        /// The variable's name.
        name: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// `pty-req` (§6.2).
    PseudoTerminal(Terminal),
    /// `shell`, `exec` or `subsystem` (§6.5).
    Run(Wanted),
    /// `signal` (§6.9), by its name without `SIG`.
    Signal(String),
    /// `window-change` (§6.7).
    WindowChange(TerminalSize),
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// The client asks for something.
    Requested {
        /// For what.
        request: ChannelRequest,
        /// Whether it wants an answer.
        want_reply: bool,
    },
    /// The client has sent its last input (EOF, §5.3).
    InputEnded,
    /// The client has closed the channel, or its connection is gone.
    Closed,
    /// What was to be started runs.
    Started,
    /// All output of what runs was handed on, and none follows, though it lives on.
    OutputEnded,
    /// What was started, or could not be, is over, and all of its output was handed on.
    Ended(Outcome),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelAction {
    /// Answer the request: success or failure.
    Reply(bool),
    /// Start this; [`ChannelEvent::Started`] or [`ChannelEvent::Ended`] follows.
    Start(Start),
    /// Tell the process's terminal its size.
    Resize(TerminalSize),
    /// Close the process's stdin. Its output goes on.
    CloseInput,
    /// Send the process this signal.
    SendSignal(Signal),
    /// Nobody is there any more: end the process.
    EndProcess,
    /// Write this line to the client's stderr.
    WriteError(String),
    /// `exit-status` (§6.10). Before the end of file, since clients that stop reading there would miss it; but for a process that had closed its
    /// output long before it ended.
    ExitStatus(u32),
    /// `exit-signal` (§6.10).
    ExitSignal(Signal),
    /// Send EOF.
    SendEof,
    /// Close the channel. Nothing follows.
    Close,
}

/// What is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// What the client asked for.
    pub wanted: Wanted,
    /// The environment that it set, `TERM` included.
    pub environment: BTreeMap<EnvironmentName, Vec<u8>>,
    /// The size of the terminal, if there is to be one.
    pub terminal: Option<TerminalSize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Being set up.
    Open,
    /// Asked to start.
    Starting(Running),
    /// It runs.
    Running(Running),
    /// Closed.
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    command: String,
    /// A shell that people type into: its exit status may well be 130 because of what was interrupted in it before.
    interactive: bool,
    /// The last signal that was sent to it.
    signalled: Option<Signal>,
}

/// A session channel. Feed it [`ChannelEvent`]s, do what [`Channel::handle`] says; bytes of input and output pass it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    state: State,
    environment: BTreeMap<EnvironmentName, Vec<u8>>,
    environment_bytes: usize,
    terminal: Option<Terminal>,
    input_ended: bool,
    /// Whether the client was told that no output follows: then nothing may.
    output_ended: bool,
}

impl Channel {
    /// A channel that was just opened. Whether `subsystem` names are known is the caller's to say
    /// ([`plan`](super::plan)): it answers [`ChannelRequest::Run`] of unknown ones with failure itself.
    pub fn new() -> Self {
        let environment = BTreeMap::new();
        Self { state: State::Open, environment, environment_bytes: 0, terminal: None, input_ended: false, output_ended: false }
    }

    /// Whether the channel is closed on our side; it can be forgotten.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether something runs or is being started.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Starting(_) | State::Running(_))
    }

    /// Takes an event; what comes back is to be done in this order. Any event is taken in any state: what is out of order is
    /// answered with failure or passed over, and changes nothing.
    pub fn handle(&mut self, event: ChannelEvent) -> Vec<ChannelAction> {
        match event {
            ChannelEvent::Requested { request, want_reply } => {
                if self.state == State::Closed {
                    return Vec::new();
                }
                let (accepted, actions) = self.request(request);
                let reply = want_reply.then_some(ChannelAction::Reply(accepted));
                reply.into_iter().chain(actions).collect()
            }
            ChannelEvent::InputEnded => self.input_ended(),
            ChannelEvent::Closed => match std::mem::replace(&mut self.state, State::Closed) {
                State::Closed => Vec::new(),
                State::Open => vec![ChannelAction::Close],
                State::Starting(_) | State::Running(_) => vec![ChannelAction::EndProcess, ChannelAction::Close],
            },
            ChannelEvent::Started => self.started(),
            ChannelEvent::OutputEnded => {
                let now = matches!(self.state, State::Running(_)) && !self.output_ended;
                self.output_ended |= now;
                now.then_some(ChannelAction::SendEof).into_iter().collect()
            }
            ChannelEvent::Ended(outcome) => self.ended(&outcome),
        }
    }

    fn request(&mut self, request: ChannelRequest) -> (bool, Vec<ChannelAction>) {
        const REFUSED: (bool, Vec<ChannelAction>) = (false, Vec::new());
        match (request, &mut self.state) {
            (ChannelRequest::Environment { name, value }, State::Open) => (self.set(&name, value), Vec::new()),
            (ChannelRequest::PseudoTerminal(terminal), State::Open) if self.terminal.is_none() => {
                let fits = terminal.kind.len() <= 256 && !terminal.kind.contains('\0');
                if fits {
                    self.terminal = Some(terminal);
                }
                (fits, Vec::new())
            }
            (ChannelRequest::Run(wanted), State::Open) => {
                let command = match &wanted {
                    Wanted::Command(line) if line.contains(&0) => return REFUSED,
                    Wanted::Command(line) if line.len() > MAX_COMMAND => {
                        self.state = State::Closed;
                        return (true, too_long(line));
                    }
                    Wanted::Command(line) => String::from_utf8_lossy(line).chars().take(200).collect(),
                    Wanted::Shell => "shell".to_owned(),
                    Wanted::Subsystem(name) => name.chars().take(200).collect(),
                };
                let interactive = wanted == Wanted::Shell;
                self.state = State::Starting(Running { command, interactive, signalled: None });
                (true, vec![ChannelAction::Start(self.start(wanted))])
            }
            (ChannelRequest::WindowChange(size), state) => {
                let Some(terminal) = &mut self.terminal else { return REFUSED };
                terminal.size = size;
                let now = matches!(state, State::Running(_));
                (true, now.then_some(ChannelAction::Resize(size)).into_iter().collect())
            }
            (ChannelRequest::Signal(name), State::Running(running)) => match name.parse() {
                Ok(signal) => {
                    running.signalled = Some(signal);
                    (true, vec![ChannelAction::SendSignal(signal)])
                }
                Err(_) => REFUSED,
            },
            _ => REFUSED,
        }
    }

    fn set(&mut self, name: &str, value: Vec<u8>) -> bool {
        let Ok(name) = name.parse::<EnvironmentName>() else { return false };
        let replaced = self.environment.get(&name).map_or(0, |old| name.as_str().len() + old.len());
        let bytes = self.environment_bytes - replaced + name.as_str().len() + value.len();
        let new = replaced == 0 && !self.environment.contains_key(&name);
        if value.contains(&0) || bytes > MAX_SET || (new && self.environment.len() >= MAX_VARIABLES) {
            return false;
        }
        self.environment_bytes = bytes;
        self.environment.insert(name, value);
        true
    }

    fn start(&mut self, wanted: Wanted) -> Start {
        let mut environment = std::mem::take(&mut self.environment);
        self.environment_bytes = 0;
        if let Some(terminal) = &self.terminal
            && !terminal.kind.is_empty()
            && let Ok(name) = "TERM".parse()
        {
            environment.insert(name, terminal.kind.clone().into_bytes());
        }
        Start { wanted, environment, terminal: self.terminal.as_ref().map(|terminal| terminal.size) }
    }

    fn input_ended(&mut self) -> Vec<ChannelAction> {
        let first = !std::mem::replace(&mut self.input_ended, true);
        let now = first && matches!(self.state, State::Running(_));
        now.then_some(ChannelAction::CloseInput).into_iter().collect()
    }

    fn started(&mut self) -> Vec<ChannelAction> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Starting(running) => {
                self.state = State::Running(running);
                // The window may have changed meanwhile; to tell a size again does no harm.
                let size = self.terminal.as_ref().map(|terminal| ChannelAction::Resize(terminal.size));
                let input = self.input_ended.then_some(ChannelAction::CloseInput);
                size.into_iter().chain(input).collect()
            }
            // The client has left in the meantime.
            State::Closed => vec![ChannelAction::EndProcess],
            state => {
                self.state = state;
                Vec::new()
            }
        }
    }

    fn ended(&mut self, outcome: &Outcome) -> Vec<ChannelAction> {
        let (running, words) = match std::mem::replace(&mut self.state, State::Closed) {
            State::Starting(running) => {
                let words = outcome.words(&running.command);
                (running, words)
            }
            State::Running(running) => {
                let words = outcome.words_of_running(&running.command);
                (running, words)
            }
            State::Closed => return Vec::new(),
            State::Open => {
                // The pod is gone before anything was asked of it.
                let words = outcome.words("session").map(ChannelAction::WriteError);
                return words.into_iter().chain([ChannelAction::SendEof, ChannelAction::Close]).collect();
            }
        };
        let is_heard = !self.output_ended;
        let mut actions: Vec<_> = words.filter(|_| is_heard).map(ChannelAction::WriteError).into_iter().collect();
        actions.push(match exit_signal(outcome, &running) {
            Some(signal) => ChannelAction::ExitSignal(signal),
            None => ChannelAction::ExitStatus(outcome.exit_status()),
        });
        actions.extend(is_heard.then_some(ChannelAction::SendEof));
        actions.push(ChannelAction::Close);
        actions
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self::new()
    }
}

/// What is said of a line that no shell can be given, and how it ends: as a shell says it of a command, with 126. A mere refusal would be shown by
/// clients without a reason.
fn too_long(line: &[u8]) -> Vec<ChannelAction> {
    let start = String::from_utf8_lossy(line.get(..MAX_SHOWN).unwrap_or(line));
    let words = format!(
        "{}…: argument list too long: the command line has {} bytes, and {MAX_COMMAND} are the most that a shell can be given",
        cleaned(&start),
        line.len()
    );
    let status = Outcome::NotExecutable(String::new()).exit_status();
    vec![ChannelAction::WriteError(words), ChannelAction::ExitStatus(status), ChannelAction::SendEof, ChannelAction::Close]
}

/// A cluster tells death by a signal as an exit code of 128 and its number, which programs also end with by themselves: git with 129 where
/// it was called wrongly, a script with 130 after an interrupt or with 141 for a pipe. So it is taken for a signal where that was sent
/// through this channel, and otherwise, for a command, where it is one that hardly any program ends with of its own.
fn exit_signal(outcome: &Outcome, running: &Running) -> Option<Signal> {
    let Outcome::Exited(code) = outcome else { return None };
    let signal = Signal::from_exit_code(*code)?;
    let is_a_death = matches!(signal, Signal::Abrt | Signal::Fpe | Signal::Ill | Signal::Kill | Signal::Segv | Signal::Term);
    (running.signalled == Some(signal) || is_a_death && !running.interactive).then_some(signal)
}
