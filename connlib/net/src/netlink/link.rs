//! Network interfaces, as far as routes and change events need to know them.

use std::collections::BTreeMap;
use std::io;

use super::message::{Attributes, attributes, u32_at};
use super::socket::Socket;

/// `struct ifinfomsg`: family, padding, type, index, flags, change mask.
const IFINFOMSG_LEN: usize = 16;
const INDEX_OFFSET: usize = 4;
const FLAGS_OFFSET: usize = 8;

/// `RTEXT_FILTER_SKIP_STATS`: counters are of no interest and change all the time.
const SKIP_STATS: u32 = 1 << 3;

/// What we want to know of an interface.
pub(crate) struct Link {
    pub(crate) is_loopback: bool,
    /// Switched on by the administrator, and its cable, radio or peer is there.
    pub(crate) is_running: bool,
    /// How often the carrier was lost since the interface came into being.
    pub(crate) carrier_losses: u32,
}

/// All interfaces by index.
pub(crate) fn links(socket: &mut Socket) -> io::Result<BTreeMap<u32, Link>> {
    let links = socket.dump(
        libc::RTM_GETLINK,
        &[0; IFINFOMSG_LEN],
        &Attributes::new().u32(libc::IFLA_EXT_MASK, SKIP_STATS),
        |message| {
            let index = u32_at(message.payload, INDEX_OFFSET)?;
            let flags = u32_at(message.payload, FLAGS_OFFSET)?;
            let has = |flag: libc::c_int| flags & flag as u32 != 0;
            let carrier_losses = attributes(message.payload, IFINFOMSG_LEN)
                .find(|(kind, _)| *kind == libc::IFLA_CARRIER_DOWN_COUNT)
                .and_then(|(_, value)| u32_at(value, 0));
            let link = Link {
                is_loopback: has(libc::IFF_LOOPBACK),
                is_running: has(libc::IFF_UP) && has(libc::IFF_RUNNING),
                carrier_losses: carrier_losses.unwrap_or(0),
            };
            Some((index, link))
        },
    )?;
    Ok(links.into_iter().collect())
}

/// The index and the name in a notification about a link.
pub(crate) fn index_and_name(payload: &[u8]) -> Option<(u32, &[u8])> {
    let (_, name) =
        attributes(payload, IFINFOMSG_LEN).find(|(kind, _)| *kind == libc::IFLA_IFNAME)?;
    Some((u32_at(payload, INDEX_OFFSET)?, name.strip_suffix(&[0]).unwrap_or(name)))
}
