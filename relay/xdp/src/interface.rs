//! What the kernel says about an interface.

use std::{io, os::fd::AsRawFd as _};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    },
};

use crate::Mode;

/// Both ends of such a link are interfaces of some host's, often of the same.
const VETH: &[u8] = b"veth\0";

/// `struct nlmsghdr` and `struct ifinfomsg`, in bytes.
const HEADER: usize = 16;
const MESSAGE: usize = 16;
/// Of an attribute: its length and type.
const ATTRIBUTE: usize = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_XDP: u16 = 43;
/// Below `IFLA_LINKINFO`.
const IFLA_INFO_KIND: u16 = 1;
/// Below `IFLA_XDP`: the programs' numbers.
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// Bits of an attribute's type that are not of the type.
const FLAGS: u16 = 0xc000;
/// Longer than what the kernel has to say about an interface.
const LONGEST: usize = 1 << 16;

/// What matters here about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The kernel's number for it. An interface that is made anew has another one
    pub(crate) index: u32,
    /// The longest packet, in bytes, on which it depends whether a driver has programs
    pub(crate) mtu: u32,
    pub(crate) is_veth: bool,
    /// Where it has one
    pub(crate) ethernet: Option<[u8; 6]>,
    /// The numbers of the programs that are attached, in the driver and behind it
    native: Option<u32>,
    generic: Option<u32>,
}

impl Interface {
    /// The one that has this name at present, if there is one.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub(crate) fn find(name: &str) -> io::Result<Option<Self>> {
        match if_nametoindex(name) {
            Ok(index) => ask(index),
            // No interface can have such a name.
            Err(Errno::ENODEV | Errno::EINVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The program that is attached in this mode.
    pub(crate) fn program(&self, mode: Mode) -> Option<u32> {
        match mode {
            Mode::Native => self.native,
            Mode::Generic => self.generic,
        }
    }
}

fn ask(index: u32) -> io::Result<Option<Interface>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut request = Vec::with_capacity(HEADER + MESSAGE);
    request.extend(((HEADER + MESSAGE) as u32).to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence, port; family and type of what is asked about.
    request.extend([0; 12]);
    request.extend(index.to_ne_bytes());
    request.extend([0; 8]);

    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; LONGEST];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    Ok(parse(index, &answer[..length]))
}

/// The interface in the kernel's answer. Nothing if the answer is an error: it has gone meanwhile.
fn parse(index: u32, answer: &[u8]) -> Option<Interface> {
    let (header, rest) = answer.split_at_checked(HEADER)?;
    if header[4..6] != RTM_NEWLINK.to_ne_bytes() {
        return None;
    }
    let attributes = rest.get(MESSAGE..)?;
    let kind = attribute(attributes, IFLA_LINKINFO)
        .and_then(|information| attribute(information, IFLA_INFO_KIND));
    let programs = attribute(attributes, IFLA_XDP).unwrap_or_default();
    Some(Interface {
        index,
        mtu: number(attributes, IFLA_MTU)?,
        is_veth: kind == Some(VETH),
        ethernet: attribute(attributes, IFLA_ADDRESS).and_then(|address| address.try_into().ok()),
        native: number(programs, IFLA_XDP_DRV_PROG_ID),
        generic: number(programs, IFLA_XDP_SKB_PROG_ID),
    })
}

fn number(attributes: &[u8], wanted: u16) -> Option<u32> {
    let content = attribute(attributes, wanted)?;
    Some(u32::from_ne_bytes(content.try_into().ok()?))
}

/// What the first attribute of a type holds.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (header, _) = attributes.split_at_checked(ATTRIBUTE)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let of_type = u16::from_ne_bytes([header[2], header[3]]) & !FLAGS;
        let content = attributes.get(ATTRIBUTE..length)?;
        if of_type == wanted {
            return Some(content);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_others_are_not() {
        let loopback = Interface::find("lo").unwrap().unwrap();
        assert_eq!((loopback.index, loopback.is_veth), (1, false));
        assert!(loopback.mtu >= 1280);
        assert_eq!(loopback.ethernet, Some([0; 6]));
        for name in ["nothing", "a name that is too long for any interface", ""] {
            assert_eq!(Interface::find(name).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn nonsense_is_no_interface() {
        for length in 0..64 {
            assert_eq!(parse(1, &vec![0; length]), None);
            let mut answer = vec![0xff; length];
            if length > 6 {
                answer[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
            }
            assert_eq!(parse(1, &answer), None);
        }
    }
}
