//! What is measured of each subject.

use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// As the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Up,
    Down,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) protocol: Protocol,
    pub(crate) direction: Direction,
    pub(crate) streams: u32,
}

impl Case {
    /// Everything that there is, with so many streams.
    pub(crate) fn all(streams: &[u32]) -> Vec<Self> {
        let mut cases = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for &streams in streams {
                for direction in [Direction::Up, Direction::Down] {
                    cases.push(Self { protocol, direction, streams });
                }
            }
        }
        cases
    }
}

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, direction, streams } = self;
        write!(f, "{} {}, {streams} streams", protocol.name(), direction.name())
    }
}
