//! The one description of headers from which all paths follow.

/// Length of an Ethernet header without a VLAN tag, in bytes.
pub const ETHERNET: usize = 14;
/// Length of a UDP header in bytes.
pub const UDP: usize = 8;
/// Length of the header of channel data in bytes (RFC 8656 §12.4).
const CHANNEL: usize = 4;

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Family {
    /// IPv4
    V4 = 4,
    /// IPv6
    V6 = 6,
}

/// What stands around the application's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Channel data between a client and the listen port
    Channel,
    /// A plain datagram between a peer and an allocation's port
    Udp,
}

/// The headers of a packet: Ethernet, IP without options or extensions, UDP, and channel data's if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Which IP header
    pub family: Family,
    /// What follows the UDP header
    pub framing: Framing,
}

/// The way of a packet through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// As it came
    pub from: Shape,
    /// As it leaves
    pub to: Shape,
}

/// All the ways there are: what comes from a peer always goes to a client.
pub const PATHS: [Path; 12] = {
    use Family::{V4, V6};
    use Framing::{Channel, Udp};
    const fn path(from: Family, framing: Framing, to: Family, to_framing: Framing) -> Path {
        Path {
            from: Shape { family: from, framing },
            to: Shape { family: to, framing: to_framing },
        }
    }
    [
        path(V4, Channel, V4, Udp),
        path(V4, Channel, V6, Udp),
        path(V6, Channel, V4, Udp),
        path(V6, Channel, V6, Udp),
        path(V4, Udp, V4, Channel),
        path(V4, Udp, V6, Channel),
        path(V6, Udp, V4, Channel),
        path(V6, Udp, V6, Channel),
        path(V4, Channel, V4, Channel),
        path(V4, Channel, V6, Channel),
        path(V6, Channel, V4, Channel),
        path(V6, Channel, V6, Channel),
    ]
};

impl Family {
    /// Length of the IP header in bytes.
    #[inline(always)]
    pub const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// This family among others in the map of ports.
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 2,
        }
    }
}

impl Framing {
    /// Length of the header in bytes.
    #[inline(always)]
    pub const fn header(self) -> usize {
        match self {
            Self::Channel => CHANNEL,
            Self::Udp => 0,
        }
    }
}

impl Shape {
    /// Where the UDP header starts, in bytes from the start of the frame.
    #[inline(always)]
    pub const fn udp(self) -> usize {
        ETHERNET + self.family.header()
    }

    /// Where the application's data starts, in bytes from the start of the frame.
    #[inline(always)]
    pub const fn payload(self) -> usize {
        self.udp() + UDP + self.framing.header()
    }

    /// The UDP header's length field, for so many bytes of the application's.
    #[inline(always)]
    pub const fn udp_length(self, payload: u16) -> u16 {
        (UDP + self.framing.header()) as u16 + payload
    }

    /// A number for each shape, below four.
    #[inline(always)]
    const fn index(self) -> u32 {
        let family = matches!(self.family, Family::V6) as u32;
        let framing = matches!(self.framing, Framing::Udp) as u32;
        family << 1 | framing
    }
}

impl Path {
    /// How many bytes the headers shrink by; negative where they grow.
    #[inline(always)]
    pub const fn shrinks_by(self) -> i32 {
        self.from.payload() as i32 - self.to.payload() as i32
    }

    /// A number for each path, below sixteen.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.from.index() << 2 | self.to.index()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_lengths_of_the_standards() {
        let channel = Shape { family: Family::V4, framing: Framing::Channel };
        assert_eq!((channel.udp(), channel.payload()), (34, 46));
        let plain = Shape { family: Family::V6, framing: Framing::Udp };
        assert_eq!((plain.udp(), plain.payload()), (54, 62));
        assert_eq!(channel.udp_length(100), 112);
    }

    #[test]
    fn fronts_move_by_the_difference_of_the_headers() {
        let moves = PATHS.map(Path::shrinks_by);
        assert_eq!(moves, [4, -16, 24, 4, -4, -24, 16, -4, 0, -20, 20, 0]);
    }

    #[test]
    fn each_path_has_a_number_of_its_own() {
        let mut seen = 0_u32;
        for path in PATHS {
            assert_eq!(seen & 1 << path.index(), 0, "{path:?}");
            seen |= 1 << path.index();
        }
    }
}
