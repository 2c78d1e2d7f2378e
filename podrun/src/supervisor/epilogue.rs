//! What comes after a command's own output: how it ended, by the shell that has stayed beside it.

use crate::name::Nonce;

/// The byte that stands around it (record separator).
const MARK: u8 = 0x1e;

/// The most digits of an exit code.
const DIGITS: usize = 3;

/// Finds in an exec's stderr what the shell says there once the command has ended ([`Launch::TELL_END`](super::Launch::TELL_END)).
///
/// All else is the command's own, and is handed on as it is. Only an end that may be the beginning of what the shell says is kept back until
/// more comes.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// Up to the exit code.
    head: Vec<u8>,
    held: Vec<u8>,
}

/// How far bytes agree with what the shell says.
enum Agreement {
    None,
    /// As far as they go.
    SoFar,
    /// So many of them are it, and this is the exit code.
    Whole(usize, u8),
}

impl Epilogue {
    /// Of the start with this nonce.
    pub fn new(nonce: Nonce) -> Self {
        Self { head: format!("\u{1e}toehold {nonce} ended ").into_bytes(), held: Vec::new() }
    }

    /// Whether these bytes are the command's own and nothing is kept back: what nearly all are.
    pub fn is_plain(&self, bytes: &[u8]) -> bool {
        self.held.is_empty() && !bytes.contains(&MARK)
    }

    /// Takes the next bytes of stderr. What is the command's own goes to `own`; the exit code is there once the shell has told it. Death by a
    /// signal is 128 and its number.
    pub fn receive(&mut self, bytes: &[u8], own: &mut Vec<u8>) -> Option<u8> {
        self.held.extend_from_slice(bytes);
        let mut told = None;
        let mut from = 0;
        while let Some(place) = self.held.iter().skip(from).position(|byte| *byte == MARK).map(|place| from + place) {
            own.extend_from_slice(self.held.get(from..place).unwrap_or_default());
            from = place;
            match self.agreement(self.held.get(place..).unwrap_or_default()) {
                Agreement::Whole(length, code) => {
                    told = told.or(Some(code));
                    from += length;
                }
                Agreement::SoFar => {
                    self.held.drain(..place);
                    return told;
                }
                Agreement::None => {
                    own.push(MARK);
                    from += 1;
                }
            }
        }
        own.extend_from_slice(self.held.get(from..).unwrap_or_default());
        self.held.clear();
        told
    }

    /// What was kept back, when nothing more comes: it is the command's own.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn agreement(&self, bytes: &[u8]) -> Agreement {
        let head = self.head.len().min(bytes.len());
        if bytes.get(..head) != self.head.get(..head) {
            return Agreement::None;
        }
        let rest = bytes.get(head..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        match rest.get(digits) {
            None if digits <= DIGITS => Agreement::SoFar,
            Some(&MARK) => {
                let code = rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                code.map_or(Agreement::None, |code| Agreement::Whole(head + digits + 1, code))
            }
            _ => Agreement::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epilogue() -> Epilogue {
        Epilogue::new("0123456789abcdef0123456789abcdef".parse().unwrap())
    }

    const TOLD: &[u8] = b"before\x1e\x1e\x1etoehold 0123456789abcdef0123456789abcdef ended 137\x1eafter";

    #[test]
    fn the_end_is_found_however_it_is_cut_and_all_else_is_handed_on() {
        for first in 0..TOLD.len() {
            for second in first..TOLD.len() {
                let (mut epilogue, mut own) = (epilogue(), Vec::new());
                let pieces = [&TOLD[..first], &TOLD[first..second], &TOLD[second..]];
                let told: Vec<u8> = pieces.into_iter().filter_map(|piece| epilogue.receive(piece, &mut own)).collect();
                assert_eq!((told, own.as_slice()), (vec![137], &b"before\x1e\x1eafter"[..]), "{first} {second}");
                assert!(epilogue.rest().is_empty());
            }
        }
    }

    #[test]
    fn what_only_looks_like_it_is_the_commands_own() {
        for other in [
            &b"\x1etoehold ffffffffffffffffffffffffffffffff ended 0\x1e"[..],
            b"\x1etoehold 0123456789abcdef0123456789abcdef ended 256\x1e",
            b"\x1etoehold 0123456789abcdef0123456789abcdef ended \x1e",
            b"\x1etoehold 0123456789abcdef0123456789abcdef ended 1234",
            b"\x1etoehold 0123456789abcdef0123456789abcdef ended 1 \x1e",
            b"\x1etoehold 0123456789abcdef0123456789abcdef ready 42\x1e.",
        ] {
            let (mut epilogue, mut own) = (epilogue(), Vec::new());
            assert_eq!(epilogue.receive(other, &mut own), None);
            own.extend(epilogue.rest());
            assert_eq!(own, other);
        }
    }

    #[test]
    fn only_what_may_be_its_beginning_is_kept_back() {
        let (mut epilogue, mut own) = (epilogue(), Vec::new());
        assert!(epilogue.is_plain(b"anything"));
        assert_eq!(epilogue.receive(b"a\x1eb\x1etoehold 01", &mut own), None);
        assert_eq!(own, b"a\x1eb");
        assert!(!epilogue.is_plain(b"anything"));
        assert_eq!(epilogue.rest(), b"\x1etoehold 01");
    }
}
