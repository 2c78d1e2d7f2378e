//! One gzip member (RFC 1952), and nothing behind it.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::ArchiveError;

/// The most bytes that the header's texts may have.
const MAX_HEADER: usize = 64 * 1024;
/// Bytes unpacked at a time.
const WINDOW: usize = 32 * 1024;

pub(super) struct Gunzip {
    state: State,
    inflate: Decompress,
    crc: Crc,
    window: Box<[u8]>,
}

impl std::fmt::Debug for Gunzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gunzip").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum State {
    /// The header so far.
    Header(Vec<u8>),
    Body,
    Trailer(Vec<u8>),
    End,
}

impl Gunzip {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header(Vec::new()),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            window: vec![0; WINDOW].into_boxed_slice(),
        }
    }

    /// Takes a piece and gives out what it unpacks to.
    pub(super) fn push(
        &mut self,
        mut piece: &[u8],
        out: &mut dyn FnMut(&[u8]) -> Result<(), ArchiveError>,
    ) -> Result<(), ArchiveError> {
        while !piece.is_empty() {
            match &mut self.state {
                State::Header(header) => {
                    let before = header.len();
                    header.extend_from_slice(piece.get(..piece.len().min(MAX_HEADER)).unwrap_or_default());
                    match header_length(header)? {
                        Some(length) => {
                            piece = piece.get(length.saturating_sub(before)..).unwrap_or_default();
                            self.state = State::Body;
                        }
                        None if header.len() > MAX_HEADER => return Err(ArchiveError::Gzip("its header is too long")),
                        None => piece = piece.get(header.len() - before..).unwrap_or_default(),
                    }
                }
                State::Body => {
                    let (read, written) = (self.inflate.total_in(), self.inflate.total_out());
                    let status = self
                        .inflate
                        .decompress(piece, &mut self.window, FlushDecompress::None)
                        .map_err(|_| ArchiveError::Gzip("it is damaged"))?;
                    let read = usize::try_from(self.inflate.total_in() - read).unwrap_or_default();
                    let written = usize::try_from(self.inflate.total_out() - written).unwrap_or_default();
                    let bytes = self.window.get(..written).unwrap_or_default();
                    self.crc.update(bytes);
                    out(bytes)?;
                    piece = piece.get(read..).unwrap_or_default();
                    if status == Status::StreamEnd {
                        self.state = State::Trailer(Vec::with_capacity(8));
                    } else if read == 0 && written == 0 {
                        return Err(ArchiveError::Gzip("it is damaged"));
                    }
                }
                State::Trailer(trailer) => {
                    let missing = 8 - trailer.len();
                    let taken = piece.get(..missing.min(piece.len())).unwrap_or_default();
                    trailer.extend_from_slice(taken);
                    piece = piece.get(taken.len()..).unwrap_or_default();
                    if let Some((crc, size)) = trailer.split_first_chunk::<4>().filter(|_| trailer.len() == 8) {
                        if u32::from_le_bytes(*crc) != self.crc.sum() {
                            return Err(ArchiveError::Gzip("its check sum (CRC-32) is wrong"));
                        }
                        if size != self.crc.amount().to_le_bytes() {
                            return Err(ArchiveError::Gzip("its length is wrong"));
                        }
                        self.state = State::End;
                    }
                }
                State::End => return Err(ArchiveError::Gzip("there is something behind its end")),
            }
        }
        self.drain(out)
    }

    /// What is still inside when a piece is used up: inflate holds back what did not fit into the window.
    fn drain(&mut self, out: &mut dyn FnMut(&[u8]) -> Result<(), ArchiveError>) -> Result<(), ArchiveError> {
        while matches!(self.state, State::Body) {
            let written = self.inflate.total_out();
            let status = self.inflate.decompress(&[], &mut self.window, FlushDecompress::None);
            let written = usize::try_from(self.inflate.total_out() - written).unwrap_or_default();
            let bytes = self.window.get(..written).unwrap_or_default();
            self.crc.update(bytes);
            out(bytes)?;
            match status {
                Ok(Status::StreamEnd) => self.state = State::Trailer(Vec::with_capacity(8)),
                Ok(_) if written > 0 => {}
                Ok(_) => break,
                // Nothing to go on with: more input has to come.
                Err(error) if error.needs_dictionary().is_none() && written == 0 => break,
                Err(_) => return Err(ArchiveError::Gzip("it is damaged")),
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), ArchiveError> {
        match self.state {
            State::End => Ok(()),
            _ => Err(ArchiveError::Gzip("it is cut short")),
        }
    }
}

/// The length of a header that is complete; `None` for one that is not.
fn header_length(header: &[u8]) -> Result<Option<usize>, ArchiveError> {
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    const HEADER_CRC: u8 = 2;
    let Some(fixed) = header.first_chunk::<10>() else {
        let magic = [0x1f, 0x8b, 8];
        return if header.iter().zip(magic).all(|(a, b)| *a == b) { Ok(None) } else { Err(ArchiveError::Gzip("it is not gzip")) };
    };
    let [0x1f, 0x8b, 8, flags, ..] = *fixed else { return Err(ArchiveError::Gzip("it is not gzip")) };
    if flags & 0xe0 != 0 {
        return Err(ArchiveError::Gzip("its header has flags that mean nothing"));
    }
    let mut at = 10;
    if flags & EXTRA != 0 {
        let Some(length) = header.get(at..).and_then(|rest| rest.first_chunk::<2>()) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes(*length));
    }
    for flag in [NAME, COMMENT] {
        if flags & flag != 0 {
            let Some(rest) = header.get(at..) else { return Ok(None) };
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { return Ok(None) };
            at += end + 1;
        }
    }
    if flags & HEADER_CRC != 0 {
        let Some(stored) = header.get(at..).and_then(|rest| rest.first_chunk::<2>()) else { return Ok(None) };
        let mut crc = Crc::new();
        crc.update(header.get(..at).unwrap_or_default());
        let [low, high, ..] = crc.sum().to_le_bytes();
        if *stored != [low, high] {
            return Err(ArchiveError::Gzip("its header's check sum is wrong"));
        }
        at += 2;
    }
    Ok((header.len() >= at).then_some(at))
}
