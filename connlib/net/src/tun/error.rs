//! Why there is no TUN device.

use std::io;

/// Why a TUN device could not be opened or set up.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// There is no `/dev/net/tun`, and none can be made, or no driver behind it.
    #[error(
        "/dev/net/tun is missing or has no driver: {0} (load the kernel module `tun`, or give the container the device)"
    )]
    NoDriver(#[source] io::Error),
    /// We are not allowed to.
    #[error(
        "no permission for TUN devices: {0} (CAP_NET_ADMIN is needed, and in a container access to /dev/net/tun)"
    )]
    Permission(#[source] io::Error),
    /// Another process is attached to the interface.
    #[error("interface {name} is in use by another process")]
    Busy {
        /// The interface.
        name: String,
    },
    /// An interface of this name exists and is something else than a single-queue TUN device.
    #[error("interface {name} exists and is of another kind")]
    OtherKind {
        /// The interface.
        name: String,
    },
    /// The kernel does not allow such a name: 1 to 15 bytes without spaces, `/`, `:` and `%`.
    #[error("{name:?} cannot be the name of an interface")]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel refuses something else.
    #[error("cannot {step}: {source}")]
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
