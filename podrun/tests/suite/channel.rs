//! Channels, as RFC 4254 §6 has them, in the order that clients see.

use proptest::prelude::*;
use toehold_podrun::Signal;
use toehold_podrun::channel::{Channel, ChannelAction, ChannelEvent, ChannelRequest, Channels, Terminal, Wanted};
use toehold_podrun::exec::{Outcome, TerminalSize};

const SIZE: TerminalSize = TerminalSize { columns: 80, rows: 24 };
const LARGER: TerminalSize = TerminalSize { columns: 132, rows: 50 };

fn ask(channel: &mut Channel, request: ChannelRequest) -> Vec<ChannelAction> {
    channel.handle(ChannelEvent::Requested { request, want_reply: true })
}

fn environment(name: &str, value: &str) -> ChannelRequest {
    ChannelRequest::Environment { name: name.to_owned(), value: value.into() }
}

fn terminal() -> ChannelRequest {
    ChannelRequest::PseudoTerminal(Terminal { kind: "xterm".to_owned(), size: SIZE })
}

fn command(line: &str) -> ChannelRequest {
    ChannelRequest::Run(Wanted::Command(line.into()))
}

fn running(request: ChannelRequest) -> Channel {
    let mut channel = Channel::new();
    assert!(matches!(ask(&mut channel, request)[..], [ChannelAction::Reply(true), ChannelAction::Start(_)]));
    channel.handle(ChannelEvent::Started);
    channel
}

const FAILED: [ChannelAction; 1] = [ChannelAction::Reply(false)];
const ACCEPTED: [ChannelAction; 1] = [ChannelAction::Reply(true)];

#[test]
fn what_was_set_up_reaches_the_command() {
    let mut channel = Channel::new();
    assert_eq!(ask(&mut channel, environment("LANG", "C")), ACCEPTED);
    assert_eq!(ask(&mut channel, environment("LANG", "de_DE")), ACCEPTED);
    assert_eq!(ask(&mut channel, terminal()), ACCEPTED);
    assert_eq!(ask(&mut channel, ChannelRequest::WindowChange(LARGER)), ACCEPTED, "before the start as well");
    let actions = ask(&mut channel, ChannelRequest::Run(Wanted::Shell));
    let [ChannelAction::Reply(true), ChannelAction::Start(start)] = &actions[..] else { panic!("{actions:?}") };
    let set: Vec<_> = start.environment.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(set, [("LANG", &b"de_DE"[..]), ("TERM", b"xterm")]);
    assert_eq!(start.terminal, Some(LARGER));
}

#[test]
fn requests_out_of_order_are_refused_and_change_nothing() {
    let mut channel = running(command("make"));
    let before = channel.clone();
    for late in [
        environment("A", "b"),
        terminal(),
        ChannelRequest::Run(Wanted::Shell),
        command("other"),
        ChannelRequest::Run(Wanted::Subsystem("sftp".to_owned())),
        ChannelRequest::WindowChange(SIZE),
        ChannelRequest::Signal("NOSUCH".to_owned()),
    ] {
        assert_eq!(ask(&mut channel, late.clone()), FAILED, "{late:?}");
    }
    assert_eq!(channel, before);
    let mut open = Channel::new();
    assert_eq!(ask(&mut open, ChannelRequest::Signal("TERM".to_owned())), FAILED);
    assert_eq!(ask(&mut open, ChannelRequest::WindowChange(SIZE)), FAILED, "there is no terminal");
    assert_eq!(ask(&mut open, terminal()), ACCEPTED);
    assert_eq!(ask(&mut open, terminal()), FAILED, "one is enough");
    let silent = ChannelEvent::Requested { request: environment("9", "x"), want_reply: false };
    assert_eq!(open.handle(silent), [], "no answer where none is wanted");
}

/// One that a shell can just be given runs, and a longer one is refused with a reason, not by a bare failure.
#[test]
fn a_line_that_no_shell_can_be_given_is_refused_with_words() {
    let line = |bytes: usize| ChannelRequest::Run(Wanted::Command(vec![b'x'; bytes]));
    running(line(131_071));
    let mut channel = Channel::new();
    let actions = ask(&mut channel, line(131_072));
    let [ChannelAction::Reply(true), ChannelAction::WriteError(words), rest @ ..] = &actions[..] else { panic!("{actions:?}") };
    assert!(words.contains("131072 bytes") && words.contains("131071") && words.len() < 300, "{words}");
    assert_eq!(rest, [ChannelAction::ExitStatus(126), ChannelAction::SendEof, ChannelAction::Close]);
    assert!(channel.is_closed());
    let nul = ChannelRequest::Run(Wanted::Command(vec![0; 131_072]));
    assert_eq!(ask(&mut Channel::new(), nul), FAILED, "no client sends that");
}

#[test]
fn the_exit_status_goes_before_the_end_of_file() {
    for (outcome, status) in [
        (Outcome::Exited(0), 0),
        (Outcome::Exited(42), 42),
        (Outcome::Exited(200), 200),
        (Outcome::Unknown, 255),
        (Outcome::NotFound(String::new()), 127),
        (Outcome::NotExecutable(String::new()), 126),
    ] {
        let actions = running(command("x")).handle(ChannelEvent::Ended(outcome.clone()));
        let end = [ChannelAction::ExitStatus(status), ChannelAction::SendEof, ChannelAction::Close];
        assert!(actions.ends_with(&end), "{actions:?}");
        let said = matches!(actions[0], ChannelAction::WriteError(_));
        assert_eq!(said, !matches!(outcome, Outcome::Exited(_)), "what went wrong is said, and first");
    }
}

#[test]
fn who_is_ended_from_outside_is_told_why_and_never_with_zero() {
    let failed = || ChannelEvent::Ended(Outcome::Failed("the connection was idle for too long".to_owned()));
    let status = [ChannelAction::ExitStatus(255), ChannelAction::SendEof, ChannelAction::Close];
    let said = |mut channel: Channel| {
        let mut actions = channel.handle(failed());
        assert_eq!(actions[1..], status);
        match actions.remove(0) {
            ChannelAction::WriteError(line) => line,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said(running(command("make"))), "make: it was ended: the connection was idle for too long");
    // One that never ran was not ended.
    let mut starting = Channel::new();
    ask(&mut starting, command("make"));
    assert!(said(starting).contains("cannot be run"));
}

#[test]
fn death_by_a_signal_is_told_as_one() {
    let ended = |mut channel: Channel, code| channel.handle(ChannelEvent::Ended(Outcome::Exited(code))).remove(0);
    assert_eq!(ended(running(command("x")), 137), ChannelAction::ExitSignal(Signal::Kill));
    assert_eq!(ended(running(command("x")), 143), ChannelAction::ExitSignal(Signal::Term));
    assert_eq!(ended(running(command("x")), 139), ChannelAction::ExitSignal(Signal::Segv));
    // What programs end with by themselves: git where it was called wrongly, scripts after an interrupt, for a pipe.
    for code in [129, 130, 131, 138, 140, 141, 142, 255] {
        assert_eq!(ended(running(command("x")), code), ChannelAction::ExitStatus(code.into()));
    }
    // A shell in which something was interrupted ends with 130 by itself.
    assert_eq!(ended(running(ChannelRequest::Run(Wanted::Shell)), 130), ChannelAction::ExitStatus(130));
    let mut shell = running(ChannelRequest::Run(Wanted::Shell));
    let sent = ask(&mut shell, ChannelRequest::Signal("INT".to_owned()));
    assert_eq!(sent, [ChannelAction::Reply(true), ChannelAction::SendSignal(Signal::Int)]);
    assert_eq!(ended(shell, 130), ChannelAction::ExitSignal(Signal::Int));
}

#[test]
fn half_a_connection_may_close_at_any_time() {
    let mut channel = Channel::new();
    assert_eq!(channel.handle(ChannelEvent::InputEnded), []);
    ask(&mut channel, command("cat"));
    assert_eq!(channel.handle(ChannelEvent::Started), [ChannelAction::CloseInput], "what ended before the start");
    let mut channel = running(command("cat"));
    assert_eq!(channel.handle(ChannelEvent::InputEnded), [ChannelAction::CloseInput]);
    assert_eq!(channel.handle(ChannelEvent::InputEnded), [], "once");
    assert!(channel.is_running(), "its output goes on");
}

#[test]
fn what_closes_its_output_and_lives_on_is_told_so_and_its_end_later() {
    let mut channel = running(command("exec >&- 2>&-; sleep 2; exit 3"));
    assert_eq!(channel.handle(ChannelEvent::OutputEnded), [ChannelAction::SendEof]);
    assert_eq!(channel.handle(ChannelEvent::OutputEnded), [], "once");
    assert!(channel.is_running());
    assert_eq!(channel.handle(ChannelEvent::InputEnded), [ChannelAction::CloseInput], "its input goes on");
    let ended = channel.clone().handle(ChannelEvent::Ended(Outcome::Exited(3)));
    assert_eq!(ended, [ChannelAction::ExitStatus(3), ChannelAction::Close]);
    // After the end of file no words can follow, and the status can.
    let lost = channel.handle(ChannelEvent::Ended(Outcome::Failed("the pod was deleted".to_owned())));
    assert_eq!(lost, [ChannelAction::ExitStatus(255), ChannelAction::Close]);
    assert_eq!(Channel::new().handle(ChannelEvent::OutputEnded), []);
}

#[test]
fn what_nobody_waits_for_is_ended() {
    let mut channel = running(command("sleep 600"));
    assert_eq!(channel.handle(ChannelEvent::Closed), [ChannelAction::EndProcess, ChannelAction::Close]);
    assert_eq!(channel.handle(ChannelEvent::Ended(Outcome::Exited(0))), []);
    let mut early = Channel::new();
    ask(&mut early, command("sleep 600"));
    assert_eq!(early.handle(ChannelEvent::Closed), [ChannelAction::EndProcess, ChannelAction::Close]);
    assert_eq!(early.handle(ChannelEvent::Started), [ChannelAction::EndProcess], "it was under way");
}

#[test]
fn the_environment_has_limits() {
    let mut channel = Channel::new();
    assert_eq!(ask(&mut channel, environment("LARGE", &"x".repeat(70_000))), FAILED);
    for number in 0..256 {
        assert_eq!(ask(&mut channel, environment(&format!("A{number}"), "x")), ACCEPTED);
    }
    assert_eq!(ask(&mut channel, environment("ONE_MORE", "x")), FAILED);
    assert_eq!(ask(&mut channel, environment("A1", "y")), ACCEPTED, "to set one again is none more");
    for name in ["", "A B", "IFS", "BASH_ENV", "1A", "A=B"] {
        assert_eq!(ask(&mut Channel::new(), environment(name, "x")), FAILED, "{name}");
    }
    assert_eq!(ask(&mut Channel::new(), command("a\0b")), FAILED);
}

#[test]
fn several_channels_live_side_by_side() {
    let mut channels = Channels::new(3);
    assert!((1..=3).all(|number| channels.open(number)));
    assert!(!channels.open(4), "there are enough");
    assert!(!channels.open(1));
    let run = |line: &str| ChannelEvent::Requested { request: command(line), want_reply: false };
    for number in 1..=3 {
        assert_eq!(channels.handle(number, run("x")).len(), 1);
        channels.handle(number, ChannelEvent::Started);
    }
    assert_eq!(channels.handle(2, ChannelEvent::Ended(Outcome::Exited(5)))[0], ChannelAction::ExitStatus(5));
    assert_eq!(channels.len(), 2);
    assert_eq!(channels.handle(2, run("late")), []);
    let lost = ChannelEvent::Ended(Outcome::Failed("the pod was deleted".to_owned()));
    let told = channels.handle_all(&lost);
    assert_eq!(told.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    assert!(told.iter().all(|(_, actions)| actions.contains(&ChannelAction::ExitStatus(255))));
    assert!(channels.is_empty());
}

fn events() -> impl Strategy<Value = ChannelEvent> {
    let request = prop_oneof![
        ("[A-Z]{0,3}", ".{0,5}").prop_map(|(name, value)| environment(&name, &value)),
        Just(terminal()),
        Just(ChannelRequest::Run(Wanted::Shell)),
        Just(command("x")),
        Just(ChannelRequest::WindowChange(LARGER)),
        Just(ChannelRequest::Signal("HUP".to_owned())),
    ];
    prop_oneof![
        6 => (request, any::<bool>()).prop_map(|(request, want_reply)| ChannelEvent::Requested { request, want_reply }),
        1 => Just(ChannelEvent::InputEnded),
        1 => Just(ChannelEvent::Closed),
        2 => Just(ChannelEvent::Started),
        1 => Just(ChannelEvent::OutputEnded),
        2 => (0_u8..=255).prop_map(|code| ChannelEvent::Ended(Outcome::Exited(code))),
        1 => Just(ChannelEvent::Ended(Outcome::Unknown)),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_a_channel_keeps_to_the_order(list in proptest::collection::vec(events(), 0..40)) {
        let mut channel = Channel::new();
        let (mut starts, mut closes, mut statuses, mut eofs) = (0, 0, 0, 0);
        let mut early = 0;
        for event in list {
            let is_early = event == ChannelEvent::OutputEnded;
            let replies = matches!(event, ChannelEvent::Requested { want_reply: true, .. }) && !channel.is_closed();
            let actions = channel.handle(event);
            prop_assert_eq!(actions.iter().filter(|a| matches!(a, ChannelAction::Reply(_))).count(), usize::from(replies));
            for action in actions {
                match action {
                    ChannelAction::Start(_) => starts += 1,
                    ChannelAction::ExitStatus(_) | ChannelAction::ExitSignal(_) => { statuses += 1; prop_assert_eq!(eofs, early); }
                    ChannelAction::WriteError(_) => prop_assert_eq!(eofs, 0, "nothing to read after the end"),
                    ChannelAction::SendEof => { eofs += 1; early += u32::from(is_early); }
                    ChannelAction::Close => closes += 1,
                    ChannelAction::EndProcess => {}
                    _ => prop_assert_eq!(closes, 0, "nothing after the close"),
                }
            }
            prop_assert!(starts <= 1 && closes <= 1 && statuses <= 1 && eofs <= 1);
            prop_assert_eq!(channel.is_closed(), closes == 1);
        }
    }
}
