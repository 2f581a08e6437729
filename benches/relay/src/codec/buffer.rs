//! The bytes that were read from a server and are not parsed yet.
//!
//! One buffer serves a connection for its life. It holds one read, or one operation that is longer than that, and gives the larger
//! memory back once the operation is consumed. [`super::parser::Parser`] bounds how long an operation can be.

/// Bytes of the buffer, and so of one read, unless an operation needs more.
pub const READ_BYTES: usize = 64 * 1024;

/// See the module. The unread bytes are in one piece.
pub struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self { bytes: vec![0; READ_BYTES], start: 0, end: 0 }
    }
}

impl ReadBuffer {
    /// What was read and not consumed.
    #[inline]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `bytes` of the unread ones are done with.
    ///
    /// # Panics
    /// More than are unread.
    #[inline]
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.end - self.start, "more was consumed than was read");
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > READ_BYTES {
                self.bytes = vec![0; READ_BYTES];
            }
        }
    }

    /// Where the next read goes: room for `missing` bytes at least, and for one. Call [`ReadBuffer::filled`] after the read.
    pub fn space(&mut self, missing: usize) -> &mut [u8] {
        let needed = missing.max(1);
        // Half a buffer: what is moved is the beginning of one operation, and a read of a few bytes would cost as much as one of many.
        if self.start > 0 && self.bytes.len() - self.end < needed.max(READ_BYTES / 2) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.bytes.len() - self.end < needed {
            // Exactly: a vector that grows by doubling would hold twice the largest message.
            self.bytes.reserve_exact(self.end + needed - self.bytes.len());
            self.bytes.resize(self.end + needed, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into [`ReadBuffer::space`].
    ///
    /// # Panics
    /// More than there was space for.
    pub fn filled(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes.len() - self.end, "more was read than there was space for");
        self.end += bytes;
    }

    /// Bytes of memory that it holds.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buffer: &mut ReadBuffer, bytes: &[u8]) {
        buffer.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn unread_bytes_stay_in_order_when_the_buffer_moves_and_grows() {
        let mut buffer = ReadBuffer::default();
        put(&mut buffer, b"abc");
        buffer.consume(1);
        put(&mut buffer, &vec![b'x'; READ_BYTES]);
        assert_eq!(buffer.unread().len(), READ_BYTES + 2);
        assert!(buffer.unread().starts_with(b"bcxx"));
    }

    #[test]
    fn the_memory_of_one_large_message_is_given_back_once_it_is_consumed() {
        let mut buffer = ReadBuffer::default();
        put(&mut buffer, &vec![b'x'; 10 * READ_BYTES]);
        assert_eq!(buffer.capacity(), 10 * READ_BYTES);
        buffer.consume(10 * READ_BYTES);
        assert_eq!((buffer.capacity(), buffer.unread().len()), (READ_BYTES, 0));
    }

    #[test]
    fn a_read_never_gets_the_last_bytes_of_the_buffer_only() {
        let mut buffer = ReadBuffer::default();
        put(&mut buffer, &vec![b'x'; READ_BYTES - 1]);
        buffer.consume(READ_BYTES - 11);
        assert_eq!((buffer.space(1).len(), buffer.unread()), (READ_BYTES - 10, &[b'x'; 10][..]));
    }

    #[test]
    fn a_buffer_that_is_never_quite_empty_does_not_grow() {
        let mut buffer = ReadBuffer::default();
        put(&mut buffer, b"x");
        for _ in 0..1_000 {
            put(&mut buffer, &[b'y'; 1_000]);
            buffer.consume(1_000);
        }
        assert_eq!((buffer.capacity(), buffer.unread().len()), (READ_BYTES, 1));
    }
}
