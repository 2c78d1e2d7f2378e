//! Terminals, and the OpenSSH client on one of ours.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::gateway::{Pods, Session, fed};
use crate::support::Done;

fn terminal(columns: u16, rows: u16) -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    resize(&ours, columns, rows);
    let theirs = ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    (File::from(ours), theirs)
}

fn resize(terminal: &impl std::os::fd::AsFd, columns: u16, rows: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

#[test]
fn a_terminal_has_the_clients_size_and_follows_it() {
    let pods = Pods::start();
    let (mut ours, theirs) = terminal(91, 17);
    let mut command = pods.ssh_with(&["-tt"], "tty >/dev/null && stty size; read word; n=0; \
                until [ \"$(stty size)\" = '50 132' ] || [ $((n += 1)) = 1000 ]; do sleep 0.02; done; stty size; echo \"$TERM $word\"; exit 42");
    command.stdin(Stdio::from(theirs)).env("TERM", "xterm-256color");
    let mut session = Session::start(command);
    assert_eq!(session.line(), "17 91");
    resize(&ours, 132, 50);
    session.signal(Signal::WINCH);
    // The client may send this before the new size.
    ours.write_all(b"typed\n").unwrap();
    let mut line = session.line();
    if line == "typed" {
        line = session.line();
    }
    assert_eq!(line, "50 132");
    let done = session.ends();
    assert_eq!((done.code, done.stdout.trim_end()), (42, "xterm-256color typed"), "{done:?}");
}

#[test]
fn a_shell_that_people_type_into_ends_as_they_say() {
    let pods = Pods::start();
    let mut command = pods.ssh_with(&["-tt"], "");
    command.env("TERM", "dumb");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"stty -echo; echo $((40 + 2)) from $0; exit 42\n").unwrap();
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let code = child.wait().unwrap().code();
    drop(stdin);
    assert_eq!(code, Some(42), "{stdout}");
    assert!(stdout.contains("42 from"), "{stdout}");
    // Without a terminal as well, which nothing of what is typed reaches.
    let done = fed(
        {
            let mut ssh = pods.ssh("");
            ssh.arg("-T");
            ssh
        },
        b"echo plain\nexit 0\n",
    );
    assert_eq!(done, b"plain\n");
}

#[test]
fn an_interrupt_that_is_typed_reaches_what_runs_in_front() {
    let pods = Pods::start();
    let (mut ours, theirs) = terminal(80, 24);
    let mut command = pods.ssh_with(&["-tt"], "trap 'echo interrupted; exit 9' INT; echo ready; sleep 600");
    command.stdin(Stdio::from(theirs));
    let mut session = Session::start(command);
    assert_eq!(session.line(), "ready");
    ours.write_all(&[3]).unwrap();
    let done: Done = session.ends();
    assert_eq!(done.code, 9, "{done:?}");
    assert!(done.stdout.contains("interrupted"), "{done:?}");
}
