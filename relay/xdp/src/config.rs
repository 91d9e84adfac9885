//! What the relay tells the program.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use connlib_relay_xdp_types::{self as types, Address, Own, word};

/// What to attach to, and who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The interfaces that clients and peers are reached by. Packets leave by these alone
    pub interfaces: Vec<String>,
    /// How to attach
    pub preference: Preference,
    /// Where clients talk to the relay
    pub listen_port: u16,
    /// IPv4, if the relay has it
    pub v4: Option<Addresses<Ipv4Addr>>,
    /// IPv6, if the relay has it
    pub v6: Option<Addresses<Ipv6Addr>>,
}

/// Addresses of the relay, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses<A> {
    /// Of the host's interface: what packets to the relay have as destination when they arrive, and what it sends from
    pub local: A,
    /// What the relay announces. Differs from the other behind a one-to-one NAT
    pub public: A,
}

/// A channel of an allocation, and the peer it is bound to (RFC 8656 §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Where the client talks to us from
    pub client: SocketAddr,
    /// The channel's number, 0x4000 to 0x4FFF
    pub channel: u16,
    /// The port of the client's allocation, without which it does not exist
    pub allocation_port: u16,
    /// Whom the client talks to through us
    pub peer: SocketAddr,
}

/// How the program may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preference {
    /// In the driver if it can, else behind it. Behind it on `veth`: what a program sends in that driver is lost, unless
    /// the other end has a program as well
    #[default]
    Auto,
    /// In the driver or not at all
    Native,
    /// Behind the driver
    Generic,
    /// Not at all: user space relays
    Off,
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// In the driver, before the kernel has made anything of a packet
    Native,
    /// Behind the driver
    Generic,
}

/// This is no way to attach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of auto, native, generic, off")]
pub struct UnknownPreference(String);

impl Config {
    /// As the program reads it.
    pub(crate) fn for_program(&self) -> types::Config {
        let none = Own { local: Address::NONE, public: Address::NONE };
        let v4 =
            |a: Addresses<_>| Own { local: Address::v4(a.local), public: Address::v4(a.public) };
        let v6 =
            |a: Addresses<_>| Own { local: Address::v6(a.local), public: Address::v6(a.public) };
        types::Config {
            v4: self.v4.map_or(none, v4),
            v6: self.v6.map_or(none, v6),
            listen_port: word(self.listen_port),
            reserved: [0; 3],
        }
    }

    /// The name by which the program knows a peer: our own address can be called by either of its names.
    pub(crate) fn known_as(&self, peer: SocketAddr) -> SocketAddr {
        let ip = match peer.ip() {
            IpAddr::V4(ip) => match self.v4 {
                Some(own) if own.local == ip => own.public.into(),
                _ => ip.into(),
            },
            IpAddr::V6(ip) => match self.v6 {
                Some(own) if own.local == ip => own.public.into(),
                _ => ip.into(),
            },
        };
        SocketAddr::new(ip, peer.port())
    }
}

impl FromStr for Preference {
    type Err = UnknownPreference;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            "off" => Ok(Self::Off),
            _ => Err(UnknownPreference(name.to_owned())),
        }
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_read_as_they_are_written() {
        use Preference::{Auto, Generic, Native, Off};
        for preference in [Auto, Native, Generic, Off] {
            assert_eq!(preference.to_string().parse(), Ok(preference));
        }
        assert!("driver".parse::<Preference>().is_err());
    }

    #[test]
    fn only_our_own_address_has_another_name() {
        let config = Config {
            interfaces: Vec::new(),
            preference: Preference::Auto,
            listen_port: 3478,
            v4: Some(Addresses { local: [10, 0, 0, 5].into(), public: [203, 0, 113, 5].into() }),
            v6: None,
        };
        let known_as = |peer: &str| config.known_as(peer.parse().unwrap()).to_string();
        assert_eq!(known_as("10.0.0.5:50000"), "203.0.113.5:50000");
        assert_eq!(known_as("203.0.113.5:50000"), "203.0.113.5:50000");
        assert_eq!(known_as("10.0.0.6:50000"), "10.0.0.6:50000");
        assert_eq!(known_as("[2001:db8::5]:50000"), "[2001:db8::5]:50000");
    }
}
