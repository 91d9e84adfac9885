//! What an event of epoll is about, in 64 bits.

/// Each source of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A command waits.
    Inbox,
    /// The UDP socket that clients talk to, of one family.
    Listen { is_v4: bool },
    /// The socket of an allocation, of one family.
    Relay { slot: usize, is_v4: bool },
    /// A listener for streams.
    Listener { index: usize },
    /// A stream.
    Stream { slot: usize },
}

const INDEX: u64 = u32::MAX as u64;

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, index) = match token {
            Token::Inbox => (0, 0),
            Token::Listen { is_v4: true } => (1, 0),
            Token::Listen { is_v4: false } => (2, 0),
            Token::Relay { slot, is_v4: true } => (3, slot),
            Token::Relay { slot, is_v4: false } => (4, slot),
            Token::Listener { index } => (5, index),
            Token::Stream { slot } => (6, slot),
        };
        kind << 32 | index as u64 & INDEX
    }
}

impl TryFrom<u64> for Token {
    type Error = ();

    fn try_from(bits: u64) -> Result<Self, ()> {
        let slot = (bits & INDEX) as usize;
        Ok(match bits >> 32 {
            0 => Self::Inbox,
            1 => Self::Listen { is_v4: true },
            2 => Self::Listen { is_v4: false },
            3 => Self::Relay { slot, is_v4: true },
            4 => Self::Relay { slot, is_v4: false },
            5 => Self::Listener { index: slot },
            6 => Self::Stream { slot },
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Inbox,
            Token::Listen { is_v4: true },
            Token::Listen { is_v4: false },
            Token::Relay { slot: 70_000, is_v4: true },
            Token::Relay { slot: 1, is_v4: false },
            Token::Listener { index: 3 },
            Token::Stream { slot: 9 },
        ] {
            assert_eq!(Token::try_from(u64::from(token)), Ok(token));
        }
        assert_eq!(Token::try_from(u64::MAX), Err(()));
    }
}
