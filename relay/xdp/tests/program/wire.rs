//! The far ends of the relay's links.

use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, Instant},
};

use connlib_relay_xdp::{Config, Preference, Xdp};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use crate::lab::{attach, index};

/// Long enough for anything that is going to happen at all.
const DEADLINE: Duration = Duration::from_secs(10);

/// One end of a link, of which whole frames are sent and read.
pub(crate) struct Wire {
    socket: Socket,
    /// On this kind of link, what a program sends natively arrives only where another program is. This one passes all.
    _passing: Xdp,
}

impl Wire {
    /// The other end of a link of the relay's.
    pub(crate) fn to(interface: &str) -> Self {
        let far = format!("{interface}-far");
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(i32::from(protocol).into())).unwrap();
        socket.bind(&address(protocol, index(&far))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (passing, _) = attach(&Config {
            interfaces: vec![far],
            preference: Preference::Native,
            listen_port: 0,
            v4: None,
            v6: None,
        })
        .unwrap();
        Self { socket, _passing: passing }
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).unwrap();
    }

    /// Waits for a frame that starts with these bytes, among whatever else there is. What follows is what Ethernet needs
    /// to be long enough.
    pub(crate) fn expect(&self, frame: &[u8]) {
        let start = Instant::now();
        let mut buffer = [0; 2048];
        let mut others = Vec::new();
        while start.elapsed() < DEADLINE {
            match (&self.socket).read(&mut buffer) {
                Ok(length) if buffer[..length].starts_with(frame) => {
                    assert!(length <= frame.len().max(60 + 2));
                    return;
                }
                Ok(length) => others.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("it did not come: {frame:x?}; but: {others:x?}");
    }
}

/// All packets of an interface.
fn address(protocol: u16, interface: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: this is the kind of address that the family names.
    let link: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol;
    link.sll_ifindex = i32::try_from(interface).unwrap();
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: it was just filled in, to this length.
    unsafe { SockAddr::new(storage, length) }
}
