//! What comes before a command's own output: the supervisor's answer.

use super::leash::ProcessNumber;
use crate::name::Nonce;

/// The byte that stands around the answer (record separator). A terminal echoes it as `^^`, so that an echo is never an answer.
const MARK: u8 = 0x1e;

/// The longest answer.
const MAX_ANSWER: usize = 128;

/// How far the start of a command is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefaceState {
    /// It has not said anything yet; what came was an echo and is dropped.
    Waiting,
    /// The command runs. What follows in the same bytes is its output.
    Ready {
        /// The process, which leads its session and process group; with [`Launch::TELL_END`](super::Launch::TELL_END) it is the shell beside
        /// the command.
        process: ProcessNumber,
        /// Where in the bytes just taken the command's own output begins.
        output_from: usize,
    },
    /// The command does not run. The exec ends by itself.
    Failed(&'static str),
    /// The command does not run, since this one of its files, counted from 0, cannot be written. The exec ends by itself.
    FileFailed(usize),
}

/// Reads the supervisor's answer out of the exec's stdout.
#[derive(Debug)]
pub struct Preface {
    nonce: Nonce,
    dropped: usize,
    limit: usize,
    answer: Option<Vec<u8>>,
}

impl Preface {
    /// For the start with this nonce, whose preamble has so many bytes: a terminal may echo all of it.
    pub fn new(nonce: Nonce, preamble: usize) -> Self {
        Self { nonce, dropped: 0, limit: preamble.saturating_mul(2).saturating_add(64 * 1024), answer: None }
    }

    /// Takes the next bytes of stdout. Not to be called after anything but [`PrefaceState::Waiting`].
    pub fn receive(&mut self, bytes: &[u8]) -> PrefaceState {
        for (place, byte) in bytes.iter().enumerate() {
            match (&mut self.answer, *byte) {
                (None, MARK) => self.answer = Some(Vec::with_capacity(MAX_ANSWER)),
                (None, _) => {
                    self.dropped += 1;
                    if self.dropped > self.limit {
                        return PrefaceState::Failed("the image's shell prints without end");
                    }
                }
                (Some(answer), MARK) => {
                    let answer = std::mem::take(answer);
                    match self.judge(&answer, place + 1) {
                        Some(state) => return state,
                        // Not ours: what it closes may open the next.
                        None => self.answer = Some(Vec::with_capacity(MAX_ANSWER)),
                    }
                }
                (Some(answer), byte) => {
                    if answer.len() < MAX_ANSWER {
                        answer.push(byte);
                    } else {
                        self.dropped += answer.len();
                        self.answer = None;
                    }
                }
            }
        }
        PrefaceState::Waiting
    }

    fn judge(&self, answer: &[u8], output_from: usize) -> Option<PrefaceState> {
        let text = std::str::from_utf8(answer).ok()?;
        let mut words = text.split(' ');
        if words.next() != Some("toehold") {
            return None;
        }
        let nonce = words.next()?;
        let state = match (words.next()?, words.next()?) {
            ("ready", number) if nonce == self.nonce.to_string() => {
                let process = number.parse().ok().and_then(ProcessNumber::new)?;
                PrefaceState::Ready { process, output_from }
            }
            // One that never got as far as the nonce has none.
            ("failed", what) if nonce == self.nonce.to_string() || nonce == "0" => failure(what),
            _ => return None,
        };
        words.next().is_none().then_some(state)
    }
}

fn failure(what: &str) -> PrefaceState {
    // They are counted from 1 there.
    if let Some(file) = what.strip_prefix("file").and_then(|number| number.parse::<usize>().ok()?.checked_sub(1)) {
        return PrefaceState::FileFailed(file);
    }
    PrefaceState::Failed(match what {
        "home" => "the image has no home directory for a file that belongs to the login",
        "printf" => "the image's shell has no printf",
        "short" => "the connection to the pod broke off",
        _ => "the image's shell does not understand the gateway",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preface() -> Preface {
        Preface::new("0123456789abcdef0123456789abcdef".parse().unwrap(), 100)
    }

    const READY: &[u8] = b"n 0123\r\n^^junk\x1etoehold 0123456789abcdef0123456789abcdef ready 42\x1ehello";

    #[test]
    fn the_answer_is_found_however_it_is_cut_and_the_echo_is_dropped() {
        for cut in 0..READY.len() - 6 {
            let mut preface = preface();
            let (first, second) = READY.split_at(cut);
            assert_eq!(preface.receive(first), PrefaceState::Waiting, "{cut}");
            let PrefaceState::Ready { process, output_from } = preface.receive(second) else { panic!("{cut}") };
            assert_eq!((process.to_string().as_str(), &second[output_from..]), ("42", &b"hello"[..]));
        }
    }

    #[test]
    fn another_starts_answer_is_none() {
        let mut preface = preface();
        let other = b"\x1etoehold ffffffffffffffffffffffffffffffff ready 42\x1e";
        assert_eq!(preface.receive(other), PrefaceState::Waiting);
        assert_eq!(preface.receive(b"\x1etoehold 0123456789abcdef0123456789abcdef ready 1\x1e"), PrefaceState::Waiting);
        assert!(matches!(preface.receive(READY), PrefaceState::Ready { .. }));
    }

    #[test]
    fn which_file_could_not_be_written_is_told() {
        let failed =
            |what: &str| preface().receive(format!("\x1etoehold 0123456789abcdef0123456789abcdef failed {what}\x1e").as_bytes());
        assert_eq!(failed("file1"), PrefaceState::FileFailed(0));
        assert_eq!(failed("file12"), PrefaceState::FileFailed(11));
        for other in ["file", "file0", "file-1", "home", "what"] {
            assert!(matches!(failed(other), PrefaceState::Failed(_)), "{other}");
        }
    }

    #[test]
    fn an_endless_echo_is_a_failure() {
        let mut preface = preface();
        let state = (0..100).map(|_| preface.receive(&[b'x'; 4096])).find(|state| *state != PrefaceState::Waiting);
        assert!(matches!(state, Some(PrefaceState::Failed(_))));
    }
}
