//! What can go wrong.

use std::io;

use crate::Mode;

/// Why the program does not run. The relay works without.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// This build does not have it
    #[error("this build has no XDP program; `cargo xtask ebpf` and another build add it")]
    NotBuilt,
    /// None of the interfaces is there
    #[error("there is no interface {}", .0.join(", "))]
    NoInterface(Vec<String>),
    /// The kernel does not accept the program
    #[error("the kernel does not accept the program")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kernel does not attach it
    #[error("cannot attach to `{interface}` in {mode} mode")]
    Attach {
        /// The interface that would not have it
        interface: String,
        /// The last that was tried
        mode: Mode,
        /// What the kernel says
        #[source]
        source: io::Error,
    },
    /// The kernel is too old to detach a program whose process has crashed (Linux 5.9)
    #[error("this kernel could not detach the program after a crash; it has to be 5.9 or newer")]
    OldKernel,
}

/// Why the program was not told something. User space goes on to relay what this is about.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// No room for another binding
    #[error("there is no room for another binding")]
    Full,
    /// The kernel did not do as asked
    #[error("cannot change what the program knows")]
    Kernel(#[source] io::Error),
}

impl AttachError {
    pub(crate) fn load(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<aya::maps::MapError> for MapError {
    fn from(error: aya::maps::MapError) -> Self {
        let error = match error {
            aya::maps::MapError::SyscallError(error) => error.io_error,
            error => io::Error::other(error),
        };
        if error.kind() == io::ErrorKind::ArgumentListTooLong {
            // What the kernel says of a full hash map.
            return Self::Full;
        }
        Self::Kernel(error)
    }
}
