use std::io;
use std::path::PathBuf;

/// Why the system's DNS settings could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `resolv.conf` belongs to another program, which would overwrite it.
    #[error(
        "{} is a symbolic link to {}, which another program writes: \
         use `systemd-resolved` for DNS control if that is the program, or `disabled`",
        path.display(),
        target.display()
    )]
    Symlink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// A crashed process left its settings, and what was before can't be known.
    #[error(
        "{} was written by a connlib that has crashed, but its backup {} is missing: \
         put your own name servers into it",
        path.display(),
        backup.display()
    )]
    NoBackup {
        /// The file with our settings.
        path: PathBuf,
        /// The file that should hold what was before.
        backup: PathBuf,
    },
    /// A file could not be read or written.
    #[error("failed to {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no `resolvectl`.
    #[error(
        "`resolvectl` was not found, so systemd-resolved does not run here: \
         use `etc-resolv-conf` or `disabled` for DNS control"
    )]
    NoResolvectl,
    /// `resolvectl` failed.
    #[error("`resolvectl {command}` failed: {message}")]
    Resolvectl {
        /// The first argument.
        command: String,
        /// What it wrote, or why it did not run.
        message: String,
    },
}
