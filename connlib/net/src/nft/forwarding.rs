use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::netlink::Ipv6Support;

const ROOT: &str = "/proc/sys/net";

/// Why the host could not be made a router.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// The process may not change this sysctl: it lacks `CAP_NET_ADMIN`, or `/proc/sys` is read-only for it.
    #[error(
        "no permission to set {key} to {value}: this needs root or CAP_NET_ADMIN, and a writable \
         /proc/sys; or set it yourself before the start (`sysctl -w {key}={value}`)"
    )]
    NoPermission {
        /// The name of the sysctl.
        key: String,
        /// The value that it must have.
        value: String,
    },
    /// The sysctl could not be read or written for another reason.
    #[error("failed to set {key} to {value}")]
    Io {
        /// The name of the sysctl.
        key: String,
        /// The value that it should have.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Lets the host forward packets while it exists, and puts back what was before.
///
/// Only sysctls that have another value are written, and only those that were written and still have our value are put
/// back. Values are lost with a process that is killed: the next one finds forwarding on, and leaves it on. An
/// administrator whose host forwards for others as well, started later than we, should switch it on for good.
///
/// A host that forwards IPv6 ignores router advertisements, by which many learn their default route. Interfaces that
/// accept them (`accept_ra` = 1) are therefore told to accept them in spite of forwarding (2). Network managers that handle
/// advertisements themselves have set 0 there, and are not concerned.
pub struct Forwarding {
    /// What was changed, in that order.
    changes: Vec<Change>,
    ipv6: Ipv6Support,
}

struct Change {
    sysctl: Sysctl,
    before: &'static str,
    after: &'static str,
    /// Interfaces on which forwarding was on before: the kernel switches it off on all of them with the main switch.
    exceptions: Vec<Sysctl>,
}

impl Forwarding {
    /// Switches forwarding on for IPv4, and for IPv6 if the TUN device has it.
    pub fn enable(tun: &str) -> Result<Self, ForwardingError> {
        let mut forwarding = Self { changes: Vec::new(), ipv6: Ipv6Support::of(tun) };
        // An error drops `forwarding`, which undoes what was done so far.
        forwarding.enable_family("ipv4", "ip_forward")?;
        // Forwarding may be on, but off for new interfaces such as ours.
        forwarding.change(&format!("ipv4/conf/{tun}/forwarding"), "0", "1")?;
        if forwarding.ipv6 == Ipv6Support::Available {
            // Before forwarding: when that comes on, the kernel drops the default routes that it would not renew.
            for interface in interfaces("ipv6") {
                forwarding.change(&format!("ipv6/conf/{interface}/accept_ra"), "1", "2")?;
            }
            forwarding.enable_family("ipv6", "conf/all/forwarding")?;
        }
        Ok(forwarding)
    }

    /// Whether IPv6 is forwarded as well.
    pub fn ipv6(&self) -> Ipv6Support {
        self.ipv6
    }

    /// Puts the previous values back.
    pub fn restore(mut self) -> Result<(), ForwardingError> {
        self.undo()
    }

    fn enable_family(&mut self, family: &str, switch: &str) -> Result<(), ForwardingError> {
        let exceptions = interfaces(family)
            .into_iter()
            .filter_map(|name| {
                Sysctl::open_if(&format!("{family}/conf/{name}/forwarding"), "1").ok()?
            })
            .collect();
        if let Some(change) = self.change(&format!("{family}/{switch}"), "0", "1")? {
            change.exceptions = exceptions;
        }
        Ok(())
    }

    /// Changes a value, provided that it is `before`.
    fn change(
        &mut self,
        name: &str,
        before: &'static str,
        after: &'static str,
    ) -> Result<Option<&mut Change>, ForwardingError> {
        let failed = |source| ForwardingError::new(&Path::new(ROOT).join(name), after, source);
        let Some(sysctl) = Sysctl::open_if(name, before).map_err(failed)? else {
            return Ok(None);
        };
        sysctl.set(after)?;
        tracing::debug!(sysctl = name, before, after, "Changed a sysctl");
        self.changes.push(Change { sysctl, before, after, exceptions: Vec::new() });
        Ok(self.changes.last_mut())
    }

    fn undo(&mut self) -> Result<(), ForwardingError> {
        let mut result = Ok(());
        while let Some(Change { sysctl, before, after, exceptions }) = self.changes.pop() {
            // Else somebody has set it meanwhile, or the interface has gone.
            if sysctl.value().is_ok_and(|value| value == after) {
                result = result.and(sysctl.set(before));
                for exception in exceptions {
                    result = result.and(exception.set("1"));
                }
            }
        }
        result
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::debug!(%error, "Failed to restore a sysctl");
        }
    }
}

/// A setting of the network namespace in which it was opened, from whatever thread it is used later.
struct Sysctl {
    file: File,
    path: PathBuf,
}

impl Sysctl {
    /// Opens it for writing if it has this value. `None` as well if it does not exist.
    fn open_if(name: &str, value: &str) -> io::Result<Option<Self>> {
        let path = Path::new(ROOT).join(name);
        match fs::read_to_string(&path) {
            Ok(current) if current.trim() == value => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let file = File::options().read(true).write(true).open(&path)?;
        Ok(Some(Self { file, path }))
    }

    fn value(&self) -> io::Result<String> {
        let mut buffer = [0; 32];
        let len = self.file.read_at(&mut buffer, 0)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
    }

    /// Sets the value; an interface that has gone since is fine.
    fn set(&self, value: &str) -> Result<(), ForwardingError> {
        match self.file.write_all_at(value.as_bytes(), 0) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(ForwardingError::new(&self.path, value, source))
            }
            _ => Ok(()),
        }
    }
}

impl ForwardingError {
    fn new(path: &Path, value: &str, source: io::Error) -> Self {
        let name = path.strip_prefix("/proc/sys").unwrap_or(path);
        let (key, value) = (name.to_string_lossy().replace('/', "."), value.to_owned());
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NoPermission { key, value }
            }
            _ => Self::Io { key, value, source },
        }
    }
}

/// The interfaces that have settings of their own, and `default`, from which new ones get theirs.
fn interfaces(family: &str) -> Vec<String> {
    fs::read_dir(Path::new(ROOT).join(family).join("conf"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "all")
        .collect()
}
