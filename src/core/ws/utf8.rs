//! UTF-8 that arrives in pieces: valid so far, complete, or wrong at the first octet that no continuation can mend.
//!
//! The bulk of each piece goes through the standard library's validator, which has a fast path for ASCII; only a sequence cut
//! by the end of a piece is walked octet by octet.

/// The octets are no UTF-8, whatever follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// Validates text in pieces.
///
/// ```text
///            lead octet of n+1                continuation in `next`
///  complete ──────────────────► n are due ─────────────────────────► n − 1 are due ──► … ──► complete
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Validator {
    /// Continuation octets that are due.
    due: u8,
    /// What the next of them may be, both ends included.
    next: (u8, u8),
}

const CONTINUATION: (u8, u8) = (0x80, 0xbf);

impl Default for Validator {
    fn default() -> Self {
        Self { due: 0, next: CONTINUATION }
    }
}

impl Validator {
    /// Takes the next piece.
    ///
    /// # Errors
    /// The text cannot be UTF-8 any more.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), Invalid> {
        while self.due > 0 {
            let Some((octet, rest)) = piece.split_first() else { return Ok(()) };
            self.step(*octet)?;
            piece = rest;
        }
        let Err(error) = std::str::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        piece[error.valid_up_to()..].iter().try_for_each(|octet| self.step(*octet))
    }

    /// Whether no sequence is cut: the text may end here.
    pub fn is_complete(&self) -> bool {
        self.due == 0
    }

    /// One octet (the table of RFC 3629 §4).
    fn step(&mut self, octet: u8) -> Result<(), Invalid> {
        if self.due > 0 {
            if octet < self.next.0 || octet > self.next.1 {
                return Err(Invalid);
            }
            *self = Self { due: self.due - 1, next: CONTINUATION };
            return Ok(());
        }
        (self.due, self.next) = match octet {
            0x00..=0x7f => (0, CONTINUATION),
            0xc2..=0xdf => (1, CONTINUATION),
            0xe0 => (2, (0xa0, 0xbf)),
            0xed => (2, (0x80, 0x9f)),
            0xe1..=0xef => (2, CONTINUATION),
            0xf0 => (3, (0x90, 0xbf)),
            0xf1..=0xf3 => (3, CONTINUATION),
            0xf4 => (3, (0x80, 0x8f)),
            _ => return Err(Invalid),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the standard library says of all of it: valid, cut at its end, or wrong.
    fn judged_at_once(bytes: &[u8]) -> Result<bool, Invalid> {
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(true),
            Err(error) => error.error_len().map_or(Ok(false), |_| Err(Invalid)),
        }
    }

    fn judged_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<bool, Invalid> {
        let mut validator = Validator::default();
        pieces.into_iter().try_for_each(|piece| validator.push(piece))?;
        Ok(validator.is_complete())
    }

    #[test]
    fn every_lead_octet_with_every_second_is_judged_as_by_the_standard_library() {
        for first in 0..=255 {
            for second in 0..=255 {
                for tail in [&[][..], &[0x80], &[0x80, 0x80], &[0xbf, 0x41], &[0x80, 0xc0]] {
                    let bytes = [&[first, second][..], tail].concat();
                    let expected = judged_at_once(&bytes);
                    assert_eq!(judged_in_pieces([&bytes[..]]), expected, "{bytes:02x?}");
                    assert_eq!(judged_in_pieces(bytes.chunks(1)), expected, "{bytes:02x?} one by one");
                }
            }
        }
    }

    #[test]
    fn text_with_all_lengths_of_sequences_may_be_cut_anywhere() {
        let mut text = "aß€😀 plain ".repeat(4).into_bytes();
        for wrong in [None, Some(0xff), Some(0xc0)] {
            text.extend(wrong);
            for cut in 0..text.len() {
                let (head, tail) = text.split_at(cut);
                assert_eq!(judged_in_pieces([head, tail]), judged_at_once(&text), "cut at {cut}");
                assert_eq!(judged_in_pieces([head]), judged_at_once(head), "only up to {cut}");
            }
        }
    }
}
