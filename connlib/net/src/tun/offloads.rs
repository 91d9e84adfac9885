//! What the kernel leaves undone in the packets that it hands over.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::error::TunError;

/// The work that the kernel leaves to us in packets read from a TUN device, so that it can hand over super-packets.
///
/// What it knows here it also takes in packets that we write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Completing checksums.
    pub checksum: bool,
    /// Cutting TCP super-packets.
    pub tcp: bool,
    /// Cutting UDP super-packets (Linux 6.2).
    pub udp: bool,
}

impl Offloads {
    /// Packets are complete when they are handed over.
    pub const NONE: Self = Self { checksum: false, tcp: false, udp: false };
    /// Checksums and TCP, without what is the youngest and least tried in kernels.
    pub const TCP: Self = Self { checksum: true, tcp: true, udp: false };
    /// All of them.
    pub const ALL: Self = Self { checksum: true, tcp: true, udp: true };

    /// Turns on as much of `wanted` as the kernel knows.
    pub(super) fn negotiate(file: &File, wanted: Self) -> Result<Self, TunError> {
        let without_udp = Self { udp: false, ..wanted };
        let only_checksum = Self { tcp: false, ..without_udp };
        let mut refused = io::ErrorKind::Unsupported.into();
        for offloads in [wanted, without_udp, only_checksum, Self::NONE] {
            match offloads.set(file) {
                Ok(()) => {
                    tracing::debug!(?offloads, "Set TUN offloads");
                    return Ok(offloads);
                }
                Err(error) => refused = error,
            }
        }
        Err(TunError::at("set the interface's offloads")(refused))
    }

    fn set(self, file: &File) -> io::Result<()> {
        let mut flags = 0;
        if self.checksum {
            flags |= libc::TUN_F_CSUM;
        }
        if self.tcp {
            flags |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        }
        if self.udp {
            flags |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
        }
        // SAFETY: TUNSETOFFLOAD takes its flags by value.
        let result = unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
