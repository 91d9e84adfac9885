use std::io;

/// Why an interface, its addresses, routes or rules could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process lacks `CAP_NET_ADMIN`.
    #[error("no permission to {action}: this needs root or CAP_NET_ADMIN")]
    NoPermission {
        /// What was attempted.
        action: &'static str,
    },
    /// No interface has this name, or it has gone.
    #[error("there is no network interface named {name:?}")]
    NoInterface {
        /// The name that was looked for.
        name: String,
    },
    /// The kernel refused for another reason.
    #[error("failed to {action}")]
    Kernel {
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: names the action that failed.
    pub(crate) fn during(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NoPermission { action },
            _ => Self::Kernel { action, source },
        }
    }
}
