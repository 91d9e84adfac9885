//! `/dev/net/tun`, and the interface that a descriptor of it is attached to.

use std::ffi::c_char;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::error::TunError;

const NODE: &str = "/dev/net/tun";

/// Opens the device node, and makes it if it is missing: containers often have the driver but no node.
pub(super) fn open() -> Result<File, TunError> {
    let open =
        || OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(NODE);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make().map_err(TunError::NoDriver)?;
            open()
        }
        opened => opened,
    };
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => TunError::NoDriver(error),
        _ => TunError::at("open /dev/net/tun")(error),
    })
}

fn make() -> io::Result<()> {
    if let Some(folder) = Path::new(NODE).parent() {
        fs::create_dir_all(folder)?;
    }
    // Numbers of the TUN driver: Documentation/admin-guide/devices.txt of Linux.
    mknod(NODE, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(10, 200))?;
    tracing::debug!("Made {NODE}");
    Ok(())
}

/// Attaches `file` to the interface `name`, which is made if it does not exist. With a virtio header before each packet,
/// without several queues: a second process could attach to another queue and take packets away.
pub(super) fn attach(file: &File, name: &str) -> Result<(), TunError> {
    if !is_valid(name) {
        return Err(TunError::Name { name: name.to_owned() });
    }
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as _;
    // SAFETY: TUNSETIFF takes a pointer to an `ifreq` that it reads and writes during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EBUSY) => TunError::Busy { name: name.to_owned() },
        Some(libc::EINVAL) => TunError::OtherKind { name: name.to_owned() },
        // Something else lies there.
        Some(libc::ENOTTY) => TunError::NoDriver(error),
        _ => TunError::at("make the interface")(error),
    })
}

/// What the kernel accepts as the name of an interface, without `%`, which it would replace by a number.
fn is_valid(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_or_change() {
        assert!(is_valid("tun-firezone") && is_valid("a") && is_valid("exactly15bytes."));
        for name in ["", "exactly-16-bytes", "a/b", "a b", "a:1", "tun%d", "..", "\0", "ü"] {
            assert!(!is_valid(name), "{name:?}");
        }
    }
}
