//! What the process may do.

use std::fs;

use anyhow::{Result, bail};

/// CAP_NET_ADMIN's bit in the effective set (capabilities(7)).
const NET_ADMIN: u64 = 1 << 12;

/// Says what is missing to configure interfaces and routes, before anything is half done.
pub(crate) fn check_network_admin() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(capabilities) if capabilities & NET_ADMIN == 0 => bail!(
            "this needs the capability CAP_NET_ADMIN to make a network interface: start it as root, or by systemd \
             with AmbientCapabilities=CAP_NET_ADMIN"
        ),
        // Without /proc the kernel's own answer to the first attempt has to do.
        _ => Ok(()),
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_found() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_capabilities(status), Some(NET_ADMIN));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
