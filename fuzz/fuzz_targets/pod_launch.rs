//! The supervisor's stdin and its answer: every line of a preamble is plain and short, whatever is in it; any output is judged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toehold_core::SecretBytes;
use toehold_podrun::supervisor::{Epilogue, FileToWrite, Launch, Preface, PrefaceState};

fuzz_target!(|parts: (String, Vec<u8>, String, Vec<u8>, Vec<Vec<u8>>, Vec<u8>)| {
    let (name, value, path, content, arguments, answer) = parts;
    let Ok(nonce) = "0123456789abcdef0123456789abcdef".parse() else { return };
    let mut launch = Launch::new(nonce, arguments);
    if let Ok(name) = name.parse() {
        launch.environment.push((name, SecretBytes::new(value)));
    }
    if let Ok(path) = path.parse() {
        launch.files.push(FileToWrite { path, mode: 0o600, content: SecretBytes::new(content) });
    }
    if let Ok(preamble) = launch.preamble() {
        let text = preamble.expose();
        assert!(text.ends_with(b"g \n"));
        for line in text.split(|byte| *byte == b'\n') {
            assert!(line.len() <= 1024 && line.iter().all(|byte| (b' '..=b'~').contains(byte)));
        }
    }
    let mut preface = Preface::new(nonce, 0);
    if let PrefaceState::Ready { output_from, .. } = preface.receive(&answer) {
        assert!(output_from <= answer.len());
    }
    // Whatever is cut where, nothing but what the shell says is taken out.
    let (mut whole, mut cut, mut one, mut two) = (Epilogue::new(nonce), Epilogue::new(nonce), Vec::new(), Vec::new());
    let told = whole.receive(&answer, &mut one);
    one.extend(whole.rest());
    let (first, second) = answer.split_at(answer.len() / 2);
    let told_in_two = cut.receive(first, &mut two).or(cut.receive(second, &mut two));
    two.extend(cut.rest());
    assert_eq!((told, &one), (told_in_two, &two));
    assert!(told.is_some() || one == answer);
});
