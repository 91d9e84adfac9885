//! What the machine has to give.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of files that may be open to `needed`, as far as the system lets us, and says if that is not enough.
pub(crate) fn allow_open_files(needed: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= needed {
        return;
    }
    // Beyond the hard limit only with CAP_SYS_RESOURCE.
    let is_raised = setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_ok()
        || setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_ok();
    let now = getrlimit(Resource::RLIMIT_NOFILE).map_or(soft, |(soft, _)| soft);
    if !is_raised || now < needed {
        tracing::warn!(
            allowed = now,
            needed,
            "too few files may be open for that many allocations: raise LimitNOFILE= or ulimit -n, or lower \
             --max-allocations and --max-streams"
        );
    }
}

/// All addresses of this machine.
///
/// # Errors
/// If the kernel does not tell them.
pub(crate) fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut own: Vec<IpAddr> = getifaddrs()?
        .filter_map(|address| {
            let storage = address.address?;
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect();
    own.sort();
    own.dedup();
    Ok(own)
}

/// The CPUs that we may use.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
