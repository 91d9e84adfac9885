//! Leave to ask the kernel for routes.
//!
//! A program gets routes only for packets from an interface that forwards. Ours asks as from the loopback interface, as
//! the host's own packets do, so that is the one that has to. It changes nothing else: what arrives on loopback is the
//! host's own, and no other interface's packets are forwarded by it.

use std::fs;

use connlib_relay_xdp_types::Family;

const V4: &str = "/proc/sys/net/ipv4/conf/lo/forwarding";
const V6: &str = "/proc/sys/net/ipv6/conf/lo/forwarding";
/// One route a line, its flags in hexadecimal in the last but one column.
const ROUTES_V6: &str = "/proc/net/ipv6_route";
/// `RTF_ADDRCONF | RTF_DEFAULT`: learned by the kernel from a router's advertisement.
const ADVERTISED: u32 = 0x0004_0000 | 0x0001_0000;

/// Sees to it that the program can get routes of a family. If not, what would leave by that family stays with user space.
pub(crate) fn allow(family: Family) {
    let file = match family {
        Family::V4 => V4,
        Family::V6 => V6,
    };
    if fs::read_to_string(file).is_ok_and(|value| value.trim() == "1") {
        return;
    }
    let written = if family == Family::V6 && has_advertised_default() {
        // The kernel forgets such routes when any interface begins to forward.
        Err("the default route comes from router advertisements and would be lost".to_owned())
    } else {
        fs::write(file, "1").map_err(|error| error.to_string())
    };
    if let Err(reason) = written {
        tracing::info!(
            ?family,
            reason,
            "XDP cannot ask for routes, user space relays; set {file} to 1 when the host starts"
        );
    }
}

fn has_advertised_default() -> bool {
    fs::read_to_string(ROUTES_V6).is_ok_and(|routes| routes.lines().any(is_advertised_default))
}

fn is_advertised_default(route: &str) -> bool {
    let flags = route.split_ascii_whitespace().rev().nth(1);
    flags
        .and_then(|flags| u32::from_str_radix(flags, 16).ok())
        .is_some_and(|flags| flags & ADVERTISED == ADVERTISED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_from_an_advertisement_is_told_from_others() {
        let zero = "00000000000000000000000000000000";
        let route = |flags| {
            format!(
                "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000002 00000000 {flags}     eth0"
            )
        };
        assert!(is_advertised_default(&route("00450003")));
        assert!(!is_advertised_default(&route("00000003")));
        assert!(!is_advertised_default("not a route"));
    }
}
