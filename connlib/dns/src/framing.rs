//! DNS over TCP: each message after its length in two bytes (RFC 1035 §4.2.2).

/// Puts the length before a message; `None` if it is longer than two bytes can say.
pub fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes(), message].concat())
}

/// Takes a stream apart into messages, however it is cut into pieces.
///
/// Holds at most one unfinished message.
#[derive(Clone, Debug)]
pub struct Deframer {
    /// The length and what there is of the message.
    partial: Vec<u8>,
    limit: usize,
}

/// The peer announced a message that is longer than allowed. The stream is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is announced, which is too long")]
pub struct FrameTooLong(pub usize);

impl Deframer {
    /// Takes messages of up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { partial: Vec::new(), limit }
    }

    /// Returns the next message and takes its bytes off the front of `stream`; `None` if all of
    /// `stream` is taken and the message not finished.
    ///
    /// # Errors
    ///
    /// If a longer message than allowed is announced.
    pub fn next_message(&mut self, stream: &mut &[u8]) -> Result<Option<Vec<u8>>, FrameTooLong> {
        if !self.take(stream, 2) {
            return Ok(None);
        }
        let length = usize::from(u16::from_be_bytes([self.partial[0], self.partial[1]]));
        if length > self.limit {
            return Err(FrameTooLong(length));
        }
        if !self.take(stream, 2 + length) {
            return Ok(None);
        }
        let message = self.partial.split_off(2);
        self.partial.clear();
        Ok(Some(message))
    }

    /// Moves bytes over until there are `wanted` of them; false if there are not enough.
    fn take(&mut self, stream: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.partial.len()).min(stream.len());
        let (taken, rest) = stream.split_at(missing);
        self.partial.extend_from_slice(taken);
        *stream = rest;
        self.partial.len() >= wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cutting() {
        let messages: [&[u8]; 4] = [b"first", b"", b"x", &[7; 700]];
        let stream: Vec<u8> = messages.iter().flat_map(|m| frame(m).unwrap()).collect();
        for piece in [1, 2, 3, 5, 64, 4096] {
            let mut deframer = Deframer::new(700);
            let mut received = Vec::new();
            for mut piece in stream.chunks(piece) {
                while let Some(message) = deframer.next_message(&mut piece).unwrap() {
                    received.push(message);
                }
                assert!(piece.is_empty());
            }
            assert_eq!(received, messages);
        }
    }

    #[test]
    fn lengths_beyond_the_limit_are_refused_before_anything_is_stored() {
        let mut deframer = Deframer::new(700);
        let mut stream: &[u8] = &[0x02, 0xbd, 1, 2, 3];
        assert_eq!(deframer.next_message(&mut stream), Err(FrameTooLong(701)));
        assert_eq!(deframer.partial.len(), 2);
        assert_eq!(deframer.next_message(&mut stream), Err(FrameTooLong(701)));
    }

    #[test]
    fn messages_that_no_length_describes_have_no_frame() {
        assert_eq!(frame(&vec![0; 0xffff]).unwrap().len(), 0x10001);
        assert_eq!(frame(&vec![0; 0x10000]), None);
    }
}
