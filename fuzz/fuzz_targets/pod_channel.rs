//! A session channel: whatever a client asks in whatever order, one start, one end, and nothing after it.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use toehold_podrun::channel::{Channel, ChannelAction, ChannelEvent, ChannelRequest, Terminal, Wanted};
use toehold_podrun::exec::{Outcome, TerminalSize};

#[derive(Arbitrary, Debug)]
enum Step {
    Environment(String, Vec<u8>),
    Terminal(String, u16, u16),
    Shell,
    Command(Vec<u8>),
    Subsystem(String),
    Signal(String),
    Window(u16, u16),
    InputEnded,
    Closed,
    Started,
    OutputEnded,
    Ended(u8),
    Lost,
}

fn event(step: Step) -> ChannelEvent {
    let request = match step {
        Step::Environment(name, value) => ChannelRequest::Environment { name, value },
        Step::Terminal(kind, columns, rows) => {
            ChannelRequest::PseudoTerminal(Terminal { kind, size: TerminalSize { columns, rows } })
        }
        Step::Shell => ChannelRequest::Run(Wanted::Shell),
        Step::Command(line) => ChannelRequest::Run(Wanted::Command(line)),
        Step::Subsystem(name) => ChannelRequest::Run(Wanted::Subsystem(name)),
        Step::Signal(name) => ChannelRequest::Signal(name),
        Step::Window(columns, rows) => ChannelRequest::WindowChange(TerminalSize { columns, rows }),
        Step::InputEnded => return ChannelEvent::InputEnded,
        Step::Closed => return ChannelEvent::Closed,
        Step::Started => return ChannelEvent::Started,
        Step::OutputEnded => return ChannelEvent::OutputEnded,
        Step::Ended(code) => return ChannelEvent::Ended(Outcome::Exited(code)),
        Step::Lost => return ChannelEvent::Ended(Outcome::Unknown),
    };
    ChannelEvent::Requested { request, want_reply: true }
}

fuzz_target!(|steps: Vec<Step>| {
    let mut channel = Channel::new();
    let (mut starts, mut ends, mut eof) = (0, 0, false);
    for step in steps {
        let is_early = matches!(step, Step::OutputEnded);
        for action in channel.handle(event(step)) {
            assert!(ends == 0 || action == ChannelAction::EndProcess, "nothing after the close");
            match action {
                ChannelAction::Start(_) => starts += 1,
                // One that was told while it lived had its output closed.
                ChannelAction::SendEof => eof = !is_early,
                ChannelAction::ExitStatus(_) | ChannelAction::ExitSignal(_) => assert!(!eof),
                ChannelAction::Close => ends += 1,
                _ => {}
            }
        }
    }
    assert!(starts <= 1 && ends <= 1);
});
