//! What many allocations take.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{
    load::CHANNEL,
    network::{PEERS, RELAY},
    subject::{MOST_ALLOCATIONS, Standing, user_of},
    turn::Allocation,
};
use crate::process;

/// Relays count strangers by network: each of these has its own share.
const NETWORKS: u32 = 128;
const FIRST_PORT: u32 = 20_000;
/// Of a relay for one allocation: one of its own, one for its client.
const SOCKETS: u64 = 2;
/// Allocations that there are for something else.
const OTHERS: u32 = 1000;
/// More than these cannot be asked for.
pub(super) const MOST: u32 = MOST_ALLOCATIONS - OTHERS;

/// Lets this process, and relays that it starts, have enough sockets for so many allocations, as far as the system lets us.
pub(super) fn allow_open_files(allocations: u32) -> Result<()> {
    let needed = u64::from(allocations) * SOCKETS + 1024;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Beyond the hard limit only with CAP_SYS_RESOURCE.
    if soft < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        eprintln!(
            "note: {hard} files may be open at once, fewer than {needed}: a relay may not have that many allocations"
        );
    }
    Ok(())
}

/// Makes so many allocations, with a channel each. Returns the relay's resident memory then, in bytes.
pub(super) fn resident_with(standing: &Standing, allocations: u32) -> Result<u64> {
    standing.network.clients.enter(|| {
        (0..allocations).try_for_each(|number| {
            allocate(number).with_context(|| {
                format!("allocation {number} of {allocations}:\n{}", standing.last_words())
            })
        })
    })??;
    process::resident_memory(standing.process())
}

/// The relay keeps it though the socket is closed.
fn allocate(number: u32) -> Result<()> {
    let socket = UdpSocket::bind(client(number)?)?;
    socket.connect(RELAY)?;
    let mut allocation = Allocation::open(socket, user_of(OTHERS + number))?;
    allocation.bind(CHANNEL, SocketAddrV4::new(PEERS, u16::try_from(number % 60_000 + 1)?).into())
}

fn client(number: u32) -> Result<SocketAddrV4> {
    let (network, port) = (number % NETWORKS, FIRST_PORT + number / NETWORKS);
    let ip = Ipv4Addr::new(10, 1, u8::try_from(network)?, 1);
    Ok(SocketAddrV4::new(ip, u16::try_from(port)?))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_allocations_have_the_same_client() {
        let clients: HashSet<_> = (0..MOST).map(|number| client(number).unwrap()).collect();
        assert_eq!(clients.len(), MOST as usize);
    }
}
