//! Why there is no TUN device.

use std::io;

/// Why a TUN device could not be opened or set up.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// There is no `/dev/net/tun`, and none can be made, or no driver behind it.
    #[error(
        "/dev/net/tun is missing or has no driver: load the kernel module `tun`, or give the container the device \
         (`--device /dev/net/tun`)"
    )]
    NoDriver(#[source] io::Error),
    /// We are not allowed to.
    #[error(
        "no permission for TUN devices: this needs the capability CAP_NET_ADMIN and a /dev/net/tun that this user may \
         open (in a container: `--cap-add NET_ADMIN --device /dev/net/tun`)"
    )]
    Permission(#[source] io::Error),
    /// Another process is attached to the interface.
    #[error("the interface {name} is in use by another process: end that, or choose another name")]
    Busy {
        /// The interface.
        name: String,
    },
    /// An interface of this name exists and is something else than a single-queue TUN device.
    #[error("an interface {name} exists and is of another kind: choose another name")]
    OtherKind {
        /// The interface.
        name: String,
    },
    /// The kernel does not allow such a name.
    #[error(
        "{name:?} cannot be the name of an interface: it takes 1 to 15 bytes without spaces, `/`, `:` and `%`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel refuses something else.
    #[error("cannot {step}")]
    Os {
        /// What was attempted, as the end of a sentence that begins with "cannot".
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TunError {
    /// For mapping errors of `step`. Lack of permission has a variant of its own.
    pub(super) fn at(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission(source),
            _ => Self::Os { step, source },
        }
    }
}
