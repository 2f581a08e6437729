//! What every published content begins with: the run, the room, the publication's number in its room, and the time at which
//! it was *meant* to be sent. A receiver finds it anywhere in what a server delivers, whatever envelope stands around it.
//!
//! It is letters, digits and dots only, so that no envelope (JSON, Socket.IO, NATS) has to escape it.

use memchr::memmem::Finder;

/// Octets of a stamp.
pub(crate) const LENGTH: usize = MARKER + 40;
/// Octets of a stamp's start, by which it is found: `tl` and the run.
const MARKER: usize = 10;

/// One publication's mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// The room's number, or the connection's in an echo.
    pub(crate) room: u32,
    /// The publication's number in its room, from 1.
    pub(crate) sequence: u64,
    /// When it was meant to be sent, on the monotonic clock.
    pub(crate) intended_ns: u64,
}

/// Writes and finds the stamps of one run; those of other runs are strangers.
pub(crate) struct Stamper {
    marker: [u8; MARKER],
    finder: Finder<'static>,
}

impl Stamper {
    /// For the run with this number.
    pub(crate) fn new(run: u32) -> Self {
        let mut marker = *b"tl00000000";
        hexadecimal(u64::from(run), &mut marker[2..]);
        Self { marker, finder: Finder::new(&marker).into_owned() }
    }

    /// Writes a stamp over the start of `content`, which is at least [`LENGTH`] octets.
    pub(crate) fn write(&self, stamp: Stamp, content: &mut [u8]) {
        content[..MARKER].copy_from_slice(&self.marker);
        let fields = &mut content[MARKER..LENGTH];
        fields[0] = b'.';
        hexadecimal(u64::from(stamp.room), &mut fields[1..9]);
        fields[9] = b'.';
        hexadecimal(stamp.sequence, &mut fields[10..22]);
        fields[22] = b'.';
        hexadecimal(stamp.intended_ns, &mut fields[23..39]);
        fields[39] = b'.';
    }

    /// The first stamp in `bytes`, and where it ends.
    pub(crate) fn find(&self, bytes: &[u8]) -> Option<(Stamp, usize)> {
        let start = self.finder.find(bytes)?;
        Some((read(bytes.get(start + MARKER..start + LENGTH)?)?, start + LENGTH))
    }
}

/// The first stamp in `bytes`, of whatever run.
pub(crate) fn find_any(bytes: &[u8]) -> Option<Stamp> {
    memchr::memmem::find_iter(bytes, b"tl").find_map(|start| read(bytes.get(start + MARKER..start + LENGTH)?))
}

fn read(fields: &[u8]) -> Option<Stamp> {
    Some(Stamp {
        room: number(&fields[1..9])? as u32,
        sequence: number(&fields[10..22])?,
        intended_ns: number(&fields[23..39])?,
    })
}

fn hexadecimal(mut value: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(digit);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { room: 0xbeef, sequence: 77, intended_ns: 0x0123_4567_89ab_cdef };

    #[test]
    fn a_stamp_is_found_inside_any_envelope() {
        let stamper = Stamper::new(9);
        let mut content = vec![b'x'; 64];
        stamper.write(STAMP, &mut content);
        for (before, after) in
            [("", ""), (r#"{"type":"message","content":""#, r#""}"#), ("MSG load.1 1 64\r\n", "\r\n")]
        {
            let mut envelope = before.as_bytes().to_vec();
            envelope.extend_from_slice(&content);
            envelope.extend_from_slice(after.as_bytes());
            assert_eq!(stamper.find(&envelope), Some((STAMP, before.len() + LENGTH)));
        }
    }

    #[test]
    fn a_stamp_of_another_run_or_a_torn_one_is_not_found() {
        let mut content = vec![b'x'; LENGTH];
        Stamper::new(1).write(STAMP, &mut content);
        assert_eq!(Stamper::new(2).find(&content), None);
        assert_eq!(find_any(&content), Some(STAMP));
        assert_eq!(Stamper::new(1).find(&content[..LENGTH - 1]), None);
        content[LENGTH - 5] = b'?';
        assert_eq!(Stamper::new(1).find(&content), None);
    }
}
