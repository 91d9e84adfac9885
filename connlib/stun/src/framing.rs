//! Where a message ends in a stream, and the four bytes before channel data (RFC 8656 §12.4, §12.5).

use crate::header::Header;

/// The header of channel data, and the least that tells how long a message is.
pub const CHANNEL_HEADER: usize = 4;

/// What a message begins with (RFC 8656 §12's table, RFC 8489 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A STUN message.
    Stun,
    /// Channel data.
    ChannelData,
}

impl Kind {
    /// `None`: it is neither.
    #[inline]
    pub fn of(first_byte: u8) -> Option<Self> {
        match first_byte {
            0..=3 => Some(Self::Stun),
            0x40..=0x7f => Some(Self::ChannelData),
            _ => None,
        }
    }
}

/// Channel data, or a datagram that has its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel's number.
    pub channel: u16,
    /// What travels by it.
    pub payload: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// `None` if it is cut off. What comes after the payload is padding, which UDP may have and streams must
    /// (RFC 8656 §12.5).
    #[inline]
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, rest) = message.split_first_chunk::<CHANNEL_HEADER>()?;
        let [channel, len] =
            [[header[0], header[1]], [header[2], header[3]]].map(u16::from_be_bytes);
        Some(Self { channel, payload: rest.get(..usize::from(len))? })
    }

    /// What stands in front of a payload of this length.
    #[inline]
    pub fn header(channel: u16, len: u16) -> [u8; CHANNEL_HEADER] {
        let ([a, b], [c, d]) = (channel.to_be_bytes(), len.to_be_bytes());
        [a, b, c, d]
    }
}

/// The bytes that are missing to a multiple of four.
#[inline]
pub fn padding(len: usize) -> usize {
    len.wrapping_neg() % 4
}

/// How long the first message of a stream's bytes is, padding included. `None`: more bytes are needed to tell, four at
/// most. The message can be longer than what is there; no message is longer than 65 556 bytes.
///
/// # Errors
/// What is there begins no message, and the stream can't be followed any further: close it.
pub fn message_len(stream: &[u8]) -> Result<Option<usize>, NotAMessage> {
    let Some(&first) = stream.first() else { return Ok(None) };
    let kind = Kind::of(first).ok_or(NotAMessage)?;
    let Some(&[_, _, a, b]) = stream.first_chunk::<CHANNEL_HEADER>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([a, b]));
    match kind {
        Kind::Stun if len % 4 != 0 => Err(NotAMessage), // RFC 8489 §5
        Kind::Stun => Ok(Some(Header::LEN + len)),
        Kind::ChannelData => Ok(Some(CHANNEL_HEADER + len + padding(len))),
    }
}

/// A stream's bytes are neither STUN nor channel data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a STUN message nor channel data")]
pub struct NotAMessage;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_may_be_padded_but_not_cut_off() {
        let data = |bytes| ChannelData::parse(bytes).map(|data| (data.channel, data.payload));
        assert_eq!(data(b"\x40\x01\x00\x02ab"), Some((0x4001, b"ab".as_slice())));
        assert_eq!(data(b"\x40\x01\x00\x02ab\0\0"), Some((0x4001, b"ab".as_slice())));
        assert_eq!(data(b"\x40\x01\x00\x00"), Some((0x4001, b"".as_slice())));
        assert_eq!(data(b"\x40\x01\x00\x03ab"), None);
        assert_eq!(data(b"\x40\x01\x00"), None);
    }

    #[test]
    fn a_stream_is_cut_into_messages() {
        assert_eq!(message_len(b""), Ok(None));
        assert_eq!(message_len(b"\x40\x01\x00"), Ok(None));
        assert_eq!(message_len(b"\x40\x01\x00\x00"), Ok(Some(4)));
        assert_eq!(message_len(b"\x40\x01\x00\x05"), Ok(Some(12)));
        assert_eq!(message_len(b"\x4f\xff\xff\xff"), Ok(Some(65540)));
        assert_eq!(message_len(b"\x00\x03\x00\x08"), Ok(Some(28)));
        assert_eq!(message_len(b"\x00\x03\x00\x07"), Err(NotAMessage));
        assert_eq!(message_len(b"\x80"), Err(NotAMessage));
        assert_eq!(message_len(b"\x16\x03\x01\x02"), Err(NotAMessage));
    }
}
