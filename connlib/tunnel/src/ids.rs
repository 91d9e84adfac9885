//! The portal's identifiers, one type each so that they cannot be confused.

use std::fmt;
use std::str::FromStr;

use connlib_link::PeerId;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The ID with this number, for tests and simulations.
            pub const fn from_u128(number: u128) -> Self {
                Self(Uuid::from_u128(number))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    };
}

/// An ID that a link can be named by.
macro_rules! peer {
    ($name:ident) => {
        impl From<$name> for PeerId {
            fn from(id: $name) -> Self {
                Self(id.0)
            }
        }

        impl From<PeerId> for $name {
            fn from(peer: PeerId) -> Self {
                Self(peer.0)
            }
        }
    };
}

id! {
    /// A resource of the policy.
    ResourceId
}
id! {
    /// A gateway.
    GatewayId
}
id! {
    /// A client device.
    ClientId
}
id! {
    /// A site: the gateways that reach the same network.
    SiteId
}
peer!(GatewayId);
peer!(ClientId);
