//! What a person sees at a terminal, and what is typed there. `script` gives the terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::{FOREIGN, Inside, Toehold};

/// A program at a terminal; ended when it is dropped.
struct Terminal {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: ChildStdout,
    /// All that was shown so far.
    shown: String,
}

impl Terminal {
    /// Runs a shell command that has `toehold` in `$T`.
    fn run(toehold: &Toehold, command: &str) -> Self {
        let mut child = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", command, "/dev/null"])
            .env("T", env!("CARGO_BIN_EXE_toehold"))
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm")
            .env("TOEHOLD_STATE_DIR", toehold.state())
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script runs (apt-get install bsdutils)");
        let (keyboard, screen) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, keyboard, screen, shown: String::new() }
    }

    /// Waits until the screen shows this, behind what an earlier wait has seen. Returns what was shown up to it.
    #[track_caller]
    fn shows(&mut self, words: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.shown.find(words) {
                let rest = self.shown.split_off(at + words.len());
                return std::mem::replace(&mut self.shown, rest);
            }
            let read = self.screen.read(&mut buffer).unwrap();
            assert!(read > 0, "it ended without \"{words}\": {}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    fn types(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).and_then(|()| keyboard.flush()).unwrap();
    }

    /// Waits for its end; returns the rest of what was shown, and the exit code.
    fn ends(mut self) -> (String, i32) {
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (std::mem::take(&mut self.shown) + &String::from_utf8_lossy(&rest), code)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `host add` of this host, to be typed into a shell.
fn host_add(host: &Inside, more: &str) -> String {
    let file = host.host_key_file();
    format!("\"$T\" host add {} --home {} --host-key-file {} {more}", host.account(), host.home(), file.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_stands_alone_and_can_be_pasted_as_it_is_shown() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let mut terminal = Terminal::run(&toehold, &host_add(&host, ""));
    let mut shown = terminal.shows("\n echo ");
    assert!(shown.contains("Paste this line"), "{shown}");
    shown = " echo ".to_owned() + &terminal.shows("\r\n");
    let line = shown.trim_end_matches(['\r', '\n']);
    assert!(line.len() > 3000 && !line.contains(char::is_control), "{line}");
    let waiting = terminal.shows("waiting for the line to be run");
    assert!(!waiting.contains("echo "), "shown twice: {waiting}");
    let pasted = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(pasted.status.success(), "{pasted:?}");
    let (rest, code) = terminal.ends();
    assert!(code == 0 && rest.contains("is managed") && !rest.contains("\n echo "), "{code}: {rest}");
    host.is_managed(&toehold);
}

#[tokio::test(flavor = "multi_thread")]
async fn host_key_asked_a_question_is_answered_by_yes_or_no_and_nothing_else() {
    let (toehold, host) = (Toehold::new(), Inside::start().await);
    let fingerprint = host.host_key().fingerprint().to_string();
    for (answer, code) in [("no", 3), ("yes", 0)] {
        let mut terminal = Terminal::run(&toehold, &host_add(&host, "--ask --via sh"));
        let question = terminal.shows("[yes/no] ");
        assert!(question.contains(&fingerprint), "{question}");
        for other in ["maybe", "", "yess", "SHA256:x"] {
            terminal.types(&format!("{other}\n"));
            terminal.shows("Answer yes or no.");
            assert!(!host.ours().contains("toehold-master"), "something of value was sent on \"{other}\"");
        }
        terminal.types(&format!("{answer}\n"));
        let (rest, ended) = terminal.ends();
        assert!(ended == code || (answer == "no" && ended == 1), "{answer}: {ended}: {rest}");
        assert_eq!(rest.contains("is managed"), answer == "yes", "{rest}");
        if answer == "no" {
            assert_eq!(host.ours(), "", "as_it_was");
            assert_eq!(fs::read(host.authorized_keys_file()).unwrap(), FOREIGN);
        }
    }
    assert!(host.ours().contains("toehold-master"));
}

#[test]
fn a_passphrase_is_not_shown_and_ctrl_c_gives_the_terminal_back() {
    let toehold = Toehold::bare();
    let mut terminal = Terminal::run(&toehold, "\"$T\" init --passphrase");
    let mut seen = terminal.shows("New passphrase for the identity: ");
    terminal.types("open sesame\n");
    seen += &terminal.shows("The same again: ");
    terminal.types("open sesame\n");
    let (rest, code) = terminal.ends();
    seen += &rest;
    assert!(code == 0 && !seen.contains("sesame"), "{code}: {seen}");

    // A wrong one is refused in words.
    let mut terminal = Terminal::run(&toehold, "\"$T\" session recover");
    terminal.shows("Passphrase of ");
    terminal.shows(": ");
    terminal.types("open barley\n");
    let (rest, code) = terminal.ends();
    assert!(code == 1 && rest.contains("passphrase") && !rest.contains("barley"), "{code}: {rest}");

    let mut terminal = Terminal::run(&toehold, "trap : INT; \"$T\" session recover; echo \"ended $?\"; stty -a");
    terminal.shows("Passphrase of ");
    terminal.shows(": ");
    terminal.types("open");
    terminal.types("\u{3}");
    let (rest, _) = terminal.ends();
    assert!(rest.contains("ended ") && !rest.contains("ended 0"), "{rest}");
    assert!(rest.contains(" echo ") && !rest.contains("-echo "), "the terminal stays silent: {rest}");
}
